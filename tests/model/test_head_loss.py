"""Loss and gradients of a head in chunks of tokens against those of all logits at once, and the memory it needs."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from tiny_glm import scatter

from glm.config import chunks
from glm.config.chunks import even_chunks
from glm.model import network
from glm.model.head_loss import Head, chunked_losses, recomputed_losses
from glm.model.lora import add_lora
from glm.model.loss import Target, smoothed_cross_entropy
from tests.device.test_probe import on_npu
from tests.memory.measurement import CPU, Meter
from tests.model.test_visibility import family_model
from tests.npu_simulator.launching import launch, needs_compiler

ALONE = SimpleNamespace(degree=1, rank=0)
M, H, V = 23, 12, 37


def head_arrays(tied: bool, bias: bool, padding: int) -> list[np.ndarray | None]:
    """Hidden states, weight and bias."""
    draw, width = np.random.default_rng(5), V + padding
    hidden, weight, added = (draw.standard_normal(size).astype("float32") for size in ([M, H], [H, width], [width]))
    return [hidden, weight.T if tied else weight, added if bias else None]


def in_chunks(monkeypatch, tokens: int) -> None:
    monkeypatch.setattr(chunks, "LOGITS", 0)  # so that the network takes them
    monkeypatch.setattr(Target, "chunk", tokens)


def losses_and_gradients(run, arrays, trained) -> list[np.ndarray | None]:
    """Losses, and gradients of a weighted sum of them."""
    tensors = [
        None if array is None else paddle.to_tensor(array, stop_gradient=not trains)
        for array, trains in zip(arrays, trained, strict=True)
    ]
    losses = run(*tensors)
    (losses * paddle.arange(1, M + 1, dtype="float32").cos()).sum().backward()
    return [losses.numpy(), *(t.grad.numpy() if t is not None and t.grad is not None else None for t in tensors)]


@pytest.mark.parametrize("chunk", [1, 7, M, 3 * M])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("tied", "bias", "padding", "trained"),
    [
        (False, False, 0, (True, True, False)),
        (True, False, 3, (True, True, False)),
        (False, True, 3, (True, True, True)),
        (False, True, 0, (True, False, False)),
        (True, False, 0, (True, False, False)),
        (False, False, 3, (False, True, False)),
        (True, True, 0, (True, False, True)),
    ],
    ids=["own", "tied", "bias", "frozen", "frozen and tied", "frozen hidden states", "bias alone"],
)
def test_chunks_are_the_whole(monkeypatch, chunk, smoothing, tied, bias, padding, trained):
    arrays, labels = head_arrays(tied, bias, padding), paddle.to_tensor(np.arange(M) * 5 % V)
    target = Target(smoothing, V, ALONE, V + padding)
    in_chunks(monkeypatch, chunk)

    def whole(hidden, weight, added):
        logits = paddle.matmul(hidden, weight, transpose_y=tied)
        return smoothed_cross_entropy(logits if added is None else logits + added, labels, target)

    def chunks(hidden, weight, added):
        return chunked_losses(hidden, Head(weight, added, tied, "float32"), labels, target)

    found, wanted = (losses_and_gradients(run, arrays, trained) for run in (chunks, whole))
    for name, ours, theirs in zip(("losses", "hidden", "weight", "bias"), found, wanted, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert np.abs(theirs).max() > 0.1
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=3e-6, err_msg=name)


def test_chunks_cover_all_tokens_evenly():
    assert even_chunks(7, 3) == [range(2), range(2, 4), range(4, 7)]
    assert even_chunks(3, 3) == [range(3)] and even_chunks(0, 3) == []
    assert Target(0.1, V, ALONE, 151_552).chunk == 1107 and Target(0.1, V, ALONE, 10**12).chunk == 1


def trained_model(model, labels, **options):
    """Loss and gradients of a batch of two rows."""
    ids = paddle.to_tensor(np.random.default_rng(1).integers(1, 300, [2, 9]))
    positions = paddle.arange(9).expand([2, 2 if model.model.positions.position_rows == 2 else 1, 9])
    model.train()
    loss = model(ids, paddle.ones_like(ids), positions, paddle.to_tensor([0, 3]), labels, 0.1, **options)
    loss.sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return loss.numpy(), gradients


LABELS = np.where(np.arange(18).reshape([2, 9]) % 5 > 0, np.arange(18).reshape([2, 9]) * 11, -100)


def with_adapter_in_head(model):
    from paddlenlp.peft import LoRAConfig, LoRAModel

    adapted = LoRAModel(model, LoRAConfig(target_modules=[".*lm_head"], r=2, lora_alpha=4)).model
    scatter(adapted, 3, 0.2)
    return adapted


KINDS = {
    "full": lambda model: model,
    "LoRA": lambda model: add_lora(model, 2).model,
    "LoRA of the head": with_adapter_in_head,
}


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, kind) for family in ("glm", "chatglm", "glm4-remote", "glm4-0414") for kind in ("full", "LoRA")),
        ("glm4-0414", "LoRA of the head"),
    ],
)
def test_a_model_trains_alike_in_chunks(monkeypatch, family, kind):
    model, labels = KINDS[kind](family_model(family)), paddle.to_tensor(LABELS)
    calls = []
    for name in ("chunked_losses", "recomputed_losses"):
        run = getattr(network, name)
        monkeypatch.setattr(network, name, lambda *args, run=run: calls.append(run.__name__) or run(*args))
    wanted = trained_model(model, labels, reduction="none")
    assert not calls
    in_chunks(monkeypatch, 4)
    found = trained_model(model, labels, reduction="none")
    assert calls == ["recomputed_losses" if kind == "LoRA of the head" else "chunked_losses"]
    assert found[1].keys() == wanted[1].keys() and len(found[1]) >= 2
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    for name, gradient in found[1].items():
        np.testing.assert_allclose(gradient, wanted[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("chunk", [2, 100])
def test_labels_that_are_all_ignored_train_nothing(monkeypatch, chunk):
    in_chunks(monkeypatch, chunk)
    loss, gradients = trained_model(family_model("glm4-0414"), paddle.full([2, 9], -100))
    assert loss == 0.0 and "lm_head.weight" in gradients
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("frozen", [False, True])
def test_logits_of_all_tokens_never_exist(monkeypatch, frozen):
    tokens, hidden, width, chunk = 2048, 8, 1000, 64
    in_chunks(monkeypatch, chunk)
    peaks = []
    for size in (tokens, 2 * tokens):
        states = paddle.rand([size, hidden])
        states.stop_gradient = False
        weight = paddle.rand([hidden, width])
        weight.stop_gradient = frozen
        labels, target = paddle.zeros([size], "int64"), Target(0.1, width, ALONE, width)
        meter = Meter(CPU)
        chunked_losses(states, Head(weight, None, False, "float32"), labels, target).sum().backward()
        peaks.append(meter.peak)
    assert peaks[1] < 6 * 4 * chunk * width + 2 * tokens * 4 * (4 * hidden + 8)
    assert peaks[1] - peaks[0] < tokens * width  # a byte for each logit more


def test_no_gradient_is_asked_for_in_evaluation(monkeypatch):
    in_chunks(monkeypatch, 5)
    arrays = head_arrays(False, False, 0)
    target, labels = Target(0.0, V, ALONE, V), paddle.zeros([M], "int64")
    hidden, weight, _ = (array if array is None else paddle.to_tensor(array, stop_gradient=False) for array in arrays)
    with paddle.no_grad():
        found = chunked_losses(hidden, Head(weight, None, False, "float32"), labels, target)
        again = recomputed_losses(lambda h: paddle.matmul(h, weight), hidden, labels, target)
    assert found.stop_gradient and np.array_equal(found.numpy(), again.numpy())


IN_HALF_PRECISION = """
import numpy as np
from types import SimpleNamespace
from glm.config import chunks
from glm.model.head_loss import Head, chunked_losses
from glm.model.loss import Target, smoothed_cross_entropy
paddle.set_device("npu:0")
chunks.LOGITS, Target.chunk = 0, 5
draw, target = np.random.default_rng(5), Target(0.1, 37, SimpleNamespace(degree=1, rank=0), 37)
labels, found = paddle.to_tensor(np.arange(23) * 5 % 37), []
numbers = [draw.standard_normal(size).astype("float32") for size in ([23, 12], [12, 37])]
for dtype, mixed, frozen in ("bfloat16", 0, 0), ("float16", 0, 0), ("bfloat16", 1, 0), ("bfloat16", 0, 1):
    results = []
    for whole in (0, 1):
        h, w = (paddle.to_tensor(x).astype("float32" if mixed else dtype) for x in numbers)
        h.stop_gradient, w.stop_gradient = False, bool(frozen)
        with paddle.amp.auto_cast(enable=bool(mixed), dtype="bfloat16"):
            if whole:
                losses = smoothed_cross_entropy(paddle.matmul(h, w), labels, target)
            else:
                losses = chunked_losses(h, Head(w, None, False, dtype), labels, target)
        (losses * paddle.arange(23, dtype="float32").cos()).sum().backward()
        results.append([losses, h.grad] + ([] if frozen else [w.grad]))
    kinds = [[str(x.dtype) for x in side] for side in results]
    off = [float((a.astype("float32") - b.astype("float32")).abs().max() / b.astype("float32").abs().max())
           for a, b in zip(*results)]
    found.append([kinds[0] == kinds[1], off])
print(json.dumps(found))
"""


@needs_compiler
def test_in_half_precision_on_the_simulated_npu():
    """Of a half-precision model and of mixed precision: in the dtypes of the whole form, and within their rounding."""
    found = on_npu(IN_HALF_PRECISION)
    assert [same for same, _ in found] == [True] * 4
    for _, off in found:
        assert max(off) < 0.01


@needs_compiler
@pytest.mark.parametrize("degree", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_that_share_the_vocabulary(tmp_path, degree):
    """Own and tied heads, trained and frozen, with smoothing, and models; 2 and 4 do not divide the 37 tokens."""
    script = Path(__file__).parent / "scripts" / "sharded_head.py"
    result = launch(script, degree, tmp_path)
    assert result.code == 0, str(result)
    lines = [line for log in result.logs for line in log.splitlines() if line.startswith("off ")]
    found = [json.loads(line.removeprefix("off ")) for line in lines]
    assert len(found) == degree
    for off in found:
        assert len(off) == 6 and len(off[4]) > len(off[5]) > 10
        assert max(max(values) for values in off[:4]) < 3e-6 and max(map(max, off[4:])) < 2e-5
