"""Layers that divide tokens among experts, in a graph: the routing and the experts of glm/model/experts.py once more.

Pairs of a token and an expert are sorted by expert, and each expert is an ordinary MLP of its own rows, of which there
may be none; where several neighbours have none, an If passes them by. So a step reads the weights of the experts that
its tokens chose, in whatever form the linear layers have, and no others.

Shapes: B rows, T tokens, H hidden, A experts, E of them behind one If, J of them a token, Z = B·T·J pairs, n those of
one expert or of E.
"""

from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from glm.export.onnx.graph import Graph
from glm.export.onnx.weights import Weights

TOGETHER = 4  # experts behind one If: fewer take longer to open, more step through more experts without rows


class Routing(NamedTuple):
    """[B, T, J] both: the experts that a token takes, and what they weigh."""

    chosen: str
    weights: str


def routing(graph: Graph, config: Any, name: str, x: str) -> Routing:
    """Float32, whatever the experts are stored as."""
    experts = config.n_routed_experts
    weight = graph.data.copy(f"{name}.weight", (config.hidden_size, experts))
    bias = graph.data.copy(f"{name}.e_score_correction_bias", (experts,))
    scores = graph.node("Sigmoid", graph.node("MatMul", x, weight))
    choice = graph.node("Add", scores, bias)
    if config.n_group > 1:
        choice = _of_best_groups(graph, config, choice)
    _, chosen = graph.node("TopK", choice, _ints(graph, config.num_experts_per_tok), outputs=2, axis=-1)
    weights = graph.node("GatherElements", scores, chosen, axis=-1)
    if config.norm_topk_prob:
        weights = graph.node("Div", weights, graph.node("ReduceSum", weights, _ints(graph, -1), keepdims=1))
    if config.routed_scaling_factor != 1:
        weights = graph.node("Mul", weights, graph.constant(np.float32(config.routed_scaling_factor)))
    return Routing(chosen, weights)


