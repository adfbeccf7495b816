"""The rotation of queries and keys in standard operators.

Shapes: B rows, T tokens, E dimensions of a head that are rotated.
"""

from typing import Any

import numpy as np

from glm.export.onnx.graph import Graph
from glm.export.onnx.positions import Positions, cos_sin


class Rotation:
    """Turns heads whose first dimensions are in the order of `Positions.halves`.

    Args:
        heads_axis: which axis of [B, T, E] the heads stand before.
    """

    def __init__(self, graph: Graph, config: Any, positions: Positions, heads_axis: int):
        self._graph, self._axis = graph, heads_axis
        self._frequencies, self._scale = positions.frequencies(config)
        self.turning = positions.pairs(config).size  # E

    def prepare(self, positions: str) -> None:
        """Angles of all tokens, of position ids [B, P, T]."""
        if self.turning:
            angles = cos_sin(self._graph, positions, self._frequencies, self._scale)
            self._cos, self._sin = (self._graph.node("Unsqueeze", x, self._ints(self._axis)) for x in angles)

    def __call__(self, x: str, width: int) -> str:
        """Every head of so many dimensions: (a, b) → (a cos - b sin, b cos + a sin), and what stays."""
        graph, half = self._graph, self.turning // 2
        sizes = [half, half] + [width - 2 * half] * (width > 2 * half)
        a, b, *rest = graph.node("Split", x, self._ints(*sizes), outputs=len(sizes), axis=-1)
        (a_cos, b_sin), (b_cos, a_sin) = (
            [graph.node("Mul", part, factor) for part, factor in pairs]
            for pairs in (((a, self._cos), (b, self._sin)), ((b, self._cos), (a, self._sin)))
        )
        turned = graph.node("Sub", a_cos, b_sin), graph.node("Add", b_cos, a_sin)
        return graph.node("Concat", *turned, *rest, axis=-1)

    def _ints(self, *numbers: int) -> str:
        return self._graph.constant(np.array(numbers, dtype="int64"))
