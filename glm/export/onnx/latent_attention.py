"""Attention over latents (MLA) in a graph: glm/model/latent_attention.py once more, in the absorbed form alone.

Queries go into the latents' space, so that all heads share one key/value head, which is its own values: two products
with a cache that is read where it lies. ONNX Runtime's GroupQueryAttention would read it anew for every head. So graphs
of latents have the inputs and outputs of glm/export/onnx/column_cache.py, with any operators.

Shapes: B rows, T tokens, M = B·T, H hidden, N heads, D width of what is not rotated of a query, R of what is, V of a
value, C latent, W = C + R.
"""

from typing import Any

import numpy as np

from glm.config.latents import NORM_EPS
from glm.export.onnx.column_cache import ColumnCache
from glm.export.onnx.graph import Graph
from glm.export.onnx.layers import HeadMatrices, Layer
from glm.export.onnx.positions import Positions
from glm.export.onnx.rotation import Rotation
from glm.export.onnx.weights import Weights


class LatentAttention:
    """The attention of all layers, with their weights, and the graph's inputs and outputs."""

    def __init__(self, graph: Graph, config: Any, weights: Weights, positions: Positions):
        self.graph, self.config, self.weights = graph, config, weights
        self.heads, self.latent, self.rotated = config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
        self.unrotated, self.value = config.qk_nope_head_dim, config.v_head_dim
        self._cache = ColumnCache(graph, config, positions.rows)
        self._rotation = Rotation(graph, config, positions, heads_axis=2)
        self._turning = positions.pairs(config).reshape(-1)  # [R], the first of all pairs in front

    def declare(self) -> tuple[str, str]:
        return self._cache.declare()

    def prepare(self) -> None:
        self._rotation.prepare("position_ids")
        self._cache.prepare()
        tokens = self.graph.node("Shape", "input_ids")
        self._by_tokens, self._by_heads = (
            self.graph.node("Concat", tokens, self._ints(*rest), axis=0) for rest in ((-1,), (self.heads, -1))
        )

    def __call__(self, name: str, i: int, x: str) -> str:
        """What layer `i` makes of its input: [B, T, H] → [B, T, H]."""
        graph = self.graph
        queries, latent, key = self._latents(name, x)
        q, q_rotated = self._queries(name, queries)
        both = graph.node("Concat", q_rotated, key, axis=-1)
        both = graph.node("Reshape", both, self._ints(0, 0, self.heads + 1, self.rotated))
        both = self._rotation(both, self.rotated)
        q_rotated, key = graph.node("Split", both, self._ints(self.heads, 1), outputs=2, axis=2)
        kept = graph.node("Concat", graph.node("Unsqueeze", latent, self._ints(2)), key, axis=-1)
        q = graph.node("Concat", q, q_rotated, axis=-1)
        q, kept = (graph.node("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, kept))  # [B, N, T, W], [B, 1, T, W]
        return self._out(name, self._cache.attend(i, q, [kept]))

    def finish(self) -> None:
        self._cache.finish()

    def _latents(self, name: str, x: str) -> list[str]:
        """The latent that queries are made of, that of keys and values [B, T, C], both normed, and the key's part [B,
        T, R] that is to be rotated.
        """
        config, order = self.config, np.r_[: self.latent, self.latent + self._turning]
        layers = [
            Layer(f"{name}.q_a_proj", (config.hidden_size, config.q_lora_rank), config.attention_bias),
            Layer(
                f"{name}.kv_a_proj_with_mqa",
                (config.hidden_size, config.latent_dim),
                config.attention_bias,
                columns=lambda array: array[..., order],
            ),
        ]
        both = self.weights.linear(self.graph, x, f"{name}.q_kv_a_proj", layers)
        sizes = self._ints(config.q_lora_rank, self.latent, self.rotated)
        queries, latent, key = self.graph.node("Split", both, sizes, outputs=3, axis=-1)
        queries = self._normed(f"{name}.q_a_layernorm", queries, config.q_lora_rank)
        return [queries, self._normed(f"{name}.kv_a_layernorm", latent, self.latent), key]

    def _queries(self, name: str, x: str) -> list[str]:
        """Queries in the latents' space [B, T, N, C], and their part [B, T, N·R] that is to be rotated."""
        graph, heads = self.graph, self.config.head_dim * np.arange(self.heads)[:, None]
        order = np.r_[np.ravel(heads + np.arange(self.unrotated)), np.ravel(heads + self.unrotated + self._turning)]
        shape = (self.config.q_lora_rank, self.heads * self.config.head_dim)
        layer = Layer(f"{name}.q_b_proj", shape, False, columns=lambda array: array[..., order])
        both = self.weights.linear(graph, x, layer.name, [layer])
        width = self.heads * self.unrotated
        q, rotated = graph.node("Split", both, self._ints(width, self.heads * self.rotated), outputs=2, axis=-1)

        def to_latent(array: np.ndarray) -> np.ndarray:  # [N, D, C]
            return self._of_heads(array)[..., : self.unrotated].transpose(1, 2, 0)

        matrices = self._matrices(name, (self.unrotated, self.latent), to_latent)
        rows = graph.node("Reshape", q, self._ints(-1, width))
        found = self.weights.per_head(graph, rows, f"{name}.q_to_latent", matrices)
        return [graph.node("Reshape", found, self._by_heads), rotated]

    def _out(self, name: str, context: str) -> str:
        """Context [B, N, T, W], of which the latents' part is taken, through each head's values to [B, T, H]."""
        graph = self.graph
        context, _ = graph.node("Split", context, self._ints(self.latent, self.rotated), outputs=2, axis=-1)
        context = graph.node("Transpose", context, perm=[0, 2, 1, 3])
        rows = graph.node("Reshape", context, self._ints(-1, self.heads * self.latent))

        def to_value(array: np.ndarray) -> np.ndarray:  # [N, C, V]
            return self._of_heads(array)[..., self.unrotated :].transpose(1, 0, 2)

        matrices = self._matrices(name, (self.latent, self.value), to_value)
        values = self.weights.per_head(graph, rows, f"{name}.latent_to_value", matrices)
        values = graph.node("Reshape", values, self._by_tokens)
        shape = (self.heads * self.value, self.config.hidden_size)
        out = Layer(f"{name}.o_proj", shape, self.config.attention_bias)
        return self.weights.linear(graph, values, out.name, [out])

    def _of_heads(self, array: np.ndarray) -> np.ndarray:
        """The weight of kv_b_proj as [C, N, D + V]."""
        return array.reshape(self.latent, self.heads, -1)

    def _matrices(self, name: str, size: tuple[int, int], arranged) -> HeadMatrices:
        shape = (self.latent, self.heads * (self.unrotated + self.value))
        return HeadMatrices(f"{name}.kv_b_proj", shape, size, self.heads, arranged)

    def _normed(self, name: str, x: str, width: int) -> str:
        norm, _ = self.weights.operators.norms["rms_norm"]
        return norm.alone(self.graph, x, [self.graph.data.copy(f"{name}.weight", (width,))], NORM_EPS)

    def _ints(self, *numbers: int) -> str:
        return self.graph.constant(np.array(numbers, dtype="int64"))
