"""Flash attention against dense attention, by Paddle's plain arithmetic behind the same call, and who chooses it."""

import numpy as np
import paddle
import pytest
from tiny_glm import small_prompt, tiny_model

from glm import GenerationConfig
from glm.generation.search import StopTokens
from glm.model import flash_attention
from glm.model.attention import AttentionDropout, DenseAttention, PrefillAttention
from glm.model.flash_attention import (
    FlashAttention,
    FlashPrefill,
    attention_class,
    compute_dtype,
    flash_fault,
    trial_run,
)
from glm.model.visibility import attention_bias
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


@pytest.fixture
def arithmetic(monkeypatch):
    """The same call without a kernel, which a CPU does not have."""
    monkeypatch.setattr(FlashAttention, "backend", "MATH")


@pytest.fixture
def chosen(arithmetic, monkeypatch):
    monkeypatch.setattr(flash_attention, "flash_fault", lambda *args: None)


def tensors(shared: int) -> list[paddle.Tensor]:
    draw = np.random.default_rng(3)
    sizes = [[2, COLUMNS, heads, WIDTH] for heads in (HEADS, HEADS // shared, HEADS // shared)]
    return [paddle.to_tensor(draw.standard_normal(size).astype("float32"), stop_gradient=False) for size in sizes]


def result(core, mask: str, shared: int) -> list[np.ndarray]:
    """Context and gradients."""
    qkv = tensors(shared)
    rows, prefix = map(paddle.to_tensor, MASKS[mask])
    context = core(core.bias(attention_bias(rows, prefix), shared, "float32"), shared)(*qkv)
    (context * paddle.arange(context.size, dtype="float32").reshape(context.shape).cos()).sum().backward()
    return [context.numpy(), *(x.grad.numpy() for x in qkv)]


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("mask", MASKS)
def test_flash_attention_is_dense_attention(arithmetic, mask, shared):
    for ours, wanted in zip(result(FlashAttention, mask, shared), result(DenseAttention, mask, shared), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)
    if mask != "causal":
        assert np.abs(result(FlashAttention, mask, shared)[0] - result(FlashAttention, "causal", shared)[0]).max() > 0.1


def test_a_prefill_keeps_keys_and_values(arithmetic):
    qkv, bias = tensors(2), attention_bias(*map(paddle.to_tensor, MASKS["prefixes"]))
    ours, wanted = (core(core.bias(bias, 2, "float32"), 2) for core in (FlashPrefill, PrefillAttention))
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

    bias, ones = paddle.zeros([1, 400, 400]), paddle.ones([1, 400, 1, 8])
    attend = FlashAttention(FlashAttention.bias(bias, 1, "float32"), 1, AttentionDropout(0.25, Numbers))
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
    assert len(calls) == 2 * 2  # layers, in training and in the prefill
    monkeypatch.setattr(flash_attention, "flash_fault", lambda *args: "not now")
    wanted_loss, wanted_gradients, wanted_tokens = run(model)
    assert len(calls) == 4 and tokens == wanted_tokens and loss == pytest.approx(wanted_loss, rel=1e-5)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted_gradients[name], rtol=1e-3, atol=1e-5)


def test_the_cpu_is_dense():
    assert flash_fault("cpu", "bfloat16", 64, 1) == "a CPU gains nothing by it"
    assert attention_class("float32", 64, 1) is DenseAttention
    assert flash_fault("gpu:0", "float32", 64, 1) == "no kernel computes in float32"
    assert compute_dtype(paddle.zeros([1], "bfloat16")) == "bfloat16"


def test_a_trial_that_works_passes(arithmetic):
    assert flash_attention._trial("float32", 16, 2) is None
    found = [trial_run(FlashAttention, "float32", 16, 2, columns) for columns in (5, 20)]
    assert all(float(x.abs().max()) > 0.1 for tensors in found for x in tensors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda attend, q, k, v: attend(q, k, v) * 1.01, "its context is off by "),
        (lambda attend, q, k, v: attend(q, k, v) * float("nan"), "its context is off by nan"),
        (lambda attend, q, k, v: attend(q, k.detach(), v) + 0 * k.sum(), "its gradient of the keys is off by "),
        (lambda attend, q, k, v: attend(q, k, v)[:, :, :1], "its context is [4, 5, 1, 16], not [4, 5, 2, 16]"),
        (lambda attend, q, k, v: 1 // 0, "integer division or modulo by zero"),
    ],
    ids=["wrong numbers", "not a number", "wrong gradient", "wrong shape", "raises"],
)
def test_a_trial_that_fails_says_why(arithmetic, monkeypatch, change, reason):
    call = FlashAttention.__call__
    monkeypatch.setattr(FlashAttention, "__call__", lambda self, *qkv: change(lambda *x: call(self, *x), *qkv))
    fault = flash_attention._trial("float32", 16, 1)
    assert reason in fault and "\n" not in fault


def test_a_trial_sees_a_mask_that_is_not_read(arithmetic, monkeypatch):
    monkeypatch.setattr(FlashAttention, "bias", staticmethod(lambda bias, shared, dtype: 0 * bias.unsqueeze(1)))
    assert "its context is off by " in flash_attention._trial("float32", 16, 1)


def test_without_a_kernel_no_other_arithmetic_takes_its_place():
    assert "No available backend" in flash_attention._trial("float32", 16, 1)


ON_NPU = """
from glm.model.flash_attention import attention_class, flash_fault
paddle.set_device("npu:0")
paddle.seed(3)
wanted = paddle.rand([2]).tolist()
paddle.seed(3)
fault = flash_fault("npu:0", "bfloat16", 64, 1)
print(json.dumps({"fault": fault, "core": attention_class("bfloat16", 64, 1).__name__,
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
from glm.model import flash_attention as flash
from glm.model.flash_attention import FlashAttention, attention_class, flash_fault
paddle.set_device("npu:0")
FlashAttention.backend = "MATH"
model, prompt = tiny_model(vocab_size=12), small_prompt(12, 3, seed=1)
fields = (prompt.input_ids, prompt.attention_mask, prompt.position_ids, prompt.prefix_length - 2)
def loss():
    with paddle.amp.auto_cast(dtype="bfloat16"):
        return float(model(*fields, labels=prompt.input_ids))
calls, call = [], FlashAttention.__call__
FlashAttention.__call__ = lambda self, *qkv: calls.append(str(self.bias_B1TT.dtype)) or call(self, *qkv)
kinds = [("bfloat16", 64, 2), ("float16", 64, 2), ("bfloat16", 8, 1)]
faults = [flash_fault("npu:0", *kind) for kind in kinds]
calls.clear()
ours = loss()
flash.flash_fault = lambda *args: "not now"
print(json.dumps({"faults": faults, "calls": calls, "losses": [ours, loss()]}))
"""


@needs_compiler
def test_in_half_precision_on_the_simulated_npu():
    """Paddle's arithmetic passes the trial there, and a model under mixed precision calls it."""
    found = on_npu(IN_HALF_PRECISION)
    assert found["faults"] == [None] * 3
    assert found["calls"] == ["paddle.bfloat16"] * 2
    assert found["losses"][0] == pytest.approx(found["losses"][1], rel=0.02)
