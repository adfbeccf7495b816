"""The step graph over latents, absorbed, gives the logits of the Paddle model, expanded, in ONNX Runtime's operators
and in standard ones: rows of unequal length, a prompt in chunks, and per-head matrices of few bits."""

import tracemalloc
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import paddle
import pytest
from column_steps import CAPACITY, logits, runtime_of
from onnx_models import LATENT_MODELS, model_of, step_graphs, weights
from onnx_step import STEPS, dynamic, random_rows, texts
from tiny_glm import relative_error, tiny_model

from glm import GLMConfig
from glm.config.shapes import parameter_shapes
from glm.export.onnx import latent_attention
from glm.export.onnx.columns import ColumnWeights
from glm.export.onnx.quantize import Blocks
from glm.export.onnx.standard import STANDARD
from glm.export.onnx.weights import FloatWeights, QuantizedWeights, weights_of
from glm.export.onnx.write import write_step_graph
from glm.runtime import columns

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
FLASH = "glm-4.7-flash-tiny"
NAMES = (*LATENT_MODELS, FLASH)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return step_graphs(tmp_path_factory.mktemp("latents"))


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_the_model(exported, name):
    model = model_of(name)
    rows, tokens = texts(model.config)
    found, wanted = logits(exported(name), model.config, rows, tokens), dynamic(model, rows, tokens)
    assert len(found) == len(wanted) == STEPS + 1
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("opset", [None, 17])
def test_a_prompt_in_chunks_and_logits_of_several_columns(exported, opset):
    name = NAMES[0]
    model, [row] = model_of(name), random_rows(model_of(name).config, [11])
    runtime, places = runtime_of(exported(name, opset=opset)), np.arange(11)[None]
    kept = runtime.new_cache(1, 11)
    for start, stop in ((0, 4), (4, 5)):
        runtime.prefill(kept, 0, row[start:stop], places[:, start:stop], start, 0)
    found = runtime.read(kept, 0, row[5:], places[:, 5:], 5, 0, [0, 3, 5])
    arguments = ([row], [[1] * 11], places[None], [0])
    wanted = model(*(paddle.to_tensor(np.array(each, dtype="int64")) for each in arguments)).numpy()
    assert relative_error(found, wanted[0, [5, 8, 10]]) < 1e-5


@pytest.mark.parametrize("asked", [[10], [9, 0, 3, 6], [0, 1]], ids=str)
def test_a_long_chunk_is_read_in_halves(exported, monkeypatch, asked):
    """As many tokens at once as their scores have room for."""
    runtime, [row], places = runtime_of(exported(NAMES[0])), random_rows(model_of(NAMES[0]).config, [15]), np.arange(15)
    found, calls, run = [], [], runtime._run
    monkeypatch.setattr(runtime, "_run", lambda past, feeds: calls.append(feeds["input_ids"].size) or run(past, feeds))
    for most in (columns.MOST_PAIRS, 30):
        monkeypatch.setattr(columns, "MOST_PAIRS", most)
        kept = runtime.new_cache(1, 16)
        runtime.prefill(kept, 0, row[:4], places[None, :4], 0, 0)
        found.append(runtime.read(kept, 0, row[4:], places[None, 4:], 4, 0, asked).copy())
        found.append(kept.store[:, 0, 0, :15].copy())
    assert calls == [4, 11, 4, 2, 3, 1, 2, 1, 2], calls
    assert relative_error(found[2], found[0]) < 1e-5 and relative_error(found[3], found[1]) < 1e-5


def test_a_mistake_in_the_order_of_dimensions_is_seen(tmp_path, monkeypatch):
    """The cache may have any order, as long as queries and keys have the same."""

    class Unordered(latent_attention.LatentAttention):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self._turning = np.arange(self.rotated)

    monkeypatch.setattr("glm.export.onnx.step_graph.LatentAttention", Unordered)
    model = model_of(NAMES[0])
    write_step_graph(model.config, weights(model), weights_of("fp32"), tmp_path / "m")
    rows, tokens = texts(model.config)
    found, wanted = logits(tmp_path / "m.onnx", model.config, rows, tokens), dynamic(model, rows, tokens)
    assert relative_error(found[-1], wanted[-1]) > 1e-2


