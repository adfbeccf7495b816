"""Prompt lookup: the same texts in fewer calls, and no slower where nothing repeats."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import BAD, END, VOCABULARY, SimulatedRuntime, core_of, finish, random_request

from glm.engine import GenerationConfig, Request, StopTokens
from glm.engine.lookup import PromptLookup
from glm.errors import GLMError, UsageError

ENDLESS = StopTokens((), 0)
REPEATS = Request([*range(10, 40), 10, 11], GenerationConfig(60), stop=ENDLESS)


def said(request: Request, prompt_lookup: int, runtime: SimulatedRuntime | None = None) -> tuple[list, object]:
    """All that is said of a request, but when, and the engine behind it."""
    core = core_of(runtime or SimulatedRuntime(copies=9.0), prompt_lookup=prompt_lookup)
    (events,) = finish(core, [request]).values()
    return events, core


def test_what_followed_before():
    lookup = PromptLookup([1, 2, 3, 4, 5, 1, 2, 3], 4)
    assert lookup.guess(9, 1.0) == [4, 5, 1, 2] and lookup.guess(2, 1.0) == [4, 5] and lookup.guess(0, 1.0) == []
    lookup.put(9)
    assert lookup.guess(9, 1.0) == []
    for token in (7, 2, 3):  # the newest of several places, by the longest n-gram that is known
        lookup.put(token)
    assert lookup.guess(9, 1.0) == [9, 7, 2, 3]
    assert PromptLookup([1, 1, 1, 1], 4).guess(9, 1.0) == [1, 1, 1, 1]  # a text that circles goes on circling
    assert PromptLookup([7, 1, 2, 1, 2], 5).guess(9, 1.0) == [1, 2, 1, 2, 1]
    assert PromptLookup([1, 2, 1, 2], 5).guess(0, 1.0) == []
    assert PromptLookup([5], 4).guess(9, 1.0) == []


class Odd:
    """Lets odd and even tokens be written by turns."""

    finished = False

    def __init__(self):
        self.taken = []

    def allowed(self):
        return np.arange(VOCABULARY) % 2 == len(self.taken) % 2

    def advance(self, token):
        self.taken.append(token)


WAYS = {
    "greedy": {},
    "drawn": {"do_sample": True, "seed": 5, "temperature": 0.7},
    "drawn of few": {"do_sample": True, "top_k": 5, "top_p": 0.9, "seed": 8},
    "penalties": {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.2},
    "no repeats": {"no_repeat_ngram_size": 3, "min_length": 20},
}


@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"logit_bias": {12: -4.0}}, {"constraint": Odd}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_texts_are_those_without(way, more):
    """Token for token, log-probabilities and scores too; some guesses are right, and some are not."""
    draw, accepted, drafted = np.random.default_rng(3), 0, 0
    for _ in range(6):
        request = random_request(draw, beams=False)
        request = replace(
            request, config=GenerationConfig(40, **WAYS[way]), ids=[*request.ids, *request.ids[:9]], **more
        )

        def fresh(request=request):
            return replace(request, constraint=request.constraint()) if request.constraint else request

        wanted, plain = said(fresh(), 0, SimulatedRuntime(copies=6.0))
        found, core = said(fresh(), 6, SimulatedRuntime(copies=6.0))
        assert found == wanted
        stats = core.stats()
        assert stats.new_tokens == plain.stats().new_tokens and not plain.stats().drafts
        accepted, drafted = accepted + stats.accepted_tokens, drafted + stats.draft_tokens
    assert 0 < accepted < drafted


def test_a_text_that_repeats_takes_fewer_calls_and_less_time():
    _, plain = said(REPEATS, 0)
    _, core = said(REPEATS, 8)
    assert core.stats().accepted_tokens > 30
    assert core.clock() < 0.6 * plain.clock()
    assert len(core.runtime.calls) < 0.5 * len(plain.runtime.calls)


def test_where_it_is_no_gain_it_is_off():
    """A call for nine tokens costs what eleven steps do: four trials, one with a step to compare, four 64 tokens on."""
    slow = SimulatedRuntime(copies=9.0)
    slow.per_token = 0.012
    request = replace(REPEATS, config=GenerationConfig(160))
    events, core = said(request, 8, slow)
    assert events == said(request, 0)[0]
    assert core.stats().drafts == 9 and core.stats().accepted_tokens > 40


def test_only_a_text_that_is_alone_is_guessed():
    core = core_of(SimulatedRuntime(copies=9.0), prompt_lookup=8)
    first, second = core.submit(REPEATS), core.submit(replace(REPEATS, config=GenerationConfig(12)))
    alone = False
    while not core.idle:
        drafts = core.stats().drafts
        assert alone or not drafts
        alone = core.stats().decoding == 1 and not core.stats().reading
        core.step()
    assert core.stats().drafts > 0 and {first, second} == {0, 1}


def test_a_prompt_that_comes_is_not_kept_waiting():
    core = core_of(SimulatedRuntime(copies=9.0), prompt_lookup=8, chunk=10, pause=None)
    core.submit(replace(REPEATS, config=GenerationConfig(100)))
    while not core.stats().drafts:
        core.step()
    core.submit(Request([5] * 40, GenerationConfig(2), stop=ENDLESS))
    for reading in (1, 1, 1, 0):
        drafts = core.stats().drafts
        core.step()
        assert core.stats().reading == reading and core.stats().drafts == drafts


def test_a_guess_that_cannot_be_read_costs_the_text_nothing():
    class Picky(SimulatedRuntime):
        def read(self, cache, slot, ids, positions, start, prefix_length, columns):
            if len(columns) > 1:
                raise GLMError("keys or values became nan")
            return super().read(cache, slot, ids, positions, start, prefix_length, columns)

    found, core = said(REPEATS, 8, Picky(copies=9.0))
    assert found == said(REPEATS, 0)[0] and core.stats().failed_calls == 0 and not core.stats().drafts


def test_it_ends_where_the_text_does():
    """Length, end token and cache: nothing is written behind them, and the last position is used."""
    for count in range(1, 12):
        request = replace(REPEATS, config=GenerationConfig(count), ids=REPEATS.ids[: 200 - count + 1])
        found, core = said(request, 8)
        assert found == said(request, 0)[0] and len(found[-1].result.tokens) == count
    core = core_of(SimulatedRuntime(copies=9.0), slots=1, max_length=32 + 40 - 1, prompt_lookup=8)
    assert len(finish(core, [replace(REPEATS, config=GenerationConfig(40))])[0]) == 40
    ends = replace(REPEATS, stop=StopTokens((20, END), 0))
    found, core = said(ends, 8)
    assert found[-1].result.tokens[-1] == 20 and found[-1].result.finish_reason == "stop"
    again = finish(core, [replace(REPEATS, ids=[*REPEATS.ids, *found[-1].result.tokens, 9])])
    assert next(iter(again.values()))[-1].result.reused == len(REPEATS.ids) + len(found[-1].result.tokens) - 1


def test_an_export_that_cannot_is_refused():
    old = SimulatedRuntime()
    old.any_columns = False
    with pytest.raises(UsageError, match="prompt lookup needs several: export the model again, or leave prompt lookup"):
        core_of(old, prompt_lookup=4)
    with pytest.raises(UsageError, match="prompt_lookup is -1, and must be at least 0, which is off"):
        core_of(prompt_lookup=-1)
    assert BAD not in finish(core_of(old), [REPEATS])[0][-1].result.tokens
