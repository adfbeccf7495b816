"""Calls of tools as ChatGLM3 writes them, in Python: to JSON and back, streamed as unstreamed, and never run."""

import json
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from glm.encoding.chat_formats import chat_format
from glm.encoding.python_calls import json_arguments, python_arguments
from glm.encoding.tool_calls import ToolCallReader, openai_message, stream_pieces
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
TURN = "<|assistant|>"
TOOLS = [{"name": name} for name in ("get_weather", "interpreter", "get")]
ARGUMENTS = [
    {},
    {"city": "北京", "n": 2, "exact": True, "unit": None, "t": -1.5},
    {"q": "a\"b'c\\d\n```\n", "deep": {"a": [1, {"b": "x)"}]}},
    {"not a name": 1, "class": 2, "ﬁ": 3},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_there_and_back(arguments):
    written = python_arguments(json.dumps(arguments))
    assert written.startswith("```python\ntool_call(") and written.endswith(")\n```")
    assert json.loads(json_arguments(written)) == arguments


def test_the_published_example():
    """THUDM/ChatGLM3, PROMPT.md."""
    written = '\n```python\ntool_call(location="beijing", unit="celsius")\n```\n'
    assert json_arguments(written) == '{"location": "beijing", "unit": "celsius"}'


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(x=1)\n```",
        "```python\ntool_call('beijing')\n```",
        "```python\ntool_call(a=open('/etc/passwd').read())\n```",
        "```python\ntool_call(a=1) or 2\n```",
        "```python\ntool_call(a={1, 2})\n```",
        "```python\ntool_call(**5)\n```",
        "```python\ntool_call(a=1e999)\n```",
        "```python\nimport os\nos.listdir()\n```",
        '{"city": "北京"}',
        "tool_call(a=",
        "((((" * 5000,
        "a\0b",
        "",
    ],
)
def test_what_is_no_such_call_stays_as_it_is(text):
    assert json_arguments(f" {text}\n") == text


@pytest.mark.parametrize("text", ["print(1)", "[1, 2]", "", '{"a":'])
def test_what_is_no_object_is_written_as_it_is(text):
    assert python_arguments(text) == text


# What the model writes → content, and the calls as (name, arguments).
CALL = "get_weather\n ```python\ntool_call(city='北京')\n```"
ANSWERS = {
    "\n 你好！": ("你好！", []),
    CALL: (None, [("get_weather", '{"city": "北京"}')]),
    f"{CALL}\n": (None, [("get_weather", '{"city": "北京"}')]),
    f"\n 我来查。{TURN}{CALL}": ("我来查。", [("get_weather", '{"city": "北京"}')]),
    f"{CALL}{TURN}get\n ```python\ntool_call()\n```": (None, [("get_weather", '{"city": "北京"}'), ("get", "{}")]),
    "interpreter\n ```python\nprint(1)\n```": (None, [("interpreter", "```python\nprint(1)\n```")]),
    "get_weather\n ```python\ntool_call(city='北": (None, [("get_weather", "```python\ntool_call(city='北")]),
    'get_weather\n {"city": "北京"}': (None, [("get_weather", '{"city": "北京"}')]),
    "unknown\n ```python\ntool_call()\n```": ("unknown\n ```python\ntool_call()\n```", []),
}


@pytest.fixture(scope="module")
def tokenizer():
    return GLMTokenizer.from_pretrained(DATA / "chatglm3-tiny")


def reader(chat) -> ToolCallReader:
    return chat.open_reader(TOOLS, (chat.postprocess, chat.stable_length), False, False)


def joined(pieces) -> tuple:
    message = openai_message(pieces, new_id=lambda: "id")
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return message["content"], calls


@pytest.mark.parametrize("text", ANSWERS)
def test_every_cut_says_the_same(tokenizer, text):
    chat, turns = chat_format(tokenizer), text.split(TURN)
    sizes = len(text.replace(TURN, ""))
    for cuts in [(), *combinations(range(1, sizes), 2), tuple(range(1, sizes))]:
        read, pieces, place = reader(chat), [], 0
        for number, turn in enumerate(turns):
            pieces += read.turn() if number else []
            bounds = [0, *(cut - place for cut in cuts if 0 < cut - place < len(turn)), len(turn)]
            for start, end in pairwise(bounds):
                pieces += read.put(turn[start:end])
            place += len(turn)
        assert joined([*pieces, *read.end()]) == ANSWERS[text], cuts


@pytest.mark.parametrize("text", ANSWERS)
def test_ids_that_arrive_say_the_same(tokenizer, text):
    """As the engine gives them: sentencepiece's blanks, bytes of half characters, and the token between turns."""
    ids = [*tokenizer.text_ids(text), tokenizer.convert_tokens_to_ids("<|observation|>")]
    assert joined(stream_pieces(tokenizer, ids, reader(chat_format(tokenizer)))) == ANSWERS[text]


def test_the_last_turn_is_a_message_that_is_written_again(tokenizer):
    chat = chat_format(tokenizer)
    said = chat.answer(CALL, [{"name": "get_weather"}])
    assert said == {"role": "assistant", "metadata": "get_weather", "content": '{"city": "北京"}'}
    asked = [{"role": "user", "content": "北京天气？"}, said, {"role": "observation", "content": "晴"}]
    prompt = tokenizer.text_of(chat.prompt_ids(tokenizer, asked), skip_special_tokens=False)
    assert prompt.endswith(f"<|assistant|>{CALL}<|observation|>\n 晴<|assistant|>")
