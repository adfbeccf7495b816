"""The computed memory against what Paddle reports as allocated."""

from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest

from glm import GLMConfig, GLMForCausalLM
from glm.config import chunks
from glm.config.presets import PRESETS
from glm.config.shapes import lora_shapes, parameter_shapes, rank_shape
from glm.distributed.plan import local_shard, rank_part
from glm.errors import UsageError
from glm.memory import GIB, HEADROOM, Memory, Run, estimate, fits
from glm.memory.run import SIZES
from glm.memory.sizes import Sizes
from glm.model.lora import add_lora
from tests.memory.measurement import (
    LONG,
    NO_DROPOUT,
    RUN,
    TOLERANCE,
    config_of,
    measure_generation,
    measure_training,
    off,
)

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("without_kernels")]  # the estimate is of all devices

LARGE, TEN = "glm-large-chinese", "glm-10b-chinese"
TINY = [name for name in PRESETS if name.endswith("-tiny")]
SHALLOW = {"num_hidden_layers": 3, "vocab_size": 2001}
WIDE_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}
# What grows with heads, with the MLP, with the vocabulary, and with depth.
SHAPES = {
    "balanced": {},
    "many heads": {"num_attention_heads": 8},
    "wide MLP": {"intermediate_size": 1024, "num_hidden_layers": 2},
    "vocabulary": {"vocab_size": 12000, "hidden_size": 192, "num_hidden_layers": 2},
    "no dropout": NO_DROPOUT,
}


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


# weights


@pytest.mark.parametrize("shape", [{}, {"intermediate_size": 96, "vocab_size": 77}])
def test_weights_are_those_of_a_real_model(shape):
    config = config_of(num_hidden_layers=2, **shape)
    model = GLMForCausalLM(config)
    real = sum(p.size for p in model.parameters()) * 4
    assert parameter_shapes(config) == shapes_of(model)
    assert estimate(config, RUN).weights == real
    lora = add_lora(model, 4)
    adapted = sum(p.size for p in lora.parameters()) * 4
    assert adapted > real
    assert parameter_shapes(config) | lora_shapes(config, 4) == {
        name.removeprefix("model.", 1) if name.startswith("model.model.") else name: shape
        for name, shape in shapes_of(lora.model).items()
    }
    assert estimate(config, replace(RUN, train="lora", r=4)).weights == adapted


@pytest.mark.parametrize("degree", [2, 4])
def test_a_rank_holds_its_part_of_the_plan(degree):
    config = config_of(vocab_size=385, num_hidden_layers=1)
    for name, shape in (parameter_shapes(config) | lora_shapes(config, 4)).items():
        parts = {rank_part(name, np.zeros(shape), rank, degree).shape for rank in range(degree)}
        assert parts == {rank_shape(name, shape, degree)}, name


@pytest.mark.parametrize(("degree", "copies"), [(2, 1), (4, 2), (8, 4)])
def test_ranks_beyond_the_key_value_heads_hold_copies(degree, copies):
    config = GLMConfig.preset("glm-4-9b-chat-tiny", tensor_parallel_degree=degree)
    assert config.kv_replicas == copies
    parts = {
        name: rank_part(name, np.zeros(shape), *local_shard(name, degree - 1, degree, copies)).size
        for name, shape in parameter_shapes(config).items()
    }
    assert estimate(config, RUN).weights == 4 * sum(parts.values())
    heads = {size for name, size in parts.items() if name.endswith("k_proj.weight")}
    assert heads == {config.hidden_size * config.head_dim}


def test_a_degree_that_only_predicts():
    config = GLMConfig.preset("glm-4-9b-chat-tiny", tensor_parallel_degree=4)
    one = GLMConfig.preset("glm-4-9b-chat-tiny", tensor_parallel_degree=2)
    assert estimate(config, RUN).cache == estimate(one, RUN).cache  # one head each
    with pytest.raises(UsageError, match=r"degree 4 .* not train with 2 key/value heads.* with 2 at most"):
        estimate(config, replace(RUN, train="full"))


