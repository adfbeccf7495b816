"""The parts of a decoder as nodes of a graph: the tables of glm/model/layers.py and positions.py once more, in ONNX.

Shapes: B rows, P position ids per token, T tokens, H hidden, N heads, K key/value heads, D head_dim in the graph,
E dimensions of a head that are rotated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from glm.export.onnx.graph import Graph
from glm.export.onnx.weights import Layer, Weights
from glm.model.rotary import inverse_frequencies, scaled_frequencies

# Name of queries or keys [B, T, heads · D] and their number of heads → the same, rotated.
Rotate = Callable[[str, int], str]


@dataclass(frozen=True)
class Norm:
    """A norm's operators, alone and behind a sum, and its weights."""

    alone: str
    after_sum: str
    weights: tuple[str, ...]

    def __call__(self, graph: Graph, config: Any, name: str, x: str) -> str:
        return graph.node(self.alone, x, *self._weights(graph, config, name), axis=-1, epsilon=config.norm_eps)

    def of_sum(self, graph: Graph, config: Any, name: str, x: str, y: str) -> tuple[str, str]:
        """The norm of x + y, and x + y."""
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        weights = self._weights(graph, config, name)
        graph.contrib(self.after_sum, x, y, *weights, outputs=outputs, epsilon=config.norm_eps)
        return outputs[0], outputs[3]

    def _weights(self, graph: Graph, config: Any, name: str) -> list[str]:
        return [graph.data.copy(f"{name}.{weight}", (config.hidden_size,)) for weight in self.weights]


NORMS = {
    "layer_norm": Norm("LayerNormalization", "SkipLayerNormalization", ("weight", "bias")),
    "rms_norm": Norm("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", ("weight",)),
}
ACTIVATIONS = {
    "gelu_tanh": lambda graph, x: graph.node("Gelu", x, approximate="tanh"),
    "silu": lambda graph, x: graph.contrib("QuickGelu", x, alpha=1.0),
}
# What goes past attention and MLP, of the block's input and of its norm.
RESIDUALS = {
    "input": lambda graph, config, x, h: x,
    "scaled_norm": lambda graph, config, x, h: graph.node(
        "Mul", h, graph.constant(np.float32((2 * config.num_hidden_layers) ** 0.5))
    ),
}


def plain_mlp(graph: Graph, config: Any, weights: Weights, name: str, x: str) -> str:
    up = weights.linear(graph, x, f"{name}.up_proj", _inner(config, name, "up_proj"))
    return _down(graph, config, weights, name, ACTIVATIONS[config.hidden_act](graph, up))


def gated_mlp(graph: Graph, config: Any, weights: Weights, name: str, x: str) -> str:
    both = weights.linear(graph, x, f"{name}.gate_up_proj", _inner(config, name, "gate_proj", "up_proj"))
    gate, up = graph.node("Split", both, outputs=2, axis=-1, num_outputs=2)
    return _down(graph, config, weights, name, graph.node("Mul", ACTIVATIONS[config.hidden_act](graph, gate), up))


def _inner(config: Any, name: str, *layers: str) -> list[Layer]:
    shape = (config.hidden_size, config.intermediate_size)
    return [Layer(f"{name}.{layer}", shape, config.linear_bias) for layer in layers]


def _down(graph: Graph, config: Any, weights: Weights, name: str, x: str) -> str:
    layer = Layer(f"{name}.down_proj", (config.intermediate_size, config.hidden_size), config.linear_bias)
    return weights.linear(graph, x, layer.name, [layer])


MLPS = {"plain": plain_mlp, "gated": gated_mlp}


