"""The graph of one decoding step: tokens and a cache in, logits and what the cache gets out.

This is the decoder, once for all exports. What it is spelt with are the operators of its weights: ONNX Runtime's own
(glm/export/onnx/contrib.py), or standard ones (glm/export/onnx/standard.py). The graph's inputs and outputs are those
of its attention, which the operators decide, but of latents (glm/export/onnx/latent_attention.py).
"""

from typing import Any

import numpy as np

from glm.export.onnx.graph import Graph
from glm.export.onnx.latent_attention import LatentAttention
from glm.export.onnx.layers import Layer
from glm.export.onnx.parts import RESIDUALS, Norm, mlp
from glm.export.onnx.positions import POSITIONS, Positions
from glm.export.onnx.self_attention import SelfAttention
from glm.export.onnx.weights import Weights


def step_graph(config: Any, weights: Weights) -> Graph:
    """The graph, and in its `data` where the weights go.

    Args:
        config: a GLMConfig of a model without LoRA adapters.
        weights: how matrices are stored, and the operators of the graph.
    """
    return _StepGraph(config, weights).build()


def attention_of(graph: Graph, config: Any, weights: Weights, positions: Positions) -> SelfAttention | LatentAttention:
    """The attention of all layers, and with it the graph's inputs and outputs."""
    return (LatentAttention if config.kv_lora_rank else SelfAttention)(graph, config, weights, positions)


class _StepGraph:
    def __init__(self, config: Any, weights: Weights):
        self.config, self.weights, self.graph = config, weights, weights.operators.graph()
        self.norm = Norm(self.graph, config, weights)
        self.positions, self.residual = POSITIONS[config.position_type], RESIDUALS[config.residual]
        self.attention = attention_of(self.graph, config, weights, self.positions)
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
        added = self._after(f"{name}.post_self_attn_layernorm", self.attention(f"{name}.self_attn", i, h))
        h, x = self._norm(f"{name}.post_attention_layernorm", self.residual(graph, config, x, h), added)
        added = self._after(f"{name}.post_mlp_layernorm", mlp(graph, config, self.weights, f"{name}.mlp", h, i))
        return self.residual(graph, config, x, h), added

    def _norm(self, name: str, x: str, added: str | None) -> tuple[str, str]:
        return (self.norm(name, x), x) if added is None else self.norm.of_sum(name, x, added)

    def _after(self, name: str, x: str) -> str:
        return self.norm(name, x) if self.config.post_norms else x

    def _head(self, hidden: str) -> str:
        if self.config.tie_word_embeddings:
            return self.weights.tied_head(self.graph, hidden, "model.embed_tokens.weight", self.table)
        return self.weights.head(self.graph, hidden, Layer("lm_head", self.table[::-1], bias=False))
