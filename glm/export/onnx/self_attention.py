"""Attention with a key and a value for every key/value head: projections around the operators' own attention.

Shapes: B rows, T tokens, H hidden.
"""

from typing import Any

import numpy as np

from glm.export.onnx.graph import Graph
from glm.export.onnx.heads import HeadNorm, Heads
from glm.export.onnx.layers import Layer
from glm.export.onnx.positions import Positions
from glm.export.onnx.weights import Weights


class SelfAttention:
    """`glm.export.onnx.operators.Attention` of all layers, with their weights."""

    def __init__(self, graph: Graph, config: Any, weights: Weights, positions: Positions):
        self.graph, self.config, self.weights = graph, config, weights
        self._attention = weights.operators.attention(graph, config, positions)

    def declare(self) -> tuple[str, str]:
        return self._attention.declare()

    def prepare(self) -> None:
        self._attention.prepare()

    def finish(self) -> None:
        self._attention.finish()

    def __call__(self, name: str, i: int, x: str) -> str:
        """What layer `i` makes of its input: [B, T, H] → [B, T, H]."""
        config, width = self.config, self._attention.width
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        rotated, plain = Heads(self._attention.order, width), Heads(np.arange(config.head_dim), width)
        layers = [
            self._projection(f"{name}.{part}_proj", count, order)
            for part, count, order in (("q", heads, rotated), ("k", kv_heads, rotated), ("v", kv_heads, plain))
        ]
        packed = self.weights.linear(self.graph, x, f"{name}.qkv_proj", layers)
        shape = (heads * config.head_dim, config.hidden_size)
        out = Layer(f"{name}.o_proj", shape, config.linear_bias, rows=plain.rows)
        context = self._attention(name, i, packed, self._head_norms(name, rotated))
        return self.weights.linear(self.graph, context, out.name, [out])

    def _head_norms(self, name: str, heads: Heads) -> list[HeadNorm]:
        if not self.config.use_qk_norm:
            return []
        shared = self.weights.operators, self.graph, self.config
        return [HeadNorm(*shared, f"{name}.{part}_norm", heads, self._attention.width) for part in "qk"]

    def _projection(self, name: str, count: int, heads: Heads) -> Layer:
        shape = (self.config.hidden_size, count * self.config.head_dim)
        return Layer(name, shape, self.config.attention_bias, columns=heads.columns)
