"""`tools`, `tool_choice` and `parallel_tool_calls` as a request has them: what is offered, forced and refused."""

import pytest

from glm.encoding.json_schema import SchemaError
from glm.encoding.tool_choice import ToolChoice, tool_name
from glm.errors import GLMError, UsageError

GET = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
SET = {"type": "function", "function": {"name": "set"}}
CODE = {"type": "python"}
ODD = {"type": "function", "function": {"name": "odd", "parameters": {"not": {}}}}
NAMED = {"type": "function", "function": {"name": "set"}}


@pytest.mark.parametrize(
    ("tools", "choice", "offered", "forced"),
    [
        (None, None, (), ()),
        ([], "auto", (), ()),
        (None, "none", (), ()),
        ([GET, CODE], None, ("get", "python"), ()),
        ([GET, CODE], "auto", ("get", "python"), ()),
        ([GET, CODE], "none", (), ()),
        ([GET, CODE, SET], "required", ("get", "python", "set"), ("get", "set")),
        ([GET, SET], NAMED, ("get", "set"), ("set",)),
        ([{"name": "bare"}], "required", ("bare",), ("bare",)),
        ([ODD], "auto", ("odd",), ()),
    ],
)
def test_what_is_offered_and_what_is_forced(tools, choice, offered, forced):
    found = ToolChoice.read(tools, choice)
    assert (found.names, found.forced) == (offered, forced)
    assert len(found.tools) == len(offered)
    assert (found.grammar() is not None) == bool(forced)


def test_one_call_where_calls_are_not_parallel():
    assert ToolChoice.read([GET], parallel=False).one_call
    assert not ToolChoice.read([GET]).one_call


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ("x", None, "field 'tools' is not valid JSON"),
        ([1], None, "field 'tools' is not a list of tools' JSON schemas"),
        ([{"type": "function"}], None, r"tools\[0\] has the name null, and a name is text on one line"),
        ([GET, {"name": "a\nb"}], None, r'tools\[1\] has the name "a\\nb"'),
        ([{"name": "\ud83d"}], None, r"tools\[0\] has the name "),
        ([{"name": " a"}], None, r'tools\[0\] has the name " a"'),
        ([GET, GET], None, "tools has two tools of the name get: give each a name of its own"),
        (None, "required", "tool_choice is required, and tools has no function: give one"),
        ([CODE], "required", "tools has no function"),
        ([GET], "any", 'tool_choice is "any", and must be none, auto, required or'),
        ([GET], {"type": "allowed_tools"}, "tool_choice is an object, and must be none"),
        ([GET], 3, "tool_choice is a number, and must be"),
        ([GET], NAMED, 'tool_choice names "set"; functions in tools: get'),
        (None, NAMED, 'tool_choice names "set"; functions in tools: none'),
        ([CODE], {"type": "function", "function": {"name": "python"}}, 'names "python"; functions in tools: none'),
    ],
)
def test_what_cannot_be(tools, choice, message):
    with pytest.raises(GLMError, match=message) as caught:
        ToolChoice.read(tools, choice)
    assert "\n" not in str(caught.value)


def test_parameters_that_cannot_be_held_to_are_refused_where_they_must_be():
    message = "parameters of odd: the keyword 'not' is not supported"
    for tools, choice in (([ODD], "required"), ([{"name": "odd", "strict": True, "parameters": {"not": {}}}], "auto")):
        with pytest.raises(SchemaError, match=message):
            ToolChoice.read(tools, choice)


def test_an_error_is_the_users():
    with pytest.raises(UsageError):
        tool_name({})
