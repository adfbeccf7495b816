"""What rows of each task become, as texts and as conversations."""

import json

import pytest

from glm.datasets import TASKS, Example, load_examples

BELLE_TASKS = [name for name, task in TASKS.items() if task.collection == "bellegroup"]


def example_of(tmp_path, task, **row) -> Example:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    return load_examples(task, "train", str(path)).examples[0]


def texts(example: Example) -> tuple[str, str]:
    return example.source, example.target


def said(example: Example) -> list[tuple[str, str]]:
    """(role, content) of the messages, which have nothing else."""
    assert all(list(message) == ["role", "content"] for message in example.messages)
    return [(message["role"], message["content"]) for message in example.messages]


def test_question_prompt(tmp_path):
    """A chat model is asked for the same words as a GLM, so that their metrics compare."""
    source = "答案：1920年，上下文：云溪桥建于1920年。"
    row = {"context": "云溪桥建于1920年。", "answer": "1920年", "question": "建于哪一年"}
    example = example_of(tmp_path, "dureader_qg", **row, id=3)
    assert texts(example) == (source, " 在已知答案的前提下，问题：建于哪一年")
    assert said(example) == [("user", source), ("assistant", "在已知答案的前提下，问题：建于哪一年")]
    other = {"source": row["context"], "title": row["answer"], "target": row["question"]}
    assert example_of(tmp_path, "dureader_qg", **other) == example


@pytest.mark.parametrize("task", [task for task in BELLE_TASKS if task != "multiturn_chat_0.8M"])
def test_instruction_prompt(tmp_path, task):
    """`input` is used whenever there is one; the reference reads it only where it contains the word "input"."""
    example = example_of(tmp_path, task, instruction="计算：", input="1+1", output=" 2\n")
    assert texts(example) == ("Human: 计算：1+1\n Assistant: ", " 2\n")
    assert said(example) == [("user", "计算：1+1"), ("assistant", " 2\n")]
    assert example_of(tmp_path, task, instruction="你好", output="好").source == "Human: 你好\n Assistant: "


@pytest.mark.parametrize(
    ("instruction", "source"),
    [
        ("Human:甲\nAssistant:乙\nHuman:丙\nAssistant:", "Human:甲\nAssistant:乙\nHuman:丙\nAssistant: "),
        ("Human: 甲\n Assistant: 乙\n Human: 丙\n Assistant: ", "Human: 甲\n Assistant: 乙\n Human: 丙\n Assistant: "),
        ("Human:甲\nAssistant:乙\nHuman:丙", "Human:甲\nAssistant:乙\nHuman:丙\n Assistant: "),
        ("甲", "Human: 甲\n Assistant: "),
    ],
)
def test_conversation_prompt(tmp_path, instruction, source):
    example = example_of(tmp_path, "multiturn_chat_0.8M", instruction=instruction, input="", output="丁")
    assert texts(example) == (source, "丁")


