"""Requests that come and go: what each becomes depends on no other, on no part of its prompt, and on no failure."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from simulated import BAD, END, NAN, VOCABULARY, SimulatedRuntime, core_of, finish, random_request, results

from glm.encoding.batches import BlockPositions, TextPositions
from glm.engine import Engine, EngineOptions, Event, GenerationConfig, Request, StopTokens
from glm.errors import GLMError, UsageError

LONG = GenerationConfig(8, min_length=8)
PROMPT = [5, 6, 7]


def alone(request: Request, **options):
    """What a request becomes in an engine of its own."""
    return results(core_of(slots=4, **options), [request])[0]


def test_a_list_is_completed_alike_whatever_was_read_before():
    draw = np.random.default_rng(5)
    engine = Engine(SimulatedRuntime(), TextPositions(), StopTokens((END,), 0))
    for _ in range(20):
        requests = [random_request(draw) for _ in range(6)]
        fresh = Engine(engine.runtime, TextPositions(), StopTokens((END,), 0), EngineOptions(reuse_prefix=False))
        found = [replace(result, reused=0) for result in engine.finish(requests, 4)]
        assert found == fresh.finish(requests, 4)
    assert engine.core.stats().reused_tokens > 300


@pytest.mark.parametrize("pause", [None, 0.03])
@pytest.mark.parametrize("seed", range(4))
def test_a_text_does_not_depend_on_its_neighbours(seed, pause):
    """Requests that come at any time, in whatever company, become what each becomes alone, log-probabilities too."""
    draw = np.random.default_rng(seed)
    core, said, requests = core_of(slots=4, chunk=9, pause=pause), {}, {}
    for _ in range(40):
        request = random_request(draw)
        if request.config.num_beams == 1:
            request = replace(request, logprobs=3)
        requests[core.submit(request)] = request
        for _ in range(int(draw.integers(0, 4))):
            for event in core.step():
                said.setdefault(event.id, []).append(event)
    for number, events in finish(core).items():
        said.setdefault(number, []).extend(events)
    for number, request in requests.items():
        (wanted,) = finish(core_of(slots=4), [request]).values()
        result = replace(said[number][-1].result, reused=0)
        assert result == wanted[-1].result
        assert [(e.token, e.logprob) for e in said[number]] == [(e.token, e.logprob) for e in wanted]
        assert request.config.num_beams > 1 or [e.token for e in said[number]] == result.tokens
    assert core.stats().reused_tokens > 0


def test_choices_of_one_prompt_differ_and_read_it_once():
    """Noise is by choice and seed: the third of four is the third alone, and the four are read as one."""
    config = GenerationConfig(8, do_sample=True, seed=11)
    requests = [Request(list(range(5, 55)), config, choice=choice) for choice in range(4)]
    core = core_of(chunk=20)
    found = results(core, requests)
    assert len({tuple(result.tokens) for result in found}) == 4
    assert [result.tokens for result in found] == [alone(request).tokens for request in requests]
    assert [result.reused for result in found[1:]] == [49] * 3
    assert sum(count for what, count, _ in core.runtime.calls if what == "read") == 50 + 3


def test_a_seed_gives_the_same_text_wherever_it_stands():
    config = GenerationConfig(8, do_sample=True, seed=3)
    other = [Request([9, place], GenerationConfig(8, do_sample=True, seed=place)) for place in range(4, 7)]
    texts = [results(core_of(), [*other[:n], Request(PROMPT, config), *other[n:]])[n].tokens for n in range(4)]
    assert texts == [alone(Request(PROMPT, config)).tokens] * 4


def test_cancelling_frees_slots_at_once_and_keeps_what_was_read():
    """While it waits, while its prompt is read, while it is decoded."""
    core = core_of(slots=2, chunk=8, pause=None)
    prompts = [[*range(start, start + 30)] for start in (4, 14, 24)]
    first, second, third = [core.submit(Request(ids, LONG)) for ids in prompts]
    for _ in range(5):
        core.step()
    stats = core.stats()
    assert (stats.decoding, stats.reading, stats.waiting) == (1, 1, 1)
    for number in (third, second, first):
        core.cancel(number)
    assert core.slots.free == 2 and not core.idle
    said = core.step()
    assert [event.id for event in said] == [third, second, first] and core.idle
    assert [event.result.finish_reason for event in said] == ["cancelled"] * 3
    assert [len(event.result.tokens) for event in said] == [0, 0, 3]
    core.cancel(first), core.cancel(99)
    assert core.step() == [] and core.idle
    found = results(core, [Request(ids, LONG) for ids in prompts])
    assert [result.reused for result in found] == [29, 8, 0]
    assert [result.tokens for result in found] == [alone(Request(ids, LONG)).tokens for ids in prompts]
    assert core.stats().finished == {"cancelled": 3, "length": 3}


@pytest.mark.parametrize("beams", [1, 2])
def test_a_request_that_fails_ends_no_other(beams):
    """Its prompt cannot be read, a token of its text cannot, its logits are nan, its constraint breaks."""

    class Breaks:
        finished = False

        def allowed(self):
            raise ValueError("no automaton")

    class WritesBad(Breaks):
        def allowed(self):
            return np.arange(VOCABULARY) == self.token

        def advance(self, token):
            pass

    bad, nan = WritesBad(), WritesBad()
    bad.token, nan.token = BAD, NAN
    options = GenerationConfig(25, num_beams=beams)
    good = [Request([*PROMPT, place], options, stop=StopTokens((), 0)) for place in range(10, 14)]
    failing = [
        (Request([*PROMPT, 5, 5, BAD], LONG), "the graph failed at a bad token"),
        (Request([*PROMPT, 5, 5, NAN], LONG), "the model's logits became nan or infinite: its weights are damaged"),
        (Request([*PROMPT, 5, 5], LONG, constraint=bad), "the graph failed at a bad token"),
        (
            Request([*PROMPT, 5, 5], LONG, constraint=nan),
            "the model's logits became nan or infinite: its weights are damaged",
        ),
        (Request([*PROMPT, 5, 5], LONG, constraint=Breaks()), "ValueError: no automaton"),
    ]
    mixed = [good[0], *(request for request, _ in failing[:2]), good[1], *(r for r, _ in failing[2:]), *good[2:]]
    core = core_of(slots=14)  # all at once: those that fail stand between those that do not
    said = [events[-1] for events in finish(core, mixed).values()]
    assert max(count for what, count, _ in core.runtime.calls if what == "step") > 4 * beams
    assert [replace(event.result, reused=0) for event in said if event.result] == [alone(request) for request in good]
    errors = [event for event in said if event.error]
    assert len(errors) == 5 and all(
        event.error.startswith(why) for event, (_, why) in zip(errors, failing, strict=True)
    )
    assert isinstance(errors[0].cause, GLMError) and isinstance(errors[-1].cause, ValueError)
    assert core.slots.free == 14 and core.stats().finished["error"] == 5
    assert [replace(result, reused=0) for result in results(core, good)] == [alone(request) for request in good]


def test_a_runtime_that_is_gone_fails_all_and_is_counted():
    core = core_of()
    core.runtime.decode = core.runtime.prefill = lambda *_: 1 / 0
    said = [events[-1] for events in finish(core, [Request(PROMPT, LONG)] * 6).values()]
    assert [event.error for event in said] == ["ZeroDivisionError: division by zero"] * 6
    assert core.stats().failed_calls == 6
    del core.runtime.decode, core.runtime.prefill
    assert alone(Request(PROMPT, LONG)) in results(core, [Request(PROMPT, LONG)])
    assert core.stats().failed_calls == 0


def test_a_list_raises_what_its_request_failed_of():
    engine = Engine(SimulatedRuntime(), TextPositions(), StopTokens((END,), 0))
    with pytest.raises(GLMError, match="the graph failed at a bad token"):
        engine.generate([PROMPT, [5, BAD]], LONG)
    assert engine.core.idle and engine.generate([PROMPT], LONG)[0].tokens == alone(Request(PROMPT, LONG)).tokens


def test_beams_wait_for_all_their_slots_and_the_others_behind_them():
    """None overtakes, or a stream of short texts would keep beams waiting for ever."""
    core = core_of(slots=4)
    kinds = [Request(PROMPT, LONG), Request(PROMPT, GenerationConfig(8, num_beams=4)), Request(PROMPT, LONG)]
    numbers = [core.submit(request) for request in kinds]
    order = [event.id for events in finish(core).values() for event in events if event.over]
    assert order == numbers
    assert max(count for what, count, _ in core.runtime.calls if what == "step") == 4


# What a request may ask for.


def test_log_probabilities_are_the_models_own():
    """Whatever chooses: temperature, penalties, bias. The token's own is the same float wherever it stands."""
    config = GenerationConfig(8, do_sample=True, temperature=3.0, frequency_penalty=1.0, seed=2)
    request = Request(PROMPT, config, logprobs=VOCABULARY, logit_bias={20: 2.0}, stop=StopTokens((), 0))
    core, written = core_of(), []
    for event in next(iter(finish(core, [request]).values())):
        read = core_of()
        (first,) = next(iter(finish(read, [Request([*PROMPT, *written], GenerationConfig(1), logprobs=1)]).values()))
        assert event.logprob.ids[0] == first.token and event.logprob.logprobs[0] == first.logprob.logprob
        values = dict(zip(event.logprob.ids, event.logprob.logprobs, strict=True))
        assert values[event.token] == event.logprob.logprob
        assert np.exp(list(values.values())).sum() == pytest.approx(1, abs=1e-5)
        assert list(event.logprob.logprobs) == sorted(event.logprob.logprobs, reverse=True)
        written.append(event.token)
    assert len(written) == 8


