"""Heads of a model in the order and width of a graph's, and the norms of queries and keys.

Shapes: D width of a head in the graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from glm.export.onnx.external_data import Write
from glm.export.onnx.graph import Graph
from glm.export.onnx.operators import Operators


class Heads:
    """Heads in the graph's order of dimensions, filled up with zeros.

    Args:
        order: [head_dim], which dimension of a head of the model stands where.
        width: D.
    """

    def __init__(self, order: np.ndarray, width: int):
        self._order, self._width = order, width
        self._unchanged = width == len(order) and bool((np.diff(order) == 1).all())

    def columns(self, array: np.ndarray) -> np.ndarray:
        """[..., heads · head_dim] → [..., heads · D]."""
        if self._unchanged:
            return array
        heads = array.reshape(*array.shape[:-1], -1, len(self._order))
        wide = np.zeros((*heads.shape[:-1], self._width), dtype=array.dtype)
        wide[..., : len(self._order)] = heads[..., self._order]
        return wide.reshape(*array.shape[:-1], -1)

    def rows(self, array: np.ndarray) -> np.ndarray:
        """[heads · head_dim, out] → [heads · D, out]."""
        return self.columns(array.T).T


@dataclass(frozen=True)
class HeadNorm:
    """RMSNorm of every head, with one weight for all of them.

    Attributes:
        operators, graph, config: what it is spelt with, where, and of which model.
        name: of the norm, without `.weight`.
        heads, width: how they lie in the graph, and D.
    """

    operators: Operators
    graph: Graph
    config: Any
    name: str
    heads: Heads
    width: int

    def __call__(self, x: str) -> str:
        """Of [..., D]. What fills a head up counts in the operator's mean, and not in the model's."""
        slot, share = self.graph.data.slot(f"{self.name}.weight", "float32", (self.width,)), self._share

        def writes(array: np.ndarray) -> Iterator[Write]:
            yield Write(slot, (slice(None),), self.heads.columns(array.astype("float32")) * np.float32(share**0.5))

        self.graph.data.fill(f"{self.name}.weight", (self.config.head_dim,), writes)
        norm, _ = self.operators.norms["rms_norm"]
        return norm.alone(self.graph, x, [slot.name], self.config.norm_eps * share)

    @property
    def _share(self) -> float:
        return self.config.head_dim / self.width
