"""Linear layers of a model as a matrix of a graph: several side by side, heads padded or reordered.

Shapes: K inputs, N outputs of a matrix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from glm.export.onnx.external_data import Write
from glm.export.onnx.graph import Graph

Arrange = Callable[[np.ndarray], np.ndarray]


def as_it_is(array: np.ndarray) -> np.ndarray:
    return array


@dataclass(frozen=True)
class Layer:
    """A linear layer of the model, one of those that a matrix of the graph consists of.

    Attributes:
        name: without `.weight` and `.bias`.
        shape: [in, out] in memory.
        bias: whether it has one.
        columns: what the graph has as its outputs, from an array [..., out]; heads may be padded or reordered.
        rows: the same of its inputs, from [in, out].
    """

    name: str
    shape: tuple[int, int]
    bias: bool
    columns: Arrange = as_it_is
    rows: Arrange = as_it_is

    def arranged(self, array: np.ndarray) -> np.ndarray:
        return self.rows(self.columns(array))

    @property
    def size(self) -> tuple[int, int]:
        """K and N in the graph."""
        inputs, outputs = self.shape
        return len(self.rows(np.zeros((inputs, 1)))), len(self.columns(np.zeros(outputs)))


def bias_of(graph: Graph, name: str, layers: list[Layer]) -> str:
    """The bias [N] of layers side by side, "" if they have none."""
    if not layers[0].bias:
        return ""
    slot = graph.data.slot(f"{name}.bias", "float32", (sum(layer.size[1] for layer in layers),))
    for layer, where in side_by_side(layers):

        def writes(array, layer=layer, where=where):
            return [Write(slot, (where,), layer.columns(array))]

        graph.data.fill(f"{layer.name}.bias", layer.shape[1:], writes)
    return slot.name


def side_by_side(layers: list[Layer]) -> Iterator[tuple[Layer, slice]]:
    """Each layer, and which of the N outputs are its."""
    start = 0
    for layer in layers:
        width = layer.size[1]
        yield layer, slice(start, start + width)
        start += width


@dataclass(frozen=True)
class HeadMatrix:
    """The matrix of one head, cut out of a linear layer; it has what `Layer` has.

    Attributes:
        name: of the layer, without `.weight`.
        shape: of the layer, [in, out] in memory.
        size: K and N of the head's matrix.
        arranged: it, from the layer's weight.
    """

    name: str
    shape: tuple[int, int]
    size: tuple[int, int]
    arranged: Arrange

    bias = False


@dataclass(frozen=True)
class HeadMatrices:
    """A matrix for every head.

    Attributes:
        name, shape, size: as of `HeadMatrix`.
        heads: how many.
        arranged: all, [heads, K, N], from the layer's weight.
    """

    name: str
    shape: tuple[int, int]
    size: tuple[int, int]
    heads: int
    arranged: Arrange

    def of_head(self, head: int) -> HeadMatrix:
        return HeadMatrix(self.name, self.shape, self.size, lambda array: self.arranged(array)[head])


def by_heads(graph: Graph, x: str, matrices: HeadMatrices, product: Callable[[str], str]) -> str:
    """Rows [M, heads · K] → [M, heads · N].

    Args:
        product: of [heads, M, K] and the matrices.
    """
    heads, (inputs, outputs) = matrices.heads, matrices.size
    x = graph.node("Reshape", x, graph.constant(np.array([-1, heads, inputs], dtype="int64")))
    found = product(graph.node("Transpose", x, perm=[1, 0, 2]))
    found = graph.node("Transpose", found, perm=[1, 0, 2])
    return graph.node("Reshape", found, graph.constant(np.array([-1, heads * outputs], dtype="int64")))