@pytest.mark.parametrize("name", TINY)
def test_weights_of_every_family(name):
    config = GLMConfig.preset(name)
    state = GLMForCausalLM(config).state_dict()  # with a router's biases, which are no parameters
    assert parameter_shapes(config) == {key: tuple(value.shape) for key, value in state.items()}


# What was counted elsewhere. ChatGLM-6B: PyTorch's 6173286400, which takes the head for the embedding. GLM-4-9B:
# 9399951360 (chatglm.cpp's banner, PyTorch's count). GLM-4-9B-0414: its safetensors files on the Hub, 9,400,279,040.
# 32B: 32.57 B, as llama.cpp prints of GLM-Z1-32B-0414. GLM: the names. No count of GLM-4-9B-Chat-1M was found: it is
# GLM-4-9B with two key/value heads more, which have 128 columns and biases each, in 40 layers. ChatGLM2 and 3: what
# PEFT prints of ChatGLM2-6B, 6,245,533,696 with 1,949,696 of LoRA. GLM-4.5, Air and 4.7-Flash: the 358.3, 110.5 and
# 31.2 billion of their files, without the layer that predicts a token more and its two copies of tables.
COUNTS = {
    LARGE: (335_000_000, 0.07),
    TEN: (10_000_000_000, 0.02),
    "chatglm-6b": (6_173_286_400 + 130528 * 4096, 0),
    **dict.fromkeys(("chatglm2-6b", "codegeex2-6b"), (6_245_533_696 - 1_949_696, 0)),
    **dict.fromkeys([f"chatglm3-6b{kind}" for kind in ("", "-base", "-32k", "-128k")], (6_245_533_696 - 1_949_696, 0)),
    **dict.fromkeys(("glm-4.5", "glm-4.5-base", "glm-4.6", "glm-4.7"), (358.3e9 - 3.99e9 - 1.55e9, 0.0002)),
    **dict.fromkeys(("glm-4.5-air", "glm-4.5-air-base"), (110.5e9 - 2.38e9 - 1.24e9, 0.0005)),
    "glm-4.7-flash": (31.2e9 - 0.64e9 - 2 * 154880 * 2048, 0.002),
    "glm-4-9b": (9_399_951_360, 0),
    "glm-4-9b-chat": (9_399_951_360, 0),
    "glm-4-9b-chat-1m": (9_399_951_360 + 40 * 2 * 2 * 128 * 4097, 0),
    "glm-4-9b-0414": (9_400_279_040, 0),
    "glm-z1-9b-0414": (9_400_279_040, 0),
    "glm-4-32b-0414": (32_570_000_000, 0.00015),
    "glm-z1-32b-0414": (32_570_000_000, 0.00015),
}


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.repository])
def test_a_preset_has_the_published_number_of_parameters(name):
    """A preset "10B" that has another size trained unnoticed elsewhere."""
    count, tolerance = COUNTS[name]
    assert off(sum(map(prod, parameter_shapes(GLMConfig.preset(name)).values())), count) <= tolerance


# measured


@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_needs_what_was_computed(shape, train, recompute):
    config, run = config_of(**SHAPES[shape]), replace(RUN, train=train, recompute=recompute)
    real, computed = measure_training(config, run), estimate(config, run)
    assert computed.weights == real.weights
    assert off(computed.standing, real.standing) < 0.02
    assert off(computed.training, real.peak) < TOLERANCE
    assert off(computed.training - computed.standing, real.peak - real.standing) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "train", "recompute", "wide"),
    [
        ("chatglm-6b-tiny", "full", True, False),
        ("chatglm-6b-tiny", "lora", False, True),
        ("glm-4-9b-tiny", "full", False, False),
        ("glm-4-9b-tiny", "lora", True, False),
        ("glm-4-32b-0414-tiny", "full", True, True),
        ("glm-4-32b-0414-tiny", "full", False, True),
        ("glm-4-9b-chat-1m-tiny", "full", False, False),
    ],
)
def test_training_of_every_family_needs_what_was_computed(name, train, recompute, wide):
    config = GLMConfig.preset(name, **SHALLOW | (WIDE_HEADS if wide else {}))
    run = replace(RUN, train=train, recompute=recompute)
    real, computed = measure_training(config, run), estimate(config, run)
    assert computed.weights == real.weights
    assert off(computed.training - computed.standing, real.peak - real.standing) < TOLERANCE


