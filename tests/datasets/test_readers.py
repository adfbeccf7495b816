"""Reading rows: every layout gives the same rows, every bad row is named by file, line and field."""

import json
from pathlib import Path

import pytest
from shared_files import SHARED

from glm.datasets import TASKS, read_rows
from glm.datasets.conversations import read_messages, read_tools
from glm.datasets.readers import Field
from glm.errors import GLMError

REAL = SHARED / "real" / "datasets"
ROWS = [
    {"context": "云溪桥长30米，\n是石桥。", "answer": "30米", "question": "多长？\u2028", "id": 0},
    {"context": 'a "quoted" {brace} [x], ', "answer": "", "question": "\\", "id": 1, "more": {"x": ["[", "{"]}},
    {"context": "三", "answer": "三", "question": "三", "id": 2},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
FIELDS = (Field(("context", "source")), Field(("answer", "title")), Field(("question", "target")))
CHAT_FIELDS = (
    Field(("messages", "conversations"), read=read_messages),
    Field(("tools",), required=False, read=read_tools, empty=()),
)
ANSWER = '{"role": "assistant", "content": "a"}'
LAYOUTS = {
    "json lines": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "json lines, no last line break": "\n".join(json.dumps(row) for row in ROWS),
    "json lines, Windows": "\r\n".join(json.dumps(row) for row in ROWS),
    "json lines, blank lines": "\n\n" + "\n\n".join(json.dumps(row) for row in ROWS) + "\n\n",
    "array in one line": json.dumps(ROWS),
    "array, one row per line": "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n",
    "pretty-printed array": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "pretty-printed objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "objects with commas": ",\n".join(json.dumps(row, indent=2) for row in ROWS),
}
GOOD = '{"context": "c", "answer": "a", "question": "q"}'


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_layouts(tmp_path, layout, mark):
    path = write(tmp_path / "rows.json", mark + LAYOUTS[layout])
    assert read_rows(path, FIELDS) == (ROWS, 0)


MARK = "\ufeff"
PRETTY = json.dumps(ROWS[:2], indent=2)


@pytest.mark.parametrize(
    "content",
    [
        f"{MARK}{LINES[0]}\n{MARK}{LINES[1]}\r\n{MARK}{MARK}{LINES[2]}\n{MARK}",
        f"{MARK}{json.dumps(ROWS[:1])}\n{MARK}{json.dumps(ROWS[1:])}",
        f"{MARK}{PRETTY}\r\n{MARK}{LINES[2]}\r\n",
        f"{LINES[0]}\n{MARK}\n[]\n{json.dumps(ROWS[1:])}",
    ],
    ids=["lines", "arrays", "array and lines", "lines and arrays"],
)
def test_files_that_were_joined(tmp_path, content):
    """Each with its own byte order mark."""
    assert read_rows(write(tmp_path / "rows.json", content), FIELDS) == (ROWS, 0)


def test_a_mark_behind_a_bad_row(tmp_path):
    path = write(tmp_path / "x.jsonl", f"{MARK}{GOOD[:30]}\n{MARK}{GOOD}")
    assert read_rows(path, FIELDS, skip_bad_rows=True)[1] == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(tmp_path, encoding):
    path = write(tmp_path / "x.jsonl", GOOD.encode(encoding))
    for skips in (False, True):
        with pytest.raises(GLMError, match=rf"is {encoding[:6].upper()}, not UTF-8: save the file as UTF-8"):
            read_rows(path, FIELDS, skip_bad_rows=skips)


def test_other_names_of_a_field(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"source": "c", "title": "a", "target": "q"}')
    ((row,), _) = read_rows(path, FIELDS)
    assert (row["context"], row["answer"], row["question"]) == ("c", "a", "q")


def test_optional_field(tmp_path):
    content = '{"instruction": "i", "output": "o"}\n{"instruction": "i", "input": null, "output": "o"}\n'
    path = write(tmp_path / "x.jsonl", content + '{"instruction": "i", "input": "t", "output": "o"}')
    fields = (Field(("instruction",)), Field(("output",)), Field(("input",), required=False))
    rows, _ = read_rows(path, fields)
    assert [row["input"] for row in rows] == ["", "", "t"]
    write(path, '{"instruction": "i", "input": 7, "output": "o"}')
    with pytest.raises(GLMError, match="field 'input' is a number, not text"):
        read_rows(path, fields)


def test_folder_is_read_in_name_order(tmp_path):
    names = ["5.json", "1.jsonl", "4.json", "notes.txt", "3.json", "0.jsonl", "6.json", "2.json"]
    for name in names:
        write(tmp_path / name, f'{{"answer": "{name}"}}')
    rows, _ = read_rows(tmp_path, (Field(("answer",)),))
    assert [row["answer"][0] for row in rows] == list("0123456")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'{GOOD}\n\n{{"context": "c", "question": "q"}}', "line 3: field 'answer' or 'title' is missing, the row has"),
        (f'{GOOD}\n{{"context": "c", "answer": 7, "question": "q"}}', "line 2: field 'answer' is a number, not text"),
        ('{"context": null, "answer": "a", "question": "q"}', "line 1: field 'context' is null, not text"),
        ('{"context": "c", "answer": ["a"], "question": "q"}', "line 1: field 'answer' is a list, not text"),
        ("{}", "line 1: field 'context' or 'source' is missing, the row has no fields"),
        (f'{GOOD}\n["c", "a", "q"]', "line 2: a row must be an object {…}, this is a list"),
        (f'{GOOD}\n{{"context": "c", "answer": "a\n{GOOD}', "line 2: not valid JSON ("),
        (f"{GOOD}\nquestion,answer", "line 2: not valid JSON (Expecting value, column 1)"),
        (f"{GOOD} {GOOD[:20]}", "line 1: not valid JSON ("),
        (f"[{GOOD},\n{GOOD}", "line 2: the file ends before the closing ']'; it looks cut off"),
        (f"[{GOOD},\n{GOOD[:30]}", "line 2: not valid JSON ("),
        (json.dumps([{"context": "c"}] * 2, indent=1), "line 2: field 'answer' or 'title' is missing"),
        ("[" * 100_000, "line 1: not valid JSON ("),
        (f"{GOOD}\n".encode() + "上下文".encode("gbk"), "line 2: not UTF-8 (byte 0xc9); save the file as UTF-8"),
        (GOOD.encode("utf-16"), "is UTF-16, not UTF-8: save the file as UTF-8"),
        ("", "holds no rows"),
        (" \n\n", "holds no rows"),
        ("[]", "holds no rows"),
    ],
)
def test_bad_file(tmp_path, content, message):
    path = write(tmp_path / "x.jsonl", content)
    with pytest.raises(GLMError) as error:
        read_rows(path, FIELDS)
    assert str(path) in one_line(error)
    assert message in one_line(error)


