"""Columns beside question and answer: earlier turns, a system message, other names, and what nothing reads."""

import json
import re
from pathlib import Path

import pytest
from tiny_chat import processor_of_tiny

from glm.datasets import load_examples
from glm.datasets.tasks import TASKS
from glm.errors import GLMError, UsageError

PAIRS = [["祥云塔在哪里？", "在城南。"], ["多高？", "三十米。"]]
TURNS = [
    {"role": role, "content": text} for pair in PAIRS for role, text in zip(("user", "assistant"), pair, strict=True)
]
SYSTEM = {"role": "system", "content": "你是导游"}
LAST = [{"role": "user", "content": "谁建的？"}, {"role": "assistant", "content": "云明。"}]
CONTEXT = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in TURNS]
TEXT = "System: 你是导游\n Human: 祥云塔在哪里？\n Assistant: 在城南。\n Human: 多高？\n Assistant: 三十米。\n "


def load(tmp_path, task, *rows, **options):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return load_examples(task, "train", str(path), **options)


def example_of(tmp_path, task, row, **options):
    loaded = load(tmp_path, task, row, **options)
    assert loaded.notes == ()
    return loaded.examples[0]


QUESTIONS = {
    "alpaca": {"instruction": "谁建的？", "input": "", "output": "云明。"},
    "school_math_0.25M": {"instruction": "谁建的？", "output": "云明。"},
    "multiturn_chat_0.8M": {"instruction": "Human: 谁建的？\nAssistant:", "output": "云明。"},
}


@pytest.mark.parametrize("task", QUESTIONS)
def test_earlier_turns_and_system_message_of_an_instruction(tmp_path, task):
    """They stand before the question, the system message first; every answer is trained, as of a conversation."""
    example = example_of(tmp_path, task, {**QUESTIONS[task], "history": PAIRS, "system": "你是导游"})
    assert list(example.messages) == [SYSTEM, *TURNS, *LAST]
    # As in the text of BELLE's conversations, a space behind a colon is where the row has one.
    assert (
        example.source.replace("谁建的？\nAssistant:", "谁建的？\n Assistant:")
        == f"{TEXT}Human: 谁建的？\n Assistant: "
    )
    assert example.target == "云明。"


def test_earlier_turns_of_an_advertisement_are_context(tmp_path):
    """As in ChatGLM-6B's training script, whose rows repeat a conversation turn by turn."""
    for row in ({"content": "谁建的？", "summary": "云明。"}, {"prompt": "谁建的？", "response": "云明。"}):
        example = example_of(tmp_path, "adgen", {**row, "history": PAIRS})
        assert list(example.messages) == [*CONTEXT, *LAST]
        assert example.source == f"{TEXT.partition(chr(10))[2][1:]}Human: 谁建的？\n Assistant: "
        alone = example_of(tmp_path, "adgen", {**row, "history": []})
        assert (list(alone.messages), alone.source) == (LAST, "谁建的？")
    processor = processor_of_tiny("chatglm", src_length=200)
    (row,) = processor.rows(example)
    assert processor.tokenizer.decode(row.ids[: row.prefix_length]) == (
        "[Round 0]\n问:祥云塔在哪里?\n答:在城南。\n[Round 1]\n问:多高?\n答:三十米。\n[Round 2]\n问:谁建的?\n答:"
    )
    (row,) = processor_of_tiny("glm4", src_length=400).rows(example)
    assert sum(row.trained) == len(processor_of_tiny("glm4").tokenizer.text_ids("\n云明。")) + 1


@pytest.mark.parametrize(
    "history",
    [
        PAIRS,
        TURNS,
        json.dumps(PAIRS),
        [{"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]} for turn in TURNS],
    ],
    ids=["pairs", "messages", "text", "ShareGPT"],
)
def test_forms_of_a_history(tmp_path, history):
    row = {**QUESTIONS["alpaca"], "history": history}
    assert list(example_of(tmp_path, "alpaca", row).messages) == [*TURNS, *LAST]


@pytest.mark.parametrize("history", [None, [], "", " "])
def test_no_history(tmp_path, history):
    assert list(example_of(tmp_path, "alpaca", {**QUESTIONS["alpaca"], "history": history}).messages) == LAST


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([["a"]], "turn 1 of 'history' is no [question, answer] pair of texts"),
        ([["a", "b"], ["a", None]], "turn 2 of 'history' is no [question, answer] pair of texts"),
        (7, "field 'history' is a number, not a list of (question, answer) pairs"),
        ("[[", "field 'history' is not valid JSON ("),
        ([{"role": "critic", "content": "a"}], "message 1 has the role 'critic'; known roles: "),
    ],
)
def test_a_history_that_cannot_be_read(tmp_path, history, problem):
    good, bad = QUESTIONS["alpaca"], {**QUESTIONS["alpaca"], "history": history}
    with pytest.raises(GLMError) as error:
        load(tmp_path, "alpaca", good, bad)
    assert f"train.jsonl, line 2: {problem}" in str(error.value)
    assert load(tmp_path, "alpaca", good, bad, skip_bad_rows=True).skipped == 1


def test_a_history_column_of_another_name(tmp_path):
    row = {**QUESTIONS["alpaca"], "turns": PAIRS}
    assert list(example_of(tmp_path, "alpaca", row, history_column="turns").messages) == [*TURNS, *LAST]
    with pytest.raises(
        GLMError, match=r"history_column is turn, and no row of .* has it; the first has instruction, i"
    ):
        load(tmp_path, "alpaca", row, history_column="turn")
    with pytest.raises(
        UsageError, match="history_column is turns, and rows of this task have no column of earlier tur"
    ):
        load_examples("messages", "train", history_column="turns")