def prompt_scores(events) -> list:
    return [score for event in events for score in event.prompt_logprobs]


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize(("any_columns", "part"), [(True, 64), (False, 1)])
def test_log_probabilities_of_a_prompt(any_columns, part, writes):
    """Each token's are those of a text that ends before it; nothing that was read before is passed over."""
    runtime = SimulatedRuntime()
    runtime.any_columns = any_columns
    core, ids = core_of(runtime, chunk=200, pause=None), np.random.default_rng(0).integers(4, 60, 150).tolist()
    finish(core, [Request(ids, LONG)])
    runtime.calls.clear()
    (events,) = finish(core, [Request(ids, GenerationConfig(1), prompt_logprobs=2, writes=writes)]).values()
    scores = prompt_scores(events)
    assert (events[-1].result.reused, len(scores), scores[0]) == (0, 150, None)
    assert [event.token is None for event in events[-2:]] == [True, not writes]  # they come before the first token
    assert [count for what, count, _ in runtime.calls][:2] == [part, part]
    for place in (1, 63, 64, 65, 149):
        before = Request(ids[:place], GenerationConfig(1), logprobs=VOCABULARY)
        ((wanted,),) = finish(core_of(), [before]).values()
        values = dict(zip(wanted.logprob.ids, wanted.logprob.logprobs, strict=True))
        assert scores[place].logprob == values[ids[place]] and scores[place].ids == wanted.logprob.ids[:2]
    assert prompt_scores(next(iter(finish(core, [Request(ids, LONG)]).values()))) == []


