"""Layers that divide tokens among experts, in a graph: the routing and the experts of glm/model/experts.py once more.

ONNX Runtime has operators for the experts (onnxruntime/docs/ContribOperators.md): MoE of float32 weights, QMoE of
blocks. Standard operators have the experts side by side as one MLP, in which a token's experts weigh and the others are
multiplied by 0: A / J times the products that are needed.

Shapes: B rows, T tokens, H hidden, A experts, J of them a token, I width of one, U groups of experts, M = B·T.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from glm.errors import GLMError
from glm.export.onnx.external_data import Write, chunks
from glm.export.onnx.graph import Graph
from glm.export.onnx.quantize import SMALLEST_BLOCK, Blocks

# The first version whose operators have the SwiGLU and the routing that are asked for. An earlier one may compute
# another activation, and say nothing (onnxruntime issue 28738).
NEEDED_ONNXRUNTIME = "1.31"
_SMALLEST = np.float32(1e-37)  # what stands for a weight of 0 where its logarithm is wanted
# silu(gate) · up, rows of both by turns: the one gated form that the CPU's operators have.
_GATED = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}


class Routing(NamedTuple):
    """[B, T, A] both: `choice` has the largest numbers at the experts of a token, `scores` is what they weigh."""

    choice: str
    scores: str


def routing(graph: Graph, config: Any, name: str, x: str) -> Routing:
    """Float32, whatever the experts are stored as."""
    experts = config.n_routed_experts
    weight = graph.data.copy(f"{name}.weight", (config.hidden_size, experts))
    bias = graph.data.copy(f"{name}.e_score_correction_bias", (experts,))
    scores = graph.node("Sigmoid", graph.node("MatMul", x, weight))
    choice = graph.node("Add", scores, bias)
    return Routing(_of_best_groups(graph, config, choice) if config.n_group > 1 else choice, scores)


def _of_best_groups(graph: Graph, config: Any, choice: str) -> str:
    """The choice, 0 outside the groups whose two best have the largest sums."""
    groups = config.n_group
    choice = graph.node("Reshape", choice, _ints(graph, 0, 0, groups, config.n_routed_experts // groups))
    best, _ = graph.node("TopK", choice, _ints(graph, 2), outputs=2, axis=-1)
    rated = graph.node("ReduceSum", best, _ints(graph, -1), keepdims=0)
    kept = graph.node("Unsqueeze", _marks(graph, rated, config.topk_group, groups), _ints(graph, -1))
    return graph.node("Reshape", graph.node("Mul", choice, kept), _ints(graph, 0, 0, config.n_routed_experts))


def _marks(graph: Graph, numbers: str, top: int, count: int) -> str:
    """1 at the `top` largest of [B, T, count], else 0."""
    _, at = graph.node("TopK", numbers, _ints(graph, top), outputs=2, axis=-1)
    off_on = graph.constant(np.array([0, 1], dtype="float32"))
    return graph.node(
        "ReduceSum", graph.node("OneHot", at, _ints(graph, count), off_on, axis=-1), _ints(graph, -2), keepdims=0
    )


def _weights(graph: Graph, config: Any, routed: Routing) -> str:
    """[B, T, A], scores of a token's experts, 0 of the others."""
    marks = _marks(graph, routed.choice, config.num_experts_per_tok, config.n_routed_experts)
    return graph.node("Mul", routed.scores, marks)


def dense(graph: Graph, config: Any, weights: Any, name: str, x: str, routed: Routing) -> str:
    """The experts as one gated MLP of A·I inner numbers, in any operators: [B, T, H] → [B, T, H]."""
    experts, inner = config.n_routed_experts, config.moe_intermediate_size
    weighing = _weights(graph, config, routed)
    if config.norm_topk_prob:
        weighing = graph.node("Div", weighing, _sum(graph, weighing))
    into = [Stack(f"{name}.{part}", (experts, config.hidden_size, inner)) for part in ("gate_proj", "up_proj")]
    gate, up = weights.operators.halves(graph, weights.linear(graph, x, f"{name}.gate_up_proj", into))
    active = graph.node("Mul", weights.operators.activations[config.hidden_act](graph, gate), up)
    active = graph.node("Reshape", active, _ints(graph, 0, 0, experts, inner))
    active = graph.node("Mul", active, graph.node("Unsqueeze", weighing, _ints(graph, -1)))
    active = graph.node("Reshape", active, _ints(graph, 0, 0, experts * inner))
    out = Stack(f"{name}.down_proj", (experts, inner, config.hidden_size), adds_up=True)
    return weights.linear(graph, active, out.name, [out])


def moe(graph: Graph, config: Any, name: str, x: str, routed: Routing) -> str:
    """The operator MoE, which chooses and weighs by one softmax: it gets logarithms of a token's weights."""
    weighing = _weights(graph, config, routed)
    logits = graph.node("Log", graph.node("Max", weighing, graph.constant(_SMALLEST)))

    def slot(part: str, shape: tuple[int, ...], projections: "list[Projection]") -> str:
        found = graph.data.slot(f"{name}.{part}.weight", "float32", shape)
        _fill(graph, projections, lambda where, numbers: [Write(found, where, numbers)])
        return found.name

    graph.onnxruntime = NEEDED_ONNXRUNTIME
    fc1, fc2 = (slot(*each) for each in _operands(config, name))
    found = graph.contrib("MoE", x, _rows(graph, config, logits), fc1, "", fc2, **_attributes(config, True))
    return found if config.norm_topk_prob else graph.node("Mul", found, _sum(graph, weighing))


