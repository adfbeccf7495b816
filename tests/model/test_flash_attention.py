"""Flash attention against dense attention, by Paddle's plain arithmetic behind the same call, and who chooses it."""

import numpy as np
import paddle
import pytest
from tiny_glm import small_prompt, tiny_model

from glm import GenerationConfig
from glm.generation.search import StopTokens
from glm.model import attention_choice
from glm.model.attention import AttentionDropout, DenseAttention, PrefillAttention
from glm.model.attention_choice import attention_class, compute_dtype, flash_fault, trial_rows, trial_run
from glm.model.block_attention import BlockAttention
from glm.model.flash_attention import CausalFlashAttention, FlashAttention, FlashMaskAttention
from glm.model.visibility import derived_rows, is_causal, seen_share, visibility_bias
from tests.device.test_probe import on_npu
from tests.npu_simulator.launching import needs_compiler

HEADS, WIDTH, COLUMNS = 4, 8, 9
# attention_mask and prefix_length of two rows
MASKS = {
    "causal": ([[1] * 9, [1] * 9], [0, 0]),
    "prefixes": ([[1] * 9, [1] * 9], [4, 7]),
    "prompts padded on the left": ([[0] * 4 + [1] * 5, [1] * 9], [9, 9]),
    "texts padded on the right": ([[1] * 6 + [0] * 3, [1] * 9], [3, 0]),
}


SHORT, LONG = (derived_rows(paddle.ones([2, width], "int64"), paddle.to_tensor([0, 0])) for width in (9, 5000))


@pytest.fixture
def arithmetic(monkeypatch):
    """The same call without a kernel, which a CPU does not have."""
    monkeypatch.setattr(FlashAttention, "backend", "MATH")


@pytest.fixture
def chosen(arithmetic, monkeypatch, without_kernels):
    monkeypatch.setattr(attention_choice, "flash_fault", lambda *args: None if args[-1] is FlashAttention else "no")