@pytest.mark.parametrize("layout", ["lines", "array", "pretty"])
def test_bad_rows_are_skipped_and_counted(tmp_path, layout):
    pretty = json.dumps(json.loads(GOOD), indent=2)
    broken = GOOD[:30] if layout != "pretty" else pretty.replace('"c",', '"c"')
    missing, number = '{"context": "c"}', '{"context": 1, "answer": "a", "question": "q"}'
    parts = [GOOD, broken, GOOD, missing, GOOD, number, GOOD]
    content = {
        "lines": "\n".join(parts),
        "array": "[" + ",\n".join(parts) + "]",
        "pretty": "\n".join(pretty if part == GOOD else part for part in parts),
    }[layout]
    rows, skipped = read_rows(write(tmp_path / "x.json", content), FIELDS, skip_bad_rows=True)
    assert (len(rows), skipped) == (4, 3)


def test_rows_in_another_encoding_are_skipped(tmp_path):
    content = f"{GOOD}\n".encode() + GOOD.replace('"c"', '"上"').encode("gbk") + f"\n{GOOD}".encode()
    rows, skipped = read_rows(write(tmp_path / "x.jsonl", content), FIELDS, skip_bad_rows=True)
    assert (len(rows), skipped) == (2, 1)


def test_a_cut_off_array_is_one_bad_row(tmp_path):
    path = write(tmp_path / "x.json", f"[{GOOD},\n{GOOD[:30]}")
    assert read_rows(path, FIELDS, skip_bad_rows=True)[1] == 1


def test_only_bad_rows(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"context": "c"}\n{"context": "d"}')
    with pytest.raises(GLMError) as error:
        read_rows(path, FIELDS, skip_bad_rows=True)
    assert "all 2 rows are bad" in one_line(error)


def test_missing_path_and_empty_folder(tmp_path):
    with pytest.raises(GLMError, match=r"nowhere\.json does not exist; pass a JSON"):
        read_rows(tmp_path / "nowhere.json")
    (tmp_path / "inner").mkdir()
    with pytest.raises(GLMError, match=r"holds no \.json or \.jsonl file; pass one of its folders \(inner\)"):
        read_rows(tmp_path)


