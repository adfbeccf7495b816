"""The interfaces of loaded graphs: one that generates whole sequences, and one that reads tokens into a key/value cache
of fixed size and says what follows. No paddle.

Shapes: B sequences that decode together, T tokens of a chunk, P position ids per token, V vocabulary, L layers, K
key/value heads, C positions of a cache, D head_dim; M columns whose logits are asked for.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from glm.errors import GLMError


class LoopRuntime(Protocol):
    """A loaded full-loop graph.

    Attributes:
        inputs: names of what it takes.
    """

    inputs: frozenset[str]

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Tokens [B, t] and scores [B] for the inputs of `glm.export.paddle_graphs.export_graph` by name.

        What the graph does not take is passed over.
        """


class Cache(Protocol):
    """`slots` sequences of up to `max_length` tokens; the layout is the runtime's affair."""

    slots: int
    max_length: int


class InterruptedReadError(GLMError):
    """A read was ended by `StepRuntime.interrupt`."""


class StepRuntime(Protocol):
    """A loaded decoder step graph. One thread calls it; `interrupt` may come from any.

    Attributes:
        capacity: longest max_length of a cache.
        vocab_size: V.
        any_columns: whether `read` gives logits of any columns; graphs of format version 4 and below have those of the
            last one alone.
    """

    capacity: int
    vocab_size: int
    any_columns: bool

    def cache_bytes(self, slots: int, max_length: int) -> int:
        """Memory of a cache of this size."""

    def new_cache(self, slots: int, max_length: int) -> Cache:
        """An empty cache."""

    def prefill(
        self, cache: Cache, slot: int, ids: Sequence[int], positions: np.ndarray, start: int, prefix_length: int
    ) -> np.ndarray:
        """Reads a chunk of a prompt into positions start … start + T of one slot.

        Args:
            ids: T tokens. They see the positions before `start`, and each other as `prefix_length` says.
            positions: [P, T] int64.
            start: positions of the slot that are read already; 0 where `prefix_length` is not.
            prefix_length: leading tokens that see each other in both directions; 0 = every token sees those before it.

        Returns:
            Logits [V] float32 of what follows the chunk, valid until the next call.
        """

    def read(
        self,
        cache: Cache,
        slot: int,
        ids: Sequence[int],
        positions: np.ndarray,
        start: int,
        prefix_length: int,
        columns: Sequence[int],
    ) -> np.ndarray:
        """Reads a chunk as `prefill` does.

        Args:
            columns: M of its T columns; the last one alone, T - 1, unless `any_columns`.

        Returns:
            Logits [M, V] float32 of what follows each of them, valid until the next call.

        Raises:
            InterruptedReadError: it was interrupted; the positions that it was to write hold nothing.
        """

    def interrupt(self) -> None:
        """Ends the `prefill` or `read` that is under way in another thread, if there is one and the runtime can."""

    def decode(self, cache: Cache, ids: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Reads one token more in each of the first B slots.

        Args:
            ids: [B] int64.
            positions: [B, P] int64.
            lengths: [B], tokens that each slot has so far, where the new one goes.

        Returns:
            Logits [B, V] float32, valid until the next call.
        """

    def copy(
        self, to: Cache, slots: Sequence[int], of: Cache, sources: Sequence[int], positions: tuple[int, int]
    ) -> None:
        """Copies positions first … end of slots of one cache over slots of another, or of the same, as if all at
        once.
        """


class CheckedReads:
    """`prefill` and `read` of a `StepRuntime`, whose `_read` gets only what the cache and the graph have a place for.

    Attributes:
        any_columns: as of `StepRuntime`.
        bidirectional: whether the graph lets tokens of a prefix see later ones.
    """

    any_columns: bool
    bidirectional: bool = True

    def prefill(self, cache: Cache, slot: int, ids, positions, start: int, prefix_length: int) -> np.ndarray:
        return self.read(cache, slot, ids, positions, start, prefix_length, [len(ids) - 1])[0]

    def read(self, cache: Cache, slot: int, ids, positions, start: int, prefix_length: int, columns) -> np.ndarray:
        check_chunk(cache, slot, start, start + len(ids))
        check_columns(columns, len(ids), self.any_columns)
        if prefix_length and (start or not self.bidirectional):
            reason = "such prompts are read whole" if self.bidirectional else "no token of this graph sees a later one"
            raise GLMError(f"prefix_length is {prefix_length} at position {start}: {reason}")
        return self._read(cache, slot, ids, positions, start, prefix_length, columns)

    def _read(self, cache, slot, ids, positions, start, prefix_length, columns) -> np.ndarray:
        """As `read`, of arguments that fit."""
        raise NotImplementedError


def reorder(
    runtime: StepRuntime, cache: Cache, slots: np.ndarray, beams: np.ndarray, positions: tuple[int, int]
) -> None:
    """Lets each beam continue another one: `beams` [G] are places in `slots` [G]. Slots that stay cost nothing."""
    moved = np.flatnonzero(beams != np.arange(len(beams)))
    if len(moved) and positions[0] < positions[1]:
        runtime.copy(cache, slots[moved], cache, slots[beams[moved]], positions)


def check_chunk(cache: Cache, slot: int, start: int, end: int) -> None:
    """Raises GLMError where positions start … end of a slot are not all in a cache."""
    if not (0 <= slot < cache.slots and start >= 0 and end <= cache.max_length):
        raise GLMError(
            f"slot {slot}, positions {start} to {end} are outside a cache of {cache.slots} slots of {cache.max_length} "
            "positions: reserve a larger one"
        )


def check_columns(columns: Sequence[int], tokens: int, any_columns: bool) -> None:
    """Raises GLMError for columns outside a chunk of so many tokens, or those that a graph does not give."""
    if not len(columns) or not all(0 <= column < tokens for column in columns):
        raise GLMError(f"logits of the columns {[*columns]} are asked for, and the chunk has {tokens}")
    if not any_columns and [*columns] != [tokens - 1]:
        raise GLMError("this graph gives logits of the last column alone: export the model again")


def check_step(cache: Cache, count: int, lengths: np.ndarray) -> None:
    """Raises GLMError where a cache has no place for one token more in each of its first `count` slots."""
    if count > cache.slots or lengths.max() >= cache.max_length:
        raise GLMError(
            f"{count} sequences of up to {lengths.max() + 1} positions do not fit a cache of {cache.slots} slots of "
            f"{cache.max_length} positions: reserve a larger one"
        )