def test_a_prompt_alone_is_read_and_nothing_written():
    """Its slot is free behind its end, and the next prompt that begins so has it."""
    core = core_of()
    (events,) = finish(core, [Request(PROMPT, LONG, prompt_logprobs=0, writes=False)]).values()
    assert (events[-1].result.tokens, events[-1].result.finish_reason) == ([], "length")
    assert core.slots.free == 4 and core.stats().new_tokens == 0 and core.stats().finished == {"length": 1}
    (result,) = results(core, [Request([*PROMPT, 9], LONG)])
    assert replace(result, reused=0) == alone(Request([*PROMPT, 9], LONG)) and result.reused == 3
    (events,) = finish(core, [Request([5], LONG, prompt_logprobs=0, writes=False)]).values()
    assert prompt_scores(events) == [None] and events[-1].result.tokens == []


def test_a_scored_prompt_is_read_once_for_all_its_texts():
    """The others wait for it, however long it is, and have what it read; so it is the one that tells its scores."""
    runtime, ids = SimulatedRuntime(), np.random.default_rng(0).integers(4, 60, 1300).tolist()
    requests = [Request(ids, GenerationConfig(3), prompt_logprobs=0 if not choice else None) for choice in range(3)]
    said = finish(core_of(runtime, max_length=1400), requests)
    assert [len(prompt_scores(events)) for events in said.values()] == [1300, 0, 0]
    assert sum(count for what, count, _ in runtime.calls if what == "read") == 1300 + 2
    wanted = alone(Request(ids, GenerationConfig(3)), max_length=1400)
    assert all(events[-1].result.tokens == wanted.tokens for events in said.values())


