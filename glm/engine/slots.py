"""Cache slots: capacity, prefix reuse, compaction. numpy only."""

from collections.abc import Sequence

import numpy as np

from glm.errors import UsageError
from glm.runtime.step import Cache, StepRuntime


class Slots:
    """The slots of one cache. The first `active` ones decode; the others hold prefixes for reuse.

    Args:
        runtime: whose cache it is.
        memory_limit: most bytes of caches; None = no bound.
        reuse: whether prefixes stay for prompts that begin like them.

    Attributes:
        prefixes: for every slot, ids whose keys and values it holds; [] where there is nothing to reuse.
        lengths: [slots] int64, positions of each slot that are read.
    """

    def __init__(self, runtime: StepRuntime, memory_limit: int | None = None, reuse: bool = True):
        self.runtime, self.memory_limit, self.reuse = runtime, memory_limit, reuse
        self.release()

    @property
    def bytes(self) -> int:
        """Memory of the cache as it is."""
        return self.runtime.cache_bytes(self.cache.slots, self.cache.max_length) if self.cache else 0

    def reserve(self, slots: int, max_length: int, least_slots: int = 1) -> None:
        """Reserves so many slots of so many positions, or as many slots as the memory limit allows.

        Args:
            least_slots: that must fit.

        Raises:
            UsageError: more positions than the runtime has, or more memory than the limit allows.
        """
        if max_length > self.runtime.capacity:
            raise UsageError(
                f"prompt and output need {max_length} positions of the cache, and it ends at {self.runtime.capacity}: "
                "shorten the prompt or choose a smaller max_length"
            )
        needed = self.runtime.cache_bytes(least_slots, max_length)
        if self.memory_limit is not None and needed > self.memory_limit:
            raise UsageError(
                f"{least_slots} slot(s) of {max_length} positions need {needed:,} bytes of key/value cache, and the "
                "limit is "
                f"{self.memory_limit:,}: raise it, or choose fewer beams or a smaller max_length"
            )
        while slots > least_slots and not self._fits(slots, max_length):
            slots -= 1
        if self.cache is None or slots > self.cache.slots or max_length > self.cache.max_length:
            self._grow(slots, max_length)

    def open(self, ids: Sequence[int], slots: int) -> tuple[np.ndarray, int]:
        """Takes slots for a sequence, with the longest prefix of its prompt that some slot holds already.

        Returns:
            The slots [G], and how many leading ids the first of them has read; never all.
        """
        first = self.active
        start, source = self._longest_prefix(ids)
        if start and source != first:
            if source > first and self.prefixes[first]:
                self._exchange(first, source)
            else:
                self.runtime.copy(self.cache, [first], self.cache, [source], (0, start))
        taken, self.active = np.arange(first, first + slots), first + slots
        for slot in taken:
            self.prefixes[slot], self.lengths[slot] = [], start
        return taken, start

    def share(self, slots: np.ndarray, ids: Sequence[int], keep: bool) -> None:
        """Copies what the first slot has read of a prompt to the others.

        Args:
            keep: whether a part of the prompt means the same in every sequence that begins with it.
        """
        if len(slots) > 1:
            self.runtime.copy(self.cache, slots[1:], self.cache, [slots[0]] * (len(slots) - 1), (0, len(ids)))
        for slot in slots:
            self.prefixes[slot], self.lengths[slot] = list(ids) if keep and self.reuse else [], len(ids)

    def close(self, slots: np.ndarray) -> dict[int, int]:
        """Frees slots, and closes the gaps so that the active slots are the first ones.

        A slot is moved once, which costs what one step would: decoding a finished slot costs that at every step.

        Returns:
            Old → new place of the slots that moved.
        """
        gone, self.active = set(slots.tolist()), self.active - len(slots)
        gaps = [slot for slot in range(self.active) if slot in gone]
        movers = [slot for slot in range(self.active, self.active + len(slots)) if slot not in gone]
        for gap, slot in zip(gaps, movers, strict=True):
            self._exchange(gap, slot)
        return dict(zip(movers, gaps, strict=True))

    def release(self) -> None:
        """Frees the cache."""
        self.cache: Cache | None = None
        self.prefixes: list[list[int]] = []
        self.lengths, self.active = np.zeros([0], dtype="int64"), 0

    def _fits(self, slots: int, max_length: int) -> bool:
        return self.memory_limit is None or self.runtime.cache_bytes(slots, max_length) <= self.memory_limit

    def _grow(self, slots: int, max_length: int) -> None:
        """A larger cache; prefixes move over where the limit allows both caches for that moment."""
        old, prefixes, lengths = self.cache, self.prefixes, self.lengths
        if old is not None:
            larger = max(slots, old.slots), max(max_length, old.max_length)
            both = self.runtime.cache_bytes(*larger) + self.bytes
            keep = any(prefixes) and self.reuse and (self.memory_limit is None or both <= self.memory_limit)
            slots, max_length = larger if keep else (slots, max_length)
            old = old if keep else None
        self.release()
        self.cache, self.prefixes = self.runtime.new_cache(slots, max_length), [[] for _ in range(slots)]
        self.lengths = np.zeros([slots], dtype="int64")
        if old is not None:
            kept = range(old.slots)
            self.runtime.copy(self.cache, kept, old, kept, (0, max(map(len, prefixes))))
            self.prefixes[: old.slots], self.lengths[: old.slots] = prefixes, lengths

    def _longest_prefix(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many leading ids a slot holds, at most all but one, and which slot; of equal ones the next to be
        taken.
        """
        lengths = [common_prefix(ids[:-1], prefix) for prefix in self.prefixes]
        order = [*range(self.active, len(lengths)), *range(self.active)]
        slot = max(order, key=lengths.__getitem__)
        return lengths[slot], slot

    def _exchange(self, one: int, other: int) -> None:
        """Moves slot `other` to `one`, and the other way round what is worth keeping there."""
        slots = [one, other] if self.prefixes[one] else [one]
        length = max(self.lengths[other], len(self.prefixes[one]))
        self.runtime.copy(self.cache, slots, self.cache, [other, one][: len(slots)], (0, int(length)))
        self.prefixes[one], self.prefixes[other] = self.prefixes[other], self.prefixes[one]
        self.lengths[[one, other]] = self.lengths[[other, one]]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading ids are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