class Learned2D:
    """Two learned tables are added to the embeddings (GLM)."""

    rows = 2
    bidirectional = True

    def embed(self, graph: Graph, config: Any, x: str, positions: str) -> str:
        shape = (config.max_position_embeddings + 1, config.hidden_size)
        for row, table in enumerate(("position_embeddings", "block_position_embeddings")):
            ids = graph.node("Gather", positions, graph.constant(np.int64(row)), axis=1)
            x = graph.node(
                "Add", x, graph.node("Gather", graph.data.copy(f"model.positions.{table}.weight", shape), ids)
            )
        return x

    def rotation(self, graph: Graph, config: Any, positions: str) -> Rotate:
        return lambda x, heads: x

    def attention_angles(self, graph: Graph, config: Any) -> list[str]:
        """Tables [places, E/2] with which the attention operator rotates queries and keys itself; [] where it
        cannot.
        """
        return []

    def order(self, config: Any) -> np.ndarray:
        """Which dimension of a head of the model stands where in the graph, for queries and keys."""
        return np.arange(config.head_dim)


class PartialRotary(Learned2D):
    """The first E dimensions of a head are rotated in neighbouring pairs (GLM-4)."""

    rows = 1
    bidirectional = False

    def embed(self, graph: Graph, config: Any, x: str, positions: str) -> str:
        return x

    def rotation(self, graph: Graph, config: Any, positions: str) -> Rotate:
        frequencies, scale = scaled_frequencies(config)
        return _rotation(graph, positions, frequencies, 2 * len(frequencies), interleaved=1, scale=scale)

    def attention_angles(self, graph: Graph, config: Any) -> list[str]:
        """A token's place is its position in the cache. Saves three nodes per layer: 8% of a step in 4 bits."""
        frequencies, scale = scaled_frequencies(config)
        if len(frequencies) % 8:  # the operator wants whole vectors of 8 angles
            return []
        shape = (config.max_position + 1, len(frequencies))

        def table(name: str, function: np.ufunc) -> str:
            def rows(where: slice) -> np.ndarray:
                angles = np.arange(where.start, where.stop, dtype="float32")[:, None] * frequencies
                return function(angles) * np.float32(scale)

            return graph.data.table(f"rotary.{name}", shape, rows)

        return [table("cos", np.cos), table("sin", np.sin)]


class Rotary2D(PartialRotary):
    """Half of a head is rotated by either position (ChatGLM-6B).

    In the model dimension i goes with i + D/4 inside each half, in the graph with i + D/2 of the whole head, which is
    one rotation with the angles of both positions side by side: the second and the third quarter of a head change
    places. Scores do not depend on the order of dimensions.
    """

    rows = 2
    bidirectional = True

    def rotation(self, graph: Graph, config: Any, positions: str) -> Rotate:
        exact = inverse_frequencies(config.head_dim // 2, config.rope_theta)
        frequencies = exact.astype("float16").astype("float32")  # as published
        return _rotation(graph, positions, frequencies, config.head_dim, interleaved=0)

    def attention_angles(self, graph: Graph, config: Any) -> list[str]:
        return []

    def order(self, config: Any) -> np.ndarray:
        return np.arange(config.head_dim).reshape(2, 2, -1).transpose(1, 0, 2).reshape(-1)


def _rotation(
    graph: Graph, positions: str, frequencies: np.ndarray, rotary: int, interleaved: int, scale: float = 1.0
) -> Rotate:
    """By the angles [B, T, E/2] of all position rows, one behind the other, times `scale`."""
    places = graph.node("Cast", graph.node("Transpose", positions, perm=[0, 2, 1]), to=TensorProto.FLOAT)
    last = graph.constant(np.array([-1], dtype="int64"))
    angles = graph.node("Mul", graph.node("Unsqueeze", places, last), graph.constant(frequencies))
    angles = graph.node("Reshape", angles, graph.constant(np.array([0, 0, -1], dtype="int64")))
    cos, sin = graph.node("Cos", angles), graph.node("Sin", angles)
    if scale != 1.0:
        cos, sin = (graph.node("Mul", x, graph.constant(np.float32(scale))) for x in (cos, sin))

    def rotate(x: str, heads: int) -> str:
        attributes = {"interleaved": interleaved, "rotary_embedding_dim": rotary, "num_heads": heads}
        return graph.node("RotaryEmbedding", x, cos, sin, **attributes)

    return rotate


POSITIONS = {"learned_2d": Learned2D(), "partial_rotary": PartialRotary(), "rotary_2d": Rotary2D()}
