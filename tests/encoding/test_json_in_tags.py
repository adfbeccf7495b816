"""JSON inside a forced call's tags cannot hold the tag that ends it, so that the reader ends where the value does."""

import json
import random
import re

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from test_tagged_calls import DATA, fits, forced, read, tagged

from glm.encoding.json_in_tags import without_pattern
from glm.encoding.json_schema import SchemaError
from glm.engine.guided import Grammars
from glm.tokenizers import GLMTokenizer

END = "</arg_value>"
TREE = {"properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}, "n": {"type": "string"}}}
DEFINED = {"tree": {"type": "object", **TREE}, "tagless": {"type": "integer"}}
A_OR_KIDS = [{"required": ["a"]}, {"required": ["kids"]}]
NODE = {"type": "object", "properties": {"a": {"type": "string"}, "kids": {"$ref": "#/$defs/tree"}}, "anyOf": A_OR_KIDS}
IN_TREE = {"properties": {"x": {"$ref": "#/$defs/tree"}}, "required": ["x"]}
# Schema → JSON that it takes, without the tag, and JSON that it does not take, or that holds the tag.
HELD = {
    "any array": (
        {"type": "array"},
        ['["a<b", {"<": [null, 1.5]}]'],
        [f'["{END}"]', f'[{{"{END}": 1}}]', f'[["{END}"]]'],
    ),
    "any object": ({"type": "object"}, ['{"<": "</arg_value"}', "{}"], [f'{{"a": "a{END}"}}', f'{{"a{END}": 1}}']),
    "strings": (
        {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 20}},
        ['["a<"]', r'["<\n\"\\"]', '["<</arg_"]'],
        ['["a"]', f'["a{END}b"]', f'["<{END}"]'],
    ),
    "pattern": ({"type": "array", "items": {"pattern": "a.*b"}}, ['["a<b"]', "[1]"], ['["a"]', f'["a{END}b"]']),
    "format": ({"type": "array", "items": {"format": "email"}}, ['["a@b.de"]'], [f'["\\"{END}\\"@b.de"]']),
    "values": ({"type": "array", "items": {"enum": ["<a", [1]]}}, ['["<a", [1]]'], ['["a"]']),
    "first items": (
        {"type": "array", "prefixItems": [{"type": "string"}, True]},
        ['["a", ["<"], "b"]'],
        [f'["{END}"]', f'["a", ["{END}"]]', f'["a", 1, "{END}"]'],
    ),
    "named": (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}, "required": ["a"]},
        ['{"a": "<", "b": 1}'],
        ["{}", '{"a": 1, "b": "<"}', f'{{"a": "{END}"}}', f'{{"a": 1, "{END}": 1}}'],
    ),
    "closed": ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, ["{}"], ['{"b": 1}']),
    "a tree": (
        {"$ref": "#/$defs/tree"},
        ['{"kids": [{"kids": [], "n": "<"}], "z": 1}'],
        ['{"n": 1}', f'{{"kids": [{{"n": "{END}"}}]}}', f'{{"z": "{END}"}}'],
    ),
    "a tree and more": (
        {"allOf": [{"required": ["kids"]}, {"$ref": "#/$defs/tree"}]},
        ['{"kids": [{"n": "<"}]}'],
        ['{"n": "<"}', f'{{"kids": [{{"n": "{END}"}}]}}', f'{{"kids": [], "z": "{END}"}}'],
    ),
    "choices beside properties": (
        {"type": "array", "items": NODE},
        ['[{"a": "<"}]', '[{"kids": {"n": "<", "q": 1}}]'],
        ["[{}]", f'[{{"a": "{END}"}}]', f'[{{"a": "", "z": "{END}"}}]', f'[{{"kids": {{"n": "{END}"}}}}]'],
    ),
    "choices alone": (
        {"type": "array", "items": {"type": "object", "anyOf": [IN_TREE, {"$ref": "#/$defs/tree"}]}},
        ['[{"x": {"n": "<"}}]', '[{"n": "a"}]'],
        [f'[{{"n": "{END}"}}]', f'[{{"x": {{"n": "{END}"}}}}]', f'[{{"x": {{}}, "y": "{END}"}}]'],
    ),
    "a name of ours": ({"type": "array", "items": {"$ref": "#/$defs/tagless"}}, ["[1]"], ['["a"]']),
}