def tensors(shared: int) -> list[paddle.Tensor]:
    draw = np.random.default_rng(3)
    sizes = [[2, COLUMNS, heads, WIDTH] for heads in (HEADS, HEADS // shared, HEADS // shared)]
    return [paddle.to_tensor(draw.standard_normal(size).astype("float32"), stop_gradient=False) for size in sizes]


def result(core, mask: str, shared: int) -> list[np.ndarray]:
    """Context and gradients."""
    qkv = tensors(shared)
    rows, prefix = map(paddle.to_tensor, MASKS[mask])
    context = core(core.mask(derived_rows(rows, prefix), shared, "float32"), shared)(*qkv)
    (context * paddle.arange(context.size, dtype="float32").reshape(context.shape).cos()).sum().backward()
    return [context.numpy(), *(x.grad.numpy() for x in qkv)]


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("mask", MASKS)
def test_flash_attention_is_dense_attention(arithmetic, mask, shared):
    for ours, wanted in zip(result(FlashAttention, mask, shared), result(DenseAttention, mask, shared), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)
    if mask != "causal":
        assert np.abs(result(FlashAttention, mask, shared)[0] - result(FlashAttention, "causal", shared)[0]).max() > 0.1


def spelled_out(q, k, v, bounds_B1T2, dropout, causal):
    """FlashMask by plain arithmetic: rows from the first bound on are hidden, and rows below the second one."""
    row_T1 = paddle.arange(q.shape[1], dtype="int32").unsqueeze(1)
    end_B1T, first_B1T = bounds_B1T2.transpose([0, 3, 1, 2]).unbind(1)
    hidden = paddle.logical_or(row_T1 >= end_B1T, row_T1 < first_B1T).unsqueeze(1)
    assert bounds_B1T2.dtype == paddle.int32 and not causal
    with paddle.nn.attention.sdpa_kernel(paddle.nn.attention.SDPBackend.MATH):
        return paddle.nn.functional.scaled_dot_product_attention(q, k, v, hidden.astype(q.dtype) * -30000.0, dropout)


@pytest.mark.parametrize("mask", MASKS)
def test_flashmask_is_given_what_is_seen(monkeypatch, mask):
    monkeypatch.setattr(paddle.nn.functional, "flashmask_attention", spelled_out)
    ours, wanted = result(FlashMaskAttention, mask, 2), result(DenseAttention, mask, 2)
    for found, dense in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(found, dense, rtol=0, atol=2e-5)


def test_causal_rows_need_no_bias(arithmetic):
    ours, wanted = result(CausalFlashAttention, "causal", 2), result(DenseAttention, "causal", 2)
    for found, dense in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(found, dense, rtol=0, atol=2e-5)
    assert attention_choice._trial("float32", 16, 2, CausalFlashAttention) is None


@pytest.mark.parametrize(
    ("mask", "prefix", "causal"),
    [
        ([[1, 1, 1, 1], [1, 1, 0, 0]], [0, 0], True),
        ([[1, 1, 1, 1], [1, 1, 1, 1]], [0, 2], False),
        ([[1, 1, 1, 1], [0, 1, 1, 1]], [0, 0], False),
        ([[1, 1, 1, 1], [1, 0, 1, 1]], [0, 0], False),
    ],
    ids=["padded on the right", "a prefix", "padded on the left", "a hole"],
)
def test_which_rows_are_causal(mask, prefix, causal):
    assert is_causal(derived_rows(paddle.to_tensor(mask), paddle.to_tensor(prefix))) == causal


@pytest.mark.parametrize(
    ("accepted", "short", "long"),
    [
        ({FlashMaskAttention, FlashAttention}, FlashMaskAttention, FlashMaskAttention),
        ({FlashAttention, CausalFlashAttention}, FlashAttention, CausalFlashAttention),
        ({FlashAttention}, FlashAttention, BlockAttention),
        ({CausalFlashAttention}, DenseAttention, CausalFlashAttention),
    ],
)
def test_the_form_that_is_taken(monkeypatch, accepted, short, long):
    """A bias grows with the square of a row: longer ones need another form."""
    monkeypatch.setattr(attention_choice, "flash_fault", lambda *args: None if args[-1] in accepted else "no")
    assert attention_class("bfloat16", 64, 1, SHORT) is short
    assert attention_class("bfloat16", 64, 1, LONG) is long
    packed = LONG.clone()
    packed[0, 1, :2000] = 2000
    wanted = BlockAttention if long is CausalFlashAttention else long
    assert attention_class("bfloat16", 64, 1, packed) is wanted


def test_rows_that_see_little_are_read_in_blocks(without_kernels):
    """Of 600 columns: four documents see an eighth of all pairs, two a quarter and a little; 512 are dense anyway."""

    def of_documents(count: int, tokens: int = 600) -> type:
        ends = -(-(paddle.arange(tokens, dtype="int32") + 1) // (tokens // count)) * (tokens // count)
        rows = paddle.stack([paddle.arange(tokens, dtype="int32"), ends]).unsqueeze(0)
        assert seen_share(rows) == pytest.approx((1 / count + 1 / tokens) / 2)
        return attention_class("float32", 64, 1, rows)

    assert of_documents(4) is BlockAttention
    assert of_documents(1) is of_documents(2) is of_documents(4, tokens=512) is DenseAttention


def test_a_prefill_keeps_keys_and_values(arithmetic):
    qkv, rows = tensors(2), derived_rows(*map(paddle.to_tensor, MASKS["prefixes"]))
    ours, wanted = (core.prefill(core.mask(rows, 2, "float32"), 2) for core in (FlashAttention, DenseAttention))
    assert isinstance(wanted, PrefillAttention)
    np.testing.assert_allclose(ours(*qkv).numpy(), wanted(*qkv).numpy(), rtol=0, atol=2e-5)
    assert np.array_equal(ours.keys.numpy(), wanted.keys.numpy())
    assert np.array_equal(ours.values.numpy(), wanted.values.numpy())


def test_dropout_drops_the_weights_and_draws_where_it_is_told(arithmetic):
    entered = []

    class Numbers:
        def __enter__(self):
            entered.append(True)
            paddle.seed(3)

        def __exit__(self, *error):
            pass

    bias, ones = paddle.zeros([1, 1, 400, 400]), paddle.ones([1, 400, 1, 8])
    attend = FlashAttention(bias, 1, AttentionDropout(0.25, Numbers))
    first, second = attend(ones, ones, ones).numpy(), attend(ones, ones, ones).numpy()
    assert entered == [True, True] and np.array_equal(first, second)
    # Means of 400 weights that are 0 or 4/3.
    assert first.std() == pytest.approx((1 / 3 / 400) ** 0.5, rel=0.2) and first.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("changes", [{}, {"family": "glm4-0414"}], ids=str)
def test_a_model_with_it_is_the_same_model(chosen, monkeypatch, changes):
    """Loss, gradients and tokens, on two cores."""

    def run(model):
        prompt = small_prompt(12, 3, seed=1)
        fields = (prompt.input_ids, prompt.attention_mask, prompt.position_ids, prompt.prefix_length - 2)
        model.train()
        loss = model(*fields, labels=prompt.input_ids)
        loss.backward()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        model.clear_gradients()
        model.eval()
        tokens, _ = model.generate(prompt, GenerationConfig(6, num_beams=2), StopTokens((), 3))
        return float(loss), gradients, tokens.tolist()

    model = tiny_model(vocab_size=12)
    calls, call = [], FlashAttention.__call__
    monkeypatch.setattr(FlashAttention, "__call__", lambda self, *qkv: calls.append(1) or call(self, *qkv))
    loss, gradients, tokens = run(model)
    assert len(calls) == 2 + 1  # layers in training; in the prefill the last one only keeps keys and values
    monkeypatch.setattr(attention_choice, "flash_fault", lambda *args: "not now")
    wanted_loss, wanted_gradients, wanted_tokens = run(model)
    assert len(calls) == 3 and tokens == wanted_tokens and loss == pytest.approx(wanted_loss, rel=1e-5)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted_gradients[name], rtol=1e-3, atol=1e-5)


def test_the_cpu_is_dense(without_kernels):
    assert flash_fault("cpu", "bfloat16", 64, 1, FlashAttention) == "a CPU gains nothing by it"
    assert attention_class("float32", 64, 1, SHORT) is DenseAttention
    assert attention_class("float32", 64, 1, LONG) is BlockAttention
    assert flash_fault("gpu:0", "float32", 64, 1, FlashAttention) == "no kernel computes in float32"
    assert compute_dtype(paddle.zeros([1], "bfloat16")) == "bfloat16"


def test_a_trial_that_works_passes(arithmetic):
    assert attention_choice._trial("float32", 16, 2, FlashAttention) is None
    found = [trial_run(FlashAttention, "float32", 16, 2, *trial_rows(columns, False)) for columns in (5, 20)]
    assert all(float(x.abs().max()) > 0.1 for tensors in found for x in tensors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda attend, q, k, v: attend(q, k, v) * 1.01, "its context is off by "),
        (lambda attend, q, k, v: attend(q, k, v) * float("nan"), "its context is off by nan"),
        (lambda attend, q, k, v: attend(q, k.detach(), v) + 0 * k.sum(), "its gradient of the keys is off by "),
        (lambda attend, q, k, v: attend(q, k, v)[:, :, :1], "its context is [5, 5, 1, 16], not [5, 5, 2, 16]"),
        (lambda attend, q, k, v: 1 // 0, "integer division or modulo by zero"),
    ],
    ids=["wrong numbers", "not a number", "wrong gradient", "wrong shape", "raises"],
)
def test_a_trial_that_fails_says_why(arithmetic, monkeypatch, change, reason):
    call = FlashAttention.__call__
    monkeypatch.setattr(FlashAttention, "__call__", lambda self, *qkv: change(lambda *x: call(self, *x), *qkv))
    fault = attention_choice._trial("float32", 16, 1, FlashAttention)
    assert reason in fault and "\n" not in fault


def test_a_trial_sees_a_mask_that_is_not_read(arithmetic, monkeypatch):
    blind = staticmethod(lambda rows, shared, dtype: 0 * visibility_bias(rows).unsqueeze(1))
    monkeypatch.setattr(FlashAttention, "mask", blind)
    assert "its context is off by " in attention_choice._trial("float32", 16, 1, FlashAttention)


def test_without_a_kernel_no_other_arithmetic_takes_its_place():
    assert "No available backend" in attention_choice._trial("float32", 16, 1, FlashAttention)
    assert "No available backend" in attention_choice._trial("float32", 16, 1, CausalFlashAttention)
    assert attention_choice._trial("float32", 16, 1, FlashMaskAttention)  # Paddle's wheel for CPUs raises ValueError


ON_NPU = """
from glm.model.attention_choice import attention_class, flash_fault
from glm.model.flash_attention import FlashAttention
paddle.set_device("npu:0")
paddle.seed(3)
wanted = paddle.rand([2]).tolist()
paddle.seed(3)
fault = flash_fault("npu:0", "bfloat16", 64, 1, FlashAttention)
print(json.dumps({"fault": fault, "core": attention_class("bfloat16", 64, 1, paddle.zeros([1, 2, 9], "int32")).__name__,
                  "undisturbed": paddle.rand([2]).tolist() == wanted}))
"""


@needs_compiler
def test_the_simulated_npu_has_none():
    found = on_npu(ON_NPU)
    assert found["core"] == "DenseAttention" and found["undisturbed"]
    assert "flash_attn` is not registered" in found["fault"]


IN_HALF_PRECISION = """
import sys
sys.path.insert(0, "tests")
from tiny_glm import small_prompt, tiny_model
from glm.model import attention_choice as choice
from glm.model.attention_choice import flash_fault
from glm.model.flash_attention import FlashAttention
paddle.set_device("npu:0")
FlashAttention.backend = "MATH"
model, prompt = tiny_model(vocab_size=12), small_prompt(12, 3, seed=1)
fields = (prompt.input_ids, prompt.attention_mask, prompt.position_ids, prompt.prefix_length - 2)
def loss():
    with paddle.amp.auto_cast(dtype="bfloat16"):
        return float(model(*fields, labels=prompt.input_ids))
calls, call = [], FlashAttention.__call__
FlashAttention.__call__ = lambda self, *qkv: calls.append(str(self.visible.dtype)) or call(self, *qkv)
kinds = [("bfloat16", 64, 2), ("float16", 64, 2), ("bfloat16", 8, 1)]
faults = [flash_fault("npu:0", *kind, FlashAttention) for kind in kinds]
choice.flash_fault("npu:0", "bfloat16", 8, 1, choice.FlashMaskAttention)
calls.clear()
ours = loss()
choice.flash_fault = lambda *args: "not now"
print(json.dumps({"faults": faults, "calls": calls, "losses": [ours, loss()]}))
"""


@needs_compiler
def test_in_half_precision_on_the_simulated_npu():
    """Paddle's arithmetic passes the trial there, and a model under mixed precision calls it."""
    found = on_npu(IN_HALF_PRECISION)
    assert found["faults"] == [None] * 3
    assert found["calls"] == ["paddle.bfloat16"] * 2
    assert found["losses"][0] == pytest.approx(found["losses"][1], rel=0.02)
