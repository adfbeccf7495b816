"""Reading no more of a weight than a tensor-parallel rank holds, however the files divide and pack it.

A weight is cut along one axis twice: into the parts that the files hold (one file of a whole model has all of it) and
into the parts that the ranks want. A rank reads the overlaps. Shapes and ranges here are in Paddle's [in, out] layout.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np

from glm.checkpoint.files import TensorFile
from glm.checkpoint.names import TensorEntry
from glm.checkpoint.packing import unpack_blocks
from glm.distributed.plan import COLUMN, ROW, along, is_padded, local_shard, padded, rank_range
from glm.errors import GLMError


def read_row(
    row: TensorEntry,
    files: Sequence[TensorFile],
    config: Any,
    *,
    torch_layout: bool,
    rank: int,
    degree: int,
    kv_replicas: int = 1,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) for the weights of one row, or for what one rank of `degree` holds of them.

    Args:
        files: of a whole model one, else the tensor-parallel files in the order of their ranks.
    Raises:
        GLMError: when the weights cannot be separated or sharded, or the files contradict each other.
    """
    tensors = stored_tensors(row, files, config, torch_layout)
    if row.split is None:
        rank, degree = 0, 1
    sizes = tensors[0].sizes()
    shares = [
        _share(name, size, tensors, config, *local_shard(name, rank, degree, kv_replicas))
        for name, size in zip(row.memory, sizes, strict=True)
    ]
    arrays = tensors[0].zeros([share.stop - share.start for share in shares])
    for number, tensor in enumerate(tensors):
        overlaps = [share.overlap(number * size, size) for share, size in zip(shares, sizes, strict=True)]
        if all(overlap.start == overlap.stop for overlap in overlaps):
            continue
        blocks = tensor.read([_moved(over, -number * size) for over, size in zip(overlaps, sizes, strict=True)])
        for array, block, overlap, share in zip(arrays, blocks, overlaps, shares, strict=True):
            place = _moved(overlap, -share.start)
            if block is not None:
                array[along(COLUMN if tensor.by_columns else ROW, place)] = block
    yield from zip(row.memory, arrays, strict=True)


def stored_tensors(
    row: TensorEntry, files: Sequence[TensorFile], config: Any, torch_layout: bool
) -> list["StoredTensor"]:
    """A row's tensor in every file, or in the first one where each has all of it.

    Raises:
        GLMError: as `read_row`.
    """
    tensors = [StoredTensor(row, file, config, len(files), torch_layout) for file in files]
    _require_alike(row, tensors)
    return tensors[:1] if row.split is None else tensors


class WholeWeight:
    """A weight of an opened checkpoint, of which any block can be read without the rest, in Paddle's layout.

    Args:
        name: in-memory name.
        index: which of the weights that share the tensors it is.
        tensors: of `stored_tensors`.
    Attributes:
        shape: of the whole weight; a vocabulary without padding.
    """

    def __init__(self, name: str, index: int, tensors: list["StoredTensor"], config: Any):
        self.name, self.index, self.tensors = name, index, tensors
        self.split = tensors[0].row.split
        self.axis = 0 if self.split is None else self.split
        shape = list(tensors[0].part_shape(index))
        self._size = shape[self.axis]
        shape[self.axis] = _share(name, self._size, tensors, config, 0, 1).end
        self.shape = tuple(shape)

    @property
    def dtype(self) -> np.dtype:
        return self.tensors[0].dtype

    @property
    def transposed(self) -> bool:
        """Whether columns, not rows, lie one behind the other on disk."""
        return self.tensors[0].transposed

    def read(self, block: tuple[slice, ...]) -> np.ndarray:
        """One slice with start and stop for every axis; beyond the end of the split axis are zeros."""
        where, pieces = block[self.axis], []
        for number, tensor in enumerate(self.tensors):
            start = number * self._size
            overlap = _Share(where.start, where.stop, self.shape[self.axis]).overlap(start, self._size)
            if overlap.start < overlap.stop:
                pieces.append(tensor.read_part(self.index, self._along(block, _moved(overlap, -start))))
        missing = where.stop - max(where.start, self.shape[self.axis])
        if missing > 0:
            shape = [part.stop - part.start for part in self._along(block, slice(0, missing))]
            pieces.append(np.zeros(shape, self.dtype))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=self.axis)

    def release(self) -> None:
        """Give the memory of what was read back."""
        for tensor in self.tensors:
            tensor.file.release()

    def _along(self, block: tuple[slice, ...], where: slice) -> tuple[slice, ...]:
        changed = list(block)
        changed[self.axis] = where
        return tuple(changed)


class _Share(NamedTuple):
    """What a rank holds of a weight along its split axis; beyond `end`, where the weight ends, are zeros."""

    start: int
    stop: int
    end: int

    def overlap(self, start: int, size: int) -> slice:
        """With the part of a file, within which it lies although it may be empty."""
        first = min(max(self.start, start), start + size)
        return slice(first, max(first, min(self.stop, start + size, self.end)))


def _share(name: str, size: int, tensors: list["StoredTensor"], config: Any, rank: int, degree: int) -> _Share:
    whole = size * len(tensors)
    if tensors[0].row.extra_rows:
        if whole < config.vocab_size:
            raise GLMError(
                f"{tensors[0].path}: {tensors[0].row.stored} has {whole} rows in {len(tensors)} file(s), fewer than "
                f"vocab_size {config.vocab_size}: check config.json"
            )
        whole = config.vocab_size
    elif is_padded(name) and (len(tensors) > 1 or degree > 1):  # a whole model's rows are check_state's business
        rows = padded(config.vocab_size, len(tensors))
        if whole != rows:
            raise GLMError(
                f"{tensors[0].path}: {tensors[0].row.stored} has {size} rows, expected {rows // len(tensors)} with "
                f"vocab_size {config.vocab_size} in {len(tensors)} file(s): check config.json, and that all files are "
                f"of one save"
            )
        whole = config.vocab_size
    where = rank_range(name, whole, rank, degree)
    return _Share(where.start, where.stop, whole)


