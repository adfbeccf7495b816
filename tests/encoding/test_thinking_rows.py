"""GLM-4.5's and GLM-4.7's conversations as rows to train on and as prompts: what carries loss, and what thoughts."""

from collections import Counter
from pathlib import Path

import pytest

from glm.encoding.call_messages import with_tool_calls
from glm.encoding.chat_formats import chat_format
from glm.encoding.chat_roles import opens_thoughts
from glm.encoding.examples import NO_PLACE_FOR_THOUGHTS, NO_THOUGHTS, Example
from glm.encoding.messages import normal_messages
from glm.encoding.processor import ChatProcessor, processor_of
from glm.errors import GLMError, UsageError
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
NAMES = ("glm45-tiny", "glm47-tiny")
USER = {"role": "user", "content": "桥"}
ANSWER = {"role": "assistant", "content": "好"}
THOUGHT = {**ANSWER, "reasoning_content": "湖"}
ARGUMENTS = '{"city": "北", "n": 1}'
CALLS = [{"id": "a", "function": {"name": "f", "arguments": ARGUMENTS}}, {"id": "b", "function": {"name": "g"}}]
CALL = {"role": "assistant", "content": None, "reasoning_content": "湖", "tool_calls": CALLS}
SEEN = {"role": "tool", "content": "有"}
# (name, thinking) → rows of a conversation, ⟦what is trained⟧.
ROWS = {
    "thoughts": (
        [USER, THOUGHT],
        {
            ("glm45-tiny", None): ["<|user|>\n桥<|assistant|>⟦\n<think>湖</think>\n好<|user|>⟧"],
            ("glm47-tiny", None): ["<|user|>桥<|assistant|>⟦<think>湖</think>好<|user|>⟧"],
        },
    ),
    "no thoughts": (
        [USER, ANSWER, USER, ANSWER],
        {
            ("glm45-tiny", None): [
                "<|user|>\n桥<|assistant|>⟦\n<think></think>\n好<|user|>⟧\n桥<|assistant|>⟦\n<think></think>\n好<|user|>⟧"
            ],
            ("glm45-tiny", False): [
                "<|user|>\n桥/nothink<|assistant|>⟦\n<think></think>\n好<|user|>⟧\n桥/nothink"
                "<|assistant|>⟦\n<think></think>\n好<|user|>⟧"
            ],
            ("glm47-tiny", None): [
                "<|user|>桥<|assistant|>⟦<think></think>好<|user|>⟧",
                "<|user|>桥<|assistant|></think>好<|user|>桥<|assistant|>⟦<think></think>好<|user|>⟧",
            ],
            ("glm47-tiny", False): ["<|user|>桥<|assistant|>⟦</think>好<|user|>⟧桥<|assistant|>⟦</think>好<|user|>⟧"],
        },
    ),
    "earlier thoughts": (
        [USER, THOUGHT, USER, THOUGHT],
        {
            ("glm45-tiny", None): [
                "<|user|>\n桥<|assistant|>⟦\n<think>湖</think>\n好<|user|>⟧",
                "<|user|>\n桥<|assistant|>\n<think></think>\n好<|user|>\n桥<|assistant|>⟦\n<think>湖</think>\n好<|user|>⟧",
            ],
            ("glm47-tiny", None): [
                "<|user|>桥<|assistant|>⟦<think>湖</think>好<|user|>⟧",
                "<|user|>桥<|assistant|></think>好<|user|>桥<|assistant|>⟦<think>湖</think>好<|user|>⟧",
            ],
        },
    ),
    "calls": (
        [USER, CALL, SEEN, SEEN, THOUGHT],
        {
            ("glm45-tiny", None): [
                "<|user|>\n桥<|assistant|>⟦\n<think>湖</think>\n<tool_call>f\n<arg_key>city</arg_key>\n"
                "<arg_value>北</arg_value>\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n</tool_call>\n<tool_call>g\n"
                "</tool_call><|observation|>⟧\n<tool_response>\n有\n</tool_response>\n<tool_response>\n有\n"
                "</tool_response><|assistant|>⟦\n<think>湖</think>\n好<|user|>⟧"
            ],
            ("glm47-tiny", None): [
                "<|user|>桥<|assistant|>⟦<think>湖</think><tool_call>f<arg_key>city</arg_key><arg_value>北</arg_value>"
                "<arg_key>n</arg_key><arg_value>1</arg_value></tool_call><tool_call>g</tool_call><|observation|>⟧"
                "<tool_response>有</tool_response><tool_response>有</tool_response><|assistant|>⟦<think>湖</think>好"
                "<|user|>⟧"
            ],
        },
    ),
}
CASES = [(name, *key) for name, (_, rows) in ROWS.items() for key in rows]


def processor(name: str, thinking: bool | None = None) -> ChatProcessor:
    found = processor_of(GLMTokenizer.from_pretrained(DATA / name), lengths=(256, 64))
    found.set_thinking(thinking)
    return found


