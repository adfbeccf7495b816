"""The parts of a decoder in standard operators of opset 17, which ONNX Runtime has from 1.12 on, and OpenVINO.

Inputs and outputs are those of Paddle's step graph (glm/export/paddle_step.py): input_ids [B, T], position_ids
[B, P, T], lengths [B] (positions of the cache that each sequence has read), prefix_length [B] (leading new tokens that
see each other in both directions), last [B, M] (columns whose logits leave), all int64; past_key_i and past_value_i
[B, K, C, D] float32 of every layer i; logits [B, M, V] float32, and new [2L, B, K, T, D] float32, keys and values of
the new tokens by turns, which the caller stores (glm/runtime/columns.py).

Shapes: B rows, T tokens, M of them whose logits are asked for, P position ids per token, H hidden, N heads,
K key/value heads, R = N/K of them that share one, C positions of the cache, D width of a head, V vocabulary, L layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from glm.config.shapes import cache_shapes
from glm.export.onnx.graph import Graph
from glm.export.onnx.operators import Operators
from glm.export.onnx.positions import Positions, cos_sin

OPSET = 17  # the first with LayerNormalization, the last of ONNX Runtime 1.12
IR_VERSION = 8
MASKED = -30000.0  # far below any score, as in glm/model/visibility.py


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
    """Scores of what the cache holds and of the new tokens side by side, under one softmax.

    The cache is read where it lies: nothing but scores is concatenated.
    """

    def __init__(self, graph: Graph, config: Any, positions: Positions):
        self.graph, self.config, self.positions = graph, config, positions
        self.width, self.order = config.head_dim, positions.halves(config)
        self._turning = positions.pairs(config).size
        self._new: list[str] = []

    def declare(self) -> tuple[str, str]:
        graph, config, dtype = self.graph, self.config, TensorProto
        shapes = {"input_ids": ["B", "T"], "position_ids": ["B", self.positions.rows, "T"]}
        shapes |= {"lengths": ["B"], "prefix_length": ["B"], "last": ["B", "M"]}
        for name, shape in shapes.items():
            graph.input(name, dtype.INT64, shape)
        layers = cache_shapes(config)
        for i, parts in enumerate(layers):
            for part, (heads, width) in parts:
                graph.input(f"past_{part}_{i}", dtype.FLOAT, ["B", heads, "C", width])
        graph.output("logits", dtype.FLOAT, ["B", "M", config.vocab_size])
        count = sum(map(len, layers))
        graph.output("new", dtype.FLOAT, [count, "B", config.num_key_value_heads, "T", config.head_dim])
        return "input_ids", "position_ids"

    def prepare(self) -> None:
        graph = self.graph
        frequencies, scale = self.positions.frequencies(self.config)
        if self._turning:
            angles = cos_sin(graph, "position_ids", frequencies, scale)
            self._cos, self._sin = (graph.node("Unsqueeze", x, _ints(graph, 1)) for x in angles)  # one for all heads
        columns = graph.node("Shape", "past_key_0", start=2, end=3)
        tokens = graph.node("Shape", "input_ids", start=1, end=2)
        self._sizes = graph.node("Concat", columns, tokens, axis=0)
        self._bias = self._hidden(columns, tokens)

    def __call__(self, name: str, layer: int, packed: str, norms: Sequence[Callable[[str], str]]) -> str:
        graph, config = self.graph, self.config
        heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, self.width
        q, k, v = self._parts(packed, heads, kv_heads, norms)
        self._new += [graph.node("Unsqueeze", x, _ints(graph, 0)) for x in (k, v)]
        q = graph.node("Mul", q, _float(graph, config.head_dim**-0.5))
        q = graph.node("Reshape", q, _ints(graph, 0, kv_heads, -1, width))  # [B, K, R·T, D]
        scores = graph.node("Concat", *(self._scores(q, x) for x in (f"past_key_{layer}", k)), axis=-1)
        weights = graph.node("Softmax", graph.node("Add", scores, self._bias), axis=-1)
        of_past, of_new = graph.node("Split", weights, self._sizes, outputs=2, axis=-1)
        parts = [graph.node("MatMul", *pair) for pair in ((of_past, f"past_value_{layer}"), (of_new, v))]
        context = graph.node("Reshape", graph.node("Add", *parts), _ints(graph, 0, heads, -1, width))
        context = graph.node("Transpose", context, perm=[0, 2, 1, 3])
        return graph.node("Reshape", context, _ints(graph, 0, 0, heads * width))

    def finish(self) -> None:
        self.graph.node("Concat", *self._new, outputs=["new"], axis=0)

    def _parts(self, packed: str, heads: int, kv_heads: int, norms: Sequence[Callable[[str], str]]) -> list[str]:
        """Queries [B, N, T, D], keys and values [B, K, T, D], the first two normed and rotated."""
        graph = self.graph
        x = graph.node("Reshape", packed, _ints(graph, 0, 0, heads + 2 * kv_heads, self.width))
        x = graph.node("Transpose", x, perm=[0, 2, 1, 3])
        if not self._turning:
            return graph.node("Split", x, _ints(graph, heads, kv_heads, kv_heads), outputs=3, axis=1)
        both, v = graph.node("Split", x, _ints(graph, heads + kv_heads, kv_heads), outputs=2, axis=1)
        if norms:
            parts = graph.node("Split", both, _ints(graph, heads, kv_heads), outputs=2, axis=1)
            both = graph.node("Concat", *(norm(part) for norm, part in zip(norms, parts, strict=True)), axis=1)
        q, k = graph.node("Split", self._rotated(both), _ints(graph, heads, kv_heads), outputs=2, axis=1)
        return [q, k, v]

    def _rotated(self, x: str) -> str:
        """Every head: (a, b) → (a cos - b sin, b cos + a sin), and what stays."""
        graph, half = self.graph, self._turning // 2
        sizes = [half, half] + [self.width - 2 * half] * (self.width > 2 * half)
        a, b, *rest = graph.node("Split", x, _ints(graph, *sizes), outputs=len(sizes), axis=-1)
        (a_cos, b_sin), (b_cos, a_sin) = (
            [graph.node("Mul", part, factor) for part, factor in pairs]
            for pairs in (((a, self._cos), (b, self._sin)), ((b, self._cos), (a, self._sin)))
        )
        turned = graph.node("Sub", a_cos, b_sin), graph.node("Add", b_cos, a_sin)
        return graph.node("Concat", *turned, *rest, axis=-1)

    def _scores(self, q: str, keys: str) -> str:
        return self.graph.node("MatMul", q, self.graph.node("Transpose", keys, perm=[0, 1, 3, 2]))

    def _hidden(self, columns: str, tokens: str) -> str:
        """[B, 1, R·T, C + T], what is added to scores: the cache ends at `lengths`, a new token sees those before it.

        Args:
            columns, tokens: C and T, [1] each.
        """
        graph = self.graph
        of_past, of_new = (self._counted(size) for size in (columns, tokens))
        past = graph.node("Less", of_past, graph.node("Unsqueeze", "lengths", _ints(graph, 1, 2, 3)))
        causal = graph.node("LessOrEqual", of_new, graph.node("Unsqueeze", of_new, _ints(graph, 1)))
        prefix = graph.node("Less", of_new, graph.node("Unsqueeze", "prefix_length", _ints(graph, 1, 2, 3)))
        rows = graph.node("Concat", _ints(graph, 1, 1), tokens, _ints(graph, 1), axis=0)
        parts = [graph.node("Expand", self._where(past), rows), self._where(graph.node("Or", causal, prefix))]
        bias = graph.node("Concat", *parts, axis=-1)
        shared = self.config.num_attention_heads // self.config.num_key_value_heads
        return graph.node("Concat", *[bias] * shared, axis=2) if shared > 1 else bias

    def _counted(self, size: str) -> str:
        """0, 1, 2 … below a number [1]."""
        zero, one = (self.graph.constant(np.int64(number)) for number in (0, 1))
        return self.graph.node("Range", zero, self.graph.node("Squeeze", size), one)

    def _where(self, seen: str) -> str:
        return self.graph.node("Where", seen, _float(self.graph, 0), _float(self.graph, MASKED))


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
