"""Quantized weights: the packing, and graphs that compute with what the packed numbers stand for."""

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx_models import model_of, weights
from onnx_step import decode, dynamic, random_rows
from tiny_glm import relative_error

from glm.errors import GLMError, UsageError
from glm.export.onnx import weights as stored_weights
from glm.export.onnx.quantize import Blocks
from glm.export.onnx.weights import QuantizedWeights, weights_of
from glm.export.onnx.write import write_step_graph

WAYS = [Blocks(8, 128), Blocks(4, 32), Blocks(4, 32, symmetric=False), Blocks(8, 16, symmetric=False), Blocks(4, 16)]
MATRICES = re.compile(r".*(_proj|lm_head|embed_tokens)\.weight")
SPARSE = ["glm4-moe, none shared", "glm4-moe, two groups", "glm4-moe, not normalised"]


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("blocks", WAYS, ids=str)
@pytest.mark.parametrize("inputs", [32, 48, 130])
def test_error_is_half_a_step_at_most(blocks, inputs):
    rows = numbers((5, inputs))
    quantized = blocks.quantize(rows)
    found = blocks.dequantize(quantized, inputs)
    steps = np.repeat(np.abs(quantized.scales), blocks.block, axis=1)[:, :inputs]
    # A symmetric range ends one step earlier on one side; a zero point is rounded as well.
    assert np.all(np.abs(found - rows) <= steps * 1.001)
    assert np.mean(np.abs(found - rows) <= 0.501 * steps) > 0.9


def test_known_bytes():
    rows = np.zeros((1, 16), dtype="float32")
    rows[0, :4] = -8, 7, 0, 3
    quantized = Blocks(4, 16).quantize(rows)
    assert quantized.scales.tolist() == [[1.0]]
    assert quantized.zeros is None
    assert quantized.data.tolist() == [[[0xF0, 0xB8, *[0x88] * 6]]]


def test_known_zero_points():
    rows = np.repeat(np.array([[0.0, 3.0, -15.0]], dtype="float32"), 16, axis=1)
    rows[0, 0], rows[0, 16] = 15, -12
    quantized = Blocks(4, 16, symmetric=False).quantize(rows)
    assert quantized.scales.tolist() == [[1.0, 1.0, 1.0]]
    assert quantized.zeros.tolist() == [[0xC0, 0x0F]]
    assert np.array_equal(Blocks(4, 16, symmetric=False).dequantize(quantized, 48), rows)