@pytest.mark.parametrize(
    ("instruction", "turns"),
    [
        ("Human:甲\nAssistant:乙\nHuman:丙\nAssistant:", "甲 乙 丙 丁"),
        ("Human: 甲\n Assistant: 乙\n Human: 丙\n Assistant: ", "甲 乙 丙 丁"),
        ("Human：甲\nAssistant：乙\nHuman：丙\nAssistant：", "甲 乙 丙 丁"),
        ("甲\nAssistant:乙\nHuman:丙", "甲 乙 丙 丁"),
        ("甲", "甲 丁"),
        ("甲 Assistant:", "甲 丁"),
        ("Human:甲\nHuman:戊\nAssistant:乙\nHuman:丙\nAssistant:", "甲\n戊 乙 丙 丁"),
        ("Human:甲\nAssistant:乙", "甲 乙\n丁"),
        ("Assistant:乙\nHuman:丙\nAssistant:", "_ 乙 丙 丁"),
        ("Human:甲\n戊\nAssistant:Human:和Assistant:", "甲\n戊 Human:和\n丁"),
    ],
)
def test_turns_in_a_text(tmp_path, instruction, turns):
    """Whatever the markers, user and assistant take turns, and no text is lost; _ stands for an empty turn."""
    example = example_of(tmp_path, "multiturn_chat_0.8M", instruction=instruction, input="", output="丁")
    expected = [turn.replace("_", "") for turn in turns.split(" ")]
    roles = ["user", "assistant"] * (len(expected) // 2)
    assert said(example) == list(zip(roles, expected, strict=True))


def test_advertisement(tmp_path):
    example = example_of(tmp_path, "adgen", content="类型#裙*颜色#红", summary="红裙。")
    assert texts(example) == ("类型#裙*颜色#红", "红裙。")
    assert said(example) == [("user", "类型#裙*颜色#红"), ("assistant", "红裙。")]


@pytest.mark.parametrize(
    ("instruction", "text", "prompt"),
    [
        ("Name a fruit.", "", "Name a fruit."),
        ("Name a fruit.", "red", "Name a fruit: red"),
        ("Go on...", "red", "Go on..: red"),
        ("Name a fruit", "red", "Name a fruit: red"),
        ("说出水果。", "红色", "说出水果。: 红色"),
        ("", "red", ": red"),
    ],
)
def test_alpaca_prompt(tmp_path, instruction, text, prompt):
    example = example_of(tmp_path, "alpaca", instruction=instruction, input=text, output="Apple.")
    assert said(example) == [("user", prompt), ("assistant", "Apple.")]
    assert texts(example) == (f"Human: {prompt}\n Assistant: ", "Apple.")


MESSAGES = [
    {"role": "user", "content": "甲"},
    {"role": "assistant", "content": "乙"},
    {"role": "user", "content": "丙"},
    {"role": "assistant", "content": "丁"},
]
TOOL = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object", "properties": {}}}}
CALL = {"role": "assistant", "metadata": "stock", "content": '{"thing": "苹果"}'}
RESULT = {"role": "observation", "content": "3"}


def test_conversation(tmp_path):
    """As a text it has the frame of a BELLE instruction, and a conversation of BELLE's has the same messages."""
    example = example_of(tmp_path, "messages", messages=MESSAGES, id=7)
    assert (example.messages, example.tools) == (tuple(MESSAGES), ())
    assert texts(example) == ("Human: 甲\n Assistant: 乙\n Human: 丙\n Assistant: ", "丁")
    belle = example_of(tmp_path, "multiturn_chat_0.8M", instruction=example.source, output="丁")
    assert belle == example
    single = example_of(tmp_path, "messages", messages=MESSAGES[2:])
    assert single == example_of(tmp_path, "school_math_0.25M", instruction="丙", output="丁")


def test_sharegpt_form(tmp_path):
    names = {"user": "human", "assistant": "gpt"}
    turns = [{"from": names[message["role"]], "value": message["content"]} for message in MESSAGES]
    example = example_of(tmp_path, "messages", conversations=turns)
    assert example == example_of(tmp_path, "messages", messages=MESSAGES)
    system = {"role": "system", "content": "你是老师。"}
    beside = example_of(tmp_path, "messages", conversations=turns, system="你是老师。")
    assert beside == example_of(tmp_path, "messages", messages=[system, *MESSAGES])
    assert beside.source.startswith("System: 你是老师。\n Human: 甲\n ")
    inside = [{"from": "system", "value": "你是老师。"}, *turns]
    assert example_of(tmp_path, "messages", conversations=inside, system="又一个") == beside


def test_tool_calls(tmp_path):
    """OpenAI's and ShareGPT's ways to write a call are the same as GLM-4's."""
    question, answer = MESSAGES[2:]
    wanted = example_of(tmp_path, "messages", messages=[question, CALL, RESULT, answer], tools=[TOOL])
    assert (wanted.messages, wanted.tools) == ((question, CALL, RESULT, answer), (TOOL,))
    calling = 'Human: 丙\n Assistant: stock\n{"thing": "苹果"}\n Observation: 3\n Assistant: '
    assert texts(wanted) == (calling, "丁")
    function = {"name": "stock", "arguments": '{"thing": "苹果"}'}
    openai = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
    messages = [question, openai, {"role": "tool", "content": "3"}, answer]
    assert example_of(tmp_path, "messages", messages=messages, tools=json.dumps([TOOL])) == wanted
    call = json.dumps({"name": "stock", "arguments": {"thing": "苹果"}})
    turns = [("human", "丙"), ("function_call", call), ("observation", "3"), ("gpt", "丁")]
    turns = [{"from": speaker, "value": text} for speaker, text in turns]
    assert example_of(tmp_path, "messages", conversations=turns, tools=[TOOL]) == wanted


def test_an_answer_that_calls_tools(tmp_path):
    call = {"function": {"name": "stock", "arguments": {"thing": "苹果"}}}
    calling = {"role": "assistant", "content": "好。", "tool_calls": [call, call]}
    example = example_of(tmp_path, "messages", messages=[MESSAGES[0], calling])
    assert example.messages == (MESSAGES[0], {"role": "assistant", "content": "好。"}, CALL, CALL)
    assert example.target == 'stock\n{"thing": "苹果"}'


def test_tools_in_the_system_message(tmp_path):
    """GLM-4's own fine-tuning files; nulls that a table of rows leaves in messages are dropped."""
    system = {"role": "system", "content": "", "tools": [TOOL]}
    row = [system, *({**message, "tools": None, "metadata": None} for message in MESSAGES)]
    example = example_of(tmp_path, "messages", messages=row)
    assert (example.messages, example.tools) == ((system, *MESSAGES), ())


def test_example_of_texts():
    example = Example.of_pair("甲", "乙")
    assert example == Example("甲", "乙", tuple(MESSAGES[:2]))