@pytest.mark.parametrize("name", ["chatglm-6b-tiny", "glm-4-9b-tiny", "glm-4-32b-0414-tiny"])
@pytest.mark.parametrize("changes", [{"num_beams": 1, "tgt_length": 8}, {"src_length": 30, "tgt_length": 12}])
def test_generation_of_every_family_needs_what_was_computed(name, changes):
    config, run = GLMConfig.preset(name, **SHALLOW), replace(RUN, **changes)
    real, computed = measure_generation(config, run), estimate(config, run)
    assert off(computed.generation - computed.weights, real.peak - real.weights) < TOLERANCE


SHALLOWER = {"num_hidden_layers": 2, "vocab_size": 2001}
GLM4 = ("glm-4-9b-tiny", SHALLOWER)


def config_or_preset(shape) -> GLMConfig:
    if isinstance(shape, tuple):
        return GLMConfig.preset(shape[0], **shape[1])
    return config_of(**{"num_hidden_layers": 2, "max_position_embeddings": 2048} | shape)


def assert_training_needs(config, run) -> None:
    real, computed = measure_training(config, run), estimate(config, run)
    assert off(computed.training, real.peak) < TOLERANCE
    assert off(computed.training - computed.standing, real.peak - real.standing) < TOLERANCE


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        (NO_DROPOUT, {"train": "full", "recompute": True}),
        ({"num_hidden_layers": 1}, {"train": "full", "recompute": True, "batch_size": 2}),
        (NO_DROPOUT | {"num_attention_heads": 8}, {"train": "lora"}),
        (GLM4, {"train": "full"}),
        (GLM4, {"train": "full", "recompute": True, "max_length": 1300}),
    ],
    ids=["recompute", "dropout and two rows", "LoRA", "shared heads", "packed"],
)
def test_long_rows_need_what_was_computed(shape, changes):
    """Attention in blocks of queries."""
    assert_training_needs(config_or_preset(shape), replace(RUN, **LONG | changes))


@pytest.mark.parametrize("longest", [120, 480], ids=["in blocks", "dense"])
@pytest.mark.parametrize(
    ("shape", "changes"), [(NO_DROPOUT, {"train": "full"}), (GLM4, {"train": "lora"})], ids=["GLM", "GLM-4"]
)
def test_packs_of_short_and_of_long_rows_need_what_was_computed(shape, changes, longest):
    """Of 900 tokens: which attention they take depends on how much their rows see."""
    lengths = {"batch_size": 1, "src_length": longest - 20, "tgt_length": 20, "max_length": 900}
    run = replace(RUN, **lengths, **changes)
    assert Sizes(config_or_preset(shape), run).in_blocks == (longest < 200)
    assert_training_needs(config_or_preset(shape), run)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ({"vocab_size": 12000}, {"train": "full", "recompute": True}),
        ({"vocab_size": 12000}, {"train": "lora"}),
        (("glm-4-9b-tiny", SHALLOWER | {"vocab_size": 12000}), {"train": "full"}),
        (("glm-4-9b-tiny", SHALLOWER | {"vocab_size": 12000}), {"train": "lora", "recompute": True}),
    ],
    ids=["tied", "tied and frozen", "own", "own and frozen"],
)
def test_a_head_in_chunks_needs_what_was_computed(monkeypatch, shape, changes):
    monkeypatch.setattr(chunks, "LOGITS", 12000 * 64)
    assert_training_needs(config_or_preset(shape), replace(RUN, **{"src_length": 20, "tgt_length": 150} | changes))


