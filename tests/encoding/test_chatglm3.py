"""Prompts and rows of ChatGLM2 and 3, message by message as their own code cuts them into pieces."""

import json
from pathlib import Path

import pytest

from glm.encoding.chat_formats import chat_format
from glm.encoding.chat_rounds import CHATGLM2_ROUNDS
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer
from glm.tokenizers.chatglm2 import _PUBLISHED_TEMPLATE

DATA = Path(__file__).resolve().parents[2] / "data"
OPENING = "Answer the following questions as best as you can. You have access to the following tools:"
FLAT = {"name": "get_weather", "description": "查天气", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FLAT}
ASKED = [
    {"role": "system", "content": "你是助手。\n请简短。"},
    {"role": "user", "content": "  你好 <|user|> philosophy\n\n"},
    {"role": "assistant", "content": "你好👋！"},
    {"role": "user", "content": "\n再见"},
]


@pytest.fixture(scope="module")
def chatglm2():
    return GLMTokenizer.from_pretrained(DATA / "chatglm2-tiny")


@pytest.fixture(scope="module")
def chatglm3():
    return GLMTokenizer.from_pretrained(DATA / "chatglm3-tiny")


def single(tokenizer, role: str, content: str, metadata: str = "") -> list[int]:
    """`build_single_message` of tokenization_chatglm.py: the head of a message and its content are two texts."""
    pieces = tokenizer._pieces
    return [tokenizer.added_tokens[f"<|{role}|>"], *pieces.encode(f"{metadata}\n"), *pieces.encode(content)]


def framed(tokenizer, ids: list[int]) -> list[int]:
    return [tokenizer.added_tokens["[gMASK]"], tokenizer.added_tokens["sop"], *ids]


def chat_input(tokenizer, messages) -> list[int]:
    """`build_chat_input`."""
    ids = [id for m in messages for id in single(tokenizer, m["role"], m["content"], m.get("metadata", ""))]
    return framed(tokenizer, [*ids, tokenizer.added_tokens["<|assistant|>"]])


def test_a_prompt_is_that_of_build_chat_input(chatglm3):
    chat = chat_format(chatglm3)
    assert chat.prompt_ids(chatglm3, ASKED) == chat_input(chatglm3, ASKED)
    assert chatglm3.apply_chat_template(ASKED, add_generation_prompt=True) == chat_input(chatglm3, ASKED)
    empty = [{"role": "user", "content": ""}]
    assert chat.prompt_ids(chatglm3, empty) == chat_input(chatglm3, empty)


@pytest.mark.parametrize("system", ["", "你是助手。"])
def test_tools_are_indented_json_in_the_systems_turn(chatglm3, system):
    question = {"role": "user", "content": "天气？"}
    first = [{"role": "system", "content": system}] if system else []
    text = f"{system or OPENING}\n{json.dumps([FLAT], indent=4, ensure_ascii=False)}"
    wanted = chat_input(chatglm3, [{"role": "system", "content": text}, question])
    assert chat_format(chatglm3).prompt_ids(chatglm3, [*first, question], [TOOL]) == wanted
    assert chat_format(chatglm3).prompt_ids(chatglm3, [*first, question], [FLAT]) == wanted
    assert chatglm3.apply_chat_template([*first, question], [TOOL], add_generation_prompt=True) == wanted


def test_calls_and_their_results(chatglm3):
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "get_weather"}}]}
    call["tool_calls"][0]["function"]["arguments"] = '{"city": "北京"}'
    messages = [{"role": "user", "content": "天气？"}, call, {"role": "tool", "tool_call_id": "1", "content": "晴"}]
    python = "```python\ntool_call(city='北京')\n```"
    said = {"role": "assistant", "metadata": "get_weather", "content": python}
    wanted = chat_input(chatglm3, [messages[0], said, {"role": "observation", "content": "晴"}])
    assert chat_format(chatglm3).prompt_ids(chatglm3, messages) == wanted


