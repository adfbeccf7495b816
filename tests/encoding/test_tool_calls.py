"""Calls of tools in what GLM-4 writes: streamed as unstreamed wherever the text is cut, and OpenAI's messages."""

import json
import re
import sys
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from glm.encoding.chat_formats import chat_format
from glm.encoding.tool_calls import ARGUMENTS, CONTENT, NAME, THOUGHTS, ToolCallReader, openai_message, stream_pieces
from glm.tokenizers import GLMTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tokenizers"))
from chat_cases import WEATHER  # noqa: E402

NAMES = ("get_weather", "get", "python", "查询")
TURN = "<|assistant|>"
CALL = 'get_weather\n{"city": "北京"}'
# What the model writes → content, thoughts, and the calls as (name, arguments).
ANSWERS = {
    CALL: (None, "", [("get_weather", '{"city": "北京"}')]),
    f"{CALL}\n": (None, "", [("get_weather", '{"city": "北京"}')]),
    "\n你好！": ("你好！", "", []),
    "": ("", "", []),
    "get_weather": ("get_weather", "", []),
    "get_weathers\n{}": ("get_weathers\n{}", "", []),
    "get\n{}": (None, "", [("get", "{}")]),
    "  get \n {}": (None, "", [("get", "{}")]),
    "python\nprint('a')\n\nprint({1: 2})\n": (None, "", [("python", "print('a')\n\nprint({1: 2})")]),
    '查询\n{"q": "a}\\"]{"}': (None, "", [("查询", '{"q": "a}\\"]{"}')]),
    'get_weather\n{\n  "a": [1, {"b": "\\\\"}]\n}': (None, "", [("get_weather", '{\n  "a": [1, {"b": "\\\\"}]\n}')]),
    "get_weather\n{'city': 北京": (None, "", [("get_weather", "{'city': 北京")]),
    "get_weather\nthe city": (None, "", [("get_weather", "the city")]),
    "get_weather\n": (None, "", [("get_weather", "")]),
    # words and calls
    f"\n我来查一下。{TURN}{CALL}": ("我来查一下。", "", [("get_weather", '{"city": "北京"}')]),
    f"我来查一下。\n{CALL}": ("我来查一下。", "", [("get_weather", '{"city": "北京"}')]),
    f"\n{CALL}": (None, "", [("get_weather", '{"city": "北京"}')]),
    f"{CALL}{TURN}get\n{{}}": (None, "", [("get_weather", '{"city": "北京"}'), ("get", "{}")]),
    f"{CALL}get\n{{}}": (None, "", [("get_weather", '{"city": "北京"}'), ("get", "{}")]),
    f"{CALL}\nget\n{{}}\n": (None, "", [("get_weather", '{"city": "北京"}'), ("get", "{}")]),
    f"{CALL}\n好的。": ("好的。", "", [("get_weather", '{"city": "北京"}')]),
    "用工具\nget_weather\n查天气": ("用工具\nget_weather\n查天气", "", []),
    "a\nget\n\n get\n{}": ("a\nget", "", [("get", "{}")]),
    "a\nget\n": ("a\nget", "", []),
    "a\nget_w": ("a\nget_w", "", []),
    "到[[训练时间]]。": ("到2023年。", "", []),
    "到[[训练时": ("到[[训练时", "", []),
    # thoughts
    f"<think>\n想。\n</think>\n{CALL}": (None, "想。", [("get_weather", '{"city": "北京"}')]),
    "<think>a </thin b </think>\n\n好": ("好", "a </thin b", []),
    "\n<think>没完": ("", "没完", []),
    "<thin": ("<thin", "", []),
    "a</think>b": ("a</think>b", "", []),
}


def fed(parts: list[str], **options) -> list:
    """The pieces of an answer that comes in parts, TURN one of its own."""
    chat = CHAT
    reader = ToolCallReader(NAMES, (chat.postprocess, chat.stable_length), **options)
    pieces = []
    for part in parts:
        pieces += reader.turn() if part == TURN else reader.put(part)
    return [*pieces, *reader.end()]