@pytest.mark.parametrize("rows", [(7,), (7, 4, 9)], ids=["one row, where it lies", "several, copied"])
def test_a_step_reads_the_positions_that_are_there(exported, monkeypatch, rows):
    """Whatever the cache has room for."""
    model, seen = model_of(NAMES[0]), []
    run = runtime_of(exported(NAMES[0])).__class__._run
    monkeypatch.setattr(columns, "STEP", 4)
    monkeypatch.setattr(
        "glm.runtime.onnx_columns.OnnxColumnRuntime._run",
        lambda self, past, feeds: seen.append(past[0].shape[2]) or run(self, past, feeds),
    )
    ids, tokens = texts(model.config, rows)
    found = logits(exported(NAMES[0]), model.config, ids, tokens, capacity=64)
    for ours, theirs in zip(found, dynamic(model, ids, tokens), strict=True):
        assert relative_error(ours, theirs) < 1e-5
    assert seen[len(rows) :] == [-(-(max(rows) + i) // 4) * 4 for i in range(STEPS)]


def test_inputs_and_outputs(exported):
    """One latent a token and layer, with whatever operators."""
    for opset in (None, 17):
        graph = onnx.load(exported(NAMES[0], opset=opset), load_external_data=False).graph
        past = [each for each in graph.input if each.name.startswith("past_")]
        assert [each.name for each in past] == ["past_latent_0", "past_latent_1", "past_latent_2"]
        shape = [part.dim_value or part.dim_param for part in past[0].type.tensor_type.shape.dim]
        assert shape == ["B", 1, "C", 14 + 6]
    assert runtime_of(exported(NAMES[0])).cache_bytes(2, CAPACITY) == 4 * 3 * 2 * CAPACITY * 20


@dataclass(frozen=True)
class OnlyHeads(FloatWeights):
    """Float32 but for the matrices of heads."""

    heads: QuantizedWeights | ColumnWeights | None = None

    def per_head(self, *arguments):
        return self.heads.per_head(*arguments)


def stand_in(way: Blocks, weight: np.ndarray, config) -> np.ndarray:
    """The weight of kv_b_proj, both matrices of every head replaced by what their numbers stand for."""
    heads = weight.reshape(config.kv_lora_rank, config.num_attention_heads, -1).copy()
    key = config.qk_nope_head_dim
    for head in range(heads.shape[1]):
        into, out = heads[:, head, :key], heads[:, head, key:]  # [C, D] with D in blocks, [C, V] with C in blocks
        heads[:, head, :key] = way.dequantize(way.quantize(into), key)
        heads[:, head, key:] = way.dequantize(way.quantize(out.T), config.kv_lora_rank).T
    return heads.reshape(weight.shape)


@pytest.mark.parametrize("way", [Blocks(8, 16), Blocks(4, 16), Blocks(4, 16, symmetric=False)], ids=str)
def test_matrices_of_heads_are_what_their_numbers_stand_for(tmp_path, way):
    model = model_of(NAMES[0])
    stored = OnlyHeads(heads=QuantizedWeights(way, accuracy_level=0))
    write_step_graph(model.config, weights(model), stored, tmp_path / "m")
    plain = tiny_model(seed=1, spread=0.2, **LATENT_MODELS[NAMES[0]])
    for name, parameter in plain.state_dict().items():
        if name.endswith("kv_b_proj.weight"):
            parameter.set_value(stand_in(way, parameter.numpy(), model.config))
    rows, tokens = texts(model.config)
    found = logits(tmp_path / "m.onnx", model.config, rows, tokens)
    for ours, theirs, exact in zip(found, dynamic(plain, rows, tokens), dynamic(model, rows, tokens), strict=True):
        assert relative_error(ours, theirs) < 1e-5
        assert relative_error(ours, exact) > 1e-4


def test_one_head(tmp_path):
    sizes = LATENT_MODELS[NAMES[0]] | {"num_attention_heads": 1, "num_key_value_heads": 1}
    model, way = tiny_model(seed=1, spread=0.2, **sizes), Blocks(4, 16)
    stored = OnlyHeads(heads=QuantizedWeights(way, accuracy_level=0))
    write_step_graph(model.config, weights(model), stored, tmp_path / "m")
    rows, tokens = texts(model.config)
    found = logits(tmp_path / "m.onnx", model.config, rows, tokens)
    for name, parameter in model.state_dict().items():
        if name.endswith("kv_b_proj.weight"):
            parameter.set_value(stand_in(way, parameter.numpy(), model.config))
    for ours, theirs in zip(found, dynamic(model, rows, tokens), strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_matrices_of_heads_in_8_bits_a_column(tmp_path):
    model = model_of(NAMES[0])
    stored = OnlyHeads(STANDARD, heads=ColumnWeights())
    write_step_graph(model.config, weights(model), stored, tmp_path / "m")
    rows, tokens = texts(model.config)
    found, exact = logits(tmp_path / "m.onnx", model.config, rows, tokens), dynamic(model, rows, tokens)
    errors = [relative_error(ours, theirs) for ours, theirs in zip(found, exact, strict=True)]
    assert 1e-4 < np.median(errors) < 0.05, errors


@pytest.mark.parametrize(
    ("kind", "block", "opset", "far"),
    [("int8", 16, None, 0.1), ("int8", None, 17, 0.1), ("int4", 16, None, 0.6)],
    ids=["int8", "int8, opset 17", "int4"],
)
def test_few_bits_are_near(exported, kind, block, opset, far):
    model = model_of(FLASH)
    rows, tokens = texts(model.config)
    found = logits(exported(FLASH, kind, block, opset), model.config, rows, tokens)
    errors = [relative_error(ours, theirs) for ours, theirs in zip(found, dynamic(model, rows, tokens), strict=True)]
    assert 1e-3 < np.median(errors) < far, errors


@pytest.mark.long
@pytest.mark.parametrize("kind", ["fp32", "int4"])
def test_memory_holds_one_weight_at_a_time(tmp_path, kind):
    """A model of 250 MB whose largest weights, of all experts of a layer and of a vocabulary, have 17 MB."""
    sizes = {"hidden_size": 256, "vocab_size": 16384, "num_hidden_layers": 6, "moe_intermediate_size": 256}
    sizes |= {"n_routed_experts": 64, "q_lora_rank": 256, "kv_lora_rank": 256, "qk_nope_head_dim": 96, "head_dim": 128}
    sizes |= {"qk_rope_head_dim": 32, "v_head_dim": 128, "num_attention_heads": 16, "num_key_value_heads": 16}
    config = GLMConfig.preset(FLASH, **sizes)
    shapes = parameter_shapes(config)
    tensors = ((name, np.full(shape, 0.5, dtype="float32")) for name, shape in shapes.items())
    tracemalloc.start()
    try:
        parameters = write_step_graph(config, tensors, weights_of(kind), tmp_path / "m")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    largest = 4 * max(map(prod, shapes.values()))
    assert parameters * 4 > 200e6 > 10 * largest
    assert largest < peak < largest + 33e6
