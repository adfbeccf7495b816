"""Random commands to an engine: whatever comes in whatever order, each request has one end, and nothing stays."""

import gc
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from simulated import BAD, NAN, VOCABULARY, core_of, random_request

from glm.engine import Request
from glm.engine.sequence import SequenceState
from glm.errors import UsageError


def one_of(draw: np.random.Generator) -> Request:
    """A request that may be too long, cannot be read, becomes nan, or has its prompt scored."""
    request = random_request(draw, longest=40)
    kind = draw.random()
    if kind < 0.1:
        return replace(request, ids=[*request.ids, BAD if kind < 0.05 else NAN])
    if kind < 0.15:
        return replace(request, ids=request.ids * 40)
    if kind < 0.3:
        return replace(request, config=replace(request.config, num_beams=1), logprobs=2, logit_bias={5: 3.0})
    if kind < 0.45:
        config = replace(request.config, num_beams=1)
        return replace(request, config=config, prompt_logprobs=1, writes=kind < 0.4, streamed=True)
    return request


def play(seed: int) -> None:
    """Some commands, then steps until the engine is idle; checks all that must hold at any time."""
    draw = np.random.default_rng(seed)
    options = {"chunk": int(draw.integers(1, 30)), "reuse_prefix": bool(draw.integers(2))}
    options |= {"interleave": bool(draw.integers(4)), "pause": [None, 0.02][draw.integers(2)]}
    core = core_of(slots=int(draw.integers(1, 6)), max_length=60, **options)
    over, live = {}, set()
    for _ in range(int(draw.integers(3, 16))):
        command = draw.random()
        if command < 0.4:
            with suppress(UsageError):
                live.add(core.submit(one_of(draw)))
        elif command < 0.5 and live:
            core.cancel(int(draw.choice(sorted(live))))
        elif command < 0.52:
            core.clear()
            live.clear()
        elif command < 0.55:
            core.runtime.interrupted = True  # the next read is
        else:
            follow(core, over, live)
    while not core.idle:
        follow(core, over, live)
    assert not live  # each had its end
    assert core.slots.free == len(core.slots.in_use) and core.slots.active == 0
    assert not any((core._there, core._waiting, core._reading, core._decoding, core._events))
    assert all(len(held) == length for held, length in zip(core.slots.prefixes, core.slots.lengths, strict=True))
    stats = core.stats()
    assert (stats.waiting, stats.reading, stats.decoding, stats.used_positions) == (0, 0, 0, 0)


def follow(core, over: dict, live: set) -> None:
    """One step; nothing is said of a request behind its end, and the slots are as many as the requests have."""
    for event in core.step():
        assert event.id in live and event.id not in over, "it was over, or never there"
        assert (event.token is None or 0 <= event.token < VOCABULARY) and not (event.result and event.error)
        if event.over:
            over[event.id] = event
            live.discard(event.id)
    having = [slot for sequence in (*core._reading, *core._decoding) for slot in sequence.slots.tolist()]
    assert sorted(having) == np.flatnonzero(core.slots.in_use).tolist()
    decoding = [slot for sequence in core._decoding for slot in sequence.slots.tolist()]
    assert sorted(decoding) == list(range(core.slots.active))


def test_random_commands():
    for seed in range(100):
        play(seed)


@pytest.mark.slow
def test_ten_thousand_random_commands_leave_nothing_behind():
    """No slot, no request, and no memory: as many blocks are allocated as before."""
    for seed in range(500):  # what is made once is made
        play(seed)
    gc.collect()
    before = sys.getallocatedblocks()
    for seed in range(500, 10_500):
        play(seed)
    gc.collect()
    assert sys.getallocatedblocks() - before < 500
    assert not any(isinstance(thing, SequenceState) for thing in gc.get_objects())


def test_an_engine_that_serves_for_long_keeps_no_more_than_its_cache():
    """One engine, many requests: what grows with them would end a server."""
    core, draw, sizes = core_of(slots=3, max_length=60), np.random.default_rng(1), []
    for _ in range(2):
        for _ in range(60):
            core.submit(random_request(draw, longest=30))
            core.step()
        while not core.idle:
            core.step()
        core.runtime.calls.clear()
        sizes.append(held_by(core))
    assert sizes[1] <= sizes[0] * 1.2


def held_by(core) -> int:
    """Elements of everything an engine holds that can grow."""
    containers = (core._there, core._waiting, core._reading, core._decoding, core._events, core._counts, core._finished)
    return sum(map(len, containers)) + sum(map(len, core.slots.prefixes))