def qmoe(graph: Graph, config: Any, blocks: Blocks, accuracy_level: int, name: str, x: str, routed: Routing) -> str:
    """The operator QMoE, which chooses by one input and weighs by another.

    Raises:
        GLMError: no block divides hidden size and width of an expert.
    """
    graph.onnxruntime, blocks = NEEDED_ONNXRUNTIME, _dividing(config, blocks)
    fc1, fc2 = (_slots(graph, blocks, *each) for each in _operands(config, name))
    inputs = [x, _rows(graph, config, routed.choice), *fc1[:2], "", *fc2[:2], "", "", "", "", fc1[2], fc2[2], ""]
    attributes = _attributes(config, config.norm_topk_prob)
    attributes |= {"expert_weight_bits": blocks.bits, "block_size": blocks.block, "accuracy_level": accuracy_level}
    return graph.contrib("QMoE", *inputs, _rows(graph, config, routed.scores), **attributes)


@dataclass(frozen=True)
class Stack:
    """A projection of all experts as one linear layer (glm/export/onnx/layers.py).

    Attributes:
        name: without `.weight`.
        shape: [A, in, out] in memory.
        adds_up: whether inputs lie side by side, and outputs are added up; else outputs lie side by side.
    """

    name: str
    shape: tuple[int, int, int]
    adds_up: bool = False

    bias = False

    def arranged(self, stack: np.ndarray) -> np.ndarray:
        return (stack if self.adds_up else stack.transpose(1, 0, 2)).reshape(self.size)

    @property
    def size(self) -> tuple[int, int]:
        """Inputs and outputs in the graph."""
        experts, inputs, outputs = self.shape
        return (experts * inputs, outputs) if self.adds_up else (inputs, experts * outputs)


class Projection(NamedTuple):
    """A stack [A, in, out] whose outputs are the rows `first`, `first + step`, … of an operator's weight [A, N, K]."""

    name: str
    shape: tuple[int, int, int]
    first: int = 0
    step: int = 1


def _operands(config: Any, name: str) -> list[tuple[str, tuple[int, int, int], list[Projection]]]:
    """Name, shape and parts of what the operators call fc1 and fc2."""
    experts, hidden, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
    into = [
        Projection(f"{name}.{part}", (experts, hidden, inner), first, 2)
        for first, part in enumerate(("gate_proj", "up_proj"))
    ]
    out = [Projection(f"{name}.down_proj", (experts, inner, hidden))]
    return [("gate_up_proj", (experts, 2 * inner, hidden), into), ("down_proj", (experts, hidden, inner), out)]


def _slots(graph: Graph, blocks: Blocks, part: str, shape: tuple[int, int, int], into: list[Projection]) -> list[str]:
    """Names of numbers, scales, and zero points or "", of a quantized operand [A, N, K]."""
    count, name = shape[2] // blocks.block, f"{into[0].name.rpartition('.')[0]}.{part}.weight"
    parts = [("data", "uint8", blocks.packed(shape[2])), ("scales", "float32", count)]
    parts += [] if blocks.symmetric else [("zeros", "uint8", blocks.packed(count))]
    slots = [graph.data.slot(f"{name}.{kind}", dtype, (*shape[:2], width)) for kind, dtype, width in parts]

    def writes(where: tuple[slice, slice], numbers: np.ndarray) -> Iterator[Write]:
        for slot, found in zip(slots, blocks.quantize(numbers), strict=False):  # zero points may be missing
            yield Write(slot, where, found.reshape(len(numbers), -1))

    _fill(graph, into, writes)
    return [slot.name for slot in slots] + [""] * (3 - len(slots))


def _fill(graph: Graph, projections: list[Projection], writes: Callable[..., Any]) -> None:
    """Some rows of an expert's matrix in memory at a time, beside the stack that is read.

    Args:
        writes: of a region of the operand, and of its numbers [n, K] float32.
    """
    for each in projections:

        def of_stack(stack: np.ndarray, each: Projection = each) -> Iterator[Write]:
            for expert, matrix in enumerate(stack):
                for rows, numbers in chunks(matrix.T):
                    start, stop = (each.first + each.step * row for row in (rows.start, rows.stop - 1))
                    yield from writes((slice(expert, expert + 1), slice(start, stop + 1, each.step)), numbers)

        graph.data.fill(f"{each.name}.weight", each.shape, of_stack)


def _dividing(config: Any, blocks: Blocks) -> Blocks:
    """The operator wants whole blocks: the largest that divide both widths."""
    widths = config.hidden_size, config.moe_intermediate_size
    block = int(np.gcd.reduce([*widths, blocks.block]))
    if block < SMALLEST_BLOCK:
        raise GLMError(
            f"hidden_size {widths[0]} and moe_intermediate_size {widths[1]} have no block in common of "
            f"{SMALLEST_BLOCK} or more numbers, which quantized experts need: export with --weights fp32"
        )
    return Blocks(blocks.bits, block, blocks.symmetric)


def _attributes(config: Any, normalises: bool) -> dict[str, Any]:
    return _GATED | {"k": config.num_experts_per_tok, "normalize_routing_weights": int(normalises)}


def _rows(graph: Graph, config: Any, numbers: str) -> str:
    """[B, T, A] → [M, A]."""
    return graph.node("Reshape", numbers, _ints(graph, -1, config.n_routed_experts))


def _sum(graph: Graph, numbers: str) -> str:
    return graph.node("ReduceSum", numbers, _ints(graph, -1), keepdims=1)


def _ints(graph: Graph, *numbers: int) -> str:
    return graph.constant(np.array(numbers, dtype="int64"))
