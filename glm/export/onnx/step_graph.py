"""The graph of one decoding step: tokens and a cache in, logits and what the cache gets out.

This is the decoder, once for all exports. What it is spelt with, and with it the graph's inputs and outputs, are the
operators of its weights: ONNX Runtime's own (glm/export/onnx/contrib.py), or standard ones
(glm/export/onnx/standard.py).
"""

from typing import Any

import numpy as np

from glm.export.onnx.graph import Graph
from glm.export.onnx.heads import HeadNorm, Heads
from glm.export.onnx.layers import Layer
from glm.export.onnx.parts import RESIDUALS, Norm, mlp
from glm.export.onnx.positions import POSITIONS
from glm.export.onnx.weights import Weights


def step_graph(config: Any, weights: Weights) -> Graph:
    """The graph, and in its `data` where the weights go.

    Args:
        config: a GLMConfig of a model without LoRA adapters.
        weights: how matrices are stored, and the operators of the graph.
    """
    return _StepGraph(config, weights).build()


class _StepGraph:
    def __init__(self, config: Any, weights: Weights):
        self.config, self.weights, self.graph = config, weights, weights.operators.graph()
        self.norm = Norm(self.graph, config, weights)
        self.positions, self.residual = POSITIONS[config.position_type], RESIDUALS[config.residual]
        self.attention = weights.operators.attention(self.graph, config, self.positions)
        self.table = (config.vocab_size, config.hidden_size)

    def build(self) -> Graph:
        graph, config = self.graph, self.config
        ids, positions = self.attention.declare()
        x = self.weights.embedding(graph, ids, "model.embed_tokens.weight", self.table)
        x, added = self.positions.embed(graph, config, x, positions), None
        self.attention.prepare()
        for i in range(config.num_hidden_layers):
            x, added = self._block(f"model.layers.{i}", i, x, added)
        at = graph.node("Unsqueeze", "last", graph.constant(np.array([2], dtype="int64")))
        x, added = (graph.node("GatherND", part, at, batch_dims=1) for part in (x, added))
        hidden, _ = self.norm.of_sum("model.norm", x, added)
        self._head(hidden)
        graph.name_result("logits")
        self.attention.finish()
        return graph

    def _block(self, name: str, i: int, x: str, added: str | None) -> tuple[str, str]:
        """The block of glm/model/layers.py; a sum is left to the norm after it: (residual, added) goes in and out."""
        graph, config = self.graph, self.config
        h, x = self._norm(f"{name}.input_layernorm", x, added)
        added = self._after(f"{name}.post_self_attn_layernorm", self._attention(f"{name}.self_attn", i, h))
        h, x = self._norm(f"{name}.post_attention_layernorm", self.residual(graph, config, x, h), added)
        added = self._after(f"{name}.post_mlp_layernorm", mlp(graph, config, self.weights, f"{name}.mlp", h, i))
        return self.residual(graph, config, x, h), added

    def _norm(self, name: str, x: str, added: str | None) -> tuple[str, str]:
        return (self.norm(name, x), x) if added is None else self.norm.of_sum(name, x, added)

    def _after(self, name: str, x: str) -> str:
        return self.norm(name, x) if self.config.post_norms else x

    def _attention(self, name: str, i: int, x: str) -> str:
        config, width = self.config, self.attention.width
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        rotated, plain = Heads(self.attention.order, width), Heads(np.arange(config.head_dim), width)
        layers = [
            self._projection(f"{name}.{part}_proj", count, order)
            for part, count, order in (("q", heads, rotated), ("k", kv_heads, rotated), ("v", kv_heads, plain))
        ]
        packed = self.weights.linear(self.graph, x, f"{name}.qkv_proj", layers)
        shape = (heads * config.head_dim, config.hidden_size)
        out = Layer(f"{name}.o_proj", shape, config.linear_bias, rows=plain.rows)
        context = self.attention(name, i, packed, self._head_norms(name, rotated))
        return self.weights.linear(self.graph, context, out.name, [out])

    def _head_norms(self, name: str, heads: Heads) -> list[HeadNorm]:
        if not self.config.use_qk_norm:
            return []
        shared = self.weights.operators, self.graph, self.config
        return [HeadNorm(*shared, f"{name}.{part}_norm", heads, self.attention.width) for part in "qk"]

    def _projection(self, name: str, count: int, heads: Heads) -> Layer:
        shape = (self.config.hidden_size, count * self.config.head_dim)
        return Layer(name, shape, self.config.attention_bias, columns=heads.columns)

    def _head(self, hidden: str) -> str:
        if self.config.tie_word_embeddings:
            return self.weights.tied_head(self.graph, hidden, "model.embed_tokens.weight", self.table)
        return self.weights.head(self.graph, hidden, Layer("lm_head", self.table[::-1], bias=False))
