"""The parts of a decoder in ONNX Runtime's own operators: the fastest on a CPU, and for ONNX Runtime alone.

Inputs: ids [B, T] int64; pos [B, P, T] int64, unless a position is its place in the cache, and the attention operator
rotates by it; seqlens_k [B] int32, length of a sequence after this call, less 1; total [] int32, positions of the cache
that the call sees; last [B, M] int64, the columns whose logits leave; past_key_i and past_value_i [B, K, C, D] float32
for every layer; for prompts that are read in both directions also bias [1 or B, 1, T, total] float32, added to the
scores. Outputs: logits [B, M, V] float32, and present_key_i, present_value_i, to be bound to the memory of the past
ones (glm/runtime/onnx_step.py).

Shapes: B rows, T tokens, M of them whose logits are asked for, P position ids per token, H hidden, K key/value heads,
C positions of the cache, D width of a head, E dimensions of it that are rotated, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from glm.config.shapes import cache_shapes
from glm.export.onnx.graph import Graph
from glm.export.onnx.operators import Operators
from glm.export.onnx.positions import Positions, cos_sin

OPSET = 23  # the first with RotaryEmbedding
IR_VERSION = 10
HEAD_STEP = 8  # GroupQueryAttention takes heads whose width is a multiple of this


def graph_width(head_dim: int) -> int:
    """D: the model's, filled up with zeros."""
    return -(-head_dim // HEAD_STEP) * HEAD_STEP


@dataclass(frozen=True)
class FusedNorm:
    """A norm's operators, alone and behind a sum."""

    operator: str
    after_sum: str

    def alone(self, graph: Graph, x: str, weights: list[str], epsilon: float) -> str:
        return graph.node(self.operator, x, *weights, axis=-1, epsilon=epsilon)

    def of_sum(self, graph: Graph, name: str, x: str, y: str, weights: list[str], epsilon: float) -> tuple[str, str]:
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        graph.contrib(self.after_sum, x, y, *weights, outputs=outputs, epsilon=epsilon)
        return outputs[0], outputs[3]


class GroupQueryAttention:
    """The operator of that name; it writes new keys and values into the cache that it is given."""

    def __init__(self, graph: Graph, config: Any, positions: Positions):
        self.graph, self.config, self.positions = graph, config, positions
        self.width = graph_width(config.head_dim)
        # The operators turn neighbours as well as halves.
        self.order = np.arange(config.head_dim) if positions.neighbours else positions.halves(config)
        self._angles = self._tables()
        self._rotation: tuple[str, ...] = ()

    def declare(self) -> tuple[str, str]:
        graph, config, dtype = self.graph, self.config, TensorProto
        graph.input("ids", dtype.INT64, ["B", "T"])
        if not self._angles:
            graph.input("pos", dtype.INT64, ["B", self.positions.rows, "T"])
        graph.input("seqlens_k", dtype.INT32, ["B"])
        graph.input("total", dtype.INT32, [])
        graph.input("last", dtype.INT64, ["B", "M"])
        if self.positions.bidirectional:
            graph.input("bias", dtype.FLOAT, ["bias_rows", 1, "T", "columns"])
        graph.output("logits", dtype.FLOAT, ["B", "M", config.vocab_size])
        for i, parts in enumerate(cache_shapes(config)):
            for part, (heads, width) in parts:
                shape = ["B", heads, "C", graph_width(width)]
                graph.input(f"past_{part}_{i}", dtype.FLOAT, shape)
                graph.output(f"present_{part}_{i}", dtype.FLOAT, shape)
        return "ids", "pos"

    def prepare(self) -> None:
        frequencies, scale = self.positions.frequencies(self.config)
        if len(frequencies) and not self._angles:
            self._rotation = tuple(cos_sin(self.graph, "pos", frequencies, scale))

    def __call__(self, name: str, layer: int, packed: str, norms: Sequence[Callable[[str], str]]) -> str:
        graph, config = self.graph, self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        context, *_ = graph.contrib(
            "GroupQueryAttention",
            *([packed, "", ""] if self._angles and not norms else self._parts(packed, heads, kv_heads, norms)),
            *(f"past_key_{layer}", f"past_value_{layer}", "seqlens_k", "total"),
            *(self._angles or ("", "")),
            *("", "bias" if self.positions.bidirectional else ""),
            outputs=[f"{name}.context", f"present_key_{layer}", f"present_value_{layer}"],
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=config.head_dim**-0.5,
            causal=int(not self.positions.bidirectional),
            do_rotary=int(bool(self._angles)),
            rotary_interleaved=int(bool(self._angles) and self.positions.neighbours),
        )
        return context

    def finish(self) -> None:
        """The operator has written all of it."""

    def _parts(self, packed: str, heads: int, kv_heads: int, norms: Sequence[Callable[[str], str]]) -> list[str]:
        """Queries, keys and values, the first two normed, and rotated where the attention operator does not do it."""
        sizes = self.graph.constant(np.array([heads, kv_heads, kv_heads], dtype="int64") * self.width)
        q, k, v = self.graph.node("Split", packed, sizes, outputs=3, axis=-1)
        if norms:
            q, k = (self._normed(*each) for each in ((q, heads, norms[0]), (k, kv_heads, norms[1])))
        return [self._rotated(q, heads), self._rotated(k, kv_heads), v]

    def _normed(self, x: str, heads: int, norm: Callable[[str], str]) -> str:
        graph, widths = self.graph, (heads, self.width)
        x = graph.node("Reshape", x, graph.constant(np.array([0, 0, *widths], dtype="int64")))
        return graph.node("Reshape", norm(x), graph.constant(np.array([0, 0, prod(widths)], dtype="int64")))

    def _rotated(self, x: str, heads: int) -> str:
        if not self._rotation:
            return x
        attributes = {"interleaved": int(self.positions.neighbours), "num_heads": heads}
        turning = self.positions.pairs(self.config).size
        return self.graph.node("RotaryEmbedding", x, *self._rotation, **attributes, rotary_embedding_dim=turning)

    def _tables(self) -> list[str]:
        """Tables [places, E/2] with which the attention operator rotates queries and keys itself; [] where it cannot.

        A token's place is its position in the cache. Saves three nodes per layer: 8% of a step in 4 bits.
        """
        frequencies, scale = self.positions.frequencies(self.config)
        # The operator wants whole vectors of 8 angles, and knows one position per token.
        if not len(frequencies) or len(frequencies) % 8 or self.positions.rows > 1:
            return []
        shape = (self.config.max_position + 1, len(frequencies))

        def table(name: str, function: np.ufunc) -> str:
            def rows(where: slice) -> np.ndarray:
                angles = np.arange(where.start, where.stop, dtype="float32")[:, None] * frequencies
                return function(angles) * np.float32(scale)

            return self.graph.data.table(f"rotary.{name}", shape, rows)

        return [table("cos", np.cos), table("sin", np.sin)]


CONTRIB = Operators(
    opset=OPSET,
    ir_version=IR_VERSION,
    standard=False,
    norms={
        "layer_norm": (FusedNorm("LayerNormalization", "SkipLayerNormalization"), ("weight", "bias")),
        "rms_norm": (FusedNorm("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"), ("weight",)),
    },
    activations={
        "gelu_tanh": lambda graph, x: graph.node("Gelu", x, approximate="tanh"),
        "silu": lambda graph, x: graph.contrib("QuickGelu", x, alpha=1.0),
    },
    halves=lambda graph, x: graph.node("Split", x, outputs=2, axis=-1, num_outputs=2),
    tied=lambda graph, x, weight, shape: graph.contrib("FusedMatMul", x, weight, transB=1),
    attention=GroupQueryAttention,
)
