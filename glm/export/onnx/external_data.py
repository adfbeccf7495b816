"""The file with a graph's weights: where each tensor lies is known first, then weights are put there in any order.

ONNX calls it external data (onnx/docs/ExternalData.md): the graph's file names tensors by offset and length.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glm.errors import GLMError
from glm.files.atomic import reserve

ALIGNMENT = 64  # bytes, for vector instructions on a mapped file


class Slot(NamedTuple):
    """A tensor of the graph and its place in the file, None where the graph itself has it."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Write(NamedTuple):
    """Numbers for a region of a slot; they take its dtype."""

    slot: Slot
    region: tuple[slice, ...]
    numbers: np.ndarray


class Filling(NamedTuple):
    """What becomes of a weight: its shape in memory, and where its numbers go."""

    shape: tuple[int, ...]
    writes: Callable[[np.ndarray], Iterable[Write]]


@dataclass
class ExternalData:
    """Slots, and which weight fills which of them.

    Attributes:
        vectors_inside: whether tensors of one axis lie in the graph, and not in the file.
        inside: those numbers, by name.
    """

    vectors_inside: bool = False
    slots: list[Slot] = field(default_factory=list)
    fillings: dict[str, list[Filling]] = field(default_factory=dict)
    tables: list[tuple[Slot, Callable[[slice], np.ndarray]]] = field(default_factory=list)
    inside: dict[str, np.ndarray] = field(default_factory=dict)
    size: int = 0

    def slot(self, name: str, dtype: str, shape: tuple[int, ...]) -> Slot:
        if self.vectors_inside and len(shape) == 1:
            self.inside[name] = np.zeros(shape, dtype)
            self.slots.append(Slot(name, np.dtype(dtype), tuple(shape), None))
            return self.slots[-1]
        slot = Slot(name, np.dtype(dtype), tuple(shape), -(-self.size // ALIGNMENT) * ALIGNMENT)
        self.slots.append(slot)
        self.size = slot.offset + slot.nbytes
        return slot

    def alias(self, slot: Slot, name: str, shape: tuple[int, ...]) -> Slot:
        """The bytes of a slot under another name and shape, so that the file has them once."""
        self.slots.append(slot._replace(name=name, shape=tuple(shape)))
        return self.slots[-1]

    def rows(self, slot: Slot, where: slice) -> Slot:
        """Some rows of a slot as a tensor of their own, in the same place of the file."""
        row = slot._replace(shape=slot.shape[1:]).nbytes
        part = slot._replace(shape=(where.stop - where.start, *slot.shape[1:]), offset=slot.offset + where.start * row)
        return self.alias(part, f"{slot.name}.{where.start}", part.shape)

    def table(self, name: str, shape: tuple[int, int], rows: Callable[[slice], np.ndarray]) -> str:
        """A float32 slot that no weight fills: `rows` gives some of its rows. Returns its name."""
        slot = self.slot(name, "float32", shape)
        self.tables.append((slot, rows))
        return slot.name

    def fill(self, weight: str, shape: tuple[int, ...], writes: Callable[[np.ndarray], Iterable[Write]]) -> None:
        self.fillings.setdefault(weight, []).append(Filling(tuple(shape), writes))

    def copy(self, weight: str, shape: tuple[int, ...]) -> str:
        """A slot that has a weight as it is, in float32; returns its name, which is the weight's."""
        slot = self.slot(weight, "float32", shape)
        self.fill(weight, shape, lambda array: [Write(slot, (slice(None),), array)])
        return slot.name

    @property
    def parameters(self) -> int:
        """How many numbers the weights have."""
        return sum(int(np.prod(fillings[0].shape, dtype=np.int64)) for fillings in self.fillings.values())

    def write(self, path: Path, weights: Iterable[tuple[str, np.ndarray]]) -> None:
        """Writes the file, one weight in memory at a time.

        Args:
            weights: names and arrays of any floating dtype, in any order.
        Raises:
            GLMError: a weight is missing, unknown, twice there or of another shape.
            OSError: no room for the whole file, before anything is read.
        """
        with path.open("wb") as file:
            reserve(file.fileno(), self.size)
        for slot, rows in self.tables:
            for where in row_chunks(*slot.shape):
                self._put(path, Write(slot, (where,), rows(where)))
        missing = set(self.fillings)
        for name, array in weights:
            if name not in missing:
                raise GLMError(f"{name} is not a weight of this model, or comes twice: check the checkpoint")
            missing.remove(name)
            self._fill(path, name, array)
            del array  # before the next one is read
        if missing:
            raise GLMError(f"the checkpoint lacks {len(missing)} weights, such as {min(missing)}: check the directory")

    def _fill(self, path: Path, name: str, array: np.ndarray) -> None:
        for filling in self.fillings[name]:
            if array.shape != filling.shape:
                raise GLMError(
                    f"{name} has shape {list(array.shape)}, config.json says {list(filling.shape)}: take both from "
                    "one model"
                )
            try:
                for write in filling.writes(array):
                    self._put(path, write)
            except GLMError as error:
                raise GLMError(f"{name}: {error}") from error

    def _put(self, path: Path, write: Write) -> None:
        """Through a mapping that is gone at once: written pages do not count as memory of this process any more."""
        slot = write.slot
        if slot.offset is None:
            self.inside[slot.name][write.region] = write.numbers
        elif slot.nbytes:
            mapped = np.memmap(path, slot.dtype, "r+", slot.offset, slot.shape)
            mapped[write.region] = write.numbers
            mapped._mmap.close()


def chunks(rows_NK: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows as float32, some megabytes at a time."""
    for where in row_chunks(*rows_NK.shape):
        yield where, np.ascontiguousarray(rows_NK[where], dtype="float32")


def row_chunks(rows: int, columns: int, size: int = 4 << 20) -> Iterator[slice]:
    """Places of rows that take so many bytes as float32, or of one."""
    count = max(1, size // (4 * max(1, columns)))
    for start in range(0, rows, count):
        yield slice(start, min(start + count, rows))
