"""Which text lies in which row of the cache: room, prefixes that are read already, rows that leave. numpy only."""

from collections.abc import Sequence

import numpy as np

from glm.errors import UsageError
from glm.runtime.step import Cache, StepRuntime


class Slots:
    """The rows of one cache. The first `active` ones decode; the others hold texts that may be read on from.

    Args:
        runtime: whose cache it is.
        memory_limit: most bytes of caches; None = no bound.
        reuse: whether texts stay for prompts that begin like them.

    Attributes:
        texts: for every row, ids whose keys and values its first columns hold; [] where there is nothing to read on
            from.
        lengths: [rows] int64, columns of each row that are read.
    """

    def __init__(self, runtime: StepRuntime, memory_limit: int | None = None, reuse: bool = True):
        self.runtime, self.memory_limit, self.reuse = runtime, memory_limit, reuse
        self.release()

    @property
    def bytes(self) -> int:
        """Memory of the cache as it is."""
        return self.runtime.cache_bytes(self.cache.rows, self.cache.columns) if self.cache else 0

    def reserve(self, rows: int, columns: int, least_rows: int = 1) -> None:
        """Makes room for so many texts of so many columns, or for as many rows as the memory limit allows.

        Args:
            least_rows: that must fit.

        Raises:
            UsageError: more columns than the runtime has, or more memory than the limit allows.
        """
        if columns > self.runtime.capacity:
            raise UsageError(
                f"prompt and text need {columns} columns of the cache, and it ends at {self.runtime.capacity}: "
                "shorten the prompt or choose a smaller max_length"
            )
        needed = self.runtime.cache_bytes(least_rows, columns)
        if self.memory_limit is not None and needed > self.memory_limit:
            raise UsageError(
                f"{least_rows} row(s) of {columns} columns need {needed:,} bytes of key/value cache, and the limit is "
                f"{self.memory_limit:,}: raise it, or choose fewer beams or a smaller max_length"
            )
        while rows > least_rows and not self._fits(rows, columns):
            rows -= 1
        if self.cache is None or rows > self.cache.rows or columns > self.cache.columns:
            self._grow(rows, columns)

    def open(self, ids: Sequence[int], rows: int) -> tuple[np.ndarray, int]:
        """Takes rows for a text, with the longest part of its prompt that some row holds already.

        Returns:
            The rows [G], and how many leading ids the first of them has read; never all.
        """
        first = self.active
        start, source = self._longest_prefix(ids)
        if start and source != first:
            if source > first and self.texts[first]:
                self._exchange(first, source)
            else:
                self.runtime.copy(self.cache, [first], self.cache, [source], (0, start))
        taken, self.active = np.arange(first, first + rows), first + rows
        for row in taken:
            self.texts[row], self.lengths[row] = [], start
        return taken, start

    def share(self, rows: np.ndarray, ids: Sequence[int], keep: bool) -> None:
        """Gives what the first row has read of a prompt to the others.

        Args:
            keep: whether a part of the prompt means the same in every text that begins with it.
        """
        if len(rows) > 1:
            self.runtime.copy(self.cache, rows[1:], self.cache, [rows[0]] * (len(rows) - 1), (0, len(ids)))
        for row in rows:
            self.texts[row], self.lengths[row] = list(ids) if keep and self.reuse else [], len(ids)

    def close(self, rows: np.ndarray) -> dict[int, int]:
        """Gives rows back, and closes the gaps so that active rows stand together.

        A row is moved once, which costs what one step would: decoding a finished row costs that at every step.

        Returns:
            Where rows went that are still active.
        """
        gone, self.active = set(rows.tolist()), self.active - len(rows)
        gaps = [row for row in range(self.active) if row in gone]
        movers = [row for row in range(self.active, self.active + len(rows)) if row not in gone]
        for gap, row in zip(gaps, movers, strict=True):
            self._exchange(gap, row)
        return dict(zip(movers, gaps, strict=True))

    def release(self) -> None:
        """Frees the cache."""
        self.cache: Cache | None = None
        self.texts: list[list[int]] = []
        self.lengths, self.active = np.zeros([0], dtype="int64"), 0

    def _fits(self, rows: int, columns: int) -> bool:
        return self.memory_limit is None or self.runtime.cache_bytes(rows, columns) <= self.memory_limit

    def _grow(self, rows: int, columns: int) -> None:
        """A larger cache; texts move over where the limit allows both caches for that moment."""
        old, texts, lengths = self.cache, self.texts, self.lengths
        if old is not None:
            larger = max(rows, old.rows), max(columns, old.columns)
            both = self.runtime.cache_bytes(*larger) + self.bytes
            keep = any(texts) and self.reuse and (self.memory_limit is None or both <= self.memory_limit)
            rows, columns = larger if keep else (rows, columns)
            old = old if keep else None
        self.release()
        self.cache, self.texts = self.runtime.new_cache(rows, columns), [[] for _ in range(rows)]
        self.lengths = np.zeros([rows], dtype="int64")
        if old is not None:
            kept = range(old.rows)
            self.runtime.copy(self.cache, kept, old, kept, (0, max(map(len, texts))))
            self.texts[: old.rows], self.lengths[: old.rows] = texts, lengths

    def _longest_prefix(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many leading ids a row holds, at most all but one, and which row; of equal ones the next to be taken."""
        lengths = [common_prefix(ids[:-1], text) for text in self.texts]
        order = [*range(self.active, len(lengths)), *range(self.active)]
        row = max(order, key=lengths.__getitem__)
        return lengths[row], row

    def _exchange(self, one: int, other: int) -> None:
        """Moves row `other` to `one`, and the other way round what is worth keeping there."""
        rows = [one, other] if self.texts[one] else [one]
        columns = max(self.lengths[other], len(self.texts[one]))
        self.runtime.copy(self.cache, rows, self.cache, [other, one][: len(rows)], (0, int(columns)))
        self.texts[one], self.texts[other] = self.texts[other], self.texts[one]
        self.lengths[[one, other]] = self.lengths[[other, one]]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading ids are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