def test_rows_hold_whole_turns(chatglm3):
    """Trained are an answer's head, its content, and the token that ends it."""
    answered = [*ASKED, {"role": "assistant", "content": "再见！"}]
    (row,) = chat_format(chatglm3).training_examples(chatglm3, answered)
    user = chatglm3.added_tokens["<|user|>"]
    assert row.ids == [*chat_input(chatglm3, answered)[:-1], user]
    first, second = ([*single(chatglm3, "assistant", text)[1:], user] for text in ("你好👋！", "再见！"))
    assert [id for id, trained in zip(row.ids, row.trained, strict=True) if trained] == first + second
    assert row.prefix_length == 0


def test_the_published_template_gives_way_to_the_published_code(chatglm3, tmp_path):
    """It knows neither tools nor the names of called ones; the file keeps it."""
    config = {**chatglm3.config, "chat_template": _PUBLISHED_TEMPLATE}
    chatglm3.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    opened = GLMTokenizer.from_pretrained(tmp_path)
    assert opened.chat_template == chatglm3.chat_template
    question = [{"role": "user", "content": "天气？"}]
    assert chat_format(opened).prompt_ids(opened, question, [TOOL]) == chat_format(chatglm3).prompt_ids(
        chatglm3, question, [TOOL]
    )
    opened.chat_template = _PUBLISHED_TEMPLATE  # without tools it says the same
    assert opened.apply_chat_template(ASKED, add_generation_prompt=True) == chat_input(chatglm3, ASKED)


def test_rounds_are_those_of_build_prompt(chatglm2):
    text = "[Round 1]\n\n问：Q1\n\n答：A1\n\n[Round 2]\n\n问：Q2 </s>\n\n答："
    contents = {"user": ("Q1", "Q2 </s>"), "assistant": ("A1",)}
    messages = [
        {"role": role, "content": contents[role][i // 2]} for i, role in enumerate(("user", "assistant", "user"))
    ]
    assert CHATGLM2_ROUNDS.text(messages) == text
    wanted = framed(chatglm2, chatglm2._pieces.encode(text))
    assert chat_format(chatglm2).prompt_ids(chatglm2, messages) == wanted
    assert chatglm2.apply_chat_template(messages, add_generation_prompt=True) == wanted
    assert CHATGLM2_ROUNDS.text(messages[:1]) == "[Round 1]\n\n问：Q1\n\n答："


def test_a_round_is_trained_as_in_its_own_script(chatglm2):
    """ptuning/main.py: prompt, answer and </s>, the answer cut into pieces on its own; a long one loses its end."""
    pieces = chatglm2._pieces
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "我是助手。"}]
    prompt, answer = framed(chatglm2, pieces.encode("[Round 1]\n\n问：你好\n\n答：")), pieces.encode("我是助手。")
    chat = chat_format(chatglm2)
    (row,) = chat.training_examples(chatglm2, messages)
    assert row.ids == [*prompt, *answer, 2] and row.prefix_length == 0
    assert row.trained == [False] * len(prompt) + [True] * (len(answer) + 1)
    (row,) = chat.training_examples(chatglm2, messages, src_length=len(prompt), tgt_length=3)
    assert row.ids == [*prompt, *answer[:2], 2] and row.cut
    (row,) = chat.training_examples(chatglm2, messages, src_length=len(prompt) - 1, tgt_length=99)
    assert row.ids == [*prompt[:-1], *answer, 2] and row.cut


def test_chatglm2_calls_no_tools(chatglm2):
    chat = chat_format(chatglm2)
    with pytest.raises(GLMError, match="calls no tools"):
        chat.prompt_ids(chatglm2, [{"role": "user", "content": "?"}], [TOOL])
    with pytest.raises(GLMError, match="this model knows user, assistant"):
        chat.prompt_ids(chatglm2, [{"role": "system", "content": "x"}, {"role": "user", "content": "?"}])


def test_answers_are_cleaned_as_published(chatglm2):
    """Unlike ChatGLM-6B's, punctuation stays as it is."""
    assert chat_format(chatglm2).answer(" 到[[训练时间]],好 \n") == {"role": "assistant", "content": "到2023年,好"}
