"""Attention over latents: absorbed is expanded, cached is uncached, and a cache keeps one latent a token and layer."""

import numpy as np
import paddle
import pytest
from family_models import LATENT
from tiny_glm import NO_DROPOUT, assert_begins_alike, relative_error, scatter

from glm import GLMConfig, GLMForCausalLM
from glm.config.fields import PlainConfig
from glm.config.shapes import cache_numbers, cache_shapes, parameter_shapes
from glm.memory.generation import generation
from glm.memory.run import Run
from glm.model.attention import DenseAttention, empty_tails, select_beams
from glm.model.block_attention import BlockAttention
from glm.model.init import seeded
from glm.model.lora import add_lora, load_lora, merge_lora
from glm.model.visibility import derived_rows

TOKENS, STEPS = 7, 4


def model_of(**changes) -> GLMForCausalLM:
    model = GLMForCausalLM(GLMConfig("glm4-moe-lite", **LATENT | NO_DROPOUT | changes))
    scatter(model, seed=3, spread=0.3)
    model.eval()
    return model


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def adapted():
    """Adapters everywhere that matter: zeros would hide them."""
    lora = add_lora(model_of(), r=3, targets="all")
    draw = np.random.default_rng(5)
    for name, parameter in lora.named_parameters():
        if ".lora_" in name:
            parameter.set_value((0.3 * draw.standard_normal(parameter.shape)).astype("float32"))
    lora.eval()
    return lora


def texts(rows: int, length: int = TOKENS + STEPS) -> np.ndarray:
    return np.random.default_rng(1).integers(3, 700, [rows, length])


def inputs(ids: np.ndarray, mask: np.ndarray) -> list[paddle.Tensor]:
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, None]
    return [paddle.to_tensor(x) for x in (ids, mask, positions, np.zeros(len(ids), "int64"))]


def padded_mask(ids: np.ndarray) -> np.ndarray:
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    return mask


@pytest.mark.parametrize("adapter", [False, True], ids=["model", "adapter"])
def test_a_prompt_and_its_first_step_at_once(model, adapted, adapter):
    ids = texts(2)
    assert_begins_alike(adapted.model if adapter else model, *inputs(ids, padded_mask(ids)))