def test_line_numbers_in_a_long_file(tmp_path):
    path = write(tmp_path / "x.jsonl", f"{GOOD}\n" * 5000 + '{"context": "c"}\n' + f"{GOOD}\n" * 10)
    with pytest.raises(GLMError, match=r"x\.jsonl, line 5001: field 'answer'"):
        read_rows(path, FIELDS)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ('"你好"', "field 'messages' is a text, not a list of messages"),
        ("[]", "field 'messages' is empty; a conversation has at least one message"),
        (f'["你好", {ANSWER}]', "message 1: a message must be an object {…}, this is a text"),
        (f'[{{"content": "q"}}, {ANSWER}]', "message 1: field 'role' or 'from' is missing, the message has content"),
        (f'[{ANSWER}, {{"role": "assistant"}}]', "message 2: field 'content' or 'value' is missing, the message has"),
        (f'[{{"role": "user", "content": 7}}, {ANSWER}]', "message 1: field 'content' is a number, not text"),
        (f'[{{"role": "user", "content": null}}, {ANSWER}]', "message 1: field 'content' is null, not text"),
        (f'[{{"from": "human", "value": ["q"]}}, {ANSWER}]', "message 1: field 'value' is a list, not text"),
        (f'[{{"role": null, "content": "q"}}, {ANSWER}]', "message 1: field 'role' is null, not text"),
        (
            f'[{{"role": "critic", "content": "q"}}, {ANSWER}]',
            "message 1 has the role 'critic'; known roles: system, ",
        ),
        (f'[{ANSWER}, {{"role": "user", "content": "q"}}]', "the last message is the user's; end with the assistant's"),
        (f'[{{"role": "system", "content": "", "tools": [1]}}, {ANSWER}]', "message 1: field 'tools' is not a list of"),
        ('[{"role": "assistant", "content": "a", "metadata": {}}]', "message 1: field 'metadata' is an object, not"),
        ('[{"role": "assistant", "tool_calls": [1]}]', "message 1: field 'tool_calls' is not a list of objects"),
        ('[{"role": "assistant", "tool_calls": [{"id": 1}]}]', "message 1: field 'name' is missing, the call has id"),
        ('[{"from": "function_call", "value": "{"}]', "message 1: field 'value' is not valid JSON ("),
        (
            '[{"from": "function_call", "value": "[]"}]',
            "message 1: a call must be an object {name, arguments}, this is",
        ),
    ],
)
def test_bad_conversation(tmp_path, messages, problem):
    path = write(tmp_path / "x.jsonl", f'{{"messages": [{ANSWER}]}}\n{{"messages": {messages}}}')
    with pytest.raises(GLMError) as error:
        read_rows(path, CHAT_FIELDS)
    assert f"{path}, line 2: {problem}" in one_line(error)
    assert "fix the row or pass --skip_bad_rows" in one_line(error)
    assert read_rows(path, CHAT_FIELDS, skip_bad_rows=True)[1] == 1


@pytest.mark.parametrize("tools", ['"[{"', '[{"name": "f"}, "g"]', '{"name": "f"}', "7"])
def test_bad_tools(tmp_path, tools):
    path = write(tmp_path / "x.jsonl", f'{{"messages": [{ANSWER}], "tools": {tools}}}')
    with pytest.raises(GLMError, match=r"line 1: field 'tools' is not (valid JSON \(|a list of tools' JSON schemas)"):
        read_rows(path, CHAT_FIELDS)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ("null", ()),
        ("[]", []),
        ('""', []),
        ('[{"name": "f"}]', [{"name": "f"}]),
        ('"[{\\"name\\": \\"f\\"}]"', [{"name": "f"}]),
    ],
)
def test_tools(tmp_path, tools, expected):
    ((row,), _) = read_rows(write(tmp_path / "x.jsonl", f'{{"messages": [{ANSWER}], "tools": {tools}}}'), CHAT_FIELDS)
    assert row["tools"] == expected


@pytest.mark.parametrize(
    ("name", "task", "count"),
    [
        ("dureader_qg.dev.jsonl", "dureader_qg", 984),
        ("adgen.dev.jsonl", "adgen", 1070),
        ("belle.dev1k.jsonl", "school_math_0.25M", 1000),
        ("alpaca_format.json", "alpaca", 175),
    ],
)
def test_real_files(name, task, count):
    """Every row is read, is usable, and is a question and its answer."""
    if not (REAL / name).is_file():
        pytest.skip(f"the real data is not at {REAL}")
    task_format = TASKS[task].format
    rows, skipped = read_rows(REAL / name, task_format.fields)
    assert (len(rows), skipped) == (count, 0)
    assert all(map(task_format.is_usable, rows))
    for example in map(task_format.example, rows):
        question, answer = example.messages
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert question["content"] in example.source
        assert answer["content"].strip() == example.target.strip() != ""
