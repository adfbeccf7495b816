"""Adding adapters into weights, one weight at a time and in float32. Needs no Paddle."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from glm.checkpoint.adapter import Change, LoadedAdapter
from glm.checkpoint.adapter_names import EMBEDDING, HEAD
from glm.checkpoint.expert_stacks import expert_name
from glm.config.shapes import is_expert_stack

Weights = Iterable[tuple[str, np.ndarray]]
_COLUMNS = 4096  # of a matrix that are in memory in float64


def merged(tensors: Weights, adapter: LoadedAdapter, config: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Weights with an adapter in them, in float32 where it changes them; the others as they come.

    Args:
        tensors: names and arrays [in, out] of all weights that the adapter changes at least, in any order.
        config: of the model.
    """
    waiting: dict[str, np.ndarray] = {}
    for name, array in tensors:
        if is_expert_stack(name):
            yield name, _changed_experts(name, array, adapter, config)
            continue
        change = adapter.changes.get(name, Change())
        if name == EMBEDDING and adapter.unties:
            yield HEAD, changed(np.ascontiguousarray(array.T), adapter.changes[HEAD], is_head=True)
        if not change.init:
            yield name, changed(array, change, is_head=name == HEAD) if name in adapter.changes else array
            del array  # before the next one is read
            continue
        waiting[name] = array if change.weight is None else change.weight
        del array
        if all(member in waiting for member in change.fused.memory):
            members = {member: waiting.pop(member) for member in change.fused.memory}
            for member, rest in zip(members, _residuals(list(members.values()), change, config), strict=True):
                yield member, changed(rest, adapter.changes[member], False, member == HEAD)


def _changed_experts(name: str, stack: np.ndarray, adapter: LoadedAdapter, config: Any) -> np.ndarray:
    """All experts of a projection [experts, in, out], in float32 where the adapter changes one of them."""
    changes = {expert: adapter.changes.get(expert_name(name, expert)) for expert in range(len(stack))}
    if not any(changes.values()):
        return stack
    result = stack.astype("float32")
    for expert, change in changes.items():
        if change is not None:
            rest = _residuals([stack[expert]], change, config)[0] if change.init else stack[expert]
            result[expert] = changed(rest, change, whole=not change.init)
    return result


def config_of_merged(adapter: LoadedAdapter, config: Any) -> Any:
    """The configuration of a model with the adapter in it."""
    if adapter.unties:
        config = copy.copy(config)
        config.tie_word_embeddings = False
    return config


def changed(array: np.ndarray, change: Change, whole: bool = True, is_head: bool = False) -> np.ndarray:
    """One weight or bias with its change, float32.

    Args:
        whole: a weight of the adapter's own takes the array's place.
        is_head: whether tokens are columns.
    """
    array = (array if change.weight is None or not whole else change.weight).astype("float32")
    if change.lora_A is not None:
        a, b = change.lora_A.astype("float32"), change.lora_B.astype("float32")
        array = array + (a @ b) * np.float32(change.scaling)
    if change.magnitude is not None:
        array = array * (change.magnitude.astype("float32") / np.linalg.norm(array, axis=0))
    if change.rows is not None:
        array = array.copy()
        (array.T if is_head else array)[change.tokens] = change.rows.astype("float32")
    return array if change.added is None else array + change.added.astype("float32")


def _residuals(members: list[np.ndarray], change: Change, config: Any) -> list[np.ndarray]:
    """What PEFT leaves of a stored weight before it adds a PiSSA or OLoRA adapter (tuners/lora/layer.py: pissa_init,
    olora_init): the part in the space of the first r left singular vectors, or of the first r columns of [out, in], is
    taken out, of OLoRA times the scaling.
    """
    row = change.fused
    weight = row.packing.pack([member.astype("float32") for member in members], config)
    if change.init == "olora":
        basis = np.linalg.qr(weight[: change.r].T.astype("float64"))[0][:, : change.r].astype("float32")
        rest = weight - (weight @ basis) @ basis.T * np.float32(change.scaling)
    elif weight.shape[0] <= weight.shape[1]:
        basis = _leading(weight, change.r)
        rest = weight - basis @ (basis.T @ weight)
    else:
        basis = _leading(weight.T, change.r)
        rest = weight - (weight @ basis) @ basis.T
    return row.packing.unpack(rest, config) if len(members) > 1 else [rest]


def _leading(matrix: np.ndarray, r: int) -> np.ndarray:
    """The first r left singular vectors [rows, r] of a matrix that is no higher than wide, float32."""
    squares = np.zeros((len(matrix), len(matrix)))
    for start in range(0, matrix.shape[1], _COLUMNS):
        columns = matrix[:, start : start + _COLUMNS].astype("float64")
        squares += columns @ columns.T
    return np.linalg.eigh(squares)[1][:, ::-1][:, :r].astype("float32")
