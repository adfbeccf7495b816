"""A step runtime without a cache of its own: it keeps what each column was, and runs the Paddle model over all of it.

Slow and right: a column that the engine files in the wrong row, moves wrongly or leaves stale changes the logits.
"""

from dataclasses import dataclass

import numpy as np
import paddle

from glm import GLMForCausalLM


@dataclass
class Columns:
    """ids [rows, C], positions [rows, P, C], prefix_length [rows], and what a column saw before itself."""

    ids: np.ndarray
    positions: np.ndarray
    prefix_length: np.ndarray

    @property
    def rows(self) -> int:
        return self.ids.shape[0]

    @property
    def columns(self) -> int:
        return self.ids.shape[1]


class DynamicStepRuntime:
    """`StepRuntime` over `GLMForCausalLM.forward`.

    Attributes:
        chunks: (row, start, tokens) of every prefill. batches: rows of every decode.
    """

    def __init__(self, model: GLMForCausalLM, capacity: int = 128):
        self.model, self.capacity, self.vocab_size = model, capacity, model.config.vocab_size
        self.position_rows = model.model.positions.position_rows
        self.chunks, self.batches = [], []

    def cache_bytes(self, rows: int, columns: int) -> int:
        return rows * columns * 8

    def new_cache(self, rows: int, columns: int) -> Columns:
        ids = np.full([rows, columns], -1, dtype="int64")  # what was not read is no token: the model would refuse it
        return Columns(ids, np.full([rows, self.position_rows, columns], -1), np.zeros([rows], dtype="int64"))

    def prefill(self, cache, row, ids, positions, start, prefix_length):
        assert not (prefix_length and start), "a prompt that is read in both directions has no second part"
        end = start + len(ids)
        assert end <= cache.columns
        self.chunks.append((row, start, len(ids)))
        cache.ids[row, start:end], cache.positions[row, :, start:end] = ids, positions
        cache.prefix_length[row] = prefix_length
        return self._logits(cache, np.array([end]), rows=slice(row, row + 1))[0]

    def decode(self, cache, ids, positions, lengths):
        count = len(ids)
        self.batches.append(count)
        cache.ids[np.arange(count), lengths], cache.positions[np.arange(count), :, lengths] = ids, positions
        return self._logits(cache, np.array(lengths) + 1, rows=slice(count))

    def copy(self, to, rows, of, sources, columns):
        part, rows, sources = slice(*columns), list(rows), list(sources)
        to.ids[rows, part], to.positions[rows, :, part] = of.ids[sources, part], of.positions[sources, :, part]
        to.prefix_length[rows] = of.prefix_length[sources]

    def _logits(self, cache: Columns, lengths: np.ndarray, rows: slice) -> np.ndarray:
        seen = np.arange(lengths.max()) < lengths[:, None]
        ids, positions = cache.ids[rows, : lengths.max()], cache.positions[rows, :, : lengths.max()]
        assert (ids[seen] >= 0).all(), "a column was used that nothing was read into"
        arrays = (ids * seen, seen.astype("int64"), positions * seen[:, None], cache.prefix_length[rows])
        with paddle.no_grad():
            logits = self.model(*map(paddle.to_tensor, arrays)).numpy()
        return logits[np.arange(len(lengths)), lengths - 1]
