"""What a graph of a decoder step is spelt with: glm/export/onnx/contrib.py and standard.py each have all of it.

The decoder itself is described once (glm/export/onnx/step_graph.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from glm.export.onnx.graph import Graph
from glm.export.onnx.positions import Positions


class Norm(Protocol):
    """A norm, given the names of its weights [H] and the epsilon."""

    def alone(self, graph: Graph, x: str, weights: list[str], epsilon: float) -> str:
        """The norm of x."""

    def of_sum(self, graph: Graph, name: str, x: str, y: str, weights: list[str], epsilon: float) -> tuple[str, str]:
        """The norm of x + y, and x + y; their names may begin with `name`."""


class Attention(Protocol):
    """The attention of all layers, and with it the graph's inputs and outputs.

    Attributes:
        order: [head_dim], which dimension of a head of the model stands where in the graph, for queries and keys.
        width: of a head in the graph; what the model's does not fill is zeros.
    """

    order: np.ndarray
    width: int

    def declare(self) -> tuple[str, str]:
        """Names all inputs and outputs of the graph, and gives those of token ids [B, T] and positions [B, P, T]."""

    def prepare(self) -> None:
        """What all layers share."""

    def __call__(self, name: str, layer: int, packed: str, norms: Sequence[Callable[[str], str]]) -> str:
        """Context [B, T, heads · width] of a layer's queries, keys and values side by side.

        Args:
            norms: of queries and of keys [..., width], before they are rotated; none in most models.
        """

    def finish(self) -> None:
        """Gives what the layers have left to the outputs."""


@dataclass(frozen=True)
class Operators:
    """A spelling.

    Attributes:
        opset: of the standard operators.
        ir_version: of the file's form.
        standard: whether there are no others, so that every runtime of that opset reads the graph.
        norms: by `norm_type`, with the names of their weights.
        activations: by `hidden_act`.
        halves: splits the last axis into two.
        tied: x [B, M, H] times the table [V, H] of that name and shape → [B, M, V].
        attention: of a configuration and its positions.
    """

    opset: int
    ir_version: int
    standard: bool
    norms: Mapping[str, tuple[Norm, tuple[str, ...]]]
    activations: Mapping[str, Callable[[Graph, str], str]]
    halves: Callable[[Graph, str], list[str]]
    tied: Callable[[Graph, str, str, tuple[int, int]], str]
    attention: Callable[[Graph, Any, Positions], Attention]

    def graph(self) -> Graph:
        """An empty one.

        Standard ones have vectors inside: FastDeploy gives ONNX Runtime 1.12 a graph without its place, and its
        optimizers then look at no other.
        """
        return Graph(self.opset, self.ir_version, vectors_inside=self.standard)
