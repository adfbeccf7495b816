"""Attention in blocks of queries against dense attention: results, gradients, dropout, what is read, and the memory."""

from contextlib import contextmanager, nullcontext

import numpy as np
import paddle
import pytest
from tiny_glm import relative_error, small_prompt, tiny_model

from glm import GenerationConfig
from glm.config import chunks
from glm.config.chunks import query_block
from glm.generation.search import StopTokens
from glm.model import block_attention
from glm.model.attention import AttentionDropout, DenseAttention, scores_fp32
from glm.model.block_attention import BlockAttention, RowBlocks
from glm.model.visibility import derived_rows, visibility_bias
from tests.device.test_probe import on_npu
from tests.memory.measurement import CPU, Meter
from tests.model.test_visibility import (
    DOCUMENTS,
    WIDTH,
    document_batch,
    family_model,
    packed_batch,
    packed_logits,
    packed_rows,
    trained,
)
from tests.npu_simulator.launching import needs_compiler

HEADS, SIZE = 4, 8
ROWS = {
    "causal": derived_rows(paddle.ones([2, WIDTH], "int64"), paddle.to_tensor([0, 0])),
    "prefixes": derived_rows(paddle.ones([2, WIDTH], "int64"), paddle.to_tensor([4, 17])),
    "padded": derived_rows(paddle.to_tensor([[0] * 6 + [1] * 14, [1] * 9 + [0] * 11]), paddle.to_tensor([0, 3])),
    "packed": paddle.to_tensor(np.stack([packed_rows(DOCUMENTS, WIDTH), packed_rows(DOCUMENTS[::-1], WIDTH)])),
}


@pytest.fixture(params=[1, 3, 7, WIDTH, 100], ids=lambda most: f"blocks of {most}")
def block(request, monkeypatch) -> int:
    monkeypatch.setattr(block_attention, "query_block", lambda heads, tokens: request.param)
    return request.param


@pytest.fixture
def small_blocks(monkeypatch):
    """Also in models, and for rows of any length."""
    monkeypatch.setattr(block_attention, "query_block", lambda heads, tokens: 3)
    monkeypatch.setattr(chunks, "DENSE_TOKENS", 0)


