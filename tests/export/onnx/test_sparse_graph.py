"""Experts in a graph: whatever the tokens choose, what was not chosen is not touched, and one node has each weight."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx_models import model_of, weights

from glm.export.onnx.experts import Experts, routing
from glm.export.onnx.graph import Graph
from glm.export.onnx.weights import Weights, weights_of

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
NAME = "glm4-moe, heads of 12"
FORMS = {"own": None, "standard": 17}
# What the router adds to the scores of the 8 experts, so that all tokens choose alike, and the tokens that are read.
CHOICES = {"each its own": 0.0, "all the same two": 100.0}


def graph_file(folder, form: str, change=lambda stack, name: stack):
    """The sparse part of a layer as a graph: x [B, T, H] → y [B, T, H]."""
    graph = graph_of(weights_of("fp32", opset=FORMS[form]))
    path = folder / f"{form}.onnx"
    graph.data.write(path.with_name(f"{path.name}.data"), ((name, change(a, name)) for name, a in tensors()))
    path.write_bytes(graph.model(f"{path.name}.data").SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    return path


def graph_of(stored: Weights) -> Graph:
    config = model_of(NAME).config
    graph = stored.operators.graph()
    graph.input("x", onnx.TensorProto.FLOAT, ["B", "T", config.hidden_size])
    made = Experts(graph, config, stored, "experts")("x", routing(graph, config, "gate", "x"))
    graph.output(made, onnx.TensorProto.FLOAT, ["B", "T", config.hidden_size])
    return graph


def tensors():
    prefix = "model.layers.1.mlp."
    for name, array in weights(model_of(NAME)):
        if name.startswith(prefix) and ".shared_experts." not in name:
            yield name.removeprefix(prefix), array


def routed(x: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The experts of tokens [M, H], and what they weigh."""
    config, scores = model_of(NAME).config, 1 / (1 + np.exp(-x @ dict(tensors())["gate.weight"]))
    chosen = np.argsort(-(scores + bias), axis=1, kind="stable")[:, : config.num_experts_per_tok]
    weighing = np.take_along_axis(scores, chosen, axis=1)
    return chosen, weighing / weighing.sum(axis=1, keepdims=True) * config.routed_scaling_factor


def by_hand(x: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[M, H], token by token."""
    part, found = dict(tensors()), np.zeros_like(x)
    for token, (row, chosen, weighing) in enumerate(zip(x, *routed(x, bias), strict=True)):
        for expert, weight in zip(chosen, weighing, strict=True):
            gate, up = (row @ part[f"experts.{name}_proj.weight"][expert] for name in ("gate", "up"))
            found[token] += weight * (gate / (1 + np.exp(-gate)) * up) @ part["experts.down_proj.weight"][expert]
    return found


def run(path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def tokens(rows: int, count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((rows, count, model_of(NAME).config.hidden_size), "float32")


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("form", FORMS)
def test_experts_of_every_token(tmp_path, form, choice, shape):
    bias = dict(tensors())["gate.e_score_correction_bias"].copy()
    bias[[2, 5]] += CHOICES[choice]
    path = graph_file(tmp_path, form, lambda array, name: bias if name.endswith("_bias") else array)
    x = tokens(*shape)
    chosen = Counter(routed(x.reshape(-1, x.shape[-1]), bias)[0].ravel().tolist())
    assert choice != "all the same two" or set(chosen) <= {2, 5}
    found, wanted = run(path, x), by_hand(x.reshape(-1, x.shape[-1]), bias).reshape(x.shape)
    assert found.shape == x.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max(initial=1e-3))


@pytest.mark.parametrize("form", FORMS)
def test_experts_that_no_token_chose_are_not_multiplied(tmp_path, form):
    x = tokens(1, 2)
    chosen = set(routed(x[0], dict(tensors())["gate.e_score_correction_bias"])[0].ravel().tolist())
    assert 2 <= len(chosen) < 8

    def broken(array, name, spared):
        others = [expert for expert in range(8) if expert not in spared]
        array = array.copy()
        if name.startswith("experts."):
            array[others] = np.nan
        return array

    whole = run(graph_file(tmp_path, form), x)
    (tmp_path / "spared").mkdir()
    spared = graph_file(tmp_path / "spared", form, lambda array, name: broken(array, name, chosen))
    assert np.array_equal(run(spared, x), whole)
    (tmp_path / "missing").mkdir()
    missing = graph_file(tmp_path / "missing", form, lambda array, name: broken(array, name, sorted(chosen)[1:]))
    assert np.isnan(run(missing, x)).any()


@pytest.mark.parametrize(
    ("kind", "opset"), [("fp32", None), ("int8", None), ("int4", None), ("fp32", 17), ("int8", 17)]
)
def test_each_weight_of_an_expert_has_one_node(kind, opset):
    """ONNX Runtime packs a matrix for every node that has it: two would be two copies in memory. It lies where its node
    is, for what lies outside costs time for every part."""
    graph = graph_of(weights_of(kind, opset=opset))
    model = graph.model("data")
    parts = [attribute.g for node in model.graph.node for attribute in node.attribute if node.op_type == "If"]
    weights = [tensor.name for part in parts for tensor in part.initializer]
    assert len(weights) == len(set(weights)) >= 2 * 8
    uses = Counter(name for part in parts for node in part.node for name in node.input)
    assert {uses[name] for name in weights} == {1}
    outside = {tensor.name for tensor in model.graph.initializer}
    assert all(slot.name in outside or slot.name in weights for slot in graph.data.slots)
    assert not any(".experts." in f".{name}" for name in outside)
    assert graph.model("data") == model  # the first call changed nothing