def _of_best_groups(graph: Graph, config: Any, choice: str) -> str:
    """The choice, 0 outside the groups whose two best have the largest sums."""
    groups = config.n_group
    choice = graph.node("Reshape", choice, _ints(graph, 0, 0, groups, config.n_routed_experts // groups))
    best, _ = graph.node("TopK", choice, _ints(graph, 2), outputs=2, axis=-1)
    rated = graph.node("ReduceSum", best, _ints(graph, -1), keepdims=0)
    _, at = graph.node("TopK", rated, _ints(graph, config.topk_group), outputs=2, axis=-1)
    off_on = graph.constant(np.array([0, 1], dtype="float32"))
    kept = graph.node("OneHot", at, _ints(graph, groups), off_on, axis=-1)
    kept = graph.node("ReduceSum", kept, _ints(graph, -2), keepdims=0)
    choice = graph.node("Mul", choice, graph.node("Unsqueeze", kept, _ints(graph, -1)))
    return graph.node("Reshape", choice, _ints(graph, 0, 0, config.n_routed_experts))


@dataclass(frozen=True)
class Expert:
    """A projection of one expert, as a linear layer (glm/export/onnx/layers.py); the weight is that of all of them.

    Attributes:
        name: of the weight, without `.weight`.
        shape: [A, in, out] in memory.
        number: which expert.
    """

    name: str
    shape: tuple[int, int, int]
    number: int

    bias = False

    def arranged(self, stack: np.ndarray) -> np.ndarray:
        return stack[self.number]

    @property
    def size(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return self.shape[1:]


class Experts:
    """The experts of a layer.

    Args:
        weights: how their matrices are stored.
        name: of the experts together.
    """

    def __init__(self, graph: Graph, config: Any, weights: Weights, name: str):
        self.graph, self.config, self.weights, self.name = graph, config, weights, name
        self.together = gcd(config.n_routed_experts, TOGETHER)

    def __call__(self, x: str, routed: Routing) -> str:
        """What the experts of every token make of it, weighed and added up: [B, T, H] → [B, T, H]."""
        graph, hidden, top = self.graph, self.config.hidden_size, self.config.num_experts_per_tok
        pairs = graph.node("Reshape", routed.chosen, _ints(graph, -1))
        order = self._ascending(pairs)
        tokens = graph.node("Div", order, graph.constant(np.int64(top)))
        rows = graph.node("Gather", graph.node("Reshape", x, _ints(graph, 1, -1, hidden)), tokens, axis=1)
        made = graph.node("Gather", self._all(rows, self._counts(pairs)), self._ascending(order), axis=1)
        made = graph.node("Reshape", made, _ints(graph, -1, top, hidden))
        weighing = graph.node("Reshape", routed.weights, _ints(graph, -1, 1, top))
        return graph.node("Reshape", graph.node("MatMul", weighing, made), graph.node("Shape", x))

    def _ascending(self, numbers: str) -> str:
        """[Z], the places of [Z] integers from the smallest to the largest."""
        size = self.graph.node("Shape", numbers)
        return self.graph.node("TopK", numbers, size, outputs=2, axis=0, largest=0)[1]

    def _counts(self, pairs: str) -> str:
        """[A / E, E], how many pairs [Z] each expert has."""
        graph = self.graph
        off_on = graph.constant(np.array([0, 1], dtype="int64"))
        marks = graph.node("OneHot", pairs, _ints(graph, self.config.n_routed_experts), off_on, axis=-1)
        counts = graph.node("ReduceSum", marks, _ints(graph, 0), keepdims=0)
        return graph.node("Reshape", counts, _ints(graph, -1, self.together))

    def _all(self, rows: str, counts: str) -> str:
        """[1, Z, H] → [1, Z, H], rows sorted by expert."""
        graph, made = self.graph, []
        sizes = graph.node("ReduceSum", counts, _ints(graph, 1), keepdims=0)
        some = graph.node("Cast", sizes, to=TensorProto.BOOL)
        for i, part in enumerate(self._split(rows, sizes, self.config.n_routed_experts // self.together)):
            condition, own = (graph.node("Gather", numbers, _ints(graph, i)) for numbers in (some, counts))
            mlps, nothing = partial(self._some, part, own, i * self.together), partial(graph.node, "Identity", part)
            made.append(graph.either(condition, mlps, nothing))
        return graph.node("Concat", *made, axis=1)

    def _some(self, rows: str, counts: str, first: int) -> str:
        """[1, n, H] → [1, n, H], of neighbours from `first` on."""
        counts = self.graph.node("Reshape", counts, _ints(self.graph, -1))
        parts = self._split(rows, counts, self.together)
        made = [self._one(part, number) for number, part in enumerate(parts, first)]
        return self.graph.node("Concat", *made, axis=1)

    def _one(self, x: str, number: int) -> str:
        """The gated MLP of one expert, of rows of which there may be none: [1, n, H] → [1, n, H]."""
        graph, config, weights, name = self.graph, self.config, self.weights, self.name
        hidden, inner = config.hidden_size, config.moe_intermediate_size
        into = [self._layer(part, (hidden, inner), number) for part in ("gate_proj", "up_proj")]
        out = [self._layer("down_proj", (inner, hidden), number)]
        gate, up = weights.operators.halves(graph, weights.linear(graph, x, f"{name}.{number}.gate_up_proj", into))
        active = graph.node("Mul", weights.operators.activations[config.hidden_act](graph, gate), up)
        return weights.linear(graph, active, f"{name}.{number}.down_proj", out)

    def _layer(self, part: str, shape: tuple[int, int], number: int) -> Expert:
        return Expert(f"{self.name}.{part}", (self.config.n_routed_experts, *shape), number)

    def _split(self, rows: str, sizes: str, count: int) -> list[str]:
        """Rows [1, n, H] in so many parts."""
        return self.graph.node("Split", rows, sizes, outputs=count, axis=1) if count > 1 else [rows]


def _ints(graph: Graph, *numbers: int) -> str:
    return graph.constant(np.array(numbers, dtype="int64"))