@pytest.mark.parametrize("any_columns", [True, False])
def test_scored_prompts_take_turns_among_texts(any_columns):
    """A text goes on between their parts, and none of them waits for another to be read to its end."""
    runtime = SimulatedRuntime()
    runtime.any_columns = any_columns
    core = core_of(runtime, slots=4, max_length=400, chunk=4, pause=None)
    text = core.submit(Request(PROMPT, GenerationConfig(380, min_length=380)))
    core.step()
    prompts = [np.random.default_rng(seed).integers(4, 60, 130).tolist() for seed in range(2)]
    numbers = [core.submit(Request(ids, GenerationConfig(1), prompt_logprobs=1)) for ids in prompts]
    said, order = {number: [] for number in (text, *numbers)}, []
    while not all(said[number] and said[number][-1].over for number in numbers):
        events = core.step()
        assert [event.id for event in events if event.token is not None].count(text) == 1
        for event in events:
            said[event.id].append(event)
            order += [event.id] if event.prompt_logprobs else []
    turns = sum(one != other for one, other in pairwise(order))
    assert turns > 1  # by turns, where the one has as much left as the other
    for number, ids in zip(numbers, prompts, strict=True):
        wanted = finish(core_of(), [Request(ids, GenerationConfig(1), prompt_logprobs=1)])
        assert prompt_scores(said[number]) == prompt_scores(next(iter(wanted.values())))


def test_prompts_that_are_read_both_ways_have_none():
    core = core_of()
    core.positions = BlockPositions((9,))
    with pytest.raises(UsageError, match="this model reads prompts in both directions, so their tokens have no log-pr"):
        core.submit(Request([5, 9, 6], LONG, prompt_logprobs=0))


def test_log_probabilities_of_the_chosen_alone():
    for event in next(iter(finish(core_of(), [Request(PROMPT, LONG, logprobs=0)]).values())):
        assert event.logprob.ids == () and event.logprob.logprob < 0


def test_a_bias_changes_what_is_chosen():
    plain = alone(Request(PROMPT, LONG)).tokens
    assert alone(Request(PROMPT, LONG, logit_bias={33: 100.0})).tokens == [33] * 8
    without = alone(Request(PROMPT, LONG, logit_bias={plain[0]: -100.0})).tokens
    assert plain[0] not in without and len(without) == 8
    assert alone(Request(PROMPT, LONG, logit_bias={})).tokens == plain
    with pytest.raises(UsageError, match="logit_bias names token 60, and the model has 60"):
        core_of().submit(Request(PROMPT, LONG, logit_bias={60: 1.0}))