@pytest.fixture(scope="module")
def held():
    tokenizer = GLMTokenizer.from_pretrained(DATA / "glm45-tiny")
    return tokenizer, Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer) + 10)


def of(schema: dict) -> dict:
    return {"properties": {"x": schema}, "required": ["x"], "$defs": DEFINED}


@pytest.mark.parametrize(("schema", "good", "bad"), HELD.values(), ids=HELD)
def test_json_is_as_the_schema_says_and_has_no_tag(held, schema, good, bad):
    grammar, judge = forced(of(schema)), Draft202012Validator({**schema, "$defs": DEFINED})
    assert all(judge.is_valid(json.loads(text)) for text in good)
    assert [text for text in good if not fits(held, grammar, tagged("f", x=text))] == []
    assert all(END in text or not judge.is_valid(json.loads(text)) for text in bad)
    assert [text for text in bad if fits(held, grammar, tagged("f", x=text))] == []


def adversary(tokenizer, constraint, seed: int) -> str:
    """A text of a model that would write the tag wherever it may, of as many characters at once as come."""
    chance, ids, wanted = random.Random(seed), [], ""
    while len(ids) < 300:
        allowed = constraint.allowed()
        wanted = wanted or chance.choice(['["a', '{"b": "', "<", '"']) + END
        fitting = [i for i in np.flatnonzero(allowed) if wanted.startswith(tokenizer.text_of([int(i)]) or "\0")]
        token = int(max(fitting, key=lambda i: len(tokenizer.text_of([int(i)]))) if fitting else 0)
        if not fitting:
            ends = [i for i in tokenizer.stop_token_ids if allowed[i]]
            closing = [i for i in np.flatnonzero(allowed) if tokenizer.text_of([int(i)]) in ('"', "]", "}", END)]
            token = ends[0] if ends else int(chance.choice(closing or list(np.flatnonzero(allowed))))
        wanted = wanted[len(tokenizer.text_of([token])) :] if fitting else ""
        constraint.advance(token)
        if token in tokenizer.stop_token_ids:
            break
        ids.append(token)
    return tokenizer.text_of(ids)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["array", "object"])
def test_who_tries_to_end_inside_json_is_read_alike_in_pieces(held, kind):
    tokenizer, grammars = held
    tool = {"type": "function", "function": {"name": "f", "parameters": of({"type": kind, "maxItems": 4})}}
    grammar, whole = forced(tool["function"]["parameters"]), 0
    for seed in range(30):
        text = adversary(tokenizer, grammars.constraint(grammar), seed)
        if not text.endswith("</tool_call>"):
            continue
        [call] = read(text, tools=[tool])["tool_calls"]
        Draft202012Validator(of({"type": kind})).validate(json.loads(call["function"]["arguments"]))
        assert all(read(text, cut, tools=[tool]) == read(text, tools=[tool]) for cut in (1, 3, 7))
        whole += 1
    assert whole > 10


@pytest.mark.parametrize("inner", [{"enum": ["a", f"b{END}"]}, {"type": "object", "properties": {END: True}}])
def test_a_schema_that_asks_for_the_tag_is_refused(inner):
    said = (
        f"parameters of f.properties.x: a name or value of its JSON holds {END}, which ends the argument: leave it out"
    )
    with pytest.raises(SchemaError, match=said):
        forced(of({"type": "array", "items": inner}))


def test_the_pattern_takes_every_text_but_those_with_the_tag():
    pattern, chance = re.compile(without_pattern("<ab>"), re.DOTALL), random.Random(0)
    texts = ["".join(chance.choices(["<", "<a", "b", ">", "<ab", "x\n"], k=chance.randint(0, 5))) for _ in range(5000)]
    assert [text for text in texts if bool(pattern.fullmatch(text)) != ("<ab>" not in text)] == []
    assert sum("<ab>" in text for text in texts) > 200
