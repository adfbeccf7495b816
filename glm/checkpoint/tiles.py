"""Stored tensors made of an opened checkpoint's weights, tile by tile, so that no tensor is ever whole in memory."""

from collections.abc import Iterator
from math import isqrt
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from glm.checkpoint.names import TensorEntry
from glm.checkpoint.slices import WholeWeight
from glm.distributed.plan import rank_range
from glm.errors import GLMError

SMALLEST_TILE, LARGEST_TILE = 1 << 20, 16 << 20  # bytes
Block = tuple[slice, ...]


def numpy_dtype(name: str) -> np.dtype:
    """float32, float16 or bfloat16 as NumPy has it."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def tile_size(largest_file: int) -> int:
    """Bytes of a source's numbers that are in memory at a time; several copies of them are, and mapped pages around."""
    return min(max(largest_file // 32, SMALLEST_TILE), LARGEST_TILE)


class _Strip(NamedTuple):
    """A range of a stored tensor's last axis: `count` units, each made of some columns of every member.

    Weights that lie one behind the other are a strip each, of units of one column; weights that alternate are one
    strip together, whose unit is a group.
    """

    members: list[tuple[int, int]]  # index of the weight, columns of it in a unit
    origin: int
    count: int

    @property
    def unit(self) -> int:
        return sum(width for _, width in self.members)


class Outgoing:
    """A stored tensor to be written, whole or as one tensor-parallel rank of `degree` has it.

    Args:
        row: its name, and how the weights share it.
        weights: where they are read, in the row's order.
        torch_layout: whether matrices lie [out, in] in it.
        dtype: of its numbers, the weights' own if not given.
        tile: bytes that are read at a time.
    Attributes:
        shape: of the stored tensor.
    Raises:
        GLMError: the ranks do not divide a weight, or weights that share the tensor differ in type.
    """

    def __init__(
        self,
        row: TensorEntry,
        weights: list[WholeWeight],
        config: Any,
        *,
        torch_layout: bool,
        dtype: np.dtype | None = None,
        rank: int = 0,
        degree: int = 1,
        tile: int = SMALLEST_TILE,
    ):
        self.row, self._weights, self._tile = row, weights, tile
        self.dtype = dtype or _common_dtype(row, weights)
        self._transposed = torch_layout and row.linear
        self._first = [_first(weight, rank, degree) for weight in weights]
        shapes = [_rank_shape(weight, rank, degree) for weight in weights]
        packed = sum(shape[-1] for shape in shapes)
        self._lead = shapes[0][:-1]
        try:
            widths, groups = row.packing_in(degree).widths(packed, config, degree)
        except ValueError as error:
            raise GLMError(f"{row.stored} cannot be made of {', '.join(row.memory)}: {error}") from error
        self._strips = _strips(widths, groups)
        self.shape = (*self._lead, packed)[:: -1 if self._transposed else 1]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def tiles(self) -> Iterator[tuple[Block, np.ndarray]]:
        """Yield (block of the stored tensor, its numbers) until all of it has been.

        Raises:
            GLMError: float16 cannot hold a number.
        """
        for strip in self._strips:
            for lead, units in self._cuts(strip):
                array = self._cast(self._read(strip, lead, units))
                columns = slice(strip.origin + units.start * strip.unit, strip.origin + units.stop * strip.unit)
                block = (*lead, columns)
                yield (block[::-1], array.T) if self._transposed else (block, array)

    def release(self) -> None:
        """Give the memory of what was read back."""
        for weight in self._weights:
            weight.release()

    def _cuts(self, strip: _Strip) -> Iterator[tuple[Block, slice]]:
        """Tiles of a strip: bands that are contiguous on both sides, squares where one side is the other transposed."""
        rows = self._lead[0] if self._lead else 1
        room = self._tile // self._weights[0].dtype.itemsize
        if self._weights[0].transposed != self._transposed:
            row_step = max(isqrt(room), room // (strip.count * strip.unit))
        elif self._transposed:
            row_step = rows
        else:
            row_step = max(1, room // (strip.count * strip.unit))
        row_step = min(rows, row_step)
        unit_step = max(1, room // (row_step * strip.unit))
        for row in range(0, rows, row_step):
            lead = (slice(row, min(row + row_step, rows)),) if self._lead else ()
            for unit in range(0, strip.count, unit_step):
                yield lead, slice(unit, min(unit + unit_step, strip.count))

    def _read(self, strip: _Strip, lead: Block, units: slice) -> np.ndarray:
        blocks = [
            self._weights[index].read(self._in_weight(index, (*lead, slice(units.start * width, units.stop * width))))
            for index, width in strip.members
        ]
        if len(blocks) == 1:
            return blocks[0]
        sizes = [part.stop - part.start for part in (*lead, units)]
        joined = np.concatenate([block.reshape(*sizes, -1) for block in blocks], axis=-1)
        return joined.reshape(*sizes[:-1], -1)

    def _in_weight(self, index: int, block: Block) -> Block:
        """A block of the rank's part, counted from the beginning of the whole weight."""
        axis, first = self._weights[index].axis, self._first[index]
        moved = list(block)
        moved[axis] = slice(block[axis].start + first, block[axis].stop + first)
        return tuple(moved)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        if array.dtype == self.dtype:
            return array
        with np.errstate(over="ignore"):
            cast = array.astype(self.dtype)
        if self.dtype == np.float16 and np.isinf(cast).sum() > np.isinf(array).sum():
            largest = np.nanmax(np.abs(array.astype("float32")))
            raise GLMError(
                f"{self.row.stored} holds {largest:g}, and float16 ends at 65504: choose bfloat16 or float32"
            )
        return cast


def _common_dtype(row: TensorEntry, weights: list[WholeWeight]) -> np.dtype:
    dtypes = {weight.dtype for weight in weights}
    if len(dtypes) > 1:
        found = ", ".join(f"{weight.name} {weight.dtype}" for weight in weights)
        raise GLMError(f"{row.stored} is made of different types ({found}): choose one with --dtype")
    return dtypes.pop()


def _first(weight: WholeWeight, rank: int, degree: int) -> int:
    if weight.split is None or degree == 1:
        return 0
    return rank_range(weight.name, weight.shape[weight.axis], rank, degree).start


def _rank_shape(weight: WholeWeight, rank: int, degree: int) -> tuple[int, ...]:
    shape = list(weight.shape)
    if weight.split is not None and degree > 1:
        where = rank_range(weight.name, shape[weight.axis], rank, degree)
        shape[weight.axis] = where.stop - where.start
    return tuple(shape)


def _strips(widths: list[int], groups: int) -> list[_Strip]:
    if groups > 1:
        return [_Strip(list(enumerate(widths)), 0, groups)]
    starts = [sum(widths[:index]) for index in range(len(widths))]
    return [_Strip([(index, 1)], start, width) for index, (start, width) in enumerate(zip(starts, widths, strict=True))]