CHAT = chat_format(GLMTokenizer.from_pretrained(ROOT / "data/glm4-tiny"))


def joined(pieces) -> tuple:
    message = openai_message(pieces, new_id=lambda: "id")
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return message["content"], message.get("reasoning_content", ""), calls


def parts_of(text: str, *cuts: int) -> list[str]:
    """The text cut at places of its own and where turns end."""
    units = [unit for part in re.split(rf"({re.escape(TURN)})", text) for unit in ([part] if part == TURN else part)]
    bounds = [0, *cuts, len(units)]
    parts = []
    for start, end in pairwise(bounds):
        for unit in units[start:end]:
            if parts and parts[-1] != TURN != unit and unit is not units[start]:
                parts[-1] += unit
            else:
                parts.append(unit)
    return parts


@pytest.mark.parametrize("text", ANSWERS)
def test_what_an_answer_says(text):
    assert joined(fed(parts_of(text))) == ANSWERS[text]


@pytest.mark.parametrize("text", ANSWERS)
def test_every_cut_says_the_same(text):
    """One cut, two cuts, and a cut between any two characters."""
    wanted, units = ANSWERS[text], len(re.sub(re.escape(TURN), "T", text))
    for cuts in [*combinations(range(1, units), 1), *combinations(range(1, units), 2), tuple(range(1, units))]:
        assert joined(fed(parts_of(text, *cuts))) == wanted, cuts


@pytest.mark.parametrize("text", [CALL, f"{CALL}{TURN}get\n{{}}", f"{CALL}get\n{{}}", f"{CALL}\n好的。"])
def test_one_call_and_no_more(text):
    reader = ToolCallReader(NAMES, one_call=True)
    pieces = [piece for part in parts_of(text) for piece in (reader.turn() if part == TURN else reader.put(part))]
    assert reader.done and reader.calls == 1
    assert joined([*pieces, *reader.end()]) == (None, "", [("get_weather", '{"city": "北京"}')])


def test_one_call_of_code_lasts_to_its_turns_end():
    assert joined(fed(["python\nprint(1)", TURN, "get\n{}"], one_call=True)) == (None, "", [("python", "print(1)")])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("想。\n</think>\n好", ("好", "想。", [])),
        (f"\n想\n</think>{CALL}", (None, "想", [("get_weather", '{"city": "北京"}')])),
        ("没完", ("", "没完", [])),
        ("</think>好", ("好", "", [])),
    ],
)
def test_thoughts_that_the_prompt_opens(text, wanted):
    for cut in range(len(text)):
        assert joined(fed([text[:cut], text[cut:]], thinks=True)) == wanted


def test_nothing_waits_without_a_reason():
    """Text is there at once unless it may begin a name; a name when its line ends; arguments as they come."""
    reader = ToolCallReader(NAMES)
    assert reader.put("我") and reader.put("来get_weather")[0].field == CONTENT
    assert reader.put("\nget_w") == []
    assert [(piece.field, piece.text) for piece in reader.put("ho")] == [(CONTENT, "\nget_who")]
    assert reader.turn() == reader.put("get_weather") == []
    assert [(piece.field, piece.text, piece.call) for piece in reader.put("\n")] == [(NAME, "get_weather", 0)]
    assert [(piece.field, piece.text, piece.call) for piece in reader.put('{"ci')] == [(ARGUMENTS, '{"ci', 0)]
    thoughtful = ToolCallReader(NAMES, thinks=True)
    assert [(piece.field, piece.text) for piece in thoughtful.put("想 ")] == [(THOUGHTS, "想")]


def test_a_long_answer_takes_no_square_of_its_length():
    """100,000 characters in 2,000 pieces: minutes, if every character looked at all before it."""
    text = "很长的一段话。" * 14_000
    assert joined(fed([text[i : i + 50] for i in range(0, len(text), 50)]))[0] == text


# Ids


