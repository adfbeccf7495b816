"""The step graph in standard operators of opset 17 gives the logits of the Paddle model, prompts and cached steps."""

import json
from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx
import paddle
import pytest
from column_steps import CAPACITY, logits, runtime_of
from onnx_models import LATENT_MODELS, MODELS, PRESETS, model_of, step_graphs, weights
from onnx_step import STEPS, dynamic, positions_of, random_rows, texts
from quantized_model import in_8_bits
from tiny_glm import relative_error

from glm.config.shapes import cache_shapes
from glm.errors import GLMError, UsageError
from glm.export.files import parse_manifest
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import export_step_graph, write_step_graph
from glm.runtime.columns import INPUTS
from glm.runtime.onnx_step import OnnxStepRuntime

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
NAMES = [*MODELS, *PRESETS]
ALL = [*NAMES, *LATENT_MODELS]
# How far 8 bits are from float32: of the largest that was seen, not much more.
FAR = 0.15


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return partial(step_graphs(tmp_path_factory.mktemp("step-graphs")), opset=17)


@pytest.mark.parametrize("name", ALL)
def test_logits_of_the_model(exported, name):
    model = model_of(name)
    rows, tokens = texts(model.config)
    found, wanted = logits(exported(name), model.config, rows, tokens), dynamic(model, rows, tokens)
    assert len(found) == len(wanted) == STEPS + 1
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_logits_in_8_bits(exported, name):
    """Those of the model in such arithmetic, but where a number half way between two bytes was rounded to the other."""
    model = model_of(name)
    rows, tokens = texts(model.config)
    found, exact = logits(exported(name, "int8"), model.config, rows, tokens), dynamic(model, rows, tokens)
    wanted = dynamic(in_8_bits(model), rows, tokens)
    errors = [
        relative_error(ours[row], theirs[row]) for ours, theirs in zip(found, wanted, strict=True) for row in range(3)
    ]
    assert np.median(errors) < 1e-5
    far = [relative_error(ours, theirs) for ours, theirs in zip(found, exact, strict=True)]
    assert min(far) > 1e-4
    # Where two experts are nearly as good, a token takes the other one.
    assert (np.median(far) if model.config.n_routed_experts else max(far)) < FAR


def test_what_is_read_beside_a_row_does_not_change_it_in_8_bits(exported):
    """Every token is quantized by itself."""
    path, model = exported("glm4-0414", "int8"), model_of("glm4-0414")
    rows, tokens = texts(model.config)
    together = logits(path, model.config, rows, tokens)
    for place, row in enumerate(rows):
        alone = logits(path, model.config, [row], tokens[place : place + 1])
        assert all(relative_error(one[0], many[place]) < 1e-6 for one, many in zip(alone, together, strict=True))
    runtime, [row], places = runtime_of(path), random_rows(model.config, [11]), np.arange(11)[None]
    cache = runtime.new_cache(2, 11)
    whole = runtime.prefill(cache, 0, row, places, 0, 0).copy()
    runtime.prefill(cache, 1, row[:4], places[:, :4], 0, 0)
    assert relative_error(runtime.prefill(cache, 1, row[4:], places[:, 4:], 4, 0), whole) < 1e-6


@pytest.mark.parametrize("name", ["glm4-0414", "glm4, heads of 32, yarn"])
def test_a_prompt_in_chunks_and_logits_of_several_columns(exported, name):
    model = model_of(name)
    [row] = random_rows(model.config, [11])
    runtime, places = runtime_of(exported(name)), np.arange(11)[None]
    cache = runtime.new_cache(1, 11)
    for start, stop in ((0, 4), (4, 5)):
        runtime.prefill(cache, 0, row[start:stop], places[:, start:stop], start, 0)
    found = runtime.read(cache, 0, row[5:], places[:, 5:], 5, 0, [0, 3, 5])
    arguments = [[row], [[1] * 11], [places], [0]]
    wanted = model(
        *(
            paddle.to_tensor(np.array(each, dtype="int64").reshape(shape))
            for each, shape in zip(arguments, ([1, 11], [1, 11], [1, 1, 11], [1]), strict=True)
        )
    )
    assert relative_error(found, wanted.numpy()[0, [5, 8, 10]]) < 1e-5


def test_the_prompt_is_read_in_both_directions(exported):
    """`prefix_length` decides it: without one the logits are others."""
    model = model_of("chatglm")
    [row] = random_rows(model.config, [9])
    scheme, runtime = positions_of(model.config), runtime_of(exported("chatglm"))
    wanted = dynamic(model, [row], np.zeros((1, 0), dtype="int64"))[0][0]
    for prefix, close in ((8, True), (0, False)):
        found = runtime.prefill(runtime.new_cache(1, 9), 0, row, scheme.of(row, 8), 0, prefix)
        assert (relative_error(found, wanted) < 1e-5) == close


