"""Calls of tools that are forced or checked: whatever is chosen among what is allowed, the reader finds such a call."""

import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from random_schemas import Schemas, written

from glm.encoding.chat_formats import chat_format
from glm.encoding.tool_calls import openai_message, stream_pieces
from glm.encoding.tool_choice import ToolChoice
from glm.engine.guided import Grammars
from glm.tokenizers import GLMTokenizer

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("glm4", "glm4-0414", "chatglm3")
CITY = {"type": "object", "properties": {"city": {"enum": ["北京", "上海"]}}, "required": ["city"]}
CITY["additionalProperties"] = False


def function(name: str, parameters=None, **more) -> dict:
    given = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **given, **more}}


@pytest.fixture(scope="module")
def models():
    found = {}
    for kind in KINDS:
        tokenizer = GLMTokenizer.from_pretrained(ROOT / "data" / f"{kind}-tiny")
        found[kind] = tokenizer, Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer))
    return found


def message(tokenizer, grammars, choice: ToolChoice, seed: int, start: str = "", thinks: bool = False) -> dict:
    """OpenAI's message of an answer that begins with `start`, and goes on with what is allowed."""
    constraint = grammars.constraint(choice.grammar(thinks))
    ids = tokenizer.text_ids(start)
    for index in ids:
        assert constraint.allowed()[index], tokenizer.token_bytes(index)
        constraint.advance(index)
    ids += written(constraint, tokenizer.text_bytes(), set(tokenizer.stop_token_ids), np.random.default_rng(seed))
    clean = (str.strip, lambda text: len(text.rstrip()))
    reader = chat_format(tokenizer).open_reader(choice.tools, clean, thinks, choice.one_call)
    return openai_message(stream_pieces(tokenizer, ids, reader))


def checked_call(said: dict, parameters: dict) -> str:
    """The name of the only call, whose arguments are JSON of the parameters."""
    [call] = said["tool_calls"]
    Draft202012Validator(parameters[call["function"]["name"]]).validate(json.loads(call["function"]["arguments"]))
    return call["function"]["name"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_required_call_is_a_call_of_some_function(models, kind):
    parameters = {"get_weather": CITY, "get": Schemas(3).object(1), "查询": {"type": "object", "properties": {}}}
    tools = [*(function(name, schema) for name, schema in parameters.items()), {"type": "python"}]
    choice = ToolChoice.read(tools, "required")
    names = set()
    for seed in range(8):
        said = message(*models[kind], choice, seed)
        names.add(checked_call(said, parameters))
        assert said["content"] is None
    assert len(names) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_call_is_a_call_of_that_function(models, kind):
    choice = ToolChoice.read(
        [function("get"), function("get_weather", CITY)], {"type": "function", "function": {"name": "get_weather"}}
    )
    said = [message(*models[kind], choice, seed)["tool_calls"][0]["function"] for seed in range(6)]
    assert {call["name"] for call in said} == {"get_weather"}
    assert {json.loads(call["arguments"])["city"] for call in said} == {"北京", "上海"}
    nothing = ToolChoice.read([function("get")], {"type": "function", "function": {"name": "get"}})
    [call] = message(*models[kind], nothing, 0)["tool_calls"]
    assert call["function"] == {"name": "get", "arguments": "{}"}


@pytest.mark.parametrize("kind", KINDS)
def test_thoughts_come_before_a_forced_call(models, kind):
    choice = ToolChoice.read([function("get_weather", CITY)], "required")
    said = message(*models[kind], choice, 0, "想一想\n</think>\n", thinks=True)
    assert said["reasoning_content"] == "想一想" and checked_call(said, {"get_weather": CITY})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "start", ["get_weather\n", "\n先查一下。<|assistant|>get_weather\n", 'free\n{"a": 1<|assistant|>get_weather\n']
)
def test_a_strict_function_is_checked_where_the_model_calls_it(models, kind, start):
    """And where it does not, it says what it likes."""
    choice = ToolChoice.read([function("get_weather", CITY, strict=True), function("free", CITY)])
    for seed in range(3):
        said = message(*models[kind], choice, seed, start)
        call = said["tool_calls"][-1]["function"]
        assert call["name"] == "get_weather" and json.loads(call["arguments"])["city"] in ("北京", "上海")
    said = message(*models[kind], choice, 1, "\n你好 {")
    assert said["content"].startswith("你好 {") and "tool_calls" not in said
    said = message(*models[kind], choice, 1, "free\nno JSON")
    assert said["tool_calls"][0]["function"]["arguments"].startswith("no JSON")


def test_a_strict_functions_name_begins_no_text(models):
    tokenizer, grammars = models["glm4"]
    choice = ToolChoice.read([function("get_weather", CITY, strict=True)])
    for start, following, allowed in (
        ("get_weather\n", "x", False),
        ("get_weather", "s", True),
        ("好\n get_weather", "\n", False),
        ("好 get_weather", "\n", True),
    ):
        constraint = grammars.constraint(choice.grammar())
        for index in tokenizer.text_ids(start):
            constraint.advance(index)
        assert constraint.allowed()[tokenizer.text_ids(following)[0]] == allowed, start


def test_nothing_to_hold_needs_no_grammar():
    assert ToolChoice.read([function("get", CITY)]).grammar() is None
    assert ToolChoice.read([function("get", CITY, strict=True)], "none").grammar() is None