def tensors(n_rep: int) -> list[paddle.Tensor]:
    draw = np.random.default_rng(3)
    sizes = [[2, WIDTH, heads, SIZE] for heads in (HEADS, HEADS // n_rep, HEADS // n_rep)]
    return [paddle.to_tensor(draw.standard_normal(size).astype("float32"), stop_gradient=False) for size in sizes]


def result(core, rows, n_rep: int, frozen: int | None = None) -> list[np.ndarray | None]:
    """Context and gradients; those of queries that see nothing are left out."""
    qkv = tensors(n_rep)
    if frozen is not None:
        qkv[frozen].stop_gradient = True
    context = core(core.mask(rows, n_rep, "float32"), n_rep)(*qkv)
    seeing = (visibility_bias(rows).max(axis=-1) == 0).astype("float32").reshape([2, WIDTH, 1, 1])
    context = context * seeing
    (context * paddle.arange(context.size, dtype="float32").reshape(context.shape).cos()).sum().backward()
    return [context.numpy(), *(None if x.grad is None else x.grad.numpy() for x in qkv)]


@pytest.mark.parametrize("n_rep", [1, 2, 4])
@pytest.mark.parametrize("kind", ROWS)
def test_blocks_are_dense_attention(block, kind, n_rep):
    found, wanted = (result(core, ROWS[kind], n_rep) for core in (BlockAttention, DenseAttention))
    for ours, dense in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, dense, rtol=0, atol=5e-6)
    if kind != "causal":
        assert np.abs(found[0] - result(BlockAttention, ROWS["causal"], n_rep)[0]).max() > 0.1


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_has_no_gradient(small_blocks, frozen):
    ours, wanted = (result(core, ROWS["packed"], 2, frozen) for core in (BlockAttention, DenseAttention))
    assert ours[1 + frozen] is wanted[1 + frozen] is None
    for found, dense in zip(ours, wanted, strict=True):
        if dense is not None:
            np.testing.assert_allclose(found, dense, rtol=0, atol=5e-6)


def test_only_keys_that_a_block_may_see_are_read():
    rows = RowBlocks(ROWS["packed"])
    starts = np.cumsum([0] + [tokens for tokens, _ in DOCUMENTS])
    for queries, keys in rows.blocks(0, 1):
        document = int(np.searchsorted(starts, queries.start, side="right")) - 1
        if document == len(DOCUMENTS):
            assert not keys  # padding
        else:
            prefix = starts[document] + DOCUMENTS[document][1]
            assert keys == range(starts[document], max(prefix, queries.stop))
    causal = RowBlocks(ROWS["causal"]).blocks(0, 5)
    assert causal == [(range(5 * i, 5 * i + 5), range(5 * i + 5)) for i in range(4)]
    assert [query_block(32, tokens) for tokens in (2048, 8192, 32768, 10**6)] == [128, 128, 32, 16]


def test_dropout_drops_the_same_weights_in_the_backward_pass(small_blocks):
    """The gradient along a direction is the difference of two losses, if all three drop the same weights."""
    qkv, rows = tensors(2), RowBlocks(ROWS["packed"])

    def loss() -> paddle.Tensor:
        paddle.seed(5)
        context = BlockAttention(rows, 2, AttentionDropout(0.3, nullcontext))(*qkv)
        return (context * paddle.arange(context.size, dtype="float32").reshape(context.shape).cos()).sum()

    total = loss()
    paddle.seed(11)
    total.backward()
    found = paddle.rand([1]).item()
    paddle.seed(11)
    assert found == paddle.rand([1]).item()  # the backward pass leaves the random numbers where they stood
    for x in qkv:
        slope, before = float(x.grad.norm()), x.detach().clone()
        step = 0.01 * x.grad / slope
        sides = []
        for side in (1, -1):
            x.set_value(before + side * step)
            sides.append(float(loss()))
        x.set_value(before)
        assert (sides[0] - sides[1]) / 0.02 == pytest.approx(slope, rel=5e-3)


def test_dropout_scales_what_it_keeps_and_draws_where_it_is_told(small_blocks):
    """Means of many weights that are 0 or 4/3."""

    @contextmanager
    def numbers():
        paddle.seed(3)
        yield

    ones = paddle.ones([1, 400, 1, 8])
    rows = RowBlocks(derived_rows(paddle.ones([1, 400], "int64"), paddle.to_tensor([400])))
    attend = BlockAttention(rows, 1, AttentionDropout(0.25, numbers))
    first, second = attend(ones, ones, ones).numpy(), attend(ones, ones, ones).numpy()
    assert np.array_equal(first, second)
    assert first.std() == pytest.approx((1 / 3 / 400) ** 0.5, rel=0.2)
    assert first.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("family", ["glm", "chatglm", "glm4-remote", "glm4-0414"])
@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
def test_a_model_trains_alike_in_blocks(monkeypatch, family, recompute):
    """Packed rows with prefixes, of all generations."""
    model = family_model(family)
    model.model.enable_recompute = recompute
    batches = document_batch(model, DOCUMENTS), document_batch(model, DOCUMENTS[::-1], seed=1)
    packed = [packed_batch(batch, WIDTH) for batch in batches]
    both = [{name: np.concatenate([batch[name] for batch in packed]) for name in packed[0]}]
    wanted = trained(model, both)
    monkeypatch.setattr(block_attention, "query_block", lambda heads, tokens: 3)
    monkeypatch.setattr(chunks, "DENSE_TOKENS", 0)
    calls, call = [], BlockAttention.__call__
    monkeypatch.setattr(BlockAttention, "__call__", lambda self, *qkv: calls.append(1) or call(self, *qkv))
    losses, gradients = trained(model, both)
    assert len(calls) == 2 * (1 + recompute)
    np.testing.assert_allclose(losses, wanted[0], rtol=1e-5, atol=1e-6)
    assert gradients.keys() == wanted[1].keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[1][name], rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("family", ["glm", "glm4-remote"])
@pytest.mark.parametrize("altered", [0, 2])
def test_documents_do_not_reach_each_other(small_blocks, family, altered):
    """Other ids in one document leave the logits of all others bit-equal."""
    model = family_model(family)
    apart = document_batch(model, DOCUMENTS)
    before = packed_logits(model, apart)
    apart[altered]["input_ids"] = apart[altered]["input_ids"] + 7
    after = packed_logits(model, apart)
    starts = np.cumsum([0] + [tokens for tokens, _ in DOCUMENTS])
    own = np.arange(starts[altered], starts[altered + 1])
    others = np.setdiff1d(np.arange(starts[-1]), own)
    assert np.array_equal(before[others], after[others])
    assert (before[own] != after[own]).any(axis=1).all()


@pytest.mark.parametrize("changes", [{}, {"family": "glm4-0414", "num_key_value_heads": 2}], ids=str)
def test_a_prompt_is_read_alike_in_blocks(monkeypatch, changes):
    model, prompt = tiny_model(vocab_size=12, **changes), small_prompt(12, 3, seed=1)
    options = GenerationConfig(6, num_beams=2), StopTokens((), 3)
    wanted, scores = model.generate(prompt, *options)
    monkeypatch.setattr(block_attention, "query_block", lambda heads, tokens: 3)
    monkeypatch.setattr(chunks, "DENSE_TOKENS", 0)
    found, in_blocks = model.generate(prompt, *options)
    assert found.tolist() == wanted.tolist()
    assert relative_error(in_blocks, scores) < 1e-5


def peak_of_a_pass(core, tokens: int) -> int:
    qkv = [paddle.rand([1, tokens, heads, SIZE]) for heads in (HEADS, 1, 1)]
    for x in qkv:
        x.stop_gradient = False
    rows = derived_rows(paddle.ones([1, tokens], "int64"), paddle.to_tensor([0]))
    meter = Meter(CPU)
    core(core.mask(rows, HEADS, "float32"), HEADS)(*qkv).sum().backward()
    return meter.peak


@pytest.mark.long
def test_memory_does_not_grow_with_the_square(monkeypatch):
    monkeypatch.setattr(block_attention, "query_block", lambda heads, tokens: 16)
    peaks = [peak_of_a_pass(BlockAttention, tokens) for tokens in (512, 1024)]
    assert peaks[1] < 2.1 * peaks[0]
    assert peaks[1] < 0.1 * peak_of_a_pass(DenseAttention, 1024)


def test_scores_are_float32(monkeypatch, small_blocks):
    kinds = []
    monkeypatch.setattr(block_attention, "scores_fp32", lambda *args: kinds.append(scores_fp32(*args)) or kinds[-1])
    result(BlockAttention, ROWS["causal"], 1)
    assert {str(scores.dtype) for scores in kinds} == {"paddle.float32"}


IN_HALF_PRECISION = """
import numpy as np
from glm.model import block_attention
from glm.model.attention import DenseAttention
from glm.model.block_attention import BlockAttention
from glm.model.visibility import derived_rows
paddle.set_device("npu:0")
block_attention.query_block = lambda heads, tokens: 3
draw, rows, found = np.random.default_rng(3), derived_rows(paddle.ones([2, 10], "int64"), paddle.to_tensor([0, 4])), []
numbers = [draw.standard_normal([2, 10, heads, 8]) for heads in (4, 2, 2)]
for dtype in ("float32", "bfloat16", "float16"):
    results = []
    for core in (BlockAttention, DenseAttention):
        qkv = [paddle.to_tensor(x.astype("float32")).astype(dtype) for x in numbers]
        for x in qkv:
            x.stop_gradient = False
        with paddle.amp.auto_cast(dtype="bfloat16" if dtype == "float32" else dtype):
            context = core(core.mask(rows, 2, dtype), 2)(*qkv)
        weights = paddle.arange(context.size, dtype="float32").reshape(context.shape).cos()
        (context.astype("float32") * weights).sum().backward()
        results.append([context, *(x.grad for x in qkv)])
    kinds = [[str(x.dtype) for x in side] for side in results]
    found.append([kinds, [float((a.astype("float32") - b.astype("float32")).abs().max()) for a, b in zip(*results)]])
print(json.dumps(found))
"""


@needs_compiler
def test_in_half_precision_on_the_simulated_npu():
    """float32 under mixed precision, where dense attention's last product is rounded, and both half precisions."""
    for kinds, off in on_npu(IN_HALF_PRECISION):
        assert kinds[0][1:] == kinds[1][1:]
        assert max(off) < 0.1


DROPOUT = """
import numpy as np
from contextlib import nullcontext
from glm.model import block_attention
from glm.model.attention import AttentionDropout
from glm.model.block_attention import BlockAttention
from glm.model.visibility import derived_rows
paddle.set_device("npu:0")
block_attention.query_block = lambda heads, tokens: 3
draw, rows = np.random.default_rng(3), derived_rows(paddle.ones([1, 10], "int64"), paddle.to_tensor([4]))
q, k, v = (paddle.to_tensor(draw.standard_normal([1, 10, heads, 8]).astype("float32")) for heads in (4, 2, 2))
v.stop_gradient = False
def loss():
    paddle.seed(5)
    context = BlockAttention(BlockAttention.mask(rows, 2, "float32"), 2, AttentionDropout(0.3, nullcontext))(q, k, v)
    return (context * paddle.arange(context.size, dtype="float32").reshape(context.shape).cos()).sum()
total = loss()
paddle.seed(11)
total.backward()
print(json.dumps([float(total), float((v * v.grad).sum())]))
"""


@needs_compiler
def test_dropout_on_the_simulated_npu():
    """The context is linear in the values: with the same weights dropped, their gradient gives the loss back."""
    loss, again = on_npu(DROPOUT)
    assert again == pytest.approx(loss, rel=1e-4)
