"""The engine writes what `GLMForCausalLM.generate` writes: every family, way of decoding and rule."""

import dataclasses
from functools import cache

import pytest
from engine_cases import NAMES, few_tokens

from glm import GenerationConfig
from glm.engine import StopTokens

WAYS = {
    "greedy": {},
    "greedy, no repeats": {"no_repeat_ngram_size": 2},
    "greedy, no token twice": {"no_repeat_ngram_size": 1, "min_length": 4},
    "sampling": {"do_sample": True, "seed": 3},
    "sampling, other seed": {"do_sample": True, "seed": 2**40 + 1},
    "top 5": {"do_sample": True, "top_k": 5, "temperature": 1.7},
    "nucleus": {"do_sample": True, "top_p": 0.7, "seed": 8},
    "all of it": {"do_sample": True, "top_k": 30, "top_p": 0.9, "temperature": 0.8, "min_length": 3, "seed": 1},
    "beams": {"num_beams": 3},
    "beams, no repeats": {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.7},
    "beams, min length": {"num_beams": 3, "min_length": 4, "gnmt_length": False},
    "beams, sampled": {"num_beams": 3, "do_sample": True, "temperature": 1.3, "seed": 6},
    "repetition": {"repetition_penalty": 3.0},
    "repetition wanted": {"repetition_penalty": 0.6, "do_sample": True, "seed": 5},
    "presence": {"presence_penalty": 2.0, "do_sample": True, "top_k": 3, "temperature": 0.5},
    "frequency": {"frequency_penalty": -1.5, "do_sample": True, "top_k": 3, "temperature": 0.5},
    "min p": {"do_sample": True, "temperature": 2.0, "min_p": 0.4, "seed": 3},
    "suppressed": {"suppress_tokens": tuple(range(0, 700, 3))},
    "suppressed at the beginning": {"begin_suppress_tokens": tuple(range(0, 700, 3))},
    "beams, repetition": {"num_beams": 3, "repetition_penalty": 0.4},
    "beams, counted": {"num_beams": 3, "presence_penalty": -2.0, "frequency_penalty": -1.0},
    "beams, drawn with it all": {
        "num_beams": 3,
        "do_sample": True,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "frequency_penalty": -0.5,
        "suppress_tokens": (8, 10**6),
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_scores_are_the_models(cases, name, way):
    case, config = cases[name], GenerationConfig(9, **WAYS[way])
    texts, scores = case.wanted(config)
    found = case.engine().generate(case.prompts, config)
    assert [result.tokens for result in found] == texts
    assert [result.score for result in found] == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_texts_are_the_same_without_their_scores(cases, way):
    case, config = cases["glm4"], GenerationConfig(9, **WAYS[way])
    scored, plain = (case.engine(scores=scores).generate(case.prompts, config) for scores in (True, False))
    assert [result.tokens for result in plain] == [result.tokens for result in scored]
    # Beams are chosen by their scores.
    assert [result.score for result in plain] == [result.score * (config.num_beams > 1) for result in scored]


@pytest.mark.parametrize("way", ["greedy", "beams"])
@pytest.mark.parametrize("name", NAMES)
def test_texts_of_full_length(cases, name, way):
    """Nothing ends them, so beams run to the last step."""
    case = dataclasses.replace(cases[name], stop=StopTokens((), 0))
    config = GenerationConfig(7, **WAYS[way])
    found = case.engine().generate(case.prompts, config)
    assert [result.tokens for result in found] == case.wanted(config)[0]
    assert {len(result.tokens) for result in found} == {7}


RULES = [{}, {"length_penalty": 0.7}, {"gnmt_length": False}, {"length_penalty": 2.0, "min_length": 3}]


@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("num_beams", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_beams_of_texts_that_often_end(small_case, seed, num_beams, options):
    """Twelve tokens, two of which end a text: pools fill up, and searches stop early."""
    case = small_case(seed)
    config = GenerationConfig(12, num_beams=num_beams, **options)
    texts, scores = case.wanted(config)
    found = case.engine().generate(case.prompts, config)
    assert [result.tokens for result in found] == texts
    assert [result.score for result in found] == pytest.approx(scores, rel=1e-4)


@pytest.fixture(scope="module")
def small_case():
    return cache(few_tokens)


@pytest.mark.parametrize("seed", range(4))
def test_drawn_beams_while_token_0_is_forbidden(small_case, seed):
    """What forbids a token is so large that a beam's score, taken off it again, would be lost."""
    case = dataclasses.replace(small_case(seed), stop=StopTokens((0, 2), 3))
    config = GenerationConfig(8, num_beams=3, do_sample=True, min_length=4, seed=seed)
    found = case.engine().generate(case.prompts, config)
    assert [result.tokens for result in found] == case.wanted(config)[0]


@pytest.mark.long
def test_the_ways_differ(cases):
    """Each way writes something else somewhere, and texts end at different lengths: the tests above tell them apart."""
    found = set()
    for options in WAYS.values():
        config = GenerationConfig(9, **options)
        texts = [text for name in NAMES for text in cases[name].wanted(config)[0]]
        assert len(set(map(len, texts))) > 2
        found.add(str(texts))
    assert len(found) == len(WAYS)
