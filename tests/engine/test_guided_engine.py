"""Guided requests in the engine: JSON whatever the options are, and nothing changes for who is beside them."""

import json

import numpy as np
import pytest
from dynamic_runtime import DynamicStepRuntime

from glm import GenerationConfig
from glm.encoding.json_schema import json_grammar
from glm.engine import Engine, Request, StopTokens
from glm.engine.guided import Grammars
from glm.errors import UsageError

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 22, "x"]}, "b": {"type": "string", "maxLength": 3}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
WAYS = {
    "greedy": {},
    "drawn": {"do_sample": True, "temperature": 3.0, "seed": 3},
    "few": {"do_sample": True, "top_k": 3, "seed": 4},
    "nucleus": {"do_sample": True, "top_p": 0.5, "min_p": 0.01, "seed": 5},
    "penalties": {"repetition_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": 0.5},
}


class Free:
    """A constraint that allows everything, and knows what was chosen."""

    finished = True

    def __init__(self, size: int):
        self.size, self.taken = size, []

    def allowed(self) -> np.ndarray:
        return np.ones([self.size], dtype="bool")

    def advance(self, token: int) -> None:
        self.taken.append(token)


@pytest.fixture(scope="module")
def case(cases):
    return cases["glm4"]


@pytest.fixture(scope="module")
def engine(case):
    stop = StopTokens.of(case.processor)
    return lambda: Engine(DynamicStepRuntime(case.model), case.processor.positions, stop)


@pytest.fixture(scope="module")
def guide(case):
    grammars = Grammars(case.processor.tokenizer, case.processor.stop_token_ids, case.model.config.vocab_size)
    return lambda schema=SCHEMA: grammars.constraint(json_grammar(schema))


@pytest.mark.parametrize("way", WAYS)
def test_a_guided_text_is_json_and_its_neighbours_are_what_they_were(case, engine, guide, way):
    config = GenerationConfig(40, **WAYS[way])
    plain = engine().generate(case.prompts, config)
    constraints = [guide(), None, guide(), None]
    requests = [Request(ids, config, constraint=each) for ids, each in zip(case.prompts, constraints, strict=True)]
    found = engine().finish(requests)
    for result, alone, constraint in zip(found, plain, constraints, strict=True):
        if constraint is None:
            assert (result.tokens, result.reused) == (alone.tokens, alone.reused)
            continue
        assert result.tokens[-1] in case.processor.stop_token_ids and constraint.finished
        answer = json.loads(case.processor.tokenizer.text_of(result.tokens))
        assert list(answer) == ["a", "b"] and answer["a"] in (1, 22, "x") and len(answer["b"]) <= 3
        assert result.tokens != alone.tokens


@pytest.mark.parametrize("way", WAYS)
def test_a_constraint_that_allows_everything_changes_nothing(case, engine, way):
    config = GenerationConfig(9, **WAYS[way])
    free = [Free(case.model.config.vocab_size) for _ in case.prompts]
    requests = [Request(ids, config, constraint=each) for ids, each in zip(case.prompts, free, strict=True)]
    found = engine().finish(requests)
    assert found == engine().generate(case.prompts, config)
    assert [each.taken for each in free] == [result.tokens for result in found]


def test_greedy_takes_the_best_of_what_is_allowed(case, engine, guide):
    first, constraint = guide({"enum": ["a", "b", 1, 2, None]}), guide({"enum": ["a", "b", 1, 2, None]})
    result = engine().finish([Request(case.prompts[1], GenerationConfig(9), constraint=constraint)])[0]
    runtime = DynamicStepRuntime(case.model)
    ids, positions = case.prompts[1], case.processor.positions
    logits = runtime.prefill(runtime.new_cache(1, 64), 0, ids, positions.of(ids, 0), 0, 0)
    assert result.tokens[0] == np.where(first.allowed(), logits, -np.inf).argmax()


def test_the_grammar_wins_over_rules_that_forbid_all_it_allows(case, engine, guide):
    """A text that is complete may end, whatever min_length says; an n-gram repeats where the schema asks for it."""
    config = GenerationConfig(60, min_length=50, no_repeat_ngram_size=1)
    result = engine().finish([Request(case.prompts[0], config, constraint=guide({"const": [1, 1, 1]}))])[0]
    assert json.loads(case.processor.tokenizer.text_of(result.tokens)) == [1, 1, 1]
    assert len(result.tokens) < 50


def test_a_text_that_is_cut_is_known_to_be(case, engine, guide):
    constraint = guide()
    engine().finish([Request(case.prompts[0], GenerationConfig(3), constraint=constraint)])
    assert not constraint.finished


def test_a_stream_is_guided(case, engine, guide):
    config = GenerationConfig(40)
    whole = engine().finish([Request(case.prompts[0], config, constraint=guide())])[0]
    assert [*engine().stream(case.prompts[0], config, constraint=guide())] == whole.tokens


def test_beams_are_not_guided(case, engine, guide):
    with pytest.raises(UsageError, match="a constraint is for a sequence of one beam, and num_beams is 2"):
        engine().finish([Request(case.prompts[0], GenerationConfig(4, num_beams=2), constraint=guide())])
