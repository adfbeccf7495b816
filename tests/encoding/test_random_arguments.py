"""Calls that random schemas force are read as arguments which the schemas take, by the jsonschema package."""

import json
import random

import pytest
from jsonschema import Draft202012Validator
from test_tagged_calls import DATA, read, written

from glm.encoding.json_schema import SchemaError
from glm.encoding.tagged_grammar import tagged_grammar
from glm.encoding.tool_choice import ToolChoice
from glm.engine.guided import Grammars
from glm.tokenizers import GLMTokenizer

VALUES = ["a", "b", "12", "1", "true", "null", "xa", 1, 12, True, None, 2.5]
# Keyword of a value → how often it stands there, and what it may be.
KEYWORDS = {
    "type": (0.8, ["string", "integer", "number", "boolean", "null", ["string", "null"], ["integer", "string"]]),
    "enum": (0.2, [VALUES[:3], VALUES[2:8], VALUES[5:]]),
    "const": (0.1, VALUES),
    "minLength": (0.2, [0, 1, 2]),
    "maxLength": (0.3, [2, 3, 4]),
    "pattern": (0.1, ["^a", "a$", "^[ab]+$", "[0-9]"]),
    "minimum": (0.1, [0, 2]),
}


def a_value(chance: random.Random, depth: int = 0):
    if chance.random() < 0.2 and depth < 2:
        return {chance.choice(["anyOf", "allOf"]): [a_value(chance, depth + 1) for _ in range(2)]}
    if chance.random() < 0.1:
        return chance.choice([True, False, {"$ref": "#/$defs/x"}])
    return {word: chance.choice(each) for word, (often, each) in KEYWORDS.items() if chance.random() < often}


def some_arguments(chance: random.Random, depth: int = 0):
    if depth and chance.random() < 0.1:
        return chance.choice([False, True, {"type": "null"}])
    schema = {"properties": {name: a_value(chance) for name in chance.sample("abc", 2)}}
    if chance.random() < 0.5:
        schema["required"] = chance.sample("abc", 1)
    if chance.random() < 0.1:
        schema["additionalProperties"] = chance.choice([False, {"type": "string"}])
    if depth < 2 and chance.random() < 0.5:
        schema[chance.choice(["anyOf", "allOf"])] = [some_arguments(chance, depth + 1) for _ in range(2)]
    return schema


@pytest.mark.parametrize("seed", range(4))
def test_what_random_schemas_force_they_take(seed):
    tokenizer = GLMTokenizer.from_pretrained(DATA / "glm45-tiny")
    grammars = Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer) + 10)
    chance, calls = random.Random(seed), 0
    while calls < 25:
        parameters = {**some_arguments(chance), "$defs": {"x": a_value(chance, 2)}}
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        try:
            grammar = tagged_grammar(ToolChoice.read([tool], "required"))
        except SchemaError:
            continue
        text = written(tokenizer, grammars, grammar, calls)
        if text.endswith("</tool_call>"):  # a text without bounds may not end in time
            [call] = read(text, tools=[tool])["tool_calls"]
            Draft202012Validator(parameters).validate(json.loads(call["function"]["arguments"]))
            calls += 1