@pytest.mark.parametrize("blocks", WAYS, ids=str)
def test_zeros_stay_zeros(blocks):
    found = blocks.dequantize(blocks.quantize(np.zeros((2, 40), dtype="float32")), 40)
    assert np.array_equal(found, np.zeros((2, 40)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_has_no_quantized_form_is_refused(value, symmetric):
    rows = numbers((3, 64))
    rows[1, 40] = value
    with pytest.raises(GLMError, match="nan or infinite"):
        Blocks(4, 32, symmetric).quantize(rows)


def test_impossible_blocks_are_refused():
    for block in (8, 48, 0, -32):
        with pytest.raises(UsageError, match=f"block size {block} is not a power of 2"):
            Blocks(4, block)
    with pytest.raises(UsageError, match="2 bits"):
        Blocks(2, 32)


def test_kinds_of_weights():
    """Of 4-bit weights embedding and head have 8."""
    assert weights_of("int4") == QuantizedWeights(Blocks(4, 128), tables=Blocks(8, 128))
    assert weights_of("int4", 32, False) == QuantizedWeights(Blocks(4, 32, False), tables=Blocks(8, 32, False))
    assert weights_of("int4", head_bits=4) == QuantizedWeights(Blocks(4, 128), tables=Blocks(4, 128))
    eight = Blocks(8, 128, symmetric=False)
    assert weights_of("int8", symmetric=False) == QuantizedWeights(eight, tables=eight)
    for arguments in (("int5",), ("fp32", 32), ("fp32", None, False), ("fp32", None, True, 8), ("int4", 0)):
        with pytest.raises(UsageError):
            weights_of(*arguments)


TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def dequantized(model, blocks, tables):
    """The model's weights with every matrix replaced by what its numbers stand for."""
    for name, array in weights(model):
        if array.ndim == 3:
            array = np.stack([stand_in(blocks, matrix.T).T for matrix in array])
        elif MATRICES.fullmatch(name):
            way = tables if name in TABLES else blocks
            array = stand_in(way, array) if "embed_tokens" in name else stand_in(way, array.T).T
        yield name, array


def stand_in(way, rows):
    return way.dequantize(way.quantize(rows), rows.shape[1])


@pytest.mark.parametrize(
    ("blocks", "tables"), [*((way, None) for way in WAYS), (Blocks(4, 32), Blocks(8, 64))], ids=str
)
@pytest.mark.parametrize("name", ["glm", "chatglm", "glm4, tied", "glm4-0414", *SPARSE])
def test_graph_computes_with_what_the_numbers_stand_for(tmp_path, name, blocks, tables):
    """Hidden size 32 fills a part of a block of 128, and intermediate size 48 one and a half of 32."""
    model = model_of(name)
    rows = random_rows(model.config, [7, 4])
    tokens = np.random.default_rng(5).integers(8, model.config.vocab_size, (2, 2))
    stored = QuantizedWeights(blocks, accuracy_level=0, tables=tables)
    write_step_graph(model.config, weights(model), stored, tmp_path / "quantized")
    plain = dequantized(model, blocks, tables or blocks)
    write_step_graph(model.config, plain, weights_of("fp32"), tmp_path / "plain")
    found, wanted = (decode(tmp_path / f"{n}.onnx", model.config, rows, tokens) for n in ("quantized", "plain"))
    assert len(found) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) < 1e-5


def rms_error(found, wanted) -> float:
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.parametrize("blocks", [Blocks(8, 128), Blocks(4, 32)], ids=str)
def test_noise_of_normal_weights(blocks):
    """Uniform inside a step of the largest number / 2^(bits-1): its standard deviation is 1/√12 of the step."""
    rows = numbers((500, 1024))
    largest = np.abs(rows.reshape(-1, blocks.block)).max(axis=1)
    wanted = np.sqrt(np.square(largest).mean() / 12) / 2 ** (blocks.bits - 1)
    found = blocks.dequantize(blocks.quantize(rows), 1024)
    assert rms_error(found, rows) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(
    "name", ["glm-tiny-chinese", "chatglm-6b-tiny", "glm-4-9b-chat-tiny", "glm-4-9b-0414-tiny", "glm-4.5-tiny"]
)
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_eight_bit_activations_are_close(tmp_path, name, kind):
    """As exported, beside float32 arithmetic with the same weights: 0.6% noise in each of a dozen matrices in a row."""
    model = model_of(name)
    rows = random_rows(model.config, [7, 4])
    tokens = np.random.default_rng(5).integers(8, model.config.vocab_size, (2, 2))
    exported = weights_of(kind)
    write_step_graph(model.config, weights(model), exported, tmp_path / "exported")
    write_step_graph(model.config, weights(model), replace(exported, accuracy_level=0), tmp_path / "exact")
    found, exact = (decode(tmp_path / f"{n}.onnx", model.config, rows, tokens) for n in ("exported", "exact"))
    errors = [rms_error(ours, theirs) for ours, theirs in zip(found, exact, strict=True)]
    assert max(errors) < 0.04
    assert min(errors) > 1e-5  # integers they are
    wanted = dynamic(model, rows, tokens)
    assert (
        max(rms_error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))
        < {"int8": 0.06, "int4": 0.6}[kind]
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("part", [32, 500])
def test_a_head_in_parts_gives_the_logits_of_the_whole_one(tmp_path, monkeypatch, part, symmetric):
    """Bit for bit, from the same file of weights; the last part of 500 is a smaller one."""
    model = model_of("glm-4-9b-chat-tiny")
    rows = random_rows(model.config, [7, 4])
    tokens = np.random.default_rng(5).integers(8, model.config.vocab_size, (2, 2))
    for name, size in (("whole", 1 << 20), ("parts", part)):
        monkeypatch.setattr(stored_weights, "HEAD_PART", size)
        write_step_graph(model.config, weights(model), weights_of("int4", 32, symmetric), tmp_path / name)
    whole, parts = (decode(tmp_path / f"{name}.onnx", model.config, rows, tokens) for name in ("whole", "parts"))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(parts, whole, strict=True))
    assert (tmp_path / "whole.onnx.data").read_bytes() == (tmp_path / "parts.onnx.data").read_bytes()
    graph = onnx.load(tmp_path / "parts.onnx", load_external_data=False).graph
    count = [node.op_type for node in graph.node].count("MatMulNBits") - 4 * model.config.num_hidden_layers
    assert count == -(-model.config.vocab_size // part) > 1 and model.config.vocab_size % 500


def test_every_matrix_is_quantized(tmp_path):
    """Also head and embedding: nothing two-dimensional is left in float32."""
    model = model_of("glm-4-9b-chat-tiny")
    write_step_graph(model.config, weights(model), weights_of("int4", block=16, symmetric=False), tmp_path / "m")
    graph = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph
    kept = [each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1]
    assert kept
    assert all(name.endswith(".scales") for name in kept)
    operators = [node.op_type for node in graph.node]
    assert "MatMul" not in operators
    assert operators.count("MatMulNBits") == 4 * model.config.num_hidden_layers + 1
    levels = {each.i for node in graph.node for each in node.attribute if each.name == "accuracy_level"}
    assert levels == {4}


def test_a_tied_table_lies_in_the_file_once(tmp_path):
    model = model_of("glm-tiny-chinese")
    write_step_graph(model.config, weights(model), weights_of("int4"), tmp_path / "m")
    graph = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph
    places = {each.name: {e.key: e.value for e in each.external_data} for each in graph.initializer}
    embedding, head = (places[f"model.embed_tokens.weight.{part}"] for part in ("rows", "data"))
    assert embedding == head