def _moved(where: slice, by: int) -> slice:
    return slice(where.start + by, where.stop + by)


class StoredTensor:
    """A stored tensor of one file, seen as the weights that share it.

    Args:
        shards: the number of tensor-parallel files, of which this is one.
        torch_layout: whether matrices lie [out, in] in it.
    Raises:
        GLMError: when its shape does not allow that.
    """

    def __init__(self, row: TensorEntry, file: TensorFile, config: Any, shards: int, torch_layout: bool):
        self.row, self.file, self.path = row, file, file.path
        self.transposed = torch_layout and row.linear
        self.stored_shape = file.shape(row.stored)
        self.shape = self.stored_shape[::-1] if self.transposed else self.stored_shape
        try:
            if not self.shape:
                raise ValueError("it has no axis")
            self.widths, self.groups = row.packing_in(shards).widths(self.shape[-1], config, shards)
        except ValueError as error:
            raise GLMError(
                f"{self.path}: {row.stored} {list(self.shape)} cannot be cut into {len(row.memory)} weights ({error}): "
                f"check num_attention_heads and hidden_size in config.json"
            ) from error
        self.by_columns = row.split == COLUMN or len(self.shape) == 1

    @property
    def dtype(self) -> np.dtype:
        return self.file.dtype(self.row.stored)

    def sizes(self) -> list[int]:
        """Of every weight, along the axis by which it is read: the split axis, or any if there is none."""
        return [self.groups * width if self.by_columns else self.shape[ROW] for width in self.widths]

    def zeros(self, sizes: list[int]) -> list[np.ndarray]:
        """Room for every weight, so long along that axis."""
        shapes = [
            (*self.shape[:-1], size) if self.by_columns else (size, *self.shape[1:-1], self.groups * width)
            for size, width in zip(sizes, self.widths, strict=True)
        ]
        return [np.zeros(shape, self.dtype) for shape in shapes]

    def read(self, wanted: list[slice]) -> list[np.ndarray | None]:
        """A range of every weight along that axis, None for an empty one."""
        if not self.by_columns:
            block = self._block(wanted[0], slice(0, self.shape[-1]))
            return unpack_blocks(block, self.widths)
        if self.groups > 1:
            return self._read_groups(wanted)
        starts = accumulate(self.widths, initial=0)
        return [
            self._block(slice(0, self.shape[0]), _moved(where, start)) if where.start < where.stop else None
            for where, start in zip(wanted, starts, strict=False)
        ]

    def _read_groups(self, wanted: list[slice]) -> list[np.ndarray]:
        """Weights that alternate: one block of all groups that hold something of the ranges."""
        pairs = list(zip(wanted, self.widths, strict=True))
        first = min(where.start // width for where, width in pairs)
        last = max(-(-where.stop // width) for where, width in pairs)
        stride = sum(self.widths)
        block = self._block(slice(0, self.shape[0]), slice(first * stride, last * stride))
        return [
            part[..., where.start - first * width : where.stop - first * width]
            for part, (where, width) in zip(unpack_blocks(block, self.widths), pairs, strict=True)
        ]

    def part_shape(self, index: int) -> tuple[int, ...]:
        """Of one of the weights, as far as this file has it."""
        return (*self.shape[:-1], self.groups * self.widths[index])

    def read_part(self, index: int, block: tuple[slice, ...]) -> np.ndarray:
        """A block of one of the weights: one slice with start and stop for every axis of it. Reads nothing else."""
        *lead, columns = block
        width, stride, start = self.widths[index], sum(self.widths), sum(self.widths[:index])
        groups = range(columns.start // width, -(-columns.stop // width))
        runs = [slice(max(columns.start, g * width), min(columns.stop, (g + 1) * width)) for g in groups]
        pieces = [
            self._read((*lead, _moved(run, g * (stride - width) + start))) for g, run in zip(groups, runs, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)

    def _block(self, rows: slice, columns: slice) -> np.ndarray:
        inner = [slice(0, size) for size in self.shape[1:-1]]
        return self._read((rows, *inner, columns)[-len(self.shape) :])

    def _read(self, block: tuple[slice, ...]) -> np.ndarray:
        if self.transposed:
            return self.file.read(self.row.stored, block[::-1]).T
        return self.file.read(self.row.stored, block)


def _require_alike(row: TensorEntry, tensors: list[StoredTensor]) -> None:
    """Tensor-parallel files agree in shapes and types, and in the tensors that each of them has whole."""
    first = tensors[0]
    for other in tensors[1:]:
        if (other.stored_shape, other.dtype) != (first.stored_shape, first.dtype):
            raise GLMError(
                f"{other.path} has {row.stored} {list(other.stored_shape)} {other.dtype}, {first.path.name} has it "
                f"{list(first.stored_shape)} {first.dtype}: the files are of different saves, take them from one"
            )
        if row.split is None and not _same_bytes(first, other):
            raise GLMError(
                f"{other.path}: {row.stored} differs from {first.path.name}'s, though both hold all of it: "
                f"the files come from different steps, take them from one save"
            )


def _same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    name, size = first.row.stored, prod(first.stored_shape)
    bits = [tensor.file[name].reshape(size).view(np.uint8) for tensor in (first, second)]
    return bool(np.array_equal(*bits))
