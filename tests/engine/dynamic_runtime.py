"""A step runtime without a cache of its own: it keeps what each position was, and runs the Paddle model over all of it.

Slow and right: a token that the engine stores in the wrong slot, moves wrongly or leaves stale changes the logits.
"""

from dataclasses import dataclass

import numpy as np
import paddle

from glm import GLMForCausalLM


@dataclass
class SlotCache:
    """ids [slots, C], positions [slots, P, C], prefix_length [slots], and what a position saw before itself."""

    ids: np.ndarray
    positions: np.ndarray
    prefix_length: np.ndarray

    @property
    def slots(self) -> int:
        return self.ids.shape[0]

    @property
    def max_length(self) -> int:
        return self.ids.shape[1]


class DynamicStepRuntime:
    """`StepRuntime` over `GLMForCausalLM.forward`.

    Attributes:
        chunks: (slot, start, tokens) of every prefill. batches: slots of every decode.
    """

    def __init__(self, model: GLMForCausalLM, capacity: int = 128):
        self.model, self.capacity, self.vocab_size = model, capacity, model.config.vocab_size
        self.position_rows = model.model.positions.position_rows
        self.chunks, self.batches = [], []

    def cache_bytes(self, slots: int, max_length: int) -> int:
        return slots * max_length * 8

    def new_cache(self, slots: int, max_length: int) -> SlotCache:
        ids = np.full(
            [slots, max_length], -1, dtype="int64"
        )  # what was not read is no token: the model would refuse it
        return SlotCache(ids, np.full([slots, self.position_rows, max_length], -1), np.zeros([slots], dtype="int64"))

    def prefill(self, cache, slot, ids, positions, start, prefix_length):
        assert not (prefix_length and start), "a prompt that is read in both directions has no second part"
        end = start + len(ids)
        assert end <= cache.max_length
        self.chunks.append((slot, start, len(ids)))
        cache.ids[slot, start:end], cache.positions[slot, :, start:end] = ids, positions
        cache.prefix_length[slot] = prefix_length
        return self._logits(cache, np.array([end]), slots=slice(slot, slot + 1))[0]

    def decode(self, cache, ids, positions, lengths):
        count = len(ids)
        self.batches.append(count)
        cache.ids[np.arange(count), lengths], cache.positions[np.arange(count), :, lengths] = ids, positions
        return self._logits(cache, np.array(lengths) + 1, slots=slice(count))

    def copy(self, to, slots, of, sources, positions):
        part, slots, sources = slice(*positions), list(slots), list(sources)
        to.ids[slots, part], to.positions[slots, :, part] = of.ids[sources, part], of.positions[sources, :, part]
        to.prefix_length[slots] = of.prefix_length[sources]

    def _logits(self, cache: SlotCache, lengths: np.ndarray, slots: slice) -> np.ndarray:
        seen = np.arange(lengths.max()) < lengths[:, None]
        ids, positions = cache.ids[slots, : lengths.max()], cache.positions[slots, :, : lengths.max()]
        assert (ids[seen] >= 0).all(), "a position was used that nothing was read into"
        arrays = (ids * seen, seen.astype("int64"), positions * seen[:, None], cache.prefix_length[slots])
        with paddle.no_grad():
            logits = self.model(*map(paddle.to_tensor, arrays)).numpy()
        return logits[np.arange(len(lengths)), lengths - 1]
