"""Layers that divide tokens among experts, in a graph: the routing and the experts of glm/model/experts.py once more.

Pairs of a token and an expert are sorted by expert, and every expert is an ordinary MLP of its own rows, of which there
may be none. Experts stand in groups behind an If, so that those without rows cost next to nothing.

Shapes: B rows, T tokens, H hidden, A experts, J of them a token, I width of one, U groups of experts in the router,
Z = B·T·J pairs.
"""

from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from glm.export.onnx.graph import Graph
from glm.export.onnx.weights import Weights

TOGETHER = 8  # experts behind one If: an If costs more than the few nodes of an expert that has no rows


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


def experts(graph: Graph, config: Any, weights: Weights, name: str, x: str, routed: Routing) -> str:
    """What the experts of every token make of it, weighed and added up: [B, T, H] → [B, T, H]."""
    hidden, top = config.hidden_size, config.num_experts_per_tok
    pairs = graph.node("Reshape", routed.chosen, _ints(graph, -1))
    order = _ascending(graph, pairs)
    tokens = graph.node("Div", order, graph.constant(np.int64(top)))
    rows = graph.node("Gather", graph.node("Reshape", x, _ints(graph, 1, -1, hidden)), tokens, axis=1)
    made = _by_expert(graph, config, weights, name, rows, _counts(graph, config, pairs))
    made = graph.node("Gather", made, _ascending(graph, order), axis=1)
    made = graph.node("Reshape", made, _ints(graph, -1, top, hidden))
    weighing = graph.node("Reshape", routed.weights, _ints(graph, -1, 1, top))
    return graph.node("Reshape", graph.node("MatMul", weighing, made), graph.node("Shape", x))


def _ascending(graph: Graph, numbers: str) -> str:
    """[Z], the places of [Z] integers from the smallest to the largest."""
    return graph.node("TopK", numbers, graph.node("Shape", numbers), outputs=2, axis=0, largest=0)[1]


def _counts(graph: Graph, config: Any, pairs: str) -> str:
    """[A / E, E], the pairs of each expert."""
    experts = config.n_routed_experts
    off_on = graph.constant(np.array([0, 1], dtype="int64"))
    marks = graph.node("OneHot", pairs, _ints(graph, experts), off_on, axis=-1)
    counts = graph.node("ReduceSum", marks, _ints(graph, 0), keepdims=0)
    return graph.node("Reshape", counts, _ints(graph, -1, gcd(experts, TOGETHER)))


def _by_expert(graph: Graph, config: Any, weights: Weights, name: str, rows: str, counts: str) -> str:
    """[1, Z, H] → [1, Z, H], rows sorted by expert."""
    together = gcd(config.n_routed_experts, TOGETHER)
    count, made = config.n_routed_experts // together, []
    sizes = graph.node("ReduceSum", counts, _ints(graph, 1), keepdims=0)
    some = graph.node("Cast", sizes, to=TensorProto.BOOL)
    for i, part in enumerate(_split(graph, rows, sizes, count)):
        at, numbers = _ints(graph, i), range(i * together, (i + 1) * together)
        mlps = partial(_mlps, graph, config, weights, name, part, graph.node("Gather", counts, at), numbers)
        made.append(graph.either(graph.node("Gather", some, at), mlps, partial(graph.node, "Identity", part)))
    return graph.node("Concat", *made, axis=1)


def _mlps(graph: Graph, config: Any, weights: Weights, name: str, rows: str, counts: str, numbers: range) -> str:
    """[1, n, H] → [1, n, H], of neighbouring experts."""
    counts = graph.node("Reshape", counts, _ints(graph, -1))
    parts = _split(graph, rows, counts, len(numbers))
    made = [_mlp(graph, config, weights, name, *each) for each in zip(parts, numbers, strict=True)]
    return graph.node("Concat", *made, axis=1)


def _mlp(graph: Graph, config: Any, weights: Weights, name: str, x: str, number: int) -> str:
    """The gated MLP of one expert, for rows of which there may be none: [1, n, H] → [1, n, H]."""
    experts, hidden, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
    into = [Expert(f"{name}.{part}", (experts, hidden, inner), number) for part in ("gate_proj", "up_proj")]
    out = Expert(f"{name}.down_proj", (experts, inner, hidden), number)
    gate, up = weights.operators.halves(graph, weights.linear(graph, x, f"{name}.{number}.gate_up_proj", into))
    active = graph.node("Mul", weights.operators.activations[config.hidden_act](graph, gate), up)
    return weights.linear(graph, active, f"{name}.{number}.down_proj", [out])


def _split(graph: Graph, rows: str, sizes: str, count: int) -> list[str]:
    """Rows [1, n, H] in parts of so many."""
    return graph.node("Split", rows, sizes, outputs=count, axis=1) if count > 1 else [rows]


def _ints(graph: Graph, *numbers: int) -> str:
    return graph.constant(np.array(numbers, dtype="int64"))
