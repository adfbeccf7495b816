"""Experts in files and in memory: one tensor an expert there, one [experts, in, out] for each projection here.

Everything else in this room sees one weight an expert, under `….mlp.experts.3.gate_proj.weight`; where weights enter
or leave it, `stacked` and `unstacked` put them together and take them apart.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from glm.config.shapes import is_expert_stack
from glm.errors import GLMError

_OF_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)(\.\w+\.(?:weight|lora_A|lora_B))")


def stack_name(name: str) -> str:
    """The weight in memory that an expert's is part of; other names as they are."""
    match = _OF_EXPERT.fullmatch(name)
    return match[1] + match[3] if match else name


def expert_of(name: str) -> int | None:
    """Which expert a weight is of, None where it is of none, or of all."""
    match = _OF_EXPERT.fullmatch(name)
    return int(match[2]) if match else None


def expert_name(stack: str, expert: int) -> str:
    """The inverse of `stack_name`."""
    front, layer, part = stack.rsplit(".", 2)
    return f"{front}.{expert}.{layer}.{part}"


def single_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of weights with one an expert."""
    result: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        single = is_expert_stack(name) and len(shape) == 3
        result |= {expert_name(name, e): shape[1:] for e in range(shape[0])} if single else {name: shape}
    return result


def unstacked(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights with one an expert, which are views of the stacks."""
    result = {}
    for name, array in state.items():
        if is_expert_stack(name) and array.ndim == 3:
            result |= {expert_name(name, expert): part for expert, part in enumerate(array)}
        else:
            result[name] = array
    return result


def stacked(tensors: Iterable[tuple[str, np.ndarray]], experts: range, source: str) -> Iterator[tuple[str, np.ndarray]]:
    """The inverse, one stack in memory at a time: the experts of a projection must come one after the other.

    Args:
        experts: which ones of each layer there are.
        source: for messages.
    Raises:
        GLMError: a layer without some of its experts, or one that has another shape than the others.
    """
    name, stack, there = "", None, set()
    for each, array in tensors:
        match = _OF_EXPERT.fullmatch(each)
        if stack is not None and stack_name(each) != name:
            raise _incomplete(name, there, experts, source)
        if match is None:
            yield each, array
            continue
        if stack is None:
            name, stack, there = stack_name(each), np.empty((len(experts), *array.shape), array.dtype), set()
        if array.shape != stack.shape[1:]:
            others = list(stack.shape[1:])
            raise GLMError(f"{source}: {each} is {list(array.shape)}, and the experts before it {others}")
        stack[int(match[2]) - experts.start] = array
        there.add(int(match[2]))
        if len(there) == len(experts):
            yield name, stack
            stack = None
    if stack is not None:
        raise _incomplete(name, there, experts, source)


def restacked(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `unstacked` for weights that are all there, in any order."""
    groups: dict[str, dict[int, np.ndarray]] = {}
    for name, array in state.items():
        match = _OF_EXPERT.fullmatch(name)
        groups.setdefault(stack_name(name), {})[int(match[2]) if match else -1] = array
    return {
        name: group[-1] if -1 in group else np.stack([group[expert] for expert in sorted(group)])
        for name, group in groups.items()
    }


def _incomplete(name: str, there: set[int], experts: range, source: str) -> GLMError:
    missing = [expert for expert in experts if expert not in there]
    return GLMError(
        f"{source} lacks {expert_name(name, missing[0])} ({len(missing)} of {len(experts)} experts): get the files "
        "again"
    )
