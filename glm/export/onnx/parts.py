"""The parts of a decoder that are put together from others: the tables of glm/model/layers.py once more, in ONNX.

Shapes: B rows, T tokens, H hidden.
"""

from typing import Any

import numpy as np

from glm.export.onnx.experts import Experts, routing
from glm.export.onnx.graph import Graph
from glm.export.onnx.layers import Layer
from glm.export.onnx.weights import Weights


class Norm:
    """The norm of a configuration, with its weights by the name of the norm."""

    def __init__(self, graph: Graph, config: Any, weights: Weights):
        self.graph, self.config = graph, config
        self.operators, self.weights = weights.operators.norms[config.norm_type]

    def __call__(self, name: str, x: str) -> str:
        return self.operators.alone(self.graph, x, self._weights(name), self.config.norm_eps)

    def of_sum(self, name: str, x: str, y: str) -> tuple[str, str]:
        """The norm of x + y, and x + y."""
        return self.operators.of_sum(self.graph, name, x, y, self._weights(name), self.config.norm_eps)

    def _weights(self, name: str) -> list[str]:
        return [self.graph.data.copy(f"{name}.{weight}", (self.config.hidden_size,)) for weight in self.weights]


# What goes past attention and MLP, of the block's input and of its norm.
RESIDUALS = {
    "input": lambda graph, config, x, h: x,
    "scaled_norm": lambda graph, config, x, h: graph.node(
        "Mul", h, graph.constant(np.float32((2 * config.num_hidden_layers) ** 0.5))
    ),
}


def mlp(graph: Graph, config: Any, weights: Weights, name: str, x: str, layer: int) -> str:
    """The MLP of a layer, counted from 0: [B, T, H] → [B, T, H]."""
    if config.is_sparse(layer):
        return sparse_mlp(graph, config, weights, name, x)
    return MLPS[config.mlp_type](graph, config, weights, name, x, config.intermediate_size)


def plain_mlp(graph: Graph, config: Any, weights: Weights, name: str, x: str, inner: int) -> str:
    up = weights.linear(graph, x, f"{name}.up_proj", _into(config, name, inner, "up_proj"))
    return _down(graph, config, weights, name, weights.operators.activations[config.hidden_act](graph, up), inner)


def gated_mlp(graph: Graph, config: Any, weights: Weights, name: str, x: str, inner: int) -> str:
    both = weights.linear(graph, x, f"{name}.gate_up_proj", _into(config, name, inner, "gate_proj", "up_proj"))
    gate, up = weights.operators.halves(graph, both)
    active = weights.operators.activations[config.hidden_act](graph, gate)
    return _down(graph, config, weights, name, graph.node("Mul", active, up), inner)


def sparse_mlp(graph: Graph, config: Any, weights: Weights, name: str, x: str) -> str:
    """Router, experts, and the experts that every token takes."""
    routed = Experts(graph, config, weights, f"{name}.experts")(x, routing(graph, config, f"{name}.gate", x))
    shared = config.n_shared_experts * config.moe_intermediate_size
    if not shared:
        return routed
    return graph.node("Add", routed, MLPS[config.mlp_type](graph, config, weights, f"{name}.shared_experts", x, shared))


def _into(config: Any, name: str, inner: int, *layers: str) -> list[Layer]:
    shape = (config.hidden_size, inner)
    return [Layer(f"{name}.{layer}", shape, config.linear_bias) for layer in layers]


def _down(graph: Graph, config: Any, weights: Weights, name: str, x: str, inner: int) -> str:
    layer = Layer(f"{name}.down_proj", (inner, config.hidden_size), config.linear_bias)
    return weights.linear(graph, x, layer.name, [layer])


MLPS = {"plain": plain_mlp, "gated": gated_mlp}
