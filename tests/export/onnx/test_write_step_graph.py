"""Writing a step graph: from a checkpoint as from a model, whole or not at all, in little memory."""

import shutil
import tracemalloc
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx_models import model_of, weights
from onnx_step import decode, dynamic, random_rows
from tiny_glm import relative_error

from glm import GLMConfig
from glm.checkpoint import open_checkpoint
from glm.errors import GLMError
from glm.export.files import read_manifest
from glm.export.onnx.external_data import ALIGNMENT
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import export_step_graph, write_step_graph

NAME = "glm4-0414"
FILES = ("m.onnx", "m.onnx.data")


def config_only(folder):
    (folder / "config.json").write_text("{}")


def export(folder, kind="int4", name=NAME, **changes):
    model = model_of(name)
    arguments = {"weights": weights(model), "stored": weights_of(kind), "prefix": folder / "m", "source": "a/model"}
    return export_step_graph(model.config, **arguments | {"text": config_only} | changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export(folder)
    return folder


@pytest.fixture
def copied(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("name", ["glm", "chatglm", "glm4-remote, heads of 12", NAME])
def test_a_checkpoint_gives_the_same_files_as_its_model(tmp_path, name, kind):
    model = model_of(name)
    model.save_pretrained(tmp_path / "checkpoint")
    streamed = open_checkpoint(tmp_path / "checkpoint").tensors(model.config)
    for folder, tensors in (("model", weights(model)), ("streamed", streamed)):
        (tmp_path / folder).mkdir()
        write_step_graph(model.config, tensors, weights_of(kind), tmp_path / folder / "m")
    for file in FILES:
        assert (tmp_path / "streamed" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


def test_half_precision_weights(tmp_path):
    """They are widened: the graph computes in float32 with the rounded numbers."""
    import ml_dtypes

    model = model_of(NAME)
    rounded = [(name, array.astype(ml_dtypes.bfloat16)) for name, array in weights(model)]
    widened = [(name, array.astype("float32")) for name, array in rounded]
    for kind in ("fp32", "int4"):
        for name, tensors in (("rounded", rounded), ("widened", widened)):
            write_step_graph(model.config, tensors, weights_of(kind), tmp_path / name)
        assert (tmp_path / "rounded.onnx.data").read_bytes() == (tmp_path / "widened.onnx.data").read_bytes()


def test_layout_of_the_weights_file(written):
    graph = onnx.load(written / "m.onnx", load_external_data=False).graph
    places = [
        {entry.key: entry.value for entry in each.external_data} for each in graph.initializer if each.external_data
    ]
    used = {name for node in graph.node for name in node.input}
    assert {each.name for each in graph.initializer} <= used
    assert {place["location"] for place in places} == {"m.onnx.data"}
    spans = sorted({(int(place["offset"]), int(place["length"])) for place in places})
    assert all(offset % ALIGNMENT == 0 for offset, _ in spans)
    assert all(first + length <= second for (first, length), (second, _) in pairwise(spans))
    assert sum(spans[-1]) == (written / "m.onnx.data").stat().st_size
    assert (written / "m.onnx").stat().st_size < 50_000  # no weights in it


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4"])
def test_memory_holds_one_weight_at_a_time(tmp_path, kind):
    """A model of 200 MB whose largest weight has 33 MB."""
    config = GLMConfig.preset(
        "glm-4-9b-0414-tiny", vocab_size=32768, hidden_size=256, num_hidden_layers=16, intermediate_size=2048
    )
    shapes = {"model.embed_tokens.weight": (32768, 256), "lm_head.weight": (256, 32768), "model.norm.weight": (256,)}
    queries, keys = (16 * heads for heads in (config.num_attention_heads, config.num_key_value_heads))
    layer = {
        **{f"{n}_layernorm": (256,) for n in ("input", "post_self_attn", "post_attention", "post_mlp")},
        "self_attn.q_proj": (256, queries),
        "self_attn.k_proj": (256, keys),
        "self_attn.v_proj": (256, keys),
        "self_attn.o_proj": (queries, 256),
        **{f"mlp.{n}_proj": (256, 2048) for n in ("gate", "up")},
        "mlp.down_proj": (2048, 256),
    }
    for i in range(16):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes |= {
            f"model.layers.{i}.self_attn.{n}_proj.bias": (w,) for n, w in (("q", queries), ("k", keys), ("v", keys))
        }
    tensors = ((name, np.full(shape, 0.5, dtype="float32")) for name, shape in shapes.items())
    tracemalloc.start()
    try:
        parameters = write_step_graph(config, tensors, weights_of(kind), tmp_path / "m")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parameters * 4 > 160e6
    assert 33e6 < peak < 33.6e6 + 32e6


def changed(name, change):
    """The weights of the model, one of them replaced by what `change` makes of it, or left out."""
    for each, array in weights(model_of(NAME)):
        new = change(array) if each == name else array
        if new is not None:
            yield each, new


def with_nan(array):
    array = array.copy()
    array[3, 5] = np.nan
    return array


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda: changed(DOWN, lambda array: None), f"lacks 1 weights, such as {DOWN}"),
        (lambda: changed(DOWN, lambda array: array.T), rf"{DOWN} has shape \[32, 48\], config.json says \[48, 32\]"),
        (lambda: changed(DOWN, with_nan), f"{DOWN}: a weight is nan or infinite"),
        (lambda: [*weights(model_of(NAME))] * 2, "comes twice"),
        (lambda: [("model.odd.weight", np.zeros(3))], "model.odd.weight is not a weight of this model"),
    ],
)
def test_weights_that_do_not_fit_leave_what_was_there(copied, tensors, message):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(GLMError, match=message) as caught:
        export(copied, weights=tensors())
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_an_export_that_takes_the_place_of_another_runs(copied):
    model = model_of("chatglm")
    export(copied, kind="fp32", name="chatglm")
    assert read_manifest(copied, "m", "onnx").weights == "fp32"
    rows = random_rows(model.config, [7])
    tokens = np.array([[9]])
    found, wanted = decode(copied / "m.onnx", model.config, rows, tokens), dynamic(model, rows, tokens)
    assert relative_error(found[1], wanted[1]) < 1e-5


def test_manifest(written):
    manifest = read_manifest(written, "m", "onnx")
    config = model_of(NAME).config
    assert (manifest.format, manifest.source, manifest.dtype) == ("onnx", "a/model", "float32")
    assert (manifest.weights, manifest.block_size, manifest.symmetric) == ("int4", 128, True)
    assert (manifest.vocab_size, manifest.max_position) == (config.vocab_size, config.max_position_embeddings)
    assert manifest.parameters == sum(parameter.size for parameter in model_of(NAME).parameters())
    assert set(manifest.files) == {*FILES, "config.json"}
    there = {path.name for path in written.iterdir()}
    assert there == {*FILES, "config.json", "m.onnx.manifest.json"}  # nothing else is left
