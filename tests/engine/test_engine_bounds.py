"""How long anybody waits, with a clock that only the runtime's calls move: bounds, not measurements."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from simulated import VOCABULARY, SimulatedRuntime, core_of, finish

from glm.encoding.batches import BlockPositions
from glm.engine import EngineCore, GenerationConfig, Request, StopTokens
from glm.engine.pace import Pace

ENDLESS = StopTokens((), 0)


def request(length: int, tokens: int, start: int = 4) -> Request:
    """A prompt like no other of another `start`, and so many new tokens."""
    ids = np.random.default_rng(start).integers(4, VOCABULARY, length)
    return Request(ids.tolist(), GenerationConfig(tokens), stop=ENDLESS)


def times(core: EngineCore, said: dict[int, list[float]], steps: int) -> dict[int, list[float]]:
    """When each token of each request was there, of some steps more."""
    for _ in range(steps):
        for event in core.step():
            said.setdefault(event.id, []).append(core.clock())
    return said


@pytest.mark.parametrize("pause", [0.05, 0.2, None])
def test_a_text_stands_still_for_one_part_and_one_step_at_most(pause):
    """Three texts, and prompts of 2,000 tokens that come among them."""
    runtime = SimulatedRuntime()
    core = core_of(runtime, slots=6, max_length=2100, chunk=256, pause=pause)
    texts = [core.submit(request(20, 400, start)) for start in range(3)]
    said = times(core, {}, 20)
    prompts = [core.submit(request(2000, 5, start)) for start in range(3, 6)]
    said = times(core, said, 300)
    assert all(number in said for number in prompts) and min(len(said[number]) for number in texts) > 250
    gaps = [b - a for number in texts for a, b in pairwise(said[number])]
    step = runtime.call + 6 * runtime.per_text
    part = runtime.call + runtime.per_token * 256
    # The first part is small; how fast larger ones are is known only then, so a pause is kept but for a call's time.
    longest = part if pause is None else min(part, pause + runtime.call)
    assert max(gaps) <= longest + step + 1e-9
    assert max(gaps) > 0.8 * longest  # time is used, not wasted
    between = "".join(what[0] for what, _, _ in runtime.calls).split("s")
    assert max(map(len, between[5:-1])) == 1


def test_a_short_prompt_does_not_wait_for_a_long_one():
    core = core_of(slots=6, max_length=2100, pause=0.05)
    core.submit(request(2000, 5))
    times(core, {}, 2)
    asked, short = core.clock(), core.submit(request(30, 5, 9))
    said = times(core, {}, 3)
    assert said[short][0] - asked < 0.05 + 0.01 + 0.03 + 3 * 0.02


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_a_long_prompt_is_not_passed_over_for_ever(slots):
    """Short prompts come faster than they can be read: the long one is read in parts all the same."""
    core = core_of(slots=slots, max_length=700, chunk=50, pause=None)
    long, steps = core.submit(request(600, 1)), 0
    for start in range(10_000):
        core.submit(request(40, 1, start + 10))
        steps += 1
        if any(event.id == long for event in core.step()):
            break
    parts = -(-600 // 50)
    assert parts < steps <= parts * (8 + slots)
    # Unless it is alone, it is passed over: what the bound is about.
    assert steps > 3 * parts


def test_nobody_waits_for_another_who_waits():
    """Requests of all lengths: those of equal length begin in the order in which they came."""
    core = core_of(slots=3, max_length=200, chunk=16, pause=None)
    numbers = [core.submit(request(40, 6, start)) for start in range(12)]
    first = {}
    while not core.idle:
        for event in core.step():
            first.setdefault(event.id, core.clock())
    assert sorted(first, key=first.__getitem__) == numbers


@pytest.mark.parametrize("seed", range(3))
def test_a_free_slot_is_taken_at_the_next_step(seed):
    draw = np.random.default_rng(seed)
    core, taken = core_of(slots=3, max_length=200, chunk=16), 0
    for step in range(400):
        if draw.random() < 0.3:
            core.submit(request(int(draw.integers(1, 90)), int(draw.integers(1, 9)), step))
        before, free = core.stats(), core.slots.free
        core.step()
        if before.waiting and free:
            assert core.stats().waiting == max(0, before.waiting - free)
            taken += 1
    assert taken > 10


def test_cancelling_a_long_prompt_reads_no_more_of_it():
    core = core_of(slots=2, max_length=2100, chunk=64)
    number = core.submit(request(2000, 5))
    times(core, {}, 3)
    read = len(core.runtime.calls)
    core.cancel(number)
    (event,) = core.step()
    assert event.result.finish_reason == "cancelled" and len(core.runtime.calls) == read and core.idle


def test_an_interrupted_part_is_not_read_and_fails_nobody():
    """Another thread interrupts the call for a prompt that is being read, and for no other."""
    core = core_of(slots=3, max_length=700, chunk=200, pause=None)
    text, prompt = core.submit(request(20, 40)), core.submit(request(600, 3, 5))
    said, read = times(core, {}, 2), core.runtime.read

    def reading(*arguments):
        core.interrupt(text)  # whose prompt is read already
        assert not core.runtime.interrupted
        core.interrupt(prompt)
        return read(*arguments)

    core.runtime.read = reading
    for _ in range(3):
        said = times(core, said, 1)
        assert core.stats().reading == 1 and core.stats().used_positions == 20 + len(said[text]) - 1 + 200
    assert len(said[text]) == 6  # it goes on
    core.runtime.read = read
    core.interrupt(prompt)
    assert not core.runtime.interrupted  # nothing is under way
    found = [event for events in finish(core).values() for event in events if event.id == prompt]
    assert found[-1].result == finish(core_of(max_length=700), [request(600, 3, 5)])[0][-1].result
    assert core.stats().failed_calls == 0 and core.stats().finished == {"length": 2}


def test_an_interrupted_part_counts_what_was_there_once():
    core, long = core_of(slots=2, max_length=700, chunk=200, pause=None), request(600, 3)
    finish(core, [replace(long, ids=long.ids[:100])])
    core.runtime.interrupted = True  # the next read is
    [events] = finish(core, [long]).values()
    assert not core.runtime.interrupted
    assert events[-1].result.reused == core.stats().reused_tokens == 100


def blank(length: int, tokens: int, start: int = 4, streamed: bool = False) -> Request:
    """A prompt that is read in both directions."""
    made = request(length - 1, tokens, start)
    return replace(made, ids=[*(token for token in made.ids), MASK], streamed=streamed)


MASK = 58


@pytest.mark.parametrize("streamed", [True, False])
def test_a_prompt_that_cannot_be_cut_is_read_when_nobody_is_watched(streamed):
    """A long one waits for those that are read along, and who comes later waits behind it; a short one does not wait.

    Texts that nobody reads along may stand still.
    """
    runtime = SimulatedRuntime()
    core = core_of(runtime, slots=6, max_length=900, pause=0.05, positions=BlockPositions((MASK,)))
    watched = core.submit(blank(40, 60, streamed=streamed))
    said = times(core, {}, 10)
    short = core.submit(blank(100, 60, 5))
    said = times(core, said, 3)
    assert len(said[short]) > 2
    long, other = core.submit(blank(600, 5, 6)), core.submit(blank(600, 5, 7))
    last = core.submit(blank(40, 5, 8))
    numbers = [watched, short, long, other, last]
    while not core.idle:
        said = times(core, said, 1)
    first, ends = ([said[number][place] for number in numbers] for place in (0, -1))
    assert first[2:] == sorted(first[2:])  # who came first
    gaps = [b - a for a, b in pairwise(said[watched])]
    if streamed:
        assert max(gaps) < 0.15 and ends[0] < first[2] < ends[1]
    else:
        assert max(gaps) > 0.6 and first[4] < ends[0]


def test_watched_texts_do_not_come_between():
    """A long prompt that has a slot is read before any text is admitted that would stand still for it."""
    runtime = SimulatedRuntime()
    core = core_of(runtime, slots=6, max_length=900, pause=0.05, positions=BlockPositions((MASK,)))
    finish(core, [blank(40, 2)])  # so that it is known how long prompts take
    numbers = [core.submit(blank(*each)) for each in ((60, 20), (600, 2, 5), (50, 20, 6, True), (50, 20, 7, True))]
    said = times(core, {}, 60)
    for number in numbers[2:]:
        assert said[number][0] > said[numbers[1]][0]
        assert max(b - a for a, b in pairwise(said[number])) < 0.15


def test_times_that_are_told():
    """A second request waits for the only slot, then for its prompt."""
    core = core_of(slots=1, max_length=200, chunk=16, pause=None)
    first, second = (events[-1].result for events in finish(core, [request(40, 6), request(40, 6, 5)]).values())
    reading = 3 * 0.010 + 40 * 0.001
    assert (first.queued, first.read) == (0, pytest.approx(reading))
    assert second.queued == pytest.approx(reading + 5 * 0.011) and second.read == pytest.approx(reading)


def test_pace():
    pace = Pace(256, 0.2)
    assert (pace.tokens(False), pace.tokens(True)) == (256, 16)
    pace.was_read(100, 0.1)  # 1,000 tokens a second
    assert pace.tokens(True) == 200
    pace.was_read(3, 10.0)
    assert pace.tokens(True) == 200
    pace.was_stepped(0.11, 2)
    assert pace.tokens(True) == 220 and pace.tokens(False) == 256 and not pace.step_alone
    pace.was_read(100, 100.0)  # a mean, so that one slow call is not believed at once
    assert pace.tokens(True) == 110
    for _ in range(9):
        pace.was_read(100, 100.0)
    assert pace.tokens(True) == 16
    for _ in range(9):
        pace.was_read(256, 0.01)
    assert pace.tokens(True) == 256
    assert {Pace(8, 0.2).tokens(True), Pace(8, None).tokens(True)} == {8}