def test_a_system_message_that_a_model_has_no_place_for(tmp_path):
    row = example_of(tmp_path, "alpaca", {**QUESTIONS["alpaca"], "system": "你是导游"})
    with pytest.raises(GLMError, match=r"message 1 has the role 'system'; .*: put its text into the user's question"):
        processor_of_tiny("chatglm").rows(row)


def test_columns_as_llama_factory_calls_them(tmp_path):
    row = {"prompt": "谁建的？", "query": "塔", "response": "云明。", "system": "", "history": []}
    named = {"instruction": "谁建的？", "input": "塔", "output": "云明。"}
    assert example_of(tmp_path, "alpaca", row) == example_of(tmp_path, "alpaca", named)


ROWS = {
    "dureader_qg": {"context": "c", "answer": "a", "question": "q"},
    "school_math_0.25M": QUESTIONS["alpaca"],
    "multiturn_chat_0.8M": QUESTIONS["multiturn_chat_0.8M"],
    "adgen": {"content": "c", "summary": "s"},
    "alpaca": QUESTIONS["alpaca"],
    "messages": {"messages": LAST, "tools": None},
}


@pytest.mark.parametrize("task", ROWS)
def test_fields_that_nothing_reads_are_named_once_a_file(tmp_path, task):
    """Counted by row, named in the order in which they come; null and empty ones say nothing."""
    row = ROWS[task]
    rows = [row, {**row, "id": 7}, {**row, "source_file": "a", "id": 0, "tags": [], "note": None, "text": ""}]
    loaded = load(tmp_path, task, *rows)
    line = f"{tmp_path / 'train.jsonl'}: 2 of 3 rows have fields that are not used: id, source_file"
    assert loaded.notes == (line,)
    assert load(tmp_path, task, row).notes == ()
    assert set(ROWS) <= set(TASKS)


def test_each_file_has_its_line(tmp_path):
    for name in ("a", "b", "c"):
        row = QUESTIONS["alpaca"] | ({} if name == "b" else {name: 1})
        (tmp_path / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
    notes = load_examples("alpaca", "train", str(tmp_path)).notes
    assert notes == tuple(
        f"{tmp_path / name}.json: 1 of 1 rows have fields that are not used: {name}" for name in ("a", "c")
    )


def test_a_second_name_of_a_field_is_not_read_and_many_names_are_cut_short(tmp_path):
    row = {**QUESTIONS["alpaca"], "prompt": "b"} | {f"x{n}": n for n in range(20)}
    (note,) = load(tmp_path, "alpaca", row).notes
    named = ", ".join(["prompt", *(f"x{n}" for n in range(11))])
    assert note.endswith(f"1 of 1 rows have fields that are not used: {named} and 9 more")


def test_fields_of_messages_that_only_a_template_can_read(tmp_path):
    """OpenAI's own bookkeeping is understood, and nobody's name."""
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [
        {"role": "user", "content": "a", "name": "Li", "time": 3, "reasoning_content": "e"},
        {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None, "weight": 0, "cost": 1},
        {"role": "tool", "content": "b", "tool_call_id": "1", "name": "f"},
        {"role": "assistant", "content": "c", "reasoning_content": "d"},
    ]
    row = {"conversations": messages, "history": PAIRS}
    (note,) = load(tmp_path, "messages", row).notes
    named = ", ".join(f"conversations[].{name}" for name in ("name", "time", "reasoning_content", "cost"))
    assert note.endswith(f": 1 of 1 rows have fields that are not used: history, {named}")


def test_a_system_text_beside_another_one_is_named(tmp_path):
    row = {"messages": [SYSTEM, *LAST], "system": "你是老师"}
    loaded = load(tmp_path, "messages", row)
    assert list(loaded.examples[0].messages) == [SYSTEM, *LAST]
    assert loaded.notes[0].endswith(": 1 of 1 rows have fields that are not used: system")
    assert load(tmp_path, "messages", {**row, "system": SYSTEM["content"]}).notes == ()


def test_ms_swifts_pairs(tmp_path):
    pairs = [{"human": question, "assistant": answer} for question, answer in PAIRS]
    example = example_of(tmp_path, "messages", {"system": "你是导游", "conversation": pairs})
    assert list(example.messages) == [SYSTEM, *TURNS]


def test_a_conversation_of_marked_answers_is_a_bad_row(tmp_path):
    rows = [{"messages": LAST}, {"messages": [LAST[0], {**LAST[1], "weight": 0}]}]
    with pytest.raises(GLMError, match="line 2: every answer is marked as context, so there is nothing to train; fix"):
        load(tmp_path, "messages", *rows)
    assert load(tmp_path, "messages", *rows, skip_bad_rows=True).skipped == 1


def test_a_text_ends_with_the_last_answer_that_is_trained(tmp_path):
    """What a GLM (2021) reads and writes of a conversation whose last answers are marked or empty."""
    more = [{"role": "user", "content": "乙"}, {"role": "assistant", "content": "丙", "loss": False}]
    empty = [{"role": "user", "content": "丁"}, {"role": "assistant", "content": ""}]
    example = example_of(tmp_path, "messages", {"messages": [SYSTEM, *LAST, *more, *empty]})
    assert (example.source, example.target) == ("System: 你是导游\n Human: 谁建的？\n Assistant: ", "云明。")


def test_the_rows_of_the_page_are_read(tmp_path):
    """docs/data.md: each is read by the task it names, without a field that is not used; OpenAI's form is GLM-4's."""
    page = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- task: (\w+) -->\n```json\n(.*)\n```", page)
    examples = [example_of(tmp_path, task, json.loads(row)) for task, row in found]
    assert [task for task, _ in found] == ["messages", "messages", "messages", "alpaca", "adgen"]
    assert examples[0] == examples[1]
