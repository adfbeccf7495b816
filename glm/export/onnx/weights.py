"""Matrices of a graph, as float32, in blocks of few bits or in 8 bits a column: a linear layer, an embedding, a head.

Shapes: K inputs, N outputs of a matrix, V vocabulary, H hidden.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from glm.errors import UsageError
from glm.export.onnx.columns import ColumnWeights
from glm.export.onnx.contrib import CONTRIB
from glm.export.onnx.external_data import Slot, Write, chunks
from glm.export.onnx.graph import Graph
from glm.export.onnx.layers import HeadMatrices, Layer, bias_of, by_heads, side_by_side
from glm.export.onnx.operators import Operators
from glm.export.onnx.quantize import Blocks
from glm.export.onnx.standard import STANDARD


@dataclass(frozen=True)
class FloatWeights:
    """Every weight in float32.

    Attributes:
        operators: of the graph.
    """

    operators: Operators = CONTRIB

    kind, block_size, symmetric, head_bits = "fp32", None, None, None

    def linear(self, graph: Graph, x: str, name: str, layers: list[Layer]) -> str:
        """[..., K] → [..., N], the outputs of the layers side by side."""
        inputs = layers[0].size[0]
        slot = graph.data.slot(f"{name}.weight", "float32", (inputs, sum(layer.size[1] for layer in layers)))
        for layer, where in side_by_side(layers):

            def writes(array, layer=layer, where=where):
                for rows, numbers in chunks(layer.arranged(array)):
                    yield Write(slot, (rows, where), numbers)

            graph.data.fill(f"{layer.name}.weight", layer.shape, writes)
        bias = bias_of(graph, name, layers)
        product = graph.node("MatMul", x, slot.name)
        return graph.node("Add", product, bias) if bias else product

    def per_head(self, graph: Graph, x: str, name: str, matrices: HeadMatrices) -> str:
        """Each head's part of rows [M, heads · K] times the head's own matrix: [M, heads · N]."""
        slot = graph.data.slot(f"{name}.weight", "float32", (matrices.heads, *matrices.size))

        def writes(array):
            for head, matrix in enumerate(matrices.arranged(array)):
                yield Write(slot, (slice(head, head + 1),), matrix)

        graph.data.fill(f"{matrices.name}.weight", matrices.shape, writes)
        return by_heads(graph, x, matrices, lambda part: graph.node("MatMul", part, slot.name))

    def embedding(self, graph: Graph, ids: str, weight: str, shape: tuple[int, int]) -> str:
        """Rows of a table [V, H]."""
        return graph.node("Gather", graph.data.copy(weight, shape), ids)

    def head(self, graph: Graph, x: str, layer: Layer) -> str:
        """Logits [..., V] of x [..., H]."""
        return self.linear(graph, x, layer.name, [layer])

    def tied_head(self, graph: Graph, x: str, weight: str, shape: tuple[int, int]) -> str:
        """Logits [..., V] of x [..., H], with the table of `embedding` as the head."""
        return self.operators.tied(graph, x, weight, shape)


@dataclass(frozen=True)
class QuantizedWeights:
    """Every matrix in blocks of few bits; biases, norms and learned positions in float32.

    Attributes:
        blocks: how those of the layers are stored.
        accuracy_level: of MatMulNBits: 4 multiplies 8-bit integers, 0 float32.
        tables: how embedding and head are stored; None = as the layers.
    """

    blocks: Blocks
    accuracy_level: int = 4
    tables: Blocks | None = None

    operators = CONTRIB  # standard ones know no blocks before opset 21

    @property
    def kind(self) -> str:
        return f"int{self.blocks.bits}"

    @property
    def block_size(self) -> int:
        return self.blocks.block

    @property
    def symmetric(self) -> bool:
        return self.blocks.symmetric

    @property
    def head_bits(self) -> int:
        return (self.tables or self.blocks).bits

    def linear(self, graph: Graph, x: str, name: str, layers: list[Layer]) -> str:
        """[..., K] → [..., N], the outputs of the layers side by side."""
        slots = self._filled(graph, name, layers)
        return self._matmul(graph, x, slots, layers[0].size[0], slots[0].shape[0], bias_of(graph, name, layers))

    def per_head(self, graph: Graph, x: str, name: str, matrices: HeadMatrices) -> str:
        """Each head's part of rows [M, heads · K] times the head's own matrix: [M, heads · N].

        A product for each: the operator has one matrix, and float32 would be eight times what a step has to read.
        """
        heads = range(matrices.heads)
        parts = [x]
        if len(heads) > 1:
            parts = graph.node("Split", x, outputs=len(heads), axis=-1, num_outputs=len(heads))
        found = [self.linear(graph, parts[head], f"{name}.{head}", [matrices.of_head(head)]) for head in heads]
        return graph.node("Concat", *found, axis=-1)

    def embedding(self, graph: Graph, ids: str, weight: str, shape: tuple[int, int]) -> str:
        """Rows of a table [V, H]."""
        table = self._table
        slots = table._slots(graph, weight, *shape)
        graph.data.fill(weight, shape, lambda array: table._writes(slots, array, 0))
        return table._gather(graph, ids, weight, slots, shape)

    def head(self, graph: Graph, x: str, layer: Layer) -> str:
        """Logits [..., V] of x [..., H], in parts: while ONNX Runtime packs a matrix, the memory holds it twice."""
        (inputs, outputs), table = layer.size, self._table
        if outputs <= HEAD_PART:
            return table.linear(graph, x, layer.name, [layer])
        slots, parts = table._filled(graph, layer.name, [layer]), []
        for start in range(0, outputs, HEAD_PART):
            where = slice(start, min(start + HEAD_PART, outputs))
            some = [slot and graph.data.rows(slot, where) for slot in slots]
            parts.append(table._matmul(graph, x, some, inputs, where.stop - where.start, ""))
        return graph.node("Concat", *parts, axis=-1)

    def tied_head(self, graph: Graph, x: str, weight: str, shape: tuple[int, int]) -> str:
        """Logits [..., V] of x [..., H], with the table of `embedding` as the head."""
        named = {slot.name: slot for slot in graph.data.slots}
        slots = [named.get(f"{weight}.{part}") for part in ("data", "scales", "zeros")]
        return self._table._matmul(graph, x, slots, shape[1], shape[0], "")

    @property
    def _table(self) -> "QuantizedWeights":
        """How embedding and head are stored."""
        return replace(self, blocks=self.tables or self.blocks, tables=None)

    def _filled(self, graph: Graph, name: str, layers: list[Layer]) -> list[Slot | None]:
        """The slots of layers side by side, which their weights fill."""
        outputs, inputs = sum(layer.size[1] for layer in layers), layers[0].size[0]
        slots = self._slots(graph, f"{name}.weight", outputs, inputs)
        for layer, where in side_by_side(layers):

            def writes(array, layer=layer, where=where):
                return self._writes(slots, layer.arranged(array).T, where.start)

            graph.data.fill(f"{layer.name}.weight", layer.shape, writes)
        return slots

    def _slots(self, graph: Graph, name: str, outputs: int, inputs: int) -> list[Slot | None]:
        """For the fields of `Quantized`."""
        count, blocks = self.blocks.count(inputs), self.blocks
        data = graph.data.slot(f"{name}.data", "uint8", (outputs, count, blocks.packed(blocks.block)))
        scales = graph.data.slot(f"{name}.scales", "float32", (outputs, count))
        if blocks.symmetric:
            return [data, scales, None]
        return [data, scales, graph.data.slot(f"{name}.zeros", "uint8", (outputs, blocks.packed(count)))]

    def _writes(self, slots: list[Slot | None], rows_NK: np.ndarray, start: int) -> Iterator[Write]:
        for rows, numbers in chunks(rows_NK):
            where = (slice(start + rows.start, start + rows.stop),)
            for slot, part in zip(slots, self.blocks.quantize(numbers), strict=True):
                if slot:
                    yield Write(slot, where, part)

    def _matmul(self, graph: Graph, x: str, slots: list[Slot | None], inputs: int, outputs: int, bias: str) -> str:
        names = [slot.name if slot else "" for slot in slots]
        attributes = {"K": inputs, "N": outputs, "bits": self.blocks.bits, "block_size": self.blocks.block}
        return graph.contrib("MatMulNBits", x, *names, "", bias, **attributes, accuracy_level=self.accuracy_level)

    def _gather(self, graph: Graph, ids: str, weight: str, slots: list[Slot | None], shape: tuple[int, int]) -> str:
        """The operator wants whole rows; where H is not a multiple of the block, the padding is cut off behind it."""
        data, scales, zeros = slots
        rows = graph.data.alias(data, f"{weight}.rows", (shape[0], data.shape[1] * data.shape[2]))
        attributes = {"bits": self.blocks.bits, "block_size": self.blocks.block, "gather_axis": 0, "quantize_axis": 1}
        names = [rows.name, ids, scales.name, zeros.name if zeros else ""]
        x = graph.contrib("GatherBlockQuantized", *names, **attributes)
        if shape[1] == data.shape[1] * self.blocks.block:
            return x
        start, stop, axis = (graph.constant(np.array([i], dtype="int64")) for i in (0, shape[1], -1))
        return graph.node("Slice", x, start, stop, axis)


Weights = FloatWeights | QuantizedWeights | ColumnWeights
# --weights → how many bits, and those of embedding and head, whose errors reach the logits directly: measured in
# docs/quantization.md.
KINDS = {"fp32": None, "int8": (8, 8), "int4": (4, 8)}
USUAL_BLOCK = 128
HEAD_PART = 8192  # outputs of the head that are packed at once
# --weights of standard operators, which have no blocks.
STANDARD_KINDS = {"fp32": FloatWeights(STANDARD), "int8": ColumnWeights()}
OPSETS = (STANDARD.opset,)  # --opset, each without ONNX Runtime's own operators


def weights_of(
    kind: str,
    block: int | None = None,
    symmetric: bool = True,
    head_bits: int | None = None,
    opset: int | None = None,
) -> Weights:
    """The weights of an export by the name of their kind, one of `KINDS`, and with them its operators.

    Args:
        block: numbers that share a scale; 128 if not given.
        symmetric: without zero points.
        head_bits: of embedding and head, 4 or 8; those of `KINDS` if not given.
        opset: of a graph of standard operators, one of `OPSETS`; ONNX Runtime's own if not given.

    Raises:
        UsageError: an unknown kind or opset, a block size that is not a power of 2 from 16 to 256, or blocks of weights
            that have none.
    """
    if kind not in KINDS:
        raise UsageError(f"weights '{kind}' are unknown; known: {', '.join(KINDS)}")
    blocks = block is not None or not symmetric or head_bits
    if opset is not None:
        return _standard(kind, opset, bool(blocks))
    if KINDS[kind] is None:
        if blocks:
            raise UsageError(
                f"weights '{kind}' have no blocks: leave block size, zero points and the head's bits to int8 and int4"
            )
        return FloatWeights()
    bits, usual_head = KINDS[kind]
    layers, tables = (
        Blocks(count, USUAL_BLOCK if block is None else block, symmetric) for count in (bits, head_bits or usual_head)
    )
    return QuantizedWeights(layers, tables=tables)


def _standard(kind: str, opset: int, blocks: bool) -> Weights:
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not offered: choose {' or '.join(map(str, OPSETS))}, or leave it out")
    if kind not in STANDARD_KINDS:
        raise UsageError(
            f"weights '{kind}' are ONNX Runtime's own, and opset {opset} has none: choose "
            f"{' or '.join(STANDARD_KINDS)}, or leave the opset out"
        )
    if blocks:
        raise UsageError(
            f"weights of opset {opset} have no blocks, but a scale a column: leave out block size, zero points and the "
            "head's bits"
        )
    return STANDARD_KINDS[kind]