@pytest.mark.parametrize("kind", ["fp32", "int8"])
@pytest.mark.parametrize("name", ALL)
def test_any_runtime_reads_it(exported, name, kind):
    """Standard operators alone, of an opset and a file version that ONNX Runtime 1.12 knows."""
    path = exported(name, kind)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert model.ir_version == 8
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    nodes = list(every_node(model.graph))
    assert {node.domain for node in nodes} == {""}
    operators = {node.op_type for node in nodes}
    assert ("MatMulInteger" in operators) == (kind == "int8")
    config = model_of(name).config
    layers = cache_shapes(config)
    (_, (heads, width)), *_ = layers[0]
    past = [f"past_{part}_{i}" for i, parts in enumerate(layers) for part, _ in parts]
    assert [each.name for each in model.graph.input] == [*INPUTS, *past]
    assert [each.name for each in model.graph.output] == ["logits", "new"]
    shape = [part.dim_value or part.dim_param for part in model.graph.output[1].type.tensor_type.shape.dim]
    assert shape == [len(past), "B", heads, "T", width]
    # FastDeploy's ONNX Runtime looks at vectors while it has no path to the weights' file.
    outside = [each for each in model.graph.initializer if each.external_data]
    assert outside and all(len(each.dims) > 1 for each in outside)


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those inside an If as well."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from every_node(attribute.g)


def test_8_bits_take_a_byte(exported):
    for name in ("glm4, tied", "glm4-0414"):
        numbers = sum(parameter.size for parameter in model_of(name).parameters())
        assert exported(name, "int8").with_suffix(".onnx.data").stat().st_size < 1.05 * numbers + 64 * 20


def test_the_manifest_says_which_form_it_is(tmp_path):
    model = model_of("glm4-0414")
    for opset, kind in ((None, "int8"), (17, "int8"), (17, "fp32")):
        stored = weights_of(kind, opset=opset)
        found = export_step_graph(
            model.config, weights(model), stored, tmp_path / "m", source="a", text=lambda folder: None
        )
        assert (found.opset, found.weights, found.block_size) == (opset, kind, None if opset else 128)
        assert parse_manifest(tmp_path / "m.onnx.manifest.json") == found
    path = tmp_path / "m.onnx.manifest.json"
    raw = json.loads(path.read_text())
    del raw["opset"]  # as it was before there was one
    path.write_text(json.dumps(raw))
    assert parse_manifest(path).opset is None
    path.write_text(json.dumps(raw | {"opset": "17"}))
    with pytest.raises(GLMError, match="opset is '17'"):
        parse_manifest(path)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"kind": "fp32", "opset": 18}, "opset 18 is not offered: choose 17, or leave it out"),
        (
            {"kind": "int4", "opset": 17},
            "weights 'int4' are ONNX Runtime's own, and opset 17 has none: choose fp32 or int8",
        ),
        ({"kind": "int8", "opset": 17, "block": 64}, "weights of opset 17 have no blocks, but a scale a column"),
        ({"kind": "int8", "opset": 17, "symmetric": False}, "weights of opset 17 have no blocks"),
        ({"kind": "fp32", "opset": 17, "head_bits": 8}, "weights of opset 17 have no blocks"),
    ],
)
def test_what_the_form_does_not_have(arguments, line):
    with pytest.raises(UsageError, match=line):
        weights_of(**arguments)


def test_each_runtime_refuses_the_other_form(exported, tmp_path):
    model = model_of("glm4-0414")
    write_step_graph(model.config, weights(model), weights_of("fp32"), tmp_path / "own")
    with pytest.raises(GLMError, match=r"own.onnx is no step graph that gives .* back, .*: export the model again"):
        runtime_of(tmp_path / "own.onnx")
    with pytest.raises(GLMError, match="is no step graph: export the model with --format onnx"):
        OnnxStepRuntime(exported("glm4-0414"), CAPACITY)


def test_a_weight_that_is_not_finite_has_no_8_bits(tmp_path):
    def broken(name):
        for each, array in weights(model_of("glm4-0414")):
            yield (
                each,
                np.where(np.arange(array.size).reshape(array.shape) == 3, np.nan, array) if each == name else array,
            )

    for name in ("model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"):
        with pytest.raises(GLMError, match=f"{name}: a weight is nan or infinite"):
            write_step_graph(model_of("glm4-0414").config, broken(name), weights_of("int8", opset=17), tmp_path / "m")
