"""Rows with two answers: every form gives the same comparison, every row that compares nothing is named."""

import json
import re
from pathlib import Path

import pytest

from glm.datasets import PREFERENCE_TASKS, TASKS, load_preferences
from glm.errors import GLMError

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = {"role": "system", "content": "你是导游"}
TURNS = [{"role": "user", "content": "祥云塔在哪里？"}, {"role": "assistant", "content": "在城南。"}]
ASKED = {"role": "user", "content": "谁建的？"}
BETTER, WORSE = ({"role": "assistant", "content": text} for text in ("云明建的。", "不知道。"))
PROMPT = [SYSTEM, *TURNS, ASKED]
WANTED = [SYSTEM, TURNS[0], {**TURNS[1], "weight": 0}, ASKED]
TEXTS = {"chosen": "云明建的。", "rejected": "不知道。"}
SIDES = {"chosen": BETTER, "rejected": WORSE}
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def sharegpt(message: dict) -> dict:
    return {"from": SHAREGPT[message["role"]], "value": message["content"]}


PADDLENLP = {"src": ["祥云塔在哪里？", "谁建的？"], "tgt": ["在城南。"], "response": ["云明建的。", "不知道。"]}
PAIRS = [["祥云塔在哪里？", "在城南。"]]
FORMS = {
    "PaddleNLP": {**PADDLENLP, "sort": [1, 0], "system": "你是导游"},
    "PaddleNLP, the other way round": {
        **PADDLENLP,
        "response": PADDLENLP["response"][::-1],
        "sort": [0.5, 2],
        "system": "你是导游",
    },
    "alpaca": {"instruction": "谁建的？", "input": "", **TEXTS, "history": PAIRS, "system": "你是导游"},
    "ShareGPT": {"conversations": list(map(sharegpt, PROMPT)), **{side: sharegpt(SIDES[side]) for side in SIDES}},
    "ShareGPT, answers in lists": {
        "conversations": list(map(sharegpt, PROMPT)),
        "chosen": [BETTER],
        "rejected": [WORSE],
    },
    "roles": {"messages": PROMPT[1:], **SIDES, "system": "你是导游"},
    "messages as JSON text": {"conversations": json.dumps(PROMPT), **SIDES},
    "TRL, texts": {"prompt": "谁建的？", **TEXTS, "history": PAIRS, "system_prompt": "你是导游"},
    "TRL, under another name": {"question": "谁建的？", **TEXTS, "history": PAIRS, "system": "你是导游"},
    "TRL, messages": {"prompt": PROMPT, "chosen": [BETTER], "rejected": [WORSE]},
    "TRL, no prompt": {"chosen": [*PROMPT, BETTER], "rejected": [*PROMPT, WORSE]},
    "TRL, the prompt once more": {"prompt": "谁建的？", "chosen": [*PROMPT, BETTER], "rejected": [*PROMPT, WORSE]},
    "TRL, no system message": {"prompt": [], "chosen": [*PROMPT[1:], BETTER], "rejected": [*PROMPT[1:], WORSE]}
    | {"system": "你是导游"},
}


def load(tmp_path, *rows, **options):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return load_preferences("preference", "train", str(path), **options)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_comparison(tmp_path, form):
    """Also where other fields of a table are null; the prompt's answers are context, the compared ones are trained."""
    row = FORMS[form]
    nulls = dict.fromkeys(("chosen", "rejected", "prompt", "messages", "instruction", "src", "tgt", "response", "sort"))
    for each in (row, {**nulls, **row}):
        loaded = load(tmp_path, each)
        (pair,) = loaded.examples
        assert [list(pair.chosen.messages), list(pair.rejected.messages)] == [[*WANTED, BETTER], [*WANTED, WORSE]]
        assert pair.place == f"{tmp_path / 'train.jsonl'}, line 1"
        assert loaded.notes == ()


def test_what_a_glm_of_2021_reads(tmp_path):
    pair = load(tmp_path, FORMS["TRL, messages"]).examples[0]
    source = "System: 你是导游\n Human: 祥云塔在哪里？\n Assistant: 在城南。\n Human: 谁建的？\n Assistant: "
    assert (pair.chosen.source, pair.chosen.target) == (source, "云明建的。")
    assert (pair.rejected.source, pair.rejected.target) == (source, "不知道。")


def test_an_instruction_and_its_input_are_alpacas_prompt(tmp_path):
    pair = load(tmp_path, {"instruction": "Add the numbers.", "input": "1 2", **TEXTS}).examples[0]
    assert pair.chosen.messages[0]["content"] == "Add the numbers: 1 2"


