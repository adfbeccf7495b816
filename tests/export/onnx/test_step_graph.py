"""The step graph gives the logits of the Paddle model: behind prompts of unequal length, and at every cached step."""

import numpy as np
import onnx
import paddle
import pytest
from onnx_models import MODELS, PRESETS, model_of, step_graphs
from onnx_step import STEPS, Stepper, decode, dynamic, onnxruntime, positions_of, random_rows, texts
from tiny_glm import relative_error

from glm.export.onnx.contrib import graph_width


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return step_graphs(tmp_path_factory.mktemp("step-graphs"))


@pytest.mark.parametrize("name", [*MODELS, *PRESETS])
def test_logits_of_the_model(exported, name):
    model = model_of(name)
    rows, tokens = texts(model.config)
    found, wanted = decode(exported(name), model.config, rows, tokens), dynamic(model, rows, tokens)
    assert len(found) == len(wanted) == STEPS + 1
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_the_prompt_is_read_in_both_directions(exported):
    """The bias decides it: with a causal one the logits are others."""
    model = model_of("chatglm")
    [row], tokens = random_rows(model.config, [9]), np.zeros((1, 0), dtype="int64")
    scheme, count = positions_of(model.config), len(row)
    causal = np.where(np.tri(count, dtype=bool), 0, -30000).astype("float32")[None, None]
    step = Stepper(exported("chatglm"), 1)
    found = step([row], scheme.of(row, count - 1)[None], [count], [count - 1], count, causal)
    assert relative_error(found, dynamic(model, [row], tokens)[0]) > 1e-2


@pytest.mark.parametrize("name", ["glm4-0414", "glm4-remote, heads of 12", "glm4, heads of 32"])
def test_prompt_in_chunks(exported, name):
    """Rows whose prompt comes in several calls; positions count on."""
    model = model_of(name)
    [row], tokens = random_rows(model.config, [11]), np.zeros((1, 0), dtype="int64")
    step, place = Stepper(exported(name), 1), np.arange(len(row))[None, None]
    for start, stop in ((0, 4), (4, 5), (5, 11)):
        logits = step([row[start:stop]], place[..., start:stop], [stop], [stop - start - 1], stop)
    assert relative_error(logits, dynamic(model, [row], tokens)[0]) < 1e-5


@pytest.mark.parametrize(
    ("name", "positions"),
    [("glm4, tied", [[100_000, 100_001, 100_777]]), ("chatglm", [[2000, 2001, 2040], [0, 1500, 1600]])],
)
def test_far_positions(exported, name, positions):
    """Angles are those of the position itself: no table ends. ChatGLM's frequencies are rounded as published."""
    model, step = model_of(name), Stepper(exported(name), 1)
    arrays = [np.array(each, dtype="int64") for each in ([[9, 10, 11]], [[1, 1, 1]], [positions], [0])]
    causal = np.where(np.tri(3, dtype=bool), 0, -30000).astype("float32")[None, None]
    found = step(arrays[0], arrays[2], [3], [2], 3, causal)
    wanted = model(*map(paddle.to_tensor, arrays))[:, -1].numpy()
    assert relative_error(found, wanted) < 1e-5


def test_inputs_and_outputs(exported):
    for name in MODELS:
        config = model_of(name).config
        session = onnxruntime.InferenceSession(str(exported(name)))
        inputs = {each.name: (each.type, each.shape) for each in session.get_inputs()}
        reads_both_ways = not config.position_type.startswith("partial_rotary")
        assert inputs["ids"] == ("tensor(int64)", ["B", "T"])
        if config.head_dim == 32:
            assert "pos" not in inputs
        else:
            assert inputs["pos"] == ("tensor(int64)", ["B", 1 + reads_both_ways, "T"])
        assert inputs["seqlens_k"] == ("tensor(int32)", ["B"])
        assert inputs["total"] == ("tensor(int32)", [])
        assert inputs["last"] == ("tensor(int64)", ["B", "M"])
        assert ("bias" in inputs) == reads_both_ways
        cache = ("tensor(float)", ["B", config.num_key_value_heads, "C", graph_width(config.head_dim)])
        assert [inputs[f"past_{part}_{i}"] for part in ("key", "value") for i in range(2)] == [cache] * 4
        outputs = {each.name: (each.type, each.shape) for each in session.get_outputs()}
        assert outputs.pop("logits") == ("tensor(float)", ["B", "M", config.vocab_size])
        assert outputs == {name.replace("past", "present"): cache for name in inputs if name.startswith("past")}


def test_a_tied_embedding_lies_in_the_file_once(exported):
    path, config = exported("glm4, tied"), model_of("glm4, tied").config
    graph = onnx.load(path, load_external_data=False).graph
    table = [each for each in graph.initializer if list(each.dims) == [config.vocab_size, config.hidden_size]]
    assert len(table) == 1
    numbers = sum(parameter.size for parameter in model_of("glm4, tied").parameters())
    assert path.with_suffix(".onnx.data").stat().st_size < 4 * numbers + 64 * len(graph.initializer)
