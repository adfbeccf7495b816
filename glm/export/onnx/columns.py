"""Matrices in 8 bits with a scale a column, multiplied in integers by standard operators.

Activations are quantized while the graph runs, each token by its own largest number: what a token becomes does not
depend on what is read beside it, as it would with DynamicQuantizeLinear, which has one scale for all. Weights are
unsigned around 128, for products of unsigned and signed bytes overflow in pairs on processors before VNNI.

Shapes: K inputs, N outputs of a matrix, V vocabulary, H hidden.
"""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from glm.errors import GLMError
from glm.export.onnx.external_data import Slot, Write, chunks
from glm.export.onnx.graph import Graph
from glm.export.onnx.layers import HeadMatrices, Layer, bias_of, by_heads, side_by_side
from glm.export.onnx.standard import STANDARD

ZERO = 128  # what stands for 0
LARGEST = 127  # of the numbers beside it
SMALLEST_SCALE = np.float32(1e-30)  # a column or token of zeros stays one with any scale


class ColumnWeights:
    """Every matrix in 8 bits; biases, norms and learned positions in float32."""

    operators = STANDARD
    kind, block_size, symmetric, head_bits = "int8", None, True, 8

    def linear(self, graph: Graph, x: str, name: str, layers: list[Layer]) -> str:
        """[..., K] → [..., N], the outputs of the layers side by side."""
        inputs, outputs = layers[0].size[0], sum(layer.size[1] for layer in layers)
        data = graph.data.slot(f"{name}.weight", "uint8", (inputs, outputs))
        scales = graph.data.slot(f"{name}.scales", "float32", (outputs,))
        for layer, where in side_by_side(layers):

            def writes(array, layer=layer, where=where):
                return _writes(data, scales, layer.arranged(array), where)

            graph.data.fill(f"{layer.name}.weight", layer.shape, writes)
        product = _product(graph, x, data.name, scales.name)
        bias = bias_of(graph, name, layers)
        return graph.node("Add", product, bias) if bias else product

    def per_head(self, graph: Graph, x: str, name: str, matrices: HeadMatrices) -> str:
        """Each head's part of rows [M, heads · K] times the head's own matrix: [M, heads · N]."""
        heads, (inputs, outputs) = matrices.heads, matrices.size
        data = graph.data.slot(f"{name}.weight", "uint8", (heads, inputs, outputs))
        scales = graph.data.slot(f"{name}.scales", "float32", (heads, 1, outputs))

        def writes(array):
            for head, matrix in enumerate(matrices.arranged(array)):
                numbers, place = matrix.astype("float32"), (slice(head, head + 1),)
                column_scales = _scales(np.abs(numbers).max(axis=0))
                yield Write(scales, place, column_scales)
                yield Write(data, place, _quantized(numbers, column_scales))

        graph.data.fill(f"{matrices.name}.weight", matrices.shape, writes)
        return by_heads(graph, x, matrices, lambda part: _product(graph, part, data.name, scales.name))

    def embedding(self, graph: Graph, ids: str, weight: str, shape: tuple[int, int]) -> str:
        """Rows of a table [V, H], each with its scale."""
        data = graph.data.slot(weight, "uint8", shape)
        scales = graph.data.slot(f"{weight}.scales", "float32", shape[:1])

        def writes(array):
            for rows, numbers in chunks(array):
                row_scales = _scales(np.abs(numbers).max(axis=1))
                yield Write(data, (rows,), _quantized(numbers, row_scales[:, None]))
                yield Write(scales, (rows,), row_scales)

        graph.data.fill(weight, shape, writes)
        rows = graph.node("Cast", graph.node("Gather", data.name, ids), to=TensorProto.FLOAT)
        rows = graph.node("Sub", rows, graph.constant(np.float32(ZERO)))
        last = graph.constant(np.array([-1], dtype="int64"))
        return graph.node("Mul", rows, graph.node("Unsqueeze", graph.node("Gather", scales.name, ids), last))

    def head(self, graph: Graph, x: str, layer: Layer) -> str:
        """Logits [..., V] of x [..., H]."""
        return self.linear(graph, x, layer.name, [layer])

    def tied_head(self, graph: Graph, x: str, weight: str, shape: tuple[int, int]) -> str:
        """Logits [..., V] of x [..., H], with the table of `embedding`, whose rows are the columns."""
        return _product(graph, x, graph.node("Transpose", weight, perm=[1, 0]), f"{weight}.scales")


def _product(graph: Graph, x: str, data: str, scales: str) -> str:
    """x [B, T, K] times a matrix [K, N] of bytes with scales [N], or times B of them with scales [B, 1, N]."""
    # Not -1: of no rows ONNX Runtime 1.31 then reduces nothing.
    peak = graph.node("ReduceMax", graph.node("Abs", x), axes=[2], keepdims=1)
    scale = graph.node("Mul", peak, graph.constant(np.float32(1 / LARGEST)))
    scale = graph.node("Max", scale, graph.constant(SMALLEST_SCALE))
    numbers = graph.node("Add", graph.node("Round", graph.node("Div", x, scale)), graph.constant(np.float32(ZERO)))
    zero = graph.constant(np.uint8(ZERO))
    found = graph.node("MatMulInteger", graph.node("Cast", numbers, to=TensorProto.UINT8), data, zero, zero)
    found = graph.node("Mul", graph.node("Cast", found, to=TensorProto.FLOAT), scale)
    return graph.node("Mul", found, scales)


def _writes(data: Slot, scales: Slot, matrix_KN: np.ndarray, where: slice) -> Iterator[Write]:
    """A matrix as some of the columns of a slot."""
    peaks = np.zeros(matrix_KN.shape[1], dtype="float32")
    for _, numbers in chunks(matrix_KN):
        peaks = np.maximum(peaks, np.abs(numbers).max(axis=0))  # nan stays
    column_scales = _scales(peaks)
    yield Write(scales, (where,), column_scales)
    for rows, numbers in chunks(matrix_KN):
        yield Write(data, (rows, where), _quantized(numbers, column_scales))


def _scales(peaks: np.ndarray) -> np.ndarray:
    """Raises GLMError: a number is not finite."""
    if not np.isfinite(peaks).all():
        raise GLMError("a weight is nan or infinite, which has no quantized form: export with --weights fp32")
    return np.maximum(peaks / np.float32(LARGEST), SMALLEST_SCALE)


def _quantized(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return (np.round(numbers / scales) + ZERO).astype("uint8")