def test_reasons_of_the_end():
    free = GenerationConfig(8)
    plain = alone(Request(PROMPT, free, stop=StopTokens((), 0)))
    assert (len(plain.tokens), plain.finish_reason, plain.stop_reason) == (8, "length", None)
    token = plain.tokens[3]
    place = plain.tokens.index(token)
    ended = alone(Request(PROMPT, free, stop=StopTokens((token,), 0)))
    assert (ended.tokens, ended.finish_reason, ended.stop_reason) == (plain.tokens[: place + 1], "stop", token)
    biased = alone(Request(PROMPT, free, logit_bias={END: 100.0}))
    assert (biased.tokens, biased.finish_reason, biased.stop_reason) == ([END], "stop", END)


class Spells:
    """Lets one text be written, then the end."""

    def __init__(self, text):
        self.text, self.taken = text, []

    @property
    def finished(self):
        return self.taken == self.text

    def allowed(self):
        mask = np.zeros(VOCABULARY, dtype=bool)
        mask[END if self.finished else self.text[len(self.taken)]] = True
        return mask

    def advance(self, token):
        self.taken.append(token)


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "top_k": 3, "top_p": 0.5}, {"min_length": 9}, {"no_repeat_ngram_size": 1}]
)
def test_a_constraint_has_the_last_word(options):
    text = [40, 41, 41]
    config = GenerationConfig(9, **options)
    ended = alone(Request(PROMPT, config, constraint=(spells := Spells(text))))
    assert spells.taken == [*text, END]  # it is told of the end, too
    assert (ended.tokens, ended.finish_reason, ended.stop_reason) == ([*text, END], "stop", END)
    endless = alone(Request(PROMPT, config, constraint=Spells(text), stop=StopTokens((), 0)))
    assert (endless.tokens, endless.finish_reason, endless.stop_reason) == (text, "stop", None)


def test_a_constraint_that_allows_nothing_is_said():
    class Nothing(Spells):
        def allowed(self):
            return np.zeros(VOCABULARY, dtype=bool)

    ((event,),) = finish(core_of(), [Request(PROMPT, LONG, constraint=Nothing([]))]).values()
    assert event.error == "the constraint of this text allows no token: nothing of the vocabulary continues it"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request([], LONG), "the prompt is empty: give it at least one token"),
        (Request([5] * 194, LONG), "a prompt of 194 tokens and 8 new ones need 201 positions .* and each text has 200"),
        (Request([5], GenerationConfig(8, num_beams=5)), r"num_beams is 5, and the cache has 4 slot\(s\)"),
        (Request([5], GenerationConfig(8, num_beams=2), logprobs=0), "log-probabilities are of a sequence of one"),
        (
            Request([5], GenerationConfig(8, num_beams=2), constraint=Spells([])),
            "a constraint is for a sequence of one",
        ),
        (Request([5], LONG, logprobs=61), "logprobs is 61, and must be between 0 and 60"),
        (
            Request([5], GenerationConfig(8, num_beams=2), writes=False),
            "a request that writes nothing has a",
        ),
        (Request([5], LONG, prompt_logprobs=-1), "prompt_logprobs is -1, and must be between 0 and 60"),
    ],
)
def test_what_is_refused(request_, why):
    core = core_of()
    with pytest.raises(UsageError, match=why):
        core.submit(request_)
    assert core.idle and core.step() == []


def test_an_engine_without_a_cache_takes_nothing():
    core = core_of()
    core.slots.release()
    with pytest.raises(UsageError, match="each text has 0"):
        core.submit(Request([5], LONG))
    with pytest.raises(UsageError, match="pause is 0, and must be a number of seconds above 0, or None"):
        EngineOptions(pause=0)


def test_a_cache_is_not_taken_from_requests():
    core = core_of()
    core.submit(Request([5], LONG))
    with pytest.raises(GLMError, match="this engine is completing requests: finish or cancel them"):
        core.reserve(8, 100)


def test_an_event_says_whether_it_is_the_last():
    assert not Event(0, 5).over and Event(0, error="").over
