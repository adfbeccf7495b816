"""Cache slots: capacity, prefix reuse, order. numpy only."""

from collections.abc import Sequence

import numpy as np

from glm.encoding.batches import common_prefix
from glm.errors import UsageError
from glm.runtime.step import Cache, InterruptedReadError, StepRuntime

Moved = dict[int, int]  # old → new place of the slots in use that moved


class Slots:
    """The slots of one cache. The first `active` ones decode; of the others some are in use, by prompts that are being
    read, and the rest hold prefixes for reuse.

    Args:
        runtime: whose cache it is.
        memory_limit: most bytes of caches; None = no bound.
        reuse: whether prefixes stay for prompts that begin like them.

    Attributes:
        prefixes: for every slot, ids whose keys and values it holds; [] where there is nothing to reuse.
        lengths: [slots] int64, positions of each slot that are read and kept.
        in_use: [slots] bool, what sequences have.
        last_used: [slots] int64, rises with every use.
        failed_calls: of the runtime, one after another until now.
    """

    def __init__(self, runtime: StepRuntime, memory_limit: int | None = None, reuse: bool = True):
        self.runtime, self.memory_limit, self.reuse, self._uses = runtime, memory_limit, reuse, 0
        self.failed_calls = 0
        self.release()

    @property
    def bytes(self) -> int:
        """Memory of the cache as it is."""
        return self.runtime.cache_bytes(self.cache.slots, self.cache.max_length) if self.cache else 0

    @property
    def free(self) -> int:
        """Slots that no sequence has."""
        return len(self.in_use) - int(self.in_use.sum())

    def reserve(self, slots: int, max_length: int, least_slots: int = 1) -> None:
        """Reserves so many slots of so many positions, or as many slots as the memory limit allows. No slot is in use.

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

    def open(self, ids: Sequence[int], slots: int) -> np.ndarray:
        """Takes so many slots [G] for a sequence; there are enough.

        The first is the one to read the prompt into: a free one that holds most of what it would be read for, else an
        empty one, else the one that was used least recently.
        """
        start, source = self._longest_prefix(ids)
        free = sorted(np.flatnonzero(~self.in_use).tolist(), key=lambda slot: (self.last_used[slot], slot))
        free.sort(key=lambda slot: bool(self.prefixes[slot]))
        if start and source in free:
            free.remove(source)
            # What was read beside the common part would be lost: worth it where that is little, or nothing else is.
            continues = 2 * start >= len(self.prefixes[source]) or slots > len(free)
            free = [source, *free] if continues else free
        taken = np.array(free[:slots])
        for slot in taken.tolist():
            kept = start if slot == source == taken[0] else 0
            self.prefixes[slot], self.lengths[slot] = self.prefixes[slot][:kept], kept
        self.in_use[taken] = True
        return taken

    def call(self, name: str, *arguments) -> np.ndarray:
        """What the runtime's method of this name gives for the cache."""
        try:
            found = getattr(self.runtime, name)(self.cache, *arguments)
        except InterruptedReadError:
            raise
        except Exception:
            self.failed_calls += 1
            raise
        self.failed_calls = 0
        return found

    def extend(self, slot: int, ids: Sequence[int]) -> int:
        """Copies into a slot what another one holds more of a prompt, and says how many leading ids it has then: never
        all.
        """
        start, source = self._longest_prefix(ids)
        if start > self.lengths[slot]:
            if source != slot:
                self.runtime.copy(self.cache, [slot], self.cache, [source], (int(self.lengths[slot]), start))
                self._touch([source])
            self.note(slot, ids[:start])
        return int(self.lengths[slot])

    def note(self, slot: int, ids: Sequence[int], keep: bool = True) -> None:
        """Says what a slot has read.

        Args:
            keep: whether a part of it means the same in every sequence that begins with it.
        """
        self.prefixes[slot], self.lengths[slot] = list(ids) if keep and self.reuse else [], len(ids)

    def start(self, slot: int) -> Moved:
        """Makes a slot in use the next one that decodes."""
        first, self.active = self.active, self.active + 1
        return self.exchange(first, slot) if slot != first else {}

    def share(self, slots: np.ndarray, ids: Sequence[int], keep: bool) -> None:
        """Copies what the first slot has read of a prompt to the others; `keep` as in `note`."""
        if len(slots) > 1:
            self.runtime.copy(self.cache, slots[1:], self.cache, [slots[0]] * (len(slots) - 1), (0, len(ids)))
        for slot in slots:
            self.note(slot, ids, keep)

    def close(self, slots: np.ndarray) -> Moved:
        """Frees slots, and closes the gaps so that the active slots are the first ones.

        A slot is moved once, which costs what one step would: decoding a finished slot costs that at every step.
        """
        self._touch(slots)
        self.in_use[slots] = False
        for slot in slots:
            self.lengths[slot] = len(self.prefixes[slot])
        gone = {slot for slot in slots.tolist() if slot < self.active}
        end, self.active = self.active, self.active - len(gone)
        gaps = [slot for slot in range(self.active) if slot in gone]
        movers = [slot for slot in range(self.active, end) if slot not in gone]
        for gap, slot in zip(gaps, movers, strict=True):
            self.exchange(gap, slot)
        return dict(zip(movers, gaps, strict=True))

    def exchange(self, one: int, other: int) -> Moved:
        """Lets two slots change places, with what is worth keeping."""
        kept = [(to, of) for to, of in ((one, other), (other, one)) if self.lengths[of]]
        if kept:
            to, of = zip(*kept, strict=True)
            self.runtime.copy(self.cache, to, self.cache, of, (0, int(self.lengths[list(of)].max())))
        self.prefixes[one], self.prefixes[other] = self.prefixes[other], self.prefixes[one]
        for array in (self.lengths, self.in_use, self.last_used):
            array[[one, other]] = array[[other, one]]
        return {other: one, one: other}

    def release(self) -> None:
        """Frees the cache."""
        self.cache: Cache | None = None
        self.prefixes: list[list[int]] = []
        self.lengths, self.last_used = np.zeros([2, 0], dtype="int64")
        self.in_use, self.active = np.zeros([0], dtype=bool), 0

    def _fits(self, slots: int, max_length: int) -> bool:
        return self.memory_limit is None or self.runtime.cache_bytes(slots, max_length) <= self.memory_limit

    def _grow(self, slots: int, max_length: int) -> None:
        """A larger cache; prefixes move over where the limit allows both caches for that moment."""
        old, prefixes, used = self.cache, self.prefixes, self.last_used
        if old is not None:
            larger = max(slots, old.slots), max(max_length, old.max_length)
            both = self.runtime.cache_bytes(*larger) + self.bytes
            keep = any(prefixes) and self.reuse and (self.memory_limit is None or both <= self.memory_limit)
            slots, max_length = larger if keep else (slots, max_length)
            old = old if keep else None
        self.release()
        self.cache, self.prefixes = self.runtime.new_cache(slots, max_length), [[] for _ in range(slots)]
        self.lengths, self.last_used = np.zeros([2, slots], dtype="int64")
        self.in_use = np.zeros([slots], dtype=bool)
        if old is not None:
            kept = range(old.slots)
            self.runtime.copy(self.cache, kept, old, kept, (0, max(map(len, prefixes))))
            self.prefixes[: old.slots], self.last_used[: old.slots] = prefixes, used
            self.lengths[: old.slots] = list(map(len, prefixes))

    def _longest_prefix(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many leading ids a slot holds, at most all but one, and which slot: of equal ones a free one, of these
        the first.
        """
        lengths = [common_prefix(ids[:-1], prefix) for prefix in self.prefixes]
        slot = max(range(len(lengths)), key=lambda slot: (lengths[slot], not self.in_use[slot]))
        return lengths[slot], slot

    def _touch(self, slots: Sequence[int]) -> None:
        self._uses += 1
        for slot in slots:
            self.last_used[slot] = self._uses