@pytest.mark.parametrize("kind", ["glm4", "glm4-0414"])
@pytest.mark.parametrize("text", ANSWERS)
def test_ids_give_what_the_text_gives(kind, text):
    tokenizer = GLMTokenizer.from_pretrained(ROOT / "data" / f"{kind}-tiny")
    ids = [*tokenizer.text_ids(text), tokenizer.stop_token_ids[-1]]
    reader = ToolCallReader(NAMES, (CHAT.postprocess, CHAT.stable_length))
    assert joined(stream_pieces(tokenizer, ids, reader)) == ANSWERS[text]


def test_a_role_token_that_a_string_spells_ends_no_turn():
    tokenizer = GLMTokenizer.from_pretrained(ROOT / "data/glm4-tiny")
    ids = tokenizer.text_ids(f'get\n{{"a": "{TURN}"}}', split_special_tokens=True)
    assert joined(stream_pieces(tokenizer, ids, ToolCallReader(NAMES)))[2] == [("get", f'{{"a": "{TURN}"}}')]


def test_stop_strings_end_an_answer_and_no_id_is_taken_behind():
    tokenizer = GLMTokenizer.from_pretrained(ROOT / "data/glm4-tiny")
    ids = iter(tokenizer.text_ids(f"好的。稍等{TURN}{CALL}"))
    assert joined(stream_pieces(tokenizer, ids, ToolCallReader(NAMES), ["。"])) == ("好的", "", [])
    assert tokenizer.text_of(ids, skip_special_tokens=False).endswith(f"{TURN}{CALL}")
    ids = iter(tokenizer.text_ids(f"{CALL}{TURN}get\n{{}}"))
    assert joined(stream_pieces(tokenizer, ids, ToolCallReader(NAMES, one_call=True)))[2] == [
        ("get_weather", '{"city": "北京"}')
    ]
    assert tokenizer.text_of(ids, skip_special_tokens=False) == f"{TURN}get\n{{}}"


@pytest.mark.parametrize("text", ANSWERS)
def test_a_conversations_message_makes_the_same_last_call(text):
    """`ChatFormat.answer`, by which Python's conversations remember an answer, of the last turn."""
    message = CHAT.answer(text, [*({"type": "function", "function": {"name": name}} for name in NAMES)])
    calls = ANSWERS[text.rpartition(TURN)[2]][2] if text.rpartition(TURN)[2] in ANSWERS else []
    if calls:
        assert (message["metadata"], message["content"]) == calls[-1]


# Messages


def test_the_message_has_openais_form():
    message = openai_message(fed(parts_of(f"查。{TURN}{CALL}{TURN}get\n{{}}")))
    assert message["role"] == "assistant" and message["content"] == "查。"
    first, second = message["tool_calls"]
    assert first["type"] == "function" and json.loads(first["function"]["arguments"]) == {"city": "北京"}
    assert re.fullmatch(r"call_[0-9a-f]{24}", first["id"]) and first["id"] != second["id"]


@pytest.mark.parametrize("kind", ["glm4", "glm4-0414"])
def test_there_and_back(kind):
    """Words, two calls and their results in another order, as a client sends them: the turns that the model wrote."""
    tokenizer = GLMTokenizer.from_pretrained(ROOT / "data" / f"{kind}-tiny")
    chat = chat_format(tokenizer)
    asked = {"role": "user", "content": "天气？"}
    message = openai_message(fed(parts_of(f'\n查一下。{TURN}{CALL}{TURN}get\n{{"a": 1}}')))
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"{number}°"}
        for number, call in enumerate(message["tool_calls"])
    ]
    prompt = chat.prompt_ids(tokenizer, [asked, message, *results[::-1]], [WEATHER])
    text = tokenizer.text_of(prompt, skip_special_tokens=False)
    assert text.endswith(
        f'<|user|>\n天气？{TURN}\n查一下。{TURN}{CALL}{TURN}get\n{{"a": 1}}'
        "<|observation|>\n0°<|observation|>\n1°<|assistant|>"
    )
