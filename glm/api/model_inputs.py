"""What a model needs besides ids, derived from them where it is not given. numpy only.

Shapes: B rows, T tokens, P position ids per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from glm.api.generation_defaults import GenerationDefaults
from glm.errors import UsageError

_UNKNOWN = (
    "this model does not know which of its tokens are blanks: set model.tokenizer to its tokenizer, or pass "
    "position_ids [B, 2, T] and prefix_length [B]"
)


# What the libraries' `forward` has besides, and what it must be: the value at which it does nothing.
_UNUSED = {
    "cache": None,
    "cache_position": None,
    "inputs_embeds": None,
    "output_attentions": False,
    "output_hidden_states": False,
    "past_key_values": None,
    "use_cache": False,
}


def check_unused(others: Mapping[str, Any]) -> None:
    """Raises UsageError for an input that a model does not have, and for one that is not implemented."""
    for name, value in others.items():
        if name not in _UNUSED:
            raise UsageError(f"a model's call has no input '{name}': see help(glm.GLMForCausalLM.forward)")
        if value is not None and value is not _UNUSED[name]:
            raise UsageError(f"{name} is not implemented: leave it out (model.generate has a cache of its own)")


@dataclass(frozen=True)
class Inputs:
    """Inputs of `GLMNetwork.forward`: int64 arrays."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    position_ids: np.ndarray
    prefix_length: np.ndarray


def as_array(value: Any, name: str) -> np.ndarray:
    """Ids, a mask or positions in whatever form, as int64; a list of lists must be one of equal rows."""
    if isinstance(value, Mapping):
        raise UsageError(f"{name} is a {type(value).__name__}: unpack it, as model(**inputs) does")
    value = value.numpy() if hasattr(value, "numpy") else value
    try:
        array = np.asarray(value)
    except ValueError:
        raise UsageError(f"{name}: rows of several lengths make no array; pad them (padding=True)") from None
    if array.dtype.kind not in "iubf" or (array.dtype.kind == "f" and not np.array_equal(array, array.astype("int64"))):
        raise UsageError(f"{name} holds {array.dtype} values, and must hold whole numbers")
    return array.astype("int64")


def check_ids(ids: np.ndarray, vocab_size: int, name: str, negative: bool = False) -> None:
    """Raises UsageError for ids outside a vocabulary; `negative` ones may be allowed: those of labels."""
    wrong = ids[(ids >= vocab_size) | ((ids < 0) & (not negative))]
    if wrong.size:
        raise UsageError(f"{name}: {wrong[0]} is not among the model's tokens, which are 0 to {vocab_size - 1}")


def complete(text: GenerationDefaults, input_ids, attention_mask=None, position_ids=None, prefix_length=None) -> Inputs:
    """Mask, positions and prefix as the original code makes them of the ids, where they are not given.

    Args:
        text: of the model.
        input_ids: [B, T], or [T] for one row.
        attention_mask: [B, T], 1 = real; or [B, 1, T, T] or [B, T, T], 1 = visible, which must be a prefix that all
            see and a causal rest. More columns than ids are cut off. Without it the padding token is padding, where it
            ends no text.
        position_ids: [B, P, T]. [B, T] of a model with two rows is what its tokenizer counts, and says nothing of
            blanks: it is derived.
        prefix_length: [B], leading columns that all see each other.

    Raises:
        UsageError: shapes that do not fit, another mask, or a model that does not know its blanks.
    """
    ids_BT = as_array(input_ids, "input_ids")
    ids_BT = ids_BT[None] if ids_BT.ndim == 1 else ids_BT
    if ids_BT.ndim != 2 or not ids_BT.size:
        raise UsageError(f"input_ids have the shape {list(ids_BT.shape)}, and must have [B, T]")
    seen_BT, prefix_B = _seen(text, ids_BT, attention_mask)
    given_BPT = _given_positions(text, ids_BT, position_ids)
    if prefix_length is not None:
        prefix_B = np.broadcast_to(as_array(prefix_length, "prefix_length").ravel(), len(ids_BT))
    elif prefix_B is None and given_BPT is not None and given_BPT.shape[1] == 2:
        prefix_B = _prefix_of_positions(given_BPT, seen_BT)
    if not text.known and (prefix_B is None or given_BPT is None):
        raise UsageError(_UNKNOWN)
    rows = [
        _row(text, *row, prefix) for *row, prefix in zip(ids_BT, seen_BT, _each(prefix_B, len(ids_BT)), strict=True)
    ]
    positions_BPT = given_BPT if given_BPT is not None else np.stack([positions for positions, _ in rows])
    return Inputs(ids_BT, seen_BT, positions_BPT, np.array([prefix for _, prefix in rows], dtype="int64"))


