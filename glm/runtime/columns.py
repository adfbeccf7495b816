"""Step graphs that give new keys and values back, with which the cache is written here: Paddle's, those of standard
ONNX operators, and those of latents. numpy only.

Such a graph takes input_ids [B, T], position_ids [B, P, T], lengths [B], prefix_length [B], last [B, M], all int64, and
past_key_i and past_value_i [B, K, C, D] of every layer i, or past_latent_i, which is both; it gives logits [B, M, V]
and new [parts, B, K, T, D], the parts of the new tokens, keys and values by turns (glm/export/paddle_step.py,
glm/export/onnx/column_cache.py). Shapes: as in glm/runtime/step.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glm.errors import GLMError
from glm.runtime.step import CheckedReads, check_step

Shapes = Mapping[str, Sequence[Any]]
KINDS = (("key", "value"), ("latent",))  # what a cache has of a layer
MOST_PAIRS = 256 * 8192  # of new tokens and seen ones in one call: 8 MB of scores a head
STEP = 128  # positions by which what a step sees of a cache grows; a runtime plans for every size that it meets
INPUTS = ("input_ids", "position_ids", "lengths", "prefix_length", "last")  # beside the cache


@dataclass(eq=False)
class ColumnCache:
    """Keys and values of all layers.

    Attributes:
        store: [parts, slots, K, C, D]; numpy's, or of a runtime's own memory.
    """

    store: Any

    @property
    def slots(self) -> int:
        return self.store.shape[1]

    @property
    def max_length(self) -> int:
        return self.store.shape[3]


class ColumnStepRuntime(CheckedReads):
    """All of `glm.runtime.step.StepRuntime` but the graph, which subclasses run.

    Args:
        past: names of the graph's inputs that have the cache's parts, in their order.
        heads, head_dim: K and D.
        vocab_size: V.
        capacity: longest max_length of a cache.
        dtype: of the cache.
        any_columns: see `StepRuntime`.
    """

    def __init__(
        self,
        *,
        past: Sequence[str],
        heads: int,
        head_dim: int,
        vocab_size: int,
        capacity: int,
        dtype: str = "float32",
        any_columns: bool = True,
    ):
        self._past_names, self._heads, self._head_dim, self._dtype = [*past], heads, head_dim, dtype
        self.vocab_size, self.capacity, self.any_columns = vocab_size, capacity, any_columns

    def cache_bytes(self, slots: int, max_length: int) -> int:
        return int(np.prod(self._shape(slots, max_length), dtype="int64")) * (4 if self._dtype == "float32" else 2)

    def new_cache(self, slots: int, max_length: int) -> ColumnCache:
        return ColumnCache(np.zeros(self._shape(slots, max_length), self._dtype))

    def interrupt(self) -> None:
        """Neither Paddle's nor FastDeploy's calls can be ended, and Paddle's hold Python's lock besides."""

    def decode(self, cache: ColumnCache, ids: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        count = len(ids)
        check_step(cache, count, lengths)
        past, nothing = self._first_rows(cache, count, int(lengths.max())), np.zeros_like(lengths)
        logits, new = self._step(past, ids[:, None], positions[:, :, None], lengths, nothing, nothing[:, None])
        self._write(cache, range(count), lengths.tolist(), new)
        return logits

    def copy(self, to: ColumnCache, slots, of: ColumnCache, sources, positions: tuple[int, int]) -> None:
        part = slice(*positions)
        # Read before anything is written, so slots may change places.
        moved = [self._copied(of.store[:, source, :, part]) for source in sources]
        for slot, text in zip(slots, moved, strict=True):
            to.store[:, slot, :, part] = text

    def _read(self, cache, slot, ids, positions, start, prefix_length, columns) -> np.ndarray:
        if not prefix_length and len(ids) > 1 and len(ids) * (start + len(ids)) > MOST_PAIRS:
            return self._halves(cache, slot, ids, positions, start, np.array(columns))
        # Only what was read is worth the scores of a whole chunk; one hidden position stands for none.
        past = self._contiguous(cache.store[:, slot : slot + 1, :, : max(start, 1)])
        logits, new = self._step(past, [ids], positions[None], [start], [prefix_length], [columns])
        self._write(cache, [slot], [start], new)
        return logits

    def _halves(self, cache, slot, ids, positions, start, columns: np.ndarray) -> np.ndarray:
        """A chunk whose scores would take too much memory, one half after the other."""
        half, found = len(ids) // 2, np.empty([len(columns), self.vocab_size], "float32")
        for first, end in ((0, half), (half, len(ids))):
            here = (first <= columns) & (columns < end)
            wanted = columns[here] - first if here.any() else [end - first - 1]
            logits = self._read(cache, slot, ids[first:end], positions[:, first:end], start + first, 0, wanted)
            found[here] = logits[: here.sum()]
        return found

    def _run(self, past: list[Any], feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and new keys and values of one call of the graph.

        Args:
            past: [B, K, C, D] each, in the order of their names.
            feeds: the other inputs.
        """
        raise NotImplementedError

    def _named(self, past: list[Any]) -> dict[str, Any]:
        return dict(zip(self._past_names, past, strict=True))

    def _contiguous(self, store: Any) -> list[Any]:
        """Parts of a store for the graph, each in one piece."""
        return [np.ascontiguousarray(part) for part in store]

    def _first_rows(self, cache: ColumnCache, count: int, length: int) -> list[Any]:
        """The first `count` slots of a cache for the graph, with at least so many positions: where they lie, if these
        are in one piece. A copy of them is cheaper than the scores of twice as many.
        """
        columns = min(cache.max_length, -(-max(length, 1) // STEP) * STEP)
        if count * self._heads > 1 and 2 * columns > cache.max_length:
            columns = cache.max_length
        return self._contiguous(cache.store[:, :count, :, :columns])

    def _copied(self, store: Any) -> Any:
        return store.copy()

    def _stored(self, new: np.ndarray) -> Any:
        """New keys and values as the store takes them."""
        return new

    def _shape(self, slots: int, max_length: int) -> list[int]:
        return [len(self._past_names), slots, self._heads, max_length, self._head_dim]

    def _step(self, past: list[Any], *arrays) -> tuple[np.ndarray, np.ndarray]:
        """Logits [B · M, V], and new keys and values [parts, B, K, T, D]."""
        feeds = {name: np.ascontiguousarray(array, dtype="int64") for name, array in zip(INPUTS, arrays, strict=True)}
        logits, new = self._run(past, feeds)
        return logits.reshape([-1, self.vocab_size]), new

    def _write(self, cache: ColumnCache, slots: Sequence[int], starts: Sequence[int], new: np.ndarray) -> None:
        width = new.shape[3]
        if not np.isfinite(new.sum()):
            # Hidden positions count 0 times, and 0 · nan would be nan in every later sequence of the slot.
            raise GLMError(
                f"the model's keys or values became nan or infinite ({self._dtype}): its weights are damaged, or its "
                "numbers overflow: export it with --dtype bfloat16 or float32"
            )
        values = self._stored(new)
        for place, (slot, start) in enumerate(zip(slots, starts, strict=True)):
            cache.store[:, slot, :, start : start + width] = values[:, place]


def step_shapes(model_file: Path, inputs: Shapes, outputs: Shapes) -> dict[str, Any]:
    """What `ColumnStepRuntime` has to know of a graph, from the shapes of what it takes and gives.

    Raises:
        GLMError: it is another graph.
    """
    past = past_names(inputs)
    if not past or set(inputs) != {*INPUTS, *past} or set(outputs) != {"logits", "new"}:
        raise GLMError(
            f"{model_file} is no step graph that gives new keys and values back, as its manifest says: export the "
            "model again"
        )
    _, heads, _, head_dim = inputs[past[0]]
    return {"past": past, "heads": heads, "head_dim": head_dim, "vocab_size": outputs["logits"][-1]}


def past_names(inputs: Iterable[str]) -> list[str]:
    """The parts of a cache among the inputs of a graph, layer by layer."""
    there = {*inputs}
    kinds = next((kinds for kinds in KINDS if f"past_{kinds[0]}_0" in there), ())
    layers = sum(name.startswith("past_") for name in there) // len(kinds) if kinds else 0
    return [f"past_{kind}_{layer}" for layer in range(layers) for kind in kinds]
