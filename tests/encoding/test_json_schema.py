"""JSON schemas: what is taken, what is refused by its name, and the grammar text of it."""

import json

import pytest

from glm.encoding.json_schema import (
    DEEPEST,
    MOST_BYTES,
    SchemaError,
    checked_schema,
    grammar,
    json_grammar,
    response_grammar,
)
from glm.errors import UsageError

EVERYTHING = {
    "$defs": {"n": {"type": ["integer", "null"], "minimum": -1, "exclusiveMaximum": 5.5, "multipleOf": 0.5}},
    "definitions": {"m": {"exclusiveMinimum": 0, "maximum": 2}},
    "type": "object",
    "properties": {
        "type": {"$ref": "#/$defs/n"},
        "s": {"type": "string", "minLength": 1, "maxLength": 2, "pattern": "^[a-z\\[]$", "format": "date"},
        "a": {"type": "array", "items": False, "prefixItems": [True, {}], "minItems": 1, "maxItems": 2},
        "e": {"anyOf": [{"enum": [1, None, {"title": 1}]}, {"oneOf": [{"const": {"default": 0}}]}, {"allOf": [True]}]},
    },
    "required": ["type"],
    "additionalProperties": {"type": "string"},
}


def nested(depth: int) -> dict:
    schema: dict = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def test_every_supported_keyword_is_left_as_it_is():
    assert checked_schema(EVERYTHING) == EVERYTHING


def test_what_only_describes_is_left_out_and_names_of_properties_are_not():
    said = {"title": "T", "description": "d", "default": 1, "examples": [1], "$comment": "c", "readOnly": True}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", **said, "deprecated": True}
    properties = {name: {"type": "null", **said} for name in said}
    found = checked_schema({**schema, "properties": properties, "const": {"title": "T"}})
    assert found == {"properties": {name: {"type": "null"} for name in said}, "const": {"title": "T"}}


@pytest.mark.parametrize(
    "keyword",
    [
        "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties", "propertyNames",
        "unevaluatedProperties", "unevaluatedItems", "contains", "minContains", "uniqueItems", "minProperties",
        "maxProperties", "additionalItems", "$anchor", "$dynamicRef", "nullable", "contentEncoding", "x-guidance",
        "typ",
    ],
)  # fmt: skip
def test_other_keywords_are_refused_by_name(keyword):
    message = rf"schema.properties.a.items: the keyword '{keyword}' is not supported; supported: type, enum, "
    with pytest.raises(SchemaError, match=message.replace("$", r"\$")):
        checked_schema({"properties": {"a": {"items": {keyword: True}}}})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (None, "schema is null, and a schema is an object"),
        ([], "schema is a list, and a schema is an object"),
        (False, "schema is false, which describes no JSON at all"),
        ({"type": "int"}, 'schema.type is "int", and must be one of null, boolean, integer, '),
        ({"type": []}, r"schema.type is \[\], and must be one of"),
        ({"enum": []}, "schema.enum must be a list of values, with at least one"),
        ({"anyOf": []}, "schema.anyOf must be a list of schemas, with at least one"),
        ({"anyOf": [{}, 3]}, r"schema.anyOf\[1\] is a number, and a schema is an object"),
        ({"items": [{}]}, "schema.items is a list, .* has prefixItems"),
        ({"properties": []}, "schema.properties is a list, and must be an object of schemas"),
        ({"required": ["a", 1]}, r'schema.required is \["a", 1\], and must be a list of names'),
        ({"minLength": -1}, "schema.minLength is -1, and must be a whole number of at least 0"),
        ({"maxItems": 1.5}, "schema.maxItems is 1.5, and must be a whole number"),
        ({"maxItems": True}, "schema.maxItems is true, and must be a whole number"),
        ({"exclusiveMinimum": True}, "schema.exclusiveMinimum is true, and must be a number"),
        ({"minimum": 2**53 + 1}, "schema.minimum holds 9007199254740993, and numbers beyond"),
        ({"const": [{"a": 1e300}]}, "schema.const holds 1e.300, and numbers beyond"),
        ({"multipleOf": 0}, "schema.multipleOf is 0, and must be above 0"),
        ({"pattern": 1}, "schema.pattern is a number, and must be a regular expression"),
        ({"pattern": "x[a&&b]"}, r'schema.pattern "x\[a&&b\]" has && inside'),
        ({"pattern": "[a[b]]"}, r"has \[ inside"),
        ({"format": "idn-email"}, 'schema.format "idn-email" is not supported; supported: date-time, time'),
        ({"$ref": "https://example.com/a"}, "schema.[$]ref .* must point into this schema, as #/[$]defs/name does"),
        ({"$ref": "#anchor"}, "must point into this schema"),
        ({"const": "\ud83d"}, "schema is not JSON .*surrogates not allowed"),
        ({"const": float("nan")}, "schema is not JSON"),
        ({"const": {1}}, "schema is not JSON .*set"),
        ({"description": "x" * MOST_BYTES}, "schema has 65,5.. bytes, and at most 65,536 are taken"),
        (nested(DEEPEST + 1), "lies deeper than 32 schemas inside one another"),
    ],
)
def test_what_is_no_schema(schema, message):
    with pytest.raises(SchemaError, match=message) as caught:
        checked_schema(schema)
    assert isinstance(caught.value, UsageError) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_depth_and_size_have_room_for_what_people_have():
    assert checked_schema(nested(DEEPEST)) == nested(DEEPEST)
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SchemaError, match="schema is not JSON"):
        checked_schema({"default": deep})
    for pattern in ("a&&b", r"[\[a]", "[a-z]--[0-9]", "[^&]&&"):
        assert checked_schema({"pattern": pattern}) == {"pattern": pattern}


# Grammars


def rule(text: str) -> dict:
    """The schema of a grammar's only rule of JSON."""
    return json.loads(text.split("%json ", 1)[1].splitlines()[0])


def test_the_grammar_of_a_schema():
    text = json_grammar({"type": "object", "title": "城市"})
    assert text.startswith("start: value\nvalue: %json {") and text.count("\n") == 2
    layout = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
    assert rule(text) == {"x-guidance": layout, "type": "object"}
    assert rule(json_grammar(True)) == {"x-guidance": layout}
    assert json_grammar(True, thinks=True).startswith("start: thoughts value\nvalue: ")
    assert grammar("x") == "start: x\n"


def test_response_formats():
    schema = {"type": "object"}
    assert response_grammar({"type": "text"}) is None
    assert response_grammar({"type": "json_object"}) == json_grammar(schema)
    for strict in (True, False, None):
        named = {"name": "n", "schema": schema, "strict": strict, "description": "d"}
        assert response_grammar({"type": "json_schema", "json_schema": named}) == json_grammar(schema)


@pytest.mark.parametrize(
    "response_format",
    [None, "json_object", {}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}],
)
def test_what_is_no_response_format(response_format):
    with pytest.raises(SchemaError, match=r"^response_format "):
        response_grammar(response_format)
