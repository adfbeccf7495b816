"""Schemas of arguments between tags: the types they are read as, and those that a call cannot be held to."""

import json

import pytest

from glm.encoding.argument_types import ANY, argument_types, types_of
from glm.encoding.json_schema import SchemaError
from glm.encoding.tagged_calls import TaggedCallReader
from glm.encoding.tagged_grammar import tagged_grammar
from glm.encoding.tool_calls import openai_message
from glm.encoding.tool_choice import ToolChoice

INTEGER, SHORT = {"type": "integer"}, {"type": "string", "maxLength": 2}
CIRCLE = {"properties": {"kind": {"const": "circle"}, "r": INTEGER}, "required": ["kind", "r"]}
NAMED = {"properties": {"kind": {"const": "named"}, "r": SHORT}, "required": ["kind", "r"]}
SHAPES = {"oneOf": [{"$ref": "#/$defs/c"}, NAMED], "$defs": {"c": CIRCLE}}
DECLARED = {
    "properties": {"code": {"type": "string"}},
    "anyOf": [{"properties": {"code": {"minLength": 2}}, "required": ["code"]}, {"required": ["code"]}],
}


def function(parameters: dict) -> dict:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def forced(parameters: dict) -> str:
    return tagged_grammar(ToolChoice.read([function(parameters)], "required"))


def test_types_of_schemas():
    root = {"$defs": {"a": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}}
    for schema, types in (
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"type": "number"}, {"number", "integer"}),
        ({"enum": ["a", 1]}, {"string", "number", "integer"}),
        ({"const": None}, {"null"}),
        ({"anyOf": [{"type": "string"}, {"type": "boolean"}]}, {"string", "boolean"}),
        ({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}, {"string"}),
        ({"$ref": "#/$defs/a"}, {"string"}),
        ({"$ref": "#/$defs/loop"}, ANY),
        ({"$ref": "#/$defs/none"}, ANY),
        ({}, ANY),
        (True, ANY),
    ):
        assert types_of(schema, root) == types, schema


def test_types_of_arguments_in_choices():
    assert argument_types(SHAPES) == {"kind": {"string"}, "r": {"integer", "string"}}
    assert argument_types({"allOf": [{"properties": {"a": SHORT}}, {"$ref": "#"}]}) == {"a": {"string"}}


def test_types_of_what_holds_together_are_intersected():
    assert argument_types(DECLARED) == {"code": {"string"}}
    reader = TaggedCallReader([function(DECLARED)], (str.strip, len))
    text = "<tool_call>f<arg_key>code</arg_key><arg_value>12</arg_value></tool_call>"
    [call] = openai_message([*reader.put(text), *reader.end()], lambda: "id")["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"code": "12"}
    either = {"properties": {"a": {"type": ["string", "integer"]}, "b": {}}}
    for choices, types in (
        ([{"properties": {"a": {"type": "string"}}}, {}], {"string", "integer"}),
        ([{"properties": {"a": {"type": "string"}}}, {"properties": {"a": {"type": "null"}}}], {"string"}),
        ([{"properties": {"a": {"type": "string"}}}, {"type": "null"}, False], {"string"}),
    ):
        assert argument_types({**either, "anyOf": choices})["a"] == types, choices
    assert argument_types({"anyOf": [{}, {"properties": {"a": SHORT}}]}) == {"a": {"string"}}
    assert types_of({"anyOf": [False, {"type": "string"}]}, {}) == {"string"}


def doubled(first: dict, depth: int) -> dict:
    """{"$ref": "#/$defs/d7"}, where d7 has d6 six times, and so on down to `first`, d0."""
    more = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 6} for n in range(1, depth + 1)}
    return {"$defs": {"d0": first, **more}, "$ref": f"#/$defs/d{depth}"}


@pytest.mark.parametrize("depth", [7, 14])
def test_small_schemas_that_say_much_end(depth):
    around = doubled({"properties": {"a": {"type": "string"}}}, depth)
    inside = doubled({"type": "string", "minLength": 1}, depth)
    root = {"$defs": inside["$defs"], "properties": {"a": {"$ref": inside["$ref"]}}}
    for parameters in (around, root):
        assert argument_types(parameters) == {"a": {"string"}}
        with pytest.raises(SchemaError, match="come to more than 16,384 schemas"):
            forced(parameters)
    assert types_of({"$ref": inside["$ref"]}, inside) == {"string"}


def test_parameters_that_cannot_be_forced_are_named():
    for schema, problem in (
        ({"type": "object", "anyOf": [{"required": ["a"]}]}, "'a' is required, and properties has no such argument"),
        ({"type": "object", "minimum": 3}, "'minimum' is not supported of a forced call"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"allOf": [{"anyOf": [{}, {}, {}]}] * 4}, "more than 64 forms"),
        (
            {"additionalProperties": False, "properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]},
            "'b' can have no value in any form of a call: additionalProperties beside a choice",
        ),
        ({"properties": {"a": {"allOf": [{"minLength": 1}, {"minLength": 2}]}}}, "allOf that says 'minLength' twice"),
        ({"type": "string"}, "fit no call at all"),
        ({"anyOf": [{"type": "null"}, False]}, "fit no call at all"),
        ({"anyOf": [{"$ref": "#/$defs/typo"}]}, "ref #/.defs/typo leads to no schema"),
        ({"properties": {"a": {"$ref": "#/$defs/typo"}}}, "ref #/.defs/typo leads to no schema"),
        ({"properties": {"a": {"allOf": [{"$ref": "#/$defs/typo"}]}}}, "ref #/.defs/typo leads to no schema"),
        (
            {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "properties": {"a": {"$ref": "#/$defs/a"}}},
            "leads back to itself",
        ),
        ({"properties": {"a": False}}, "properties.a takes no value at all"),
        ({"properties": {"a": {"type": "string", "enum": [1, None]}}}, "properties.a takes no value at all"),
        ({"properties": {"a": {"minLength": 3, "const": "a"}}}, "leave no value of its enum or const"),
        ({"properties": {"a": {"enum": ["a", "b"], "const": "z"}}}, "leave no value of its enum or const"),
        ({"properties": {"a": {"enum": ["2020-01-01"], "format": "date"}}}, "'format' beside enum or const"),
        ({"properties": {"a": {"enum": ["a" * 40], "pattern": "(a+)+b"}}}, "too hard to judge"),
        ({"properties": {"a": {"enum": ["a" * 40], "pattern": "a?" * 40 + "a" * 40}}}, "too hard to judge"),
        ({"properties": {"a": {"enum": ["a"], "pattern": "\\p{L}"}}}, "is not judged"),
        ({"properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}}, "maxLength 2 is below minLength 3"),
        ({"properties": {"a": {"minimum": 3}}}, "'minimum' needs a type beside it"),
        (
            {"properties": {"a": {"allOf": [{"items": INTEGER}, {"prefixItems": [{}], "type": ["string", "array"]}]}}},
            "allOf that says 'items' twice",
        ),
        ({"properties": {}, "required": ["a"]}, "'a' is required, and properties has no such argument"),
        ({"properties": {"a": {"type": "string", "format": "duration"}}}, "properties.a: the format 'duration'"),
        ({"properties": {"a": {"type": "string", "pattern": "^a|b$"}}}, "put them in parentheses"),
        ({"properties": {"a": {"type": "string", "pattern": "a", "maxLength": 3}}}, "maxLength and pattern together"),
        ({"properties": {"a": {"$ref": "#/$defs/b", "type": "string"}}, "$defs": {"b": {}}}, "ref beside other rules"),
    ):
        with pytest.raises(SchemaError, match=problem):
            forced(schema)
