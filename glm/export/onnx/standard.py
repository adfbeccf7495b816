"""The parts of a decoder in standard operators of opset 17, which ONNX Runtime has from 1.12 on, and OpenVINO.

Inputs and outputs: glm/export/onnx/column_cache.py. Shapes: B rows, T tokens, H hidden, N heads, K key/value heads,
D width of a head, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glm.export.onnx.column_cache import ColumnCache
from glm.export.onnx.graph import Graph
from glm.export.onnx.operators import Operators
from glm.export.onnx.positions import Positions
from glm.export.onnx.rotation import Rotation

OPSET = 17  # the first with LayerNormalization, the last of ONNX Runtime 1.12
IR_VERSION = 8


def _ints(graph: Graph, *numbers: int) -> str:
    return graph.constant(np.array(numbers, dtype="int64"))


def _float(graph: Graph, number: float) -> str:
    return graph.constant(np.float32(number))


def _layer_norm(graph: Graph, x: str, weights: list[str], epsilon: float) -> str:
    return graph.node("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)


def _rms_norm(graph: Graph, x: str, weights: list[str], epsilon: float) -> str:
    """x / rms(x) · weight, in the form that ONNX Runtime knows for one operator."""
    square = graph.node("ReduceMean", graph.node("Pow", x, _float(graph, 2)), axes=[-1], keepdims=1)
    root = graph.node("Sqrt", graph.node("Add", square, _float(graph, epsilon)))
    return graph.node("Mul", graph.node("Div", x, root), *weights)


@dataclass(frozen=True)
class PlainNorm:
    """A norm behind a sum is the sum, and the norm of it."""

    alone: Callable[[Graph, str, list[str], float], str]

    def of_sum(self, graph: Graph, name: str, x: str, y: str, weights: list[str], epsilon: float) -> tuple[str, str]:
        total = graph.node("Add", x, y)
        return self.alone(graph, total, weights, epsilon), total


def _gelu_tanh(graph: Graph, x: str) -> str:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    cubes = graph.node("Mul", graph.node("Pow", x, _float(graph, 3)), _float(graph, 0.044715))
    inner = graph.node("Mul", graph.node("Add", x, cubes), _float(graph, (2 / np.pi) ** 0.5))
    outer = graph.node("Add", graph.node("Tanh", inner), _float(graph, 1))
    return graph.node("Mul", graph.node("Mul", x, _float(graph, 0.5)), outer)


def _tied(graph: Graph, x: str, weight: str, shape: tuple[int, int]) -> str:
    """By Gemm, which reads the table as it lies, and has matrices only."""
    vocabulary, hidden = shape
    rows = graph.node("Reshape", x, _ints(graph, -1, hidden))
    found = graph.node("Gemm", rows, weight, transB=1)
    size = graph.node("Concat", graph.node("Shape", x, start=0, end=2), _ints(graph, vocabulary), axis=0)
    return graph.node("Reshape", found, size)


class PlainAttention:
    """Over a cache that the caller writes (glm/export/onnx/column_cache.py)."""

    def __init__(self, graph: Graph, config: Any, positions: Positions):
        self.graph, self.config = graph, config
        self.width, self.order = config.head_dim, positions.halves(config)
        self._cache = ColumnCache(graph, config, positions.rows)
        self._rotation = Rotation(graph, config, positions, heads_axis=1)

    def declare(self) -> tuple[str, str]:
        return self._cache.declare()

    def prepare(self) -> None:
        self._rotation.prepare("position_ids")
        self._cache.prepare()

    def __call__(self, name: str, layer: int, packed: str, norms: Sequence[Callable[[str], str]]) -> str:
        graph, config = self.graph, self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        q, k, v = self._parts(packed, heads, kv_heads, norms)
        context = graph.node("Transpose", self._cache.attend(layer, q, [k, v]), perm=[0, 2, 1, 3])
        return graph.node("Reshape", context, _ints(graph, 0, 0, heads * self.width))

    def finish(self) -> None:
        self._cache.finish()

    def _parts(self, packed: str, heads: int, kv_heads: int, norms: Sequence[Callable[[str], str]]) -> list[str]:
        """Queries [B, N, T, D], keys and values [B, K, T, D], the first two normed and rotated."""
        graph = self.graph
        x = graph.node("Reshape", packed, _ints(graph, 0, 0, heads + 2 * kv_heads, self.width))
        x = graph.node("Transpose", x, perm=[0, 2, 1, 3])
        if not self._rotation.turning:
            return graph.node("Split", x, _ints(graph, heads, kv_heads, kv_heads), outputs=3, axis=1)
        both, v = graph.node("Split", x, _ints(graph, heads + kv_heads, kv_heads), outputs=2, axis=1)
        if norms:
            parts = graph.node("Split", both, _ints(graph, heads, kv_heads), outputs=2, axis=1)
            both = graph.node("Concat", *(norm(part) for norm, part in zip(norms, parts, strict=True)), axis=1)
        both = self._rotation(both, self.width)
        return [*graph.node("Split", both, _ints(graph, heads, kv_heads), outputs=2, axis=1), v]


STANDARD = Operators(
    opset=OPSET,
    ir_version=IR_VERSION,
    standard=True,
    norms={
        "layer_norm": (PlainNorm(_layer_norm), ("weight", "bias")),
        "rms_norm": (PlainNorm(_rms_norm), ("weight",)),
    },
    activations={
        "gelu_tanh": _gelu_tanh,
        "silu": lambda graph, x: graph.node("Mul", x, graph.node("Sigmoid", x)),
    },
    halves=lambda graph, x: graph.node("Split", x, outputs=2, axis=-1),
    tied=_tied,
    attention=PlainAttention,
)
