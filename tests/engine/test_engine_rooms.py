"""What the engine reads again, how it fills memory, and what texts beside each other do to one another: nothing."""

import itertools

import numpy as np
import pytest
from engine_cases import CAUSAL, NAMES

from glm import GenerationConfig
from glm.engine import Request, padded
from glm.errors import GLMError, UsageError

CONFIG = GenerationConfig(9)
BEAMS = GenerationConfig(9, num_beams=3)


def tokens(results) -> list[list[int]]:
    return [result.tokens for result in results]


def read(engine) -> int:
    """Prompt tokens that were read so far."""
    return sum(count for _, _, count in engine.runtime.chunks)


@pytest.mark.parametrize("config", [CONFIG, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_give_what_the_whole_prompt_gives(cases, name, config):
    case, texts = cases[name], None
    for chunk in (1, 4, 1000):
        engine = case.engine(chunk=chunk, reuse_prefix=False)
        found = engine.generate(case.prompts, config)
        assert texts in (None, found)
        texts, longest = found, max(count for _, _, count in engine.runtime.chunks)
        assert longest == (min(chunk, max(map(len, case.prompts))) if name in CAUSAL else max(map(len, case.prompts)))
        assert read(engine) == sum(map(len, case.prompts))


def turns(case, config) -> list[list[list[int]]]:
    """Batches of prompts whose beginnings were read before: conversations that continue, change places, and share."""
    first = case.prompts
    answers = case.wanted(config)[0]
    second = [[*prompt, *answer, 9, 8, 7] for prompt, answer in zip(first, answers, strict=True)]
    cut = [prompt[:-2] for prompt in second[:2]]
    return [first, second, second[::-1], cut, first[:1], [*second, *first], [second[0][:3] + first[1][3:]], first]


@pytest.mark.long
@pytest.mark.parametrize(
    "config", [CONFIG, BEAMS, GenerationConfig(6, do_sample=True)], ids=["greedy", "beams", "draw"]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_prefix_that_is_read_already_changes_nothing(cases, name, config):
    case = cases[name]
    engine = case.engine()
    for prompts in turns(case, config):
        before = read(engine)
        found = engine.generate(prompts, config)
        assert tokens(found) == tokens(case.engine(reuse_prefix=False).generate(prompts, config))
        assert sum(result.reused for result in found) == sum(map(len, prompts)) - (read(engine) - before)
    assert (read(engine) < sum(len(p) for batch in turns(case, config) for p in batch)) == (name in CAUSAL)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_next_turn_reads_what_is_new(cases, name):
    case = cases[name]
    engine = case.engine()
    # One token would be chosen before the next prompt is read, and leave its slot to that.
    answers = tokens(engine.generate(case.prompts, GenerationConfig(9, min_length=2)))
    following = [[*prompt, *answer, 9, 8] for prompt, answer in zip(case.prompts, answers, strict=True)]
    found = engine.generate(following, CONFIG)
    # All but the answer's last token, which nothing was written behind, and what is new.
    assert [result.reused for result in found] == [len(prompt) - 3 for prompt in following]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_batch_reads_a_common_beginning_once(cases, name):
    engine, common = cases[name].engine(), list(range(20, 40))
    prompts = [[*common, 50 + i] for i in range(4)]
    found = engine.generate(prompts, CONFIG)
    assert [result.reused for result in found] == [0, 20, 20, 20]
    assert tokens(found) == cases[name].wanted(CONFIG, prompts)[0]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_texts_wait_for_room(cases, name, num_beams):
    """Memory for two texts at a time: the same tokens, and never more slots than fit."""
    case, config = cases[name], GenerationConfig(9, min_length=2, num_beams=num_beams)
    row = (max(map(len, case.prompts)) + 8) * 8 * num_beams
    engine = case.engine(memory_limit=2 * row + row // 2)
    assert tokens(engine.generate(case.prompts, config)) == case.wanted(config)[0]
    assert max(engine.runtime.batches) == 2 * num_beams
    assert 0 < engine.cache_bytes <= engine.options.memory_limit
    engine.release()
    assert engine.cache_bytes == 0


def test_a_text_that_never_fits_is_refused_with_both_numbers(cases):
    case = cases["glm4"]
    prompt = case.prompts[0]
    needed = 3 * (len(prompt) + 8) * 8
    engine = case.engine(memory_limit=needed - 1)
    message = rf"3 slot\(s\) of {len(prompt) + 8} positions need {needed:,} bytes .* the limit is {needed - 1:,}"
    with pytest.raises(UsageError, match=message):
        engine.generate([prompt], BEAMS)
    assert engine.generate([prompt], CONFIG)


def test_growing_never_holds_more_than_the_limit(cases):
    """The larger cache takes texts along only where both fit for that moment."""
    case = cases["glm4"]
    prompt = case.prompts[0]
    small, large = (len(prompt) + 2) * 8, (len(prompt) + 19) * 8
    for limit, reused in ((small + large, len(prompt) - 1), (small + large - 1, 0)):
        engine = case.engine(memory_limit=limit)
        engine.generate([prompt], GenerationConfig(3))
        assert engine.generate([prompt], GenerationConfig(20))[0].reused == reused


def test_a_text_longer_than_the_model_is_refused(cases):
    case = cases["glm4"]
    length = len(case.prompts[0])
    with pytest.raises(UsageError, match=f"need {length + 199} positions of the cache, and it ends at 128"):
        case.engine().generate(case.prompts[:1], GenerationConfig(200))


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_end_leave(cases, name):
    """A step decodes the texts that are not complete, and no others."""
    case = cases[name]
    engine = case.engine()
    lengths = [len(result.tokens) for result in engine.generate(case.prompts, CONFIG)]
    assert len(set(lengths)) > 1
    assert engine.runtime.batches == [sum(n > step for n in lengths) for step in range(1, max(lengths))]


@pytest.mark.parametrize("name", NAMES)
def test_requests_of_one_run_have_options_of_their_own(cases, name):
    """Greedy, drawn, beams side by side: what each writes alone at its place."""
    case = cases[name]
    configs = [CONFIG, GenerationConfig(5, do_sample=True, seed=4), BEAMS, GenerationConfig(7, num_beams=2)]
    found = case.engine().finish([Request(*pair) for pair in zip(case.prompts, configs, strict=True)])
    for place, config in enumerate(configs):
        assert found[place].tokens == case.wanted(config)[0][place]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 4, "top_k": 9}], ids=["greedy", "drawn"])
def test_stream_gives_the_tokens_of_generate(cases, name, options):
    case, config = cases[name], GenerationConfig(9, **options)
    engine = case.engine()
    stream = engine.stream(case.prompts[0], config)
    streamed = [next(stream)]
    assert not engine.runtime.batches  # the first token is there before a second is computed
    assert [*streamed, *stream] == case.wanted(config, case.prompts[:1])[0][0]


def test_every_row_of_a_run_is_streamed(cases):
    case = cases["glm4"]
    seen: dict[int, list[int]] = {}
    for event in case.engine().run([Request(ids, CONFIG) for ids in case.prompts]):
        seen.setdefault(event.id, []).append(event.token)
        assert event.result is None or event.result.tokens == seen[event.id]
    assert [seen[i] for i in range(4)] == case.wanted(CONFIG)[0]


def test_beams_cannot_be_streamed(cases):
    with pytest.raises(UsageError, match="num_beams=3 cannot be streamed: use 1"):
        next(cases["glm4"].engine().stream([1, 2], BEAMS))


def test_a_run_that_is_given_up_leaves_the_engine_usable(cases):
    case = cases["glm4"]
    engine = case.engine()
    stream = engine.stream(case.prompts[0], CONFIG)
    next(stream)
    with pytest.raises(GLMError, match="this engine is completing other requests: finish or close that run first"):
        engine.generate(case.prompts, CONFIG)
    stream.close()
    assert tokens(engine.generate(case.prompts, CONFIG)) == case.wanted(CONFIG)[0]


def test_a_runtime_that_fails_leaves_the_engine_usable(cases):
    """The prompt that was being read is not taken for read."""
    case = cases["glm4"]
    engine = case.engine(chunk=4)
    prefill, calls = engine.runtime.prefill, itertools.count()

    def failing(*arguments):
        if next(calls) == 1:
            raise GLMError("out of order")
        return prefill(*arguments)

    engine.runtime.prefill = failing
    with pytest.raises(GLMError, match="out of order"):
        engine.generate(case.prompts, CONFIG)
    assert tokens(engine.generate(case.prompts, CONFIG)) == case.wanted(CONFIG)[0]


def test_padded_results(cases):
    case = cases["glm"]
    results = case.engine().generate(case.prompts, CONFIG)
    array = padded(results, 7)
    assert array.shape == (4, max(len(r.tokens) for r in results)) and array.dtype == np.int64
    for row, result in zip(array.tolist(), results, strict=True):
        assert row == result.tokens + [7] * (len(row) - len(result.tokens))


def test_nothing_to_do(cases):
    assert cases["glm4"].engine().generate([], CONFIG) == []
    with pytest.raises(UsageError, match="prompt 2 of 2 is empty"):
        cases["glm4"].engine().generate([[1], []], CONFIG)
    with pytest.raises(UsageError, match="chunk is 0, and must be at least 1"):
        cases["glm4"].engine(chunk=0)
