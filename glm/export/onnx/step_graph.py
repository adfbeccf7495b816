"""The graph of one decoding step: tokens and a cache in, logits and the longer cache out.

Inputs: ids [B, T] int64; pos [B, P, T] int64, unless a position is its place in the cache, and the attention operator
rotates by it; seqlens_k [B] int32, length of a sequence after this call, less 1; total [] int32, positions of the cache
that the call sees; last [B] int64, the column whose logits leave; past_key_i and past_value_i [B, K, C, D] float32 for
every layer; for prompts that are read in both directions also bias [1 or B, 1, T, total] float32, added to the scores.
Outputs: logits [B, V] float32, and present_key_i, present_value_i, to be bound to the memory of the past ones.

Shapes: B rows, T tokens, P position ids per token, H hidden, N heads, K key/value heads, C positions of the cache,
D head_dim in the graph, V vocabulary.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from glm.config.shapes import cache_shapes
from glm.export.onnx.graph import Graph
from glm.export.onnx.parts import MLPS, NORMS, POSITIONS, RESIDUALS, Rotate
from glm.export.onnx.weights import Layer, Weights

HEAD_STEP = 8  # GroupQueryAttention takes heads whose width is a multiple of this


def graph_width(head_dim: int) -> int:
    """D: the model's, filled up with zeros."""
    return -(-head_dim // HEAD_STEP) * HEAD_STEP


def step_graph(config: Any, weights: Weights) -> Graph:
    """The graph, and in its `data` where the weights go.

    Args:
        config: a GLMConfig of a model without LoRA adapters.
        weights: how matrices are stored.
    """
    return _StepGraph(config, weights).build()


class _StepGraph:
    def __init__(self, config: Any, weights: Weights):
        self.config, self.weights, self.graph = config, weights, Graph()
        self.norm, self.mlp = NORMS[config.norm_type], MLPS[config.mlp_type]
        self.positions, self.residual = POSITIONS[config.position_type], RESIDUALS[config.residual]
        self.table = (config.vocab_size, config.hidden_size)

    def build(self) -> Graph:
        graph, config = self.graph, self.config
        self.angles = self.positions.attention_angles(graph, config)
        self._inputs()
        x = self.weights.embedding(graph, "ids", "model.embed_tokens.weight", self.table)
        x, added = self.positions.embed(graph, config, x, "pos"), None
        rotate = None if self.angles else self.positions.rotation(graph, config, "pos")
        for i in range(config.num_hidden_layers):
            x, added = self._block(f"model.layers.{i}", i, x, added, rotate)
        at = graph.node("Unsqueeze", "last", graph.constant(np.array([1], dtype="int64")))
        x, added = (graph.node("GatherND", part, at, batch_dims=1) for part in (x, added))
        hidden, _ = self.norm.of_sum(graph, config, "model.norm", x, added)
        self._head(hidden)
        graph.name_result("logits")
        return graph

    def _inputs(self) -> None:
        graph, config, dtype = self.graph, self.config, TensorProto
        graph.input("ids", dtype.INT64, ["B", "T"])
        if not self.angles:
            graph.input("pos", dtype.INT64, ["B", self.positions.rows, "T"])
        graph.input("seqlens_k", dtype.INT32, ["B"])
        graph.input("total", dtype.INT32, [])
        graph.input("last", dtype.INT64, ["B"])
        if self.positions.bidirectional:
            graph.input("bias", dtype.FLOAT, ["bias_rows", 1, "T", "columns"])
        graph.output("logits", dtype.FLOAT, ["B", config.vocab_size])
        for i, parts in enumerate(cache_shapes(config)):
            for part, (heads, width) in parts:
                shape = ["B", heads, "C", graph_width(width)]
                graph.input(f"past_{part}_{i}", dtype.FLOAT, shape)
                graph.output(f"present_{part}_{i}", dtype.FLOAT, shape)

    def _block(self, name: str, i: int, x: str, added: str | None, rotate: Rotate | None) -> tuple[str, str]:
        """The block of glm/model/layers.py; a sum is left to the norm after it: (residual, added) goes in and out."""
        graph, config = self.graph, self.config
        h, x = self._norm(f"{name}.input_layernorm", x, added)
        added = self._after(f"{name}.post_self_attn_layernorm", self._attention(f"{name}.self_attn", i, h, rotate))
        h, x = self._norm(f"{name}.post_attention_layernorm", self.residual(graph, config, x, h), added)
        added = self._after(f"{name}.post_mlp_layernorm", self.mlp(graph, config, self.weights, f"{name}.mlp", h))
        return self.residual(graph, config, x, h), added

    def _norm(self, name: str, x: str, added: str | None) -> tuple[str, str]:
        if added is None:
            return self.norm(self.graph, self.config, name, x), x
        return self.norm.of_sum(self.graph, self.config, name, x, added)

    def _after(self, name: str, x: str) -> str:
        return self.norm(self.graph, self.config, name, x) if self.config.post_norms else x

    def _attention(self, name: str, i: int, x: str, rotate: Rotate | None) -> str:
        graph, config, width = self.graph, self.config, graph_width(self.config.head_dim)
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        rotated, plain = _Heads(self.positions.order(config), width), _Heads(np.arange(config.head_dim), width)
        layers = [
            self._projection(f"{name}.{part}_proj", count, order)
            for part, count, order in (("q", heads, rotated), ("k", kv_heads, rotated), ("v", kv_heads, plain))
        ]
        packed = self.weights.linear(graph, x, f"{name}.qkv_proj", layers)
        if rotate:
            sizes = graph.constant(np.array([layer.size[1] for layer in layers], dtype="int64"))
            q, k, v = graph.node("Split", packed, sizes, outputs=3, axis=-1)
            inputs = [rotate(q, heads), rotate(k, kv_heads), v]
        else:
            inputs = [packed, "", ""]
        context, *_ = graph.contrib(
            "GroupQueryAttention",
            *inputs,
            *(f"past_key_{i}", f"past_value_{i}", "seqlens_k", "total"),
            *(self.angles or ("", "")),
            *("", "bias" if self.positions.bidirectional else ""),
            outputs=[f"{name}.context", f"present_key_{i}", f"present_value_{i}"],
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=config.head_dim**-0.5,
            causal=int(not self.positions.bidirectional),
            do_rotary=int(not rotate),
            rotary_interleaved=int(not rotate),
        )
        shape = (heads * config.head_dim, config.hidden_size)
        out = Layer(f"{name}.o_proj", shape, config.linear_bias, rows=plain.rows)
        return self.weights.linear(graph, context, out.name, [out])

    def _projection(self, name: str, count: int, heads: "_Heads") -> Layer:
        shape = (self.config.hidden_size, count * self.config.head_dim)
        return Layer(name, shape, self.config.attention_bias, columns=heads.columns)

    def _head(self, hidden: str) -> str:
        if self.config.tie_word_embeddings:
            return self.weights.tied_head(self.graph, hidden, "model.embed_tokens.weight", self.table)
        return self.weights.head(self.graph, hidden, Layer("lm_head", self.table[::-1], bias=False))


class _Heads:
    """Heads in the graph's order of dimensions, filled up with zeros."""

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