@paddle.no_grad()
def decoded(model, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Logits [rows, STEPS, V] of tokens that are read one by one behind a prompt of TOKENS."""
    prefix = model.prefill(*inputs(ids[:, :TOKENS], mask[:, :TOKENS]))
    tails, found = empty_tails(prefix, 1), []
    for step in range(TOKENS, TOKENS + STEPS):
        position = paddle.to_tensor(mask[:, : step + 1].sum(axis=1) - 1).reshape([-1, 1, 1])
        logits, tails = model.decode(paddle.to_tensor(ids[:, step : step + 1]), position, prefix, tails)
        found.append(logits.numpy()[:, 0])
    assert len(tails) == model.config.num_hidden_layers
    assert all(tail.shape == [len(ids), 1, 1, STEPS, 20] for tail in tails)
    return np.stack(found, axis=1)


def test_cached_and_absorbed_is_uncached_and_expanded(model):
    ids = texts(3)
    mask = padded_mask(ids)
    whole = model(*inputs(ids, mask)).numpy()[:, TOKENS:]
    assert relative_error(decoded(model, ids, mask), whole) < 1e-5


def test_an_adapter_is_absorbed_too(adapted):
    """And counts: without that of kv_b_proj the logits would be others."""
    ids = texts(2)
    mask = padded_mask(ids)
    whole = adapted.model(*inputs(ids, mask)).numpy()[:, TOKENS:]
    assert relative_error(decoded(adapted.model, ids, mask), whole) < 1e-5
    with adapted.without_adapter():
        plain = adapted.model(*inputs(ids, mask)).numpy()[:, TOKENS:]
        assert relative_error(decoded(adapted.model, ids, mask), plain) < 1e-5
    assert relative_error(plain, whole) > 0.1


@pytest.mark.parametrize("peft", [False, True])
def test_adapters_in_either_form_are_read_again(adapted, peft, tmp_path):
    adapted.save_pretrained(tmp_path, peft=peft)
    again = load_lora(model_of(), tmp_path)
    again.eval()
    ids = texts(2)
    mask = padded_mask(ids)
    assert (again.model(*inputs(ids, mask)).numpy() == adapted.model(*inputs(ids, mask)).numpy()).all()


def test_merged_adapters_are_the_model():
    with seeded(0):
        lora = add_lora(model_of(), r=3, targets="attention")
    names = {name.split(".")[-2] for name, p in lora.model.named_parameters() if name.endswith("lora_A")}
    assert names == {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"}
    for name, parameter in lora.named_parameters():
        if name.endswith("lora_B"):
            parameter.set_value(paddle.full(parameter.shape, 0.1))
    lora.eval()
    ids = texts(2)
    mask = padded_mask(ids)
    beside = lora.model(*inputs(ids, mask)).numpy()
    assert relative_error(merge_lora(lora)(*inputs(ids, mask)).numpy(), beside) < 1e-5


@paddle.no_grad()
def test_beams_share_the_prompt(model):
    """Two beams of a row that go on differently, then change places, are two rows."""
    ids = texts(2, TOKENS + 2)
    ids[1, :TOKENS] = ids[0, :TOKENS]
    mask = np.ones_like(ids)
    whole = model(*inputs(ids, mask)).numpy()
    prefix = model.prefill(*inputs(ids[:1, :TOKENS], mask[:1, :TOKENS]))
    tails = empty_tails(prefix, 2)
    for step in (TOKENS, TOKENS + 1):
        swap = step > TOKENS
        beams = ids[::-1, step] if swap else ids[:, step]
        tails = [select_beams(tail, paddle.to_tensor([[1, 0]])) for tail in tails] if swap else tails
        position = paddle.full([1, 1, 2], step, "int64")
        logits, tails = model.decode(paddle.to_tensor(beams.copy()).unsqueeze(0), position, prefix, tails)
        wanted = whole[::-1, step] if swap else whole[:, step]
        assert relative_error(logits.numpy()[0], wanted) < 1e-5


@paddle.no_grad()
def test_rows_that_go_on_from_one_prefix(model):
    """Evaluation's way: hidden states of several continuations at once."""
    ids = texts(3)
    ids[:, :TOKENS] = ids[0, :TOKENS]
    mask = np.ones_like(ids)
    whole = model(*inputs(ids, mask)).numpy()[:, TOKENS:]
    prefix = model.prefill(*inputs(ids[:1, :TOKENS], mask[:1, :TOKENS]))
    new = paddle.to_tensor(ids[:, TOKENS:])
    seen = derived_rows(paddle.ones_like(new), paddle.zeros([3], "int64"))
    positions = (paddle.arange(STEPS) + TOKENS).expand([3, 1, STEPS])
    found = model.logits(model.read(new, positions, seen, prefix)).numpy()
    assert relative_error(found, whole) < 1e-5


def test_a_cache_keeps_one_latent_a_token_and_layer():
    flash = GLMConfig.preset("glm-4.7-flash")
    assert cache_shapes(flash) == [[("latent", (1, 576))]] * 47
    assert cache_numbers(flash) == 47 * 576
    halved = GLMConfig.preset("glm-4.7-flash", tensor_parallel_degree=2)
    assert cache_numbers(halved) == 47 * 576  # every rank's heads read all of it
    air = GLMConfig.preset("glm-4.5-air", tensor_parallel_degree=2)
    assert cache_numbers(air) == 46 * 2 * 4 * 128


@pytest.mark.parametrize("degree", [1, 2])
def test_memory_of_generation_counts_latents(degree):
    """The prompt's, and those of what is written twice, while a step makes the grown ones."""
    flash = PlainConfig.preset("glm-4.7-flash", tensor_parallel_degree=degree, dtype="bfloat16")
    cache, _ = generation(flash, Run(dtype="bfloat16", batch_size=2, src_length=1000, tgt_length=300, num_beams=1))
    token = 47 * 576 * 2
    assert cache == 2 * (1000 * (token + 2) + 2 * 300 * token)


def test_names_and_shapes_are_those_that_are_counted(model):
    found = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    assert found == parameter_shapes(model.config)


def test_blocks_of_queries_take_values_of_another_width():
    draw = np.random.default_rng(2)
    rows = derived_rows(paddle.ones([2, 9], "int64"), paddle.zeros([2], "int64"))
    found = []
    for kind in (DenseAttention, BlockAttention):
        draw = np.random.default_rng(2)
        qkv = [paddle.to_tensor(draw.standard_normal([2, 9, 4, width]).astype("float32")) for width in (16, 16, 12)]
        for each in qkv:
            each.stop_gradient = False
        context = kind(kind.mask(rows, 1, "float32"), 1)(*qkv)
        (context * paddle.to_tensor(draw.standard_normal([2, 9, 4, 12]).astype("float32"))).sum().backward()
        found.append([context.numpy(), *(each.grad.numpy() for each in qkv)])
    for dense, blocks in zip(*found, strict=True):
        assert relative_error(blocks, dense) < 1e-5
