"""The interfaces of loaded graphs: one that generates whole texts, and one that reads tokens into a key/value cache of
fixed size and says what follows. No paddle.

Shapes: B rows that decode together, T tokens of a chunk, P position ids per token, V vocabulary, L layers, K key/value
heads, C columns of a cache, D head_dim.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from glm.errors import GLMError


class LoopRuntime(Protocol):
    """A loaded graph that holds the whole generation.

    Attributes:
        inputs: names of what it takes.
    """

    inputs: frozenset[str]

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Tokens [B, t] and scores [B] for the inputs of `glm.export.paddle_graphs.export_graph` by name.

        What the graph does not take is passed over.
        """


class Cache(Protocol):
    """Room for `columns` tokens in each of `rows` rows; what it holds is the runtime's affair."""

    rows: int
    columns: int


class StepRuntime(Protocol):
    """A loaded graph that goes on from a cache.

    Attributes:
        capacity: most columns of a cache.
        vocab_size: V.
    """

    capacity: int
    vocab_size: int

    def cache_bytes(self, rows: int, columns: int) -> int:
        """Memory of a cache of this size."""

    def new_cache(self, rows: int, columns: int) -> Cache:
        """An empty cache."""

    def prefill(
        self, cache: Cache, row: int, ids: Sequence[int], positions: np.ndarray, start: int, prefix_length: int
    ) -> np.ndarray:
        """Reads a chunk of a prompt into columns start … start + T of one row.

        Args:
            ids: T tokens. They see the columns before `start`, and each other as `prefix_length` says.
            positions: [P, T] int64.
            start: columns of the row that are read already; 0 where `prefix_length` is not.
            prefix_length: leading tokens that see each other in both directions; 0 = every token sees those before it.

        Returns:
            Logits [V] float32 of what follows the chunk, valid until the next call.
        """

    def decode(self, cache: Cache, ids: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Reads one token more in each of the first B rows.

        Args:
            ids: [B] int64.
            positions: [B, P] int64.
            lengths: [B], columns that each row has so far, where the token goes.

        Returns:
            Logits [B, V] float32, valid until the next call.
        """

    def copy(self, to: Cache, rows: Sequence[int], of: Cache, sources: Sequence[int], columns: tuple[int, int]) -> None:
        """Copies columns first … end of rows of one cache over rows of another, or of the same, as if all at once."""


def reorder(runtime: StepRuntime, cache: Cache, rows: np.ndarray, beams: np.ndarray, columns: tuple[int, int]) -> None:
    """Lets each beam go on from another one: `beams` [G] are places in `rows` [G]. Rows that stay cost nothing."""
    moved = np.flatnonzero(beams != np.arange(len(beams)))
    if len(moved) and columns[0] < columns[1]:
        runtime.copy(cache, rows[moved], cache, rows[beams[moved]], columns)


def check_chunk(cache: Cache, row: int, start: int, end: int) -> None:
    """Raises GLMError where columns start … end of a row are not all in a cache."""
    if not (0 <= row < cache.rows and start >= 0 and end <= cache.columns):
        raise GLMError(
            f"row {row}, columns {start} to {end} lie outside a cache of {cache.rows} rows and {cache.columns} "
            "columns: reserve a larger one"
        )


def check_step(cache: Cache, count: int, lengths: np.ndarray) -> None:
    """Raises GLMError where a cache has no place for one column more in each of its first `count` rows."""
    if count > cache.rows or lengths.max() >= cache.columns:
        raise GLMError(
            f"{count} rows with up to {lengths.max() + 1} columns do not fit a cache of {cache.rows} rows and "
            f"{cache.columns} columns: reserve a larger one"
        )