def _each(values: np.ndarray | None, count: int) -> list[int | None]:
    return [None] * count if values is None else values.tolist()


def _row(text: GenerationDefaults, ids_T: np.ndarray, seen_T: np.ndarray, prefix: int | None) -> tuple[np.ndarray, int]:
    """Positions [P, T] and the columns of the prefix of one row; padding has position 0."""
    real = np.flatnonzero(seen_T)
    ids = ids_T[real].tolist()
    inner = text.prefix(ids) if prefix is None else int((real < prefix).sum())
    found = text.row_positions(ids, inner)
    positions = np.zeros([len(found), len(ids_T)], dtype="int64")
    positions[:, real] = found
    return positions, int(real[inner - 1]) + 1 if inner else 0


def _seen(text: GenerationDefaults, ids_BT: np.ndarray, attention_mask) -> tuple[np.ndarray, np.ndarray | None]:
    """Real tokens [B, T], and the prefix [B] where a mask of queries and keys says it."""
    if attention_mask is None:
        pads = text.pad_token_id is not None and text.pad_token_id not in text.stop_token_ids
        return ((ids_BT != text.pad_token_id) if pads else np.ones_like(ids_BT)).astype("int64"), None
    mask = as_array(attention_mask, "attention_mask")
    rows, width = ids_BT.shape
    if mask.ndim <= 2:
        mask_BT = np.atleast_2d(mask)[:, :width]
        if mask_BT.shape != ids_BT.shape:
            raise UsageError(f"attention_mask has the shape {list(mask.shape)}, and input_ids {list(ids_BT.shape)}")
        return (mask_BT != 0).astype("int64"), None
    mask_BTT = mask.reshape([-1, *mask.shape[-2:]])[:, :width, :width]
    if mask_BTT.shape != (rows, width, width):
        raise UsageError(f"attention_mask has the shape {list(mask.shape)}, which does not fit {rows} rows of {width}")
    parts = [_mask_parts(mask_TT != 0) for mask_TT in mask_BTT]
    return np.stack([seen for seen, _ in parts]), np.array([prefix for _, prefix in parts], dtype="int64")


def _mask_parts(mask_TT: np.ndarray) -> tuple[np.ndarray, int]:
    """Real tokens [T] and the columns of the prefix of a mask of queries and keys.

    Raises UsageError where the mask is no prefix with a causal rest: True for hidden, for example.
    """
    column_T = np.arange(len(mask_TT))
    seen_T = np.diagonal(mask_TT)  # a real token sees itself; rows of padding may see anything
    queries = np.flatnonzero(seen_T)
    first = np.flatnonzero(mask_TT[queries[0]]) if len(queries) else []
    prefix = int(first[-1]) + 1 if len(first) else 0
    prefix = 0 if len(queries) and prefix == queries[0] + 1 else prefix
    wanted_TT = seen_T & ((column_T < prefix) | (column_T <= column_T[:, None]))
    if not len(queries) or not np.array_equal(wanted_TT[queries], mask_TT[queries]):
        raise UsageError(
            "attention_mask of queries and keys must be 1 where a token is visible: a prefix that all see, and behind "
            "it what stands before; pass attention_mask [B, T] and prefix_length [B] otherwise"
        )
    return seen_T.astype("int64"), prefix


def _given_positions(text: GenerationDefaults, ids_BT: np.ndarray, position_ids) -> np.ndarray | None:
    """[B, P, T], None where they are to be derived."""
    if position_ids is None:
        return None
    positions, wanted = as_array(position_ids, "position_ids"), len(text.positions.step)
    if positions.ndim < 3 and wanted == 1:
        positions = np.atleast_2d(positions)[:, None]
    elif positions.ndim == 2 and positions.shape[0] == wanted and (len(ids_BT) == 1):
        positions = positions[None]
    elif positions.ndim < 3:
        return None
    positions = positions[:, :, : ids_BT.shape[1]]
    shape = (len(ids_BT), wanted, ids_BT.shape[1])
    try:
        return np.ascontiguousarray(np.broadcast_to(positions, shape))
    except ValueError:
        raise UsageError(
            f"position_ids have the shape {list(np.shape(position_ids))}, and must have {list(shape)}"
        ) from None


def _prefix_of_positions(positions_BPT: np.ndarray, seen_BT: np.ndarray) -> np.ndarray:
    """Columns before the first one inside a blank; 0 where there is none."""
    inside_BT = (positions_BPT[:, 1] > 0) & (seen_BT > 0)
    return np.where(inside_BT.any(axis=1), inside_BT.argmax(axis=1), 0).astype("int64")