def test_a_text_that_looks_like_json_is_a_text(tmp_path):
    pair = load(tmp_path, {"prompt": "[1, 2]", "chosen": "[2]", "rejected": "[3]"}).examples[0]
    assert [message["content"] for message in pair.chosen.messages] == ["[1, 2]", "[2]"]


def test_tools_and_calls(tmp_path):
    """Answers of several messages, which begin alike: the common beginning ends before the assistant differs."""
    tools = [{"type": "function", "function": {"name": "stock", "parameters": {}}}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "stock", "arguments": "{}"}}]}
    result = {"role": "tool", "content": "9"}
    row = {"chosen": [ASKED, call, result, BETTER], "rejected": [ASKED, WORSE], "tools": tools}
    pair = load(tmp_path, row).examples[0]
    assert [message["role"] for message in pair.chosen.messages] == ["user", "assistant", "observation", "assistant"]
    assert len(pair.rejected.messages) == 2 and pair.chosen.tools == pair.rejected.tools == tuple(tools)
    same = {"chosen": [ASKED, call, result, BETTER], "rejected": [ASKED, call, result, WORSE]}
    messages = load(tmp_path, same).examples[0].chosen.messages
    assert messages[1] == {"role": "assistant", "metadata": "stock", "content": "{}", "weight": 0}
    assert messages[-1] == BETTER


