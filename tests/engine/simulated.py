"""A step runtime without a model, and a clock that only its calls move: what a scheduler is measured with.

Logits follow from all that a slot holds, so a token in the wrong slot or column, or left stale, changes them.
"""

from dataclasses import dataclass

import numpy as np

from glm.encoding.batches import TextPositions
from glm.engine import EngineCore, EngineOptions, GenerationConfig, Request, StopTokens
from glm.errors import GLMError
from glm.runtime.step import InterruptedReadError

VOCABULARY = 60
END = 1
BAD = 2  # a token that no runtime can read
NAN = 3  # a token behind which all is nan
WEIGHTS = np.random.default_rng(0).integers(1, 1 << 60, [3, 8192]).astype("uint64")


class Clock:
    """Seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SimulatedCache:
    """content [3, slots, C] uint64: ids + 1, positions + 1, how they were read; 0 = never."""

    content: np.ndarray

    @property
    def slots(self) -> int:
        return self.content.shape[1]

    @property
    def max_length(self) -> int:
        return self.content.shape[2]


class SimulatedRuntime:
    """`StepRuntime` by arithmetic.

    Args:
        copies: how much likelier what followed the newest token before is than without that.
        exact: False lets logits depend, as the last bits of real ones do, on the parts in which a prompt was read and
            on how many texts decoded together.

    Attributes:
        calls: (what, tokens or texts, when it began) of every call.
    """

    capacity, vocab_size, any_columns = 4096, VOCABULARY, True
    call, per_token, per_text = 0.010, 0.001, 0.001  # seconds

    def __init__(self, clock: Clock | None = None, exact: bool = True, copies: float = 0.0):
        self.clock, self.exact, self.copies, self.calls = clock or Clock(), exact, copies, []
        self.interrupted = False

    def cache_bytes(self, slots: int, max_length: int) -> int:
        return slots * max_length * 24

    def new_cache(self, slots: int, max_length: int) -> SimulatedCache:
        return SimulatedCache(np.zeros([3, slots, max_length], dtype="uint64"))

    def prefill(self, cache, slot, ids, positions, start, prefix_length):
        return self.read(cache, slot, ids, positions, start, prefix_length, [len(ids) - 1])[0]

    def read(self, cache, slot, ids, positions, start, prefix_length, columns):
        end = start + len(ids)
        assert 0 <= slot < cache.slots and len(ids) > 0 and end <= cache.max_length and not (start and prefix_length)
        self._spend("read", len(ids), self.call + self.per_token * len(ids))
        if self.interrupted:
            self.interrupted = False
            raise InterruptedReadError("interrupted")
        if BAD in ids:
            raise GLMError("the graph failed at a bad token")
        how = np.full([len(ids)], 10_000 + 7 * start + 90_001 * len(ids))
        cache.content[:, slot, start:end] = np.array(ids) + 1, positions[0] + 1, how
        return np.stack([self._logits(cache, slot, start + column + 1) for column in columns])

    def decode(self, cache, ids, positions, lengths):
        assert len(ids) <= cache.slots and max(lengths) < cache.max_length
        self._spend("step", len(ids), self.call + self.per_text * len(ids))
        if BAD in ids:
            raise GLMError("the graph failed at a bad token")
        for slot, length in enumerate(lengths):
            cache.content[:, slot, length] = ids[slot] + 1, positions[slot, 0] + 1, len(ids)
        return np.stack([self._logits(cache, slot, length + 1) for slot, length in enumerate(lengths)])

    def copy(self, to, slots, of, sources, positions):
        part = slice(*positions)
        to.content[:, list(slots), part] = of.content[:, list(sources), part]

    def interrupt(self):
        self.interrupted = True

    def _logits(self, cache: SimulatedCache, slot: int, length: int) -> np.ndarray:
        content = cache.content[: 2 if self.exact else 3, slot, :length]
        assert content.all(), "a position was used that nothing was read into"
        state = (content * WEIGHTS[: len(content), :length]).sum()
        bits = (state + np.arange(VOCABULARY, dtype="uint64")) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        logits = ((bits >> np.uint64(40)).astype("float32") / np.float32(1 << 24) - np.float32(0.5)) * 9
        logits[[BAD, NAN]] -= 20
        ids = content[0].astype("int64") - 1
        if self.copies and len(places := np.flatnonzero(ids[:-1] == ids[-1])):
            logits[ids[places[-1] + 1]] += self.copies
        return np.full_like(logits, np.nan) if NAN + 1 in content[0] else logits

    def _spend(self, what: str, count: int, seconds: float) -> None:
        self.calls.append((what, count, self.clock.now))
        self.clock.now += seconds


def core_of(
    runtime: SimulatedRuntime | None = None, slots: int = 4, max_length: int = 200, positions=None, **options
) -> EngineCore:
    """An engine like a server's."""
    runtime = runtime or SimulatedRuntime()
    made = EngineOptions(**{"interleave": True, "pause": 0.05} | options)
    core = EngineCore(runtime, positions or TextPositions(), StopTokens((END,), 0), made, runtime.clock)
    core.reserve(slots, max_length)
    return core


def finish(core: EngineCore, requests=()) -> dict[int, list]:
    """All that is said of requests, by their numbers, until the engine is idle."""
    said = {core.submit(request): [] for request in requests}
    while not core.idle:
        for event in core.step():
            said.setdefault(event.id, []).append(event)
    return said


def results(core: EngineCore, requests) -> list:
    return [events[-1].result for events in finish(core, requests).values()]


def random_request(draw: np.random.Generator, longest: int = 60, beams: bool = True, **more) -> Request:
    """A prompt that may begin like others, with options of its own."""
    size = int(draw.integers(1, longest))
    common = np.random.default_rng(int(draw.integers(3))).integers(4, VOCABULARY, longest)
    ids = np.where(np.arange(size) < draw.integers(0, size + 1), common[:size], draw.integers(4, VOCABULARY, size))
    kinds = [{}, {"do_sample": True, "seed": int(draw.integers(9)), "top_k": 9}, {"frequency_penalty": 0.5}]
    kinds += [{"num_beams": int(draw.integers(2, 4))}] * beams
    config = GenerationConfig(int(draw.integers(1, 12)), **kinds[draw.integers(len(kinds))])
    return Request(ids.tolist(), config, choice=int(draw.integers(3)), **more)
