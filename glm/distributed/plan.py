"""The tensor-parallel plan: which axis of which weight is cut over the ranks. Needs no Paddle.

The cuts are Megatron's (arXiv:1909.08053, 3): the first matrix of a pair by its columns, the second by its rows, so
that a pair needs one sum over the ranks; the vocabulary by its rows. Model, checkpoints, adapters and optimizer states
all ask here, so a weight is cut alike everywhere. Every layer that is not named is whole on every rank.

Where there are fewer key/value heads than ranks, several ranks hold the same head (`local_shard`). Files have no
copies: they are cut as if every rank had its own part.
"""

import re

import numpy as np

from glm.errors import GLMError

COLUMN, ROW = -1, -2  # axis of Paddle's [in, out] layout, and of the [experts, in, out] of a sparse layer

# Layer → axis of its weight.
PLAN = {
    "embed_tokens": ROW,
    "q_proj": COLUMN,
    "k_proj": COLUMN,
    "v_proj": COLUMN,
    "q_b_proj": COLUMN,
    "kv_b_proj": COLUMN,
    "o_proj": ROW,
    "gate_proj": COLUMN,
    "up_proj": COLUMN,
    "down_proj": ROW,
    "lm_head": COLUMN,
}
# Layers whose split axis, the vocabulary, is padded with zeros until the ranks divide it.
PADDED = frozenset({"embed_tokens", "lm_head"})
# Layers of the key/value heads.
KEYS_AND_VALUES = frozenset({"k_proj", "v_proj"})
# What a layer of either kind has besides its weight, and where that is cut.
_PARTS = {
    COLUMN: {"weight": COLUMN, "bias": COLUMN, "lora_B": COLUMN},
    ROW: {"weight": ROW, "lora_A": ROW},
}
_LAYER_AND_PART = re.compile(r"(?:.*\.)?(\w+)\.(\w+)")


def split_axis(name: str) -> int | None:
    """The axis of a weight that the ranks partition, None where each has all of it.

    Args:
        name: in-memory name, `model.layers.0.self_attn.q_proj.weight` or `… .lora_B`.
    """
    match = _LAYER_AND_PART.fullmatch(name)
    layer, part = match.groups() if match else ("", "")
    return _PARTS[PLAN[layer]].get(part) if layer in PLAN else None


def is_padded(name: str) -> bool:
    """Whether a weight is padded along its split axis when the ranks do not divide it."""
    return any(f"{layer}." in name for layer in PADDED)


def local_shard(name: str, rank: int, degree: int, kv_replicas: int = 1) -> tuple[int, int]:
    """(index, count) of this rank's shard of the weight.

    Args:
        kv_replicas: neighbouring ranks that hold the same key/value head.
    """
    return (rank // kv_replicas, degree // kv_replicas) if _is_shared(name) else (rank, degree)


def shard_to_save(name: str, part: np.ndarray, rank: int, kv_replicas: int = 1) -> np.ndarray:
    """The slice this rank saves; ranks with replicas of a KV head save disjoint slices.

    Raises:
        GLMError: as `rank_range`.
    """
    return rank_part(name, part, rank % kv_replicas, kv_replicas) if _is_shared(name) else part


def _is_shared(name: str) -> bool:
    return any(f"{layer}." in name for layer in KEYS_AND_VALUES)


def padded(size: int, degree: int) -> int:
    """`size`, rounded up to a multiple of the degree."""
    return -(-size // degree) * degree


def rank_range(name: str, size: int, rank: int, degree: int) -> slice:
    """Where a rank's part of a weight lies in the whole one, along the split axis; a padded one may end beyond it.

    Raises:
        GLMError: the ranks do not divide a weight that is not padded.
    """
    if size % degree and not is_padded(name):
        what = "rows" if split_axis(name) == ROW else "columns"
        raise GLMError(
            f"{name} has {size} {what}, which {degree} tensor-parallel ranks cannot partition: choose a degree that "
            f"divides {size}"
        )
    width = padded(size, degree) // degree
    return slice(rank * width, (rank + 1) * width)


def rank_part(name: str, array: np.ndarray, rank: int, degree: int) -> np.ndarray:
    """A rank's part of a whole weight: a view, unless zeros must be added.

    Raises:
        GLMError: as `rank_range`.
    """
    axis = split_axis(name)
    if axis is None or degree == 1:
        return array
    where = rank_range(name, array.shape[axis], rank, degree)
    part = array[along(axis, where)]
    missing = where.stop - where.start - part.shape[axis]
    if not missing:
        return part
    shape = list(part.shape)
    shape[axis] = missing
    return np.concatenate([part, np.zeros(shape, part.dtype)], axis=axis)


def whole(name: str, parts: list[np.ndarray], size: int | None = None) -> np.ndarray:
    """The inverse of `rank_part`: a weight of its parts in the order of the ranks.

    Args:
        size: of the split axis without padding; everything is kept if not given.
    """
    axis = split_axis(name)
    if axis is None or len(parts) == 1:
        return parts[0]
    joined = np.concatenate(parts, axis=axis)
    if size is None or not is_padded(name):
        return joined
    return joined[along(axis, slice(size))]


def along(axis: int, where: slice) -> tuple:
    """An index that takes this range of COLUMN or ROW, and all of the other axes."""
    return (..., where) if axis == COLUMN else (..., where, slice(None))
