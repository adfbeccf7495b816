"""Calls between tags: read in pieces as whole, typed by the tool's schema, and forced so that they can be read."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from glm.encoding.argument_types import ANY, argument_json
from glm.encoding.json_schema import response_grammar
from glm.encoding.tagged_calls import TaggedCallReader
from glm.encoding.tagged_grammar import tagged_grammar
from glm.encoding.tool_calls import openai_message
from glm.encoding.tool_choice import ToolChoice
from glm.engine.guided import Grammars
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
PLACE = {
    "type": "object",
    "$defs": {"list": {"type": "array", "items": {"type": "integer"}}},
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 0, "maximum": 20},
        "unit": {"enum": ["c", "f"]},
        "day": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^a[0-9]/x$"},
        "exact": {"type": "boolean"},
        "mixed": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}, {"$ref": "#/$defs/list"}]},
        "free": {"type": ["string", "null"]},
    },
    "required": ["city", "days", "unit", "day", "code", "exact", "mixed"],
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]


def tagged(name: str, line: str = "\n", **arguments: str) -> str:
    pairs = (f"<arg_key>{k}</arg_key>{line}<arg_value>{v}</arg_value>{line}" for k, v in arguments.items())
    return f"<tool_call>{name}{line}{''.join(pairs)}</tool_call>"


NASTY = '北"京\\\n</arg_key><tool_call>{'
# Text → content, thoughts, and calls as (name, arguments).
ANSWERS = {
    f"\n<think>想\n</think>\n查\n{tagged('get_weather', city=NASTY, days='3', free='12')}\n{tagged('now')}": (
        "查",
        "想",
        [("get_weather", {"city": NASTY, "days": 3, "free": "12"}), ("now", {})],
    ),
    tagged("get_weather", "", city="3", days=" 3 ", exact="True", mixed="[1,\n2]", free="null") + tagged("now", ""): (
        None,
        None,
        [("get_weather", {"city": "3", "days": 3, "exact": True, "mixed": [1, 2], "free": None}), ("now", {})],
    ),
    f"<think></think>{tagged('now', ' ')} 完": ("完", None, [("now", {})]),
    tagged("get_weather", days="drei", mixed="1.5", other='{"a": 1}', more="x y"): (
        None,
        None,
        [("get_weather", {"days": "drei", "mixed": "1.5", "other": {"a": 1}, "more": "x y"})],
    ),
    f"{tagged('nobody')} 用": (f"{tagged('nobody')} 用", None, []),
    "一 <tool_c": ("一 <tool_c", None, []),
    "<tool_call>get_w": ("<tool_call>get_w", None, []),
    "": ("", None, []),
}


def read(text: str, cut: int = 0, thinks: bool = False, one_call: bool = False, tools=TOOLS) -> dict:
    reader = TaggedCallReader(tools, (str.strip, lambda text: len(text.rstrip())), thinks, one_call)
    pieces, place, chance = [], 0, random.Random(f"{text}{cut}")
    while place < len(text):
        size = chance.randint(1, cut) if cut else len(text)
        pieces += reader.put(text[place : place + size])
        place += size
    return openai_message([*pieces, *reader.end()], lambda: "id")


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_read(text):
    content, thoughts, calls = ANSWERS[text]
    message = read(text)
    assert message["content"] == content and message.get("reasoning_content") == thoughts
    found = [call["function"] for call in message.get("tool_calls", ())]
    assert [(each["name"], json.loads(each["arguments"])) for each in found] == calls


@pytest.mark.parametrize("text", [*ANSWERS, "想</think>好" + tagged("now"), "只是想"])
def test_however_it_is_cut(text):
    for thinks in (False, True):
        whole = read(text, thinks=thinks)
        assert all(read(text, cut, thinks) == whole for cut in (1, 2, 3, 5, 8, 13))


def test_a_call_that_is_cut_off_stays_cut_off():
    text = tagged("get_weather", city="北京", days="3")
    for end in range(len(text)):
        calls = read(text[:end]).get("tool_calls")
        if calls:
            arguments = calls[0]["function"]["arguments"]
            with pytest.raises(json.JSONDecodeError):
                json.loads(arguments)


def test_only_offered_tools_are_called_and_one_may_be_enough():
    text = tagged("now") + tagged("now")
    assert read(text, tools=[])["content"] == text
    assert len(read(text)["tool_calls"]) == 2
    assert len(read(text, one_call=True)["tool_calls"]) == 1


def test_values_by_their_types():
    for text, types, value in (
        ("3", {"string"}, "3"),
        ("3", {"integer"}, 3),
        ("3", {"string", "null"}, "3"),
        ("3", ANY, 3),
        ("NaN", ANY, "NaN"),
        ("3.5", {"integer"}, "3.5"),
        ("None", {"null"}, None),
        ("{broken", {"object"}, "{broken"),
        ("", {"integer"}, ""),
        ("\n[1]\n", {"array"}, [1]),
    ):
        assert json.loads(argument_json(text, frozenset(types))) == value, (text, types)


def written(tokenizer, grammars: Grammars, grammar: str, seed: int) -> str:
    """A text of random tokens that a grammar allows; tags are drawn often, so that it ends."""
    constraint, ids, chance = grammars.constraint(grammar), [], random.Random(seed)
    while not constraint.finished and len(ids) < 600:
        allowed = np.flatnonzero(constraint.allowed())
        tags = [index for index in allowed if tokenizer.text_of([int(index)]).startswith("<")]
        token = int(chance.choice(tags if tags and chance.random() < 0.5 else list(allowed)))
        constraint.advance(token)
        ids.append(token)
        if token in tokenizer.stop_token_ids:
            break
    return tokenizer.text_of(ids)


@pytest.fixture(scope="module")
def held():
    tokenizer = GLMTokenizer.from_pretrained(DATA / "glm45-tiny")
    return tokenizer, Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer) + 10)


@pytest.mark.parametrize(("thinks", "may_think"), [(False, False), (True, False), (False, True)])
def test_what_is_forced_can_be_read(held, thinks, may_think):
    names = set()
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        grammar = tagged_grammar(ToolChoice.read(TOOLS, choice), thinks, may_think)
        for seed in range(6):
            message = read(written(*held, grammar, seed), thinks=thinks)
            [call] = message["tool_calls"]
            names.add(call["function"]["name"])
            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] == "get_weather":
                assert set(PLACE["required"]) <= set(arguments) <= set(PLACE["properties"])
                assert isinstance(arguments["city"], str) and len(arguments["city"]) <= 8
                assert 0 <= arguments["days"] <= 20 and arguments["unit"] in ("c", "f")
                assert arguments["code"][0] == "a" and arguments["code"].endswith("/x") and len(arguments["code"]) == 4
                assert len(arguments["day"]) == 10 and isinstance(arguments["exact"], bool)
    assert names == {"get_weather", "now"}


def fits(held, grammar: str, text: str) -> bool:
    tokenizer, grammars = held
    constraint = grammars.constraint(grammar)
    for token in tokenizer.text_ids(text):
        if not constraint.allowed()[token]:
            return False
        constraint.advance(token)
    return bool(constraint.look()[0][tokenizer.stop_token_ids].any())


def test_strict_functions_are_held_where_they_are_called(held):
    one = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    strict = {"type": "function", "function": {"name": "f", "strict": True, "parameters": one}}
    grammar = tagged_grammar(ToolChoice.read([strict, NOW]))
    good = [
        tagged("f", n="12"),
        tagged("f", "", n="12"),
        f"好{tagged('now')}好",
        "好",
        tagged("f2"),
        tagged("now", x="y"),
    ]
    assert [text for text in good if not fits(held, grammar, text)] == []
    assert fits(held, grammar, "".join(good))
    bad = [tagged("f"), tagged("f", n="x"), tagged("f", m="1"), tagged("f", "", n="1", m="1")]
    assert [text for text in bad if fits(held, grammar, text)] == []
    assert tagged_grammar(ToolChoice.read([NOW])) is None


def forced(parameters: dict) -> str:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    return tagged_grammar(ToolChoice.read([tool], "required"))


INTEGER, SHORT, LONG = {"type": "integer"}, {"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}
CIRCLE = {"properties": {"kind": {"const": "circle"}, "r": INTEGER}, "required": ["kind", "r"]}
NAMED = {"properties": {"kind": {"const": "named"}, "r": SHORT}, "required": ["kind", "r"]}


ONE_OF_TWO = {"properties": {"a": SHORT, "b": INTEGER}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
SHAPES = {"oneOf": [{"$ref": "#/$defs/c"}, NAMED], "$defs": {"c": CIRCLE}}
ALONE, TOGETHER = ({"properties": {"a": SHORT}, "required": ["a"]}, {"properties": {"b": INTEGER}, "required": ["b"]})
LENGTHS = {"anyOf": [ALONE, {"properties": {"a": LONG, "b": INTEGER}, "required": ["a", "b"]}]}
TEXT = {"a": {"allOf": [{"$ref": "#/$defs/s"}, {"maxLength": 2}]}}
NUMBER = {"a": {"allOf": [{"type": "integer", "minimum": 2}, {"minimum": 5}]}}
DECLARED = {
    "properties": {"code": {"type": "string"}},
    "anyOf": [{"properties": {"code": {"minLength": 2}}, "required": ["code"]}, {"required": ["code"]}],
}
NO_OBJECTS = [{"type": "null"}, False, {"type": "string"}, {"const": 3}, {"$ref": "#/$defs/text"}]
STARTS = {"allOf": [{"type": "string", "pattern": "^a"}, {"enum": ["a", "b", "ab"]}]}
TWO = {"properties": {"a": {"enum": ["a", "b"]}}, "anyOf": [{"properties": {"a": {"const": "b"}}, "required": ["a"]}]}
ENDS = {"enum": ["xa", "ax", "xyza", "x", 7], "maxLength": 3, "pattern": "a$"}
LOOKS = {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "array", "items": {"type": "integer"}}]}
QUOTED = {"type": ["string", "null"], "minLength": 3}
SHUT = {"properties": {"a": SHORT}, "additionalProperties": False, "required": ["a"]}
STRINGS = {"additionalProperties": {"type": "string"}, "properties": {"b": INTEGER}}
# Name → parameters, arguments that fit, and some that do not.
CHOICES = {
    "required": (
        ONE_OF_TWO,
        [{"a": "x"}, {"b": "1"}, {"a": "x", "b": "1"}],
        [{}, {"a": "xyz"}, {"b": "x"}, {"a": "xyz", "b": "1"}],
    ),
    "kinds": (
        SHAPES,
        [{"kind": "circle", "r": "3"}, {"kind": "named", "r": "ab"}],
        [
            {"kind": "named", "r": "3"},
            {"kind": "circle", "r": "ab"},
            {"kind": "named", "r": "abc"},
            {"kind": "circle"},
            {"kind": "x", "r": "3"},
        ],
    ),
    "one name": (LENGTHS, [{"a": "x"}, {"a": "xyz", "b": "1"}], [{"a": "xyz"}, {"a": "x", "b": "1"}, {"b": "1"}]),
    "all": ({"allOf": [ALONE, TOGETHER]}, [{"a": "x", "b": "1"}], [{"a": "x"}, {"b": "1"}, {"a": "xyz", "b": "1"}]),
    "text": (
        {"properties": TEXT, "$defs": {"s": {"type": "string"}}, "required": ["a"]},
        [{"a": "x"}, {"a": "12"}],
        [{"a": "xyz"}, {}],
    ),
    "number": ({"properties": NUMBER}, [{"a": "7"}, {}], [{"a": "3"}, {"a": "x"}]),
    "declared": (DECLARED, [{"code": "12"}], [{}]),
    "no objects": (
        {"anyOf": [ALONE, *NO_OBJECTS], "$defs": {"text": {"type": "string"}}},
        [{"a": "x"}],
        [{}, {"a": "xyz"}],
    ),
    "enum and pattern": ({"properties": {"a": STARTS}}, [{"a": "a"}, {"a": "ab"}, {}], [{"a": "b"}]),
    "enum and const": (TWO, [{"a": "b"}], [{"a": "a"}, {}]),
    "enum, length and end": (
        {"properties": {"a": ENDS}},
        [{"a": "xa"}, {"a": "7"}],
        [{"a": t} for t in ENDS["enum"][1:4]],
    ),
    "enum and types": (
        {"properties": {"a": {"type": ["string", "null"], "enum": ["a", None, 3]}}},
        [{"a": "a"}, {"a": "null"}],
        [{"a": "3"}],
    ),
    "enum of numbers": ({"properties": {"a": {"enum": [1, 2], "allOf": [{"minimum": 2}]}}}, [{"a": "2"}], [{"a": "1"}]),
    "read as a list": ({"properties": {"a": LOOKS}}, [{"a": "[1]"}, {"a": "x"}, {"a": "12"}], [{"a": "[true]"}]),
    "beside strings": (
        {"properties": {"a": {"type": ["string", "integer", "boolean"], "minimum": 5, "maxLength": 3}}},
        [{"a": "7"}, {"a": "true"}, {"a": "x/1"}],
        [{"a": "4"}, {"a": "x/12"}, {"a": "-x"}],
    ),
    "quotation marks": ({"properties": {"a": QUOTED}}, [{"a": "null"}, {"a": 'a"b'}], [{"a": '"a"'}, {"a": "ab"}]),
    "shut out": ({**SHUT, "anyOf": [{}, {"properties": {"b": INTEGER}}]}, [{"a": "x"}], [{}, {"a": "x", "b": "1"}]),
    "others": (
        {"allOf": [STRINGS, {"properties": {"a": {"maxLength": 2}}}]},
        [{"b": "1", "a": "x"}],
        [{"b": "x"}, {"b": "1", "a": "12"}, {"a": "xyz"}],
    ),
}


@pytest.mark.parametrize(("parameters", "good", "bad"), CHOICES.values(), ids=CHOICES)
def test_choices_among_arguments(held, parameters, good, bad):
    grammar = forced(parameters)
    assert [each for each in good if not fits(held, grammar, tagged("f", **each))] == []
    assert [each for each in bad if fits(held, grammar, tagged("f", **each))] == []


def test_thoughts_before_json_are_free(held):
    grammar = response_grammar({"type": "json_object"}, may_think=True)
    assert fits(held, grammar, "{}") and fits(held, grammar, "\n<think>想</think>\n{}")
    assert not fits(held, grammar, "\n<think>想") and not fits(held, grammar, "想</think>{}")
    opened = response_grammar({"type": "json_object"}, thinks=True)
    assert fits(held, opened, "想</think>{}") and not fits(held, opened, "{}")