BAD = {
    "no answer": ({"prompt": "a", "chosen": "b"}, "field 'rejected' is missing, the row has prompt, chosen"),
    "other fields": ({"text": "a"}, "field 'chosen' is missing, the row has text; two answers to compare are 'chosen'"),
    "no prompt": (TEXTS, "the prompt is missing or empty, the row has chosen, rejected; it is one of prompt, messages"),
    "empty prompt": ({"prompt": " \n", **TEXTS}, "the prompt is empty"),
    "system alone": ({"prompt": [SYSTEM], **TEXTS}, "the prompt is empty"),
    "prompt ends": (
        {"prompt": PROMPT[:3], **TEXTS},
        "the prompt ends with the assistant's message; end with the user's",
    ),
    "equal": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are equal"),
    "equal conversations": ({"chosen": [ASKED, BETTER], "rejected": [ASKED, BETTER]}, "chosen and rejected are equal"),
    "equal but for a mark": (
        {"prompt": "a", "chosen": {**BETTER, "score": 1}, "rejected": BETTER},
        "chosen and rejected are equal",
    ),
    "empty": ({"prompt": "a", "chosen": "b", "rejected": " \n"}, "the rejected answer is empty"),
    "empty list": ({"prompt": "a", "chosen": [], "rejected": "b"}, "the chosen answer is empty"),
    "null": ({"prompt": "a", "chosen": "b", "rejected": None}, "field 'rejected' is missing"),
    "number": ({"prompt": "a", "chosen": 3, "rejected": "b"}, "field 'chosen' is a number, not a list of messages"),
    "speaker": (
        {"prompt": "a", "chosen": {"role": "narrator", "content": "b"}, "rejected": "c"},
        "field 'chosen': message 1 has the role 'narrator'",
    ),
    "user answers": ({"prompt": "a", "chosen": [ASKED], "rejected": "c"}, "the chosen answer begins with the user's"),
    "user ends": (
        {"prompt": "a", "chosen": [BETTER, ASKED], "rejected": "c"},
        "the chosen answer ends with the user's",
    ),
    "marked": (
        {"prompt": "a", "chosen": {**BETTER, "weight": 0}, "rejected": "c"},
        "the chosen answer is marked as context",
    ),
    "other prompt": (
        {"chosen": [ASKED, BETTER], "rejected": [TURNS[0], WORSE]},
        "chosen and rejected differ from message 1 on, which is the user's in 'chosen'",
    ),
    "half a conversation": (
        {"chosen": [ASKED, BETTER], "rejected": [ASKED]},
        "'rejected' is the beginning of the other conversation, so one of them has no answer",
    ),
    "prompt of others": (
        {"prompt": "b", "chosen": [ASKED, BETTER], "rejected": [ASKED, WORSE]},
        "field 'prompt' is not what chosen and rejected begin with",
    ),
    "long prompt": (
        {"prompt": PROMPT, "chosen": [ASKED, BETTER], "rejected": [ASKED, WORSE]},
        "field 'prompt' is not what chosen and rejected begin with",
    ),
    "equal sort": ({**PADDLENLP, "sort": [1, 1]}, r"sort is \[1, 1\], and equal numbers do not say which response"),
    "no sort": (PADDLENLP, "field 'sort' is missing, the row has src, tgt, response"),
    "sort in words": ({**PADDLENLP, "sort": ["a", "b"]}, "field 'sort' is not a list of numbers"),
    "three responses": (
        {**PADDLENLP, "response": ["a", "b", "c"], "sort": [1, 2, 3]},
        "response has 3 texts and sort 3",
    ),
    "src and tgt": ({**PADDLENLP, "tgt": [], "sort": [1, 0]}, "src has 2 texts and tgt 0: src has one more"),
    "src in objects": ({**PADDLENLP, "src": [{}], "sort": [1, 0]}, "field 'src': entry 1 is an object, not text"),
    "empty response": ({**PADDLENLP, "response": ["a", ""], "sort": [0, 1]}, "the chosen answer is empty"),
    "equal responses": ({**PADDLENLP, "response": ["a", "a"], "sort": [0, 1]}, "chosen and rejected are equal"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_row_that_compares_nothing(tmp_path, what):
    """One line with file and row; left out and counted with skip_bad_rows."""
    row, message = BAD[what]
    good = FORMS["TRL, messages"]
    with pytest.raises(GLMError) as error:
        load(tmp_path, good, row, good)
    place = re.escape(f"{tmp_path / 'train.jsonl'}, line 2: ")
    assert re.match(f"{place}{message}.*; fix the row or pass --skip_bad_rows.$", one_line(error))
    loaded = load(tmp_path, good, row, good, skip_bad_rows=True)
    assert (len(loaded.examples), loaded.skipped) == (2, 1)
    assert "(2 rows, 1 bad ones left out)" in loaded.source_description


def test_one_question_of_paddlenlp_may_stand_without_a_list(tmp_path):
    row = {"src": "谁建的？", "tgt": "", "response": ["云明建的。", "不知道。"], "sort": [1, 0]}
    assert list(load(tmp_path, row).examples[0].chosen.messages) == [ASKED, BETTER]


def test_fields_that_the_form_has_no_use_for_are_named(tmp_path):
    """Whatever another form has in them."""
    rows = [
        {**FORMS["TRL, no prompt"], "messages": [*PROMPT, BETTER], "input": 3, "score_chosen": 9, "instruction": {}},
        {**FORMS["ShareGPT"], "history": PAIRS, "system": "你是老师"},
        {**FORMS["PaddleNLP"], "prompt": "a"},
        {"prompt": "a", "chosen": {**BETTER, "score": 9}, "rejected": "b", "response": 7, "sort": None},
    ]
    (note,) = load(tmp_path, *rows).notes
    named = "messages, input, score_chosen, history, system, prompt, response, chosen[].score"
    assert note == f"{tmp_path / 'train.jsonl'}: 4 of 4 rows have fields that are not used: {named}"


def test_files_of_a_folder_are_found_as_those_of_other_tasks(tmp_path):
    """Splits, a table among them."""
    from pyarrow import Table, parquet

    rows = [FORMS["TRL, messages"]] * 3
    parquet.write_table(Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    (tmp_path / "dev.json").write_text(json.dumps(FORMS["ShareGPT"]), encoding="utf-8")
    train, dev = (load_preferences("preference", split, str(tmp_path)) for split in ("train", "dev"))
    assert len(train.examples) == 3 and train.examples[0] == dev.examples[0]
    assert train.examples[1].place.endswith(".parquet, row 2")
    assert load_preferences("preference", "test", str(tmp_path)) is None


def test_the_task():
    assert list(PREFERENCE_TASKS) == ["preference"] and not PREFERENCE_TASKS.keys() & TASKS.keys()
    with pytest.raises(GLMError, match="task_name 'alpaca' is unknown; known tasks: preference"):
        load_preferences("alpaca", "train")
    train, dev = (load_preferences("preference", split) for split in ("train", "dev"))
    assert (len(train.examples), len(dev.examples)) == (400, 80) and train.notes == ()
    assert "bundled sample" in train.source_description
    assert load_preferences("preference", "test") is None


def test_the_rows_of_the_page_are_read(tmp_path):
    """docs/data.md and its Chinese twin, without a field that is not used."""
    for page in ("docs/data.md", "docs/zh/data.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        rows = re.findall(r"<!-- comparison -->\n```json\n(.*)\n```", text)
        loaded = load(tmp_path, *map(json.loads, rows))
        assert len(rows) == 6 and loaded.notes == ()
        assert len({repr(pair) for pair in loaded.examples}) == 1