@pytest.mark.parametrize("shape", [{}, GLM4], ids=["GLM", "GLM-4"])
def test_long_prompts_need_what_was_computed(shape):
    config, run = config_or_preset(shape), replace(RUN, src_length=1400, tgt_length=5, num_beams=1)
    real, computed = measure_generation(config, run), estimate(config, run)
    assert off(computed.generation - computed.weights, real.peak - real.weights) < TOLERANCE


def test_memory_grows_with_the_tokens_not_with_their_square():
    """8K to 32K, and 32K to 128K, of GLM-4-9B: four times what grows, and a little that does not."""
    config = GLMConfig.preset("glm-4-9b", tensor_parallel_degree=2)
    run = Run(train="full", dtype="bfloat16", opt_level="O2", recompute=True, batch_size=1, max_length=8192)
    peaks = [estimate(config, replace(run, max_length=tokens)) for tokens in (8192, 32768, 131072)]
    above = [peak.training - peak.standing for peak in peaks]
    assert all(after < 4.05 * before for before, after in pairwise(above))


def test_a_packed_row_may_be_trained_throughout():
    run = replace(RUN, train="full", src_length=200, tgt_length=40)
    packed, pairs = (estimate(config_of(), each) for each in (replace(run, max_length=240), run))
    assert packed.training > pairs.training and packed.standing == pairs.standing
    assert packed.training == estimate(config_of(), replace(run, max_length=240, src_length=1, tgt_length=1)).training


def test_the_end_of_the_backward_pass_can_need_most():
    """A large vocabulary and short texts: the tied embedding's two gradients."""
    run = replace(RUN, train="full", batch_size=1, src_length=10, tgt_length=5)
    config = config_of(vocab_size=30000)
    real, computed = measure_training(config, run), estimate(config, run)
    assert off(computed.training, real.peak) < TOLERANCE
    assert computed.training - computed.standing > 2 * 30000 * 128 * 4 - 1


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ({}, {"src_length": 90, "tgt_length": 20}),
        ({}, {"num_beams": 1, "src_length": 30, "tgt_length": 40}),
        ({}, {"src_length": 30, "tgt_length": 40}),
        ({}, {"src_length": 400, "tgt_length": 12}),
        ({"num_attention_heads": 1, "intermediate_size": 1024}, {"num_beams": 1, "tgt_length": 12}),
        ({"vocab_size": 30000, "num_hidden_layers": 2}, {"src_length": 20, "tgt_length": 10}),
        ({"vocab_size": 30000, "num_hidden_layers": 2}, {"batch_size": 8, "num_beams": 1, "tgt_length": 10}),
    ],
    ids=["beams", "greedy", "long texts", "long prompts", "wide MLP", "vocabulary", "many rows"],
)
def test_generation_needs_what_was_computed(shape, changes):
    config, run = config_of(**shape), replace(RUN, **changes)
    real, computed = measure_generation(config, run), estimate(config, run)
    assert off(computed.generation, real.peak) < TOLERANCE
    assert off(computed.generation - computed.weights, real.peak - real.weights) < TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [{"recompute": True}, {"train": "lora"}, {"batch_size": 3}, {"tgt_length": 80}, {"dtype": "bfloat16"}],
    ids=lambda change: next(iter(change)),
)
def test_the_measurement_tells_other_runs_apart(wrong):
    run = replace(RUN, train="full")
    real = measure_training(config_of(), run)
    assert off(estimate(config_of(), replace(run, **wrong)).training, real.peak) > TOLERANCE