def shown(tokenizer, row) -> str:
    """A row as text, ⟦ and ⟧ around what is trained, without its first two tokens."""
    text, run, inside = "", [], False
    for index, trained in [*zip(row.ids[2:], row.trained[2:], strict=True), (None, False)]:
        if trained != inside or index is None:
            text += tokenizer.text_of(run, skip_special_tokens=False) + ("⟦" if trained else "⟧" if inside else "")
            run, inside = [], trained
        run += [] if index is None else [index]
    return text


@pytest.mark.parametrize(("case", "name", "thinking"), CASES)
def test_what_is_trained(case, name, thinking):
    messages, rows = ROWS[case]
    made = processor(name, thinking)
    found = made.rows(Example("", "", tuple(messages)))
    assert [shown(made.tokenizer, row) for row in found] == rows[name, thinking]
    for row in found:
        start = [made.tokenizer.added_tokens[token] for token in ("[gMASK]", "<sop>")]
        assert row.ids[:2] == start and not set(start) & set(row.ids[2:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("thinking", [None, False])
def test_a_row_begins_as_the_prompt_of_its_last_answer(name, thinking):
    """In generation the model reads what it read in training."""
    made = processor(name, thinking)
    for messages in ([USER, ANSWER, USER, ANSWER], [USER, CALL, SEEN, SEEN, ANSWER]):
        prompt = made.messages_prompt(messages[:-1])
        assert made.rows(Example("", "", tuple(messages)))[-1].ids[: len(prompt)] == prompt


def test_what_is_left_out_is_counted():
    for name, thinking, messages, counts in (
        ("glm47-tiny", None, [USER, ANSWER], {NO_THOUGHTS: 1}),
        ("glm45-tiny", None, [USER, ANSWER], {}),
        ("glm45-tiny", False, [USER, THOUGHT], {NO_PLACE_FOR_THOUGHTS: 1}),
        ("glm47-tiny", False, [USER, THOUGHT], {NO_PLACE_FOR_THOUGHTS: 1}),
        ("glm47-tiny", None, [USER, THOUGHT], {}),
    ):
        made = processor(name, thinking)
        made.rows(Example("", "", tuple(messages)))
        assert made.counts == Counter(counts), (name, thinking, messages)


def test_thoughts_in_the_text_are_thoughts():
    inside = {"role": "assistant", "content": "<think>湖</think>好"}
    for name in NAMES:
        made = processor(name)
        assert made.rows(Example("", "", (USER, inside))) == made.rows(Example("", "", (USER, THOUGHT)))


def test_turns_with_calls():
    """GLM-4's own form, OpenAI's and ShareGPT's say one thing."""
    own = [
        USER,
        {"role": "assistant", "content": "查"},
        {"role": "assistant", "metadata": "f", "content": ARGUMENTS},
        {"role": "observation", "content": "有"},
    ]
    openai = [USER, {"role": "assistant", "content": "查", "tool_calls": CALLS[:1]}, SEEN]
    sharegpt = [
        {"from": "human", "value": "桥"},
        {"from": "gpt", "value": "查"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"city": "北", "n": 1}}'},
        {"from": "observation", "value": "有"},
    ]
    turns = [with_tool_calls(normal_messages(each)) for each in (own, openai, sharegpt)]
    assert turns[0] == turns[1] == turns[2]
    assert turns[0][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"city": "北", "n": 1}}
    prompts = [processor("glm45-tiny").messages_prompt(each) for each in (own, openai, sharegpt)]
    assert prompts[0] == prompts[1] == prompts[2]


def test_answers_that_are_context_stay_turns_of_their_own():
    messages = normal_messages([{**ANSWER, "weight": 0}, {"role": "assistant", "metadata": "f", "content": "{}"}])
    assert len(with_tool_calls(messages)) == 2


def test_arguments_must_have_names():
    with pytest.raises(GLMError, match="a call of python has the arguments 'print"):
        processor("glm45-tiny").messages_prompt(
            [USER, {"role": "assistant", "metadata": "python", "content": "print(1)"}, SEEN]
        )


def test_where_thoughts_may_stand():
    for name, thinking, found in (
        ("glm45-tiny", None, (False, True)),
        ("glm45-tiny", False, (False, False)),
        ("glm47-tiny", None, (True, True)),
        ("glm47-tiny", False, (False, False)),
        ("glm4-0414-tiny", None, (False, False)),
    ):
        made = processor(name, thinking)
        prompt = made.messages_prompt([USER])
        assert tuple(made.thinking(prompt).values()) == found, (name, thinking)
        assert opens_thoughts(made.tokenizer, prompt) == found[0]


def test_a_model_without_the_switch_refuses_it():
    for name in ("glm4-tiny", "glm4-0414-tiny", "chatglm-tiny"):
        assert not processor(name).can_switch_thinking
        with pytest.raises(UsageError, match="reads no variable 'enable_thinking'"):
            processor(name, False)
    with pytest.raises(UsageError, match="enable_thinking is for chat models"):
        processor_of(GLMTokenizer.from_pretrained(DATA / "glm-tiny-chinese")).set_thinking(True)
    assert chat_format(GLMTokenizer.from_pretrained(DATA / "glm45-tiny")).thinks
