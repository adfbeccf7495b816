"""Loads of experts: counted once, without padding; biases that follow them, and the loss of an uneven load."""

from itertools import pairwise

import numpy as np
import paddle
import pytest
from family_models import NO_DROPOUT, SPARSE
from tiny_glm import relative_error, scatter

from glm import GLMConfig, GLMForCausalLM
from glm.model.balance import Balance

ROWS = ([9, 30, 11, 45, 8], [50, 12, 13], [21, 22, 23, 24, 25, 26, 27])


def tiny(loss_weight: float = 0.0, recompute: bool = False, **changes) -> GLMForCausalLM:
    model = GLMForCausalLM(GLMConfig("glm4-moe", **SPARSE | NO_DROPOUT | changes))
    scatter(model, 4, 0.3)
    model.model.enable_recompute = recompute
    model.train()
    if loss_weight >= 0:
        Balance(model, loss_weight)
    return model


def batch(rows, width: int | None = None) -> dict[str, paddle.Tensor]:
    """Right-padded; the first token of a row is no label."""
    width = width or max(map(len, rows))
    pad = [[0] * (width - len(row)) for row in rows]
    ids = np.array([row + gap for row, gap in zip(rows, pad, strict=True)])
    mask = np.array([[1] * len(row) + gap for row, gap in zip(rows, pad, strict=True)])
    labels = np.where(np.pad(mask, ((0, 0), (0, 1)))[:, 1:] == 1, np.roll(ids, -1, axis=1), -1)
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    arrays |= {"position_ids": (mask.cumsum(1) - 1).clip(0)[:, None], "prefix_length": np.zeros(len(rows), "int64")}
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def pack(rows) -> dict[str, paddle.Tensor]:
    """All rows in one, each of which sees itself."""
    ends = np.cumsum([0, *map(len, rows)])
    ids = np.concatenate(rows)[None]
    labels = np.roll(ids, -1, axis=1)
    labels[0, ends[1:] - 1] = -1
    bounds = np.concatenate([np.full(end - start, end) for start, end in pairwise(ends)])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}
    arrays["position_ids"] = np.concatenate([np.arange(len(row)) for row in rows])[None, None]
    arrays["visible_rows"] = np.stack([np.arange(ids.shape[1]), bounds])[None].astype("int32")
    arrays["prefix_length"] = np.zeros(1, "int64")
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def trained(model, inputs) -> tuple[float, list[np.ndarray], dict[str, np.ndarray]]:
    """Loss, loads and gradients."""
    model.clear_gradients()
    loss = model(**inputs)
    loss.backward()
    gradients = {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}
    loads = [load.numpy().copy() for load in model.balance.loads] if model.balance else []
    return float(loss), loads, gradients


def chosen(model, rows) -> np.ndarray:
    """How many of the rows' tokens each expert gets, row by row and without padding."""
    found, layer = np.zeros(8), model.model.layers[1].mlp
    original = layer.experts.forward

    def spied(x, picks, weights):
        found[:] += np.bincount(picks.numpy().flatten(), minlength=8)
        return original(x, picks, weights)

    layer.experts.forward = spied
    model.balance = model.model.balance = layer.gate.watch = None
    for row in rows:
        model(**batch([row]))
    layer.experts.forward = original
    return found


@pytest.mark.parametrize("width", [None, 12])
@pytest.mark.parametrize("recompute", [False, True])
def test_tokens_are_counted_once_and_padding_never(recompute, width):
    model = tiny(recompute=recompute)
    loads = trained(model, batch(ROWS, width))[1]
    assert loads[0].sum() == 2 * sum(map(len, ROWS))
    assert loads[0].tolist() == chosen(model, ROWS).tolist()


def test_evaluation_counts_nothing():
    model = tiny()
    model.eval()
    model(**batch(ROWS))
    assert float(sum(model.balance.loads).sum()) == 0


def test_biases_rise_where_tokens_are_few():
    model = tiny()
    router = model.model.layers[1].mlp.gate
    before = router.e_score_correction_bias.numpy().copy()
    load = trained(model, batch(ROWS))[1][0]
    model.balance.move_biases(0.01)
    moved = router.e_score_correction_bias.numpy() - before
    assert np.abs(moved - 0.01 * np.sign(load.mean() - load)).max() < 1e-6
    assert float(model.balance.loads[0].sum()) == 0
    assert router.e_score_correction_bias.stop_gradient


def test_an_uneven_load_becomes_even():
    """With nothing but the biases' own steps."""
    model, inputs = tiny(), batch([np.random.default_rng(0).integers(8, 700, 64).tolist()])
    spreads = []
    for _ in range(60):
        load = trained(model, inputs)[1][0]
        spreads.append(load.std())
        model.balance.move_biases(0.02)
    assert spreads[-1] < spreads[0] / 3


def written_out(model, rows, weight: float) -> float:
    """α·Σ f·P of every sequence by NumPy, weighed by its trained tokens."""
    total, tokens = 0.0, 0
    for row in rows:
        found = {}
        gate = model.model.layers[1].mlp.gate
        gate.watch = lambda scores, picks, found=found: (
            found.update(s=scores.numpy(), c=picks.numpy()) or paddle.zeros([])
        )
        model(**batch([row]))
        f = np.bincount(found["c"].flatten(), minlength=8) * 8 / (2 * len(row))
        shares = (found["s"] / found["s"].sum(1, keepdims=True)).mean(0)
        total += (len(row) - 1) * weight * float(f @ shares)
        tokens += len(row) - 1
    return total / tokens


def test_the_loss_is_the_formula():
    plain = trained(tiny(-1), batch(ROWS))[0]
    model = tiny(0.5)
    found = trained(model, batch(ROWS, 12))[0] - plain
    wanted = written_out(model, ROWS, 0.5)
    assert wanted > 0.4
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("side", ["recomputed", "packed", "padded"])
def test_the_loss_and_its_gradients_are_the_same(side):
    model = tiny(0.5)
    loss, loads, gradients = trained(model, batch(ROWS))
    other = tiny(0.5, recompute=side == "recomputed")
    inputs = pack(ROWS) if side == "packed" else batch(ROWS, 12 if side == "padded" else None)
    found, found_loads, found_gradients = trained(other, inputs)
    assert found == pytest.approx(loss, rel=1e-6)
    assert [load.tolist() for load in found_loads] == [load.tolist() for load in loads]
    for name, gradient in gradients.items():
        if not name.endswith("k_proj.bias"):
            assert relative_error(found_gradients[name], gradient) < 1e-5, name
    plain = trained(tiny(-1), batch(ROWS))[2]
    assert relative_error(gradients["model.layers.1.mlp.gate.weight"], plain["model.layers.1.mlp.gate.weight"]) > 0.01