def test_half_precision_of_a_block():
    """Activations of one block more, counted here once again by hand: bfloat16 at O2, and at O1."""
    run = replace(RUN, train="full", dtype="bfloat16", opt_level="O2")
    tokens, hidden, inner, heads = RUN.batch_size * RUN.row_length, 128, 512, 4
    scores = heads * RUN.batch_size * RUN.row_length**2

    def block(run: Run, **changes) -> int:
        deep, deeper = (estimate(config_of(num_hidden_layers=n, **changes), run).activations for n in (2, 3))
        return deeper - deep

    # Block input, both norms' outputs, v, context, sum, and q and k in float32; input and output of the activation;
    # float32 softmax.
    plain = tokens * 2 * (6 * hidden + 2 * inner) + tokens * 4 * 2 * hidden + scores * (4 + 2)
    assert block(run, **NO_DROPOUT) == plain
    assert block(run) == plain + scores + 2 * tokens * hidden  # a byte per element for each mask
    assert block(replace(run, recompute=True)) == tokens * hidden * 2
    # The residual stream and the activation's input stay float32; q, k and v each keep a cast input; weights are cast.
    casts = tokens * 2 * (2 * hidden + 2 * hidden + inner) + (4 * hidden + 2 * inner) * hidden * 2
    assert block(replace(run, opt_level="O1"), **NO_DROPOUT) == plain + casts
    assert block(replace(run, dtype="float32"), **NO_DROPOUT) == tokens * 4 * (8 * hidden + 2 * inner) + scores * 4


@pytest.mark.parametrize(
    ("dtype", "level", "weight", "state"),
    [("float32", "O1", 4, 8), ("bfloat16", "O1", 4, 8), ("bfloat16", "O2", 2, 12), ("float16", "O2", 2, 12)],
)
def test_bytes_of_a_trained_parameter(dtype, level, weight, state):
    config = config_of()
    count = sum(map(prod, parameter_shapes(config).values()))
    memory = estimate(config, replace(RUN, train="full", dtype=dtype, opt_level=level))
    assert (memory.weights, memory.gradients, memory.optimizer) == (count * weight, count * weight, count * state)


def test_inference_in_half_precision_has_half_weights_at_any_level():
    full, half = (estimate(config_of(), replace(RUN, dtype=dtype)) for dtype in ("float32", "float16"))
    assert half.weights * 2 == full.weights
    assert half.cache * 2 == full.cache
    assert half.training == half.weights


@pytest.mark.parametrize(("stage", "gradients", "optimizer"), [("stage1", 1, 3), ("stage2", 3, 3)])
def test_sharding_divides_states(stage, gradients, optimizer):
    whole = estimate(config_of(), replace(RUN, train="full"))
    part = estimate(config_of(), replace(RUN, train="full", sharding=stage, sharding_degree=3))
    assert (part.weights, part.activations) == (whole.weights, whole.activations)
    assert part.gradients == -(-whole.gradients // gradients)
    assert part.optimizer == -(-whole.optimizer // optimizer)


@pytest.mark.parametrize(("stage", "degree"), [("none", 2), ("stage1", 1)])
def test_half_of_a_sharding_is_refused(stage, degree):
    with pytest.raises(UsageError, match=f"sharding is {stage} and its degree {degree}: give both"):
        Run(sharding=stage, sharding_degree=degree)


def test_ranks_of_a_higher_degree_need_less():
    run = Run(train="full", dtype="bfloat16", opt_level="O2", recompute=True)
    peaks = [estimate(GLMConfig.preset(TEN, tensor_parallel_degree=d), run).peak for d in (1, 2, 4, 8)]
    assert all(0.5 < after / before < 0.55 for before, after in pairwise(peaks))


def test_a_part_of_the_device_stays_free():
    limit = int((1 - HEADROOM) * 8 * GIB)
    assert fits(Memory(limit, 0, 0, 0, 0, 0, 0, limit), 8)
    assert not fits(Memory(limit + 2, 0, 0, 0, 0, 0, 0, limit), 8)


@pytest.mark.parametrize("wrong", [{"train": "some"}, {"dtype": "int8"}, {"batch_size": 0}, {"sharding": "stage3"}])
def test_a_wrong_run_is_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(UsageError, match=f"{name} is '?{value}'?, and must be"):
        Run(**wrong)


def test_every_dtype_of_a_config_has_a_size():
    from glm.config.glm_config import DTYPES

    assert tuple(SIZES) == DTYPES
