"""Reading rows: every layout gives the same rows, every bad row is named by file, line and field."""

import json
from pathlib import Path

import pytest

from glm.datasets import read_rows
from glm.errors import GLMError

REAL = Path("/work/shared/real/datasets")
ROWS = [
    {"context": "云溪桥长30米，\n是石桥。", "answer": "30米", "question": "多长？\u2028", "id": 0},
    {"context": 'a "quoted" {brace} [x], ', "answer": "", "question": "\\", "id": 1, "more": {"x": ["[", "{"]}},
    {"context": "三", "answer": "三", "question": "三", "id": 2},
]
FIELDS = (("context", "source"), ("answer", "title"), ("question", "target"))
LAYOUTS = {
    "json lines": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "json lines, no last line break": "\n".join(json.dumps(row) for row in ROWS),
    "json lines, Windows": "\r\n".join(json.dumps(row) for row in ROWS),
    "json lines, blank lines": "\n\n" + "\n\n".join(json.dumps(row) for row in ROWS) + "\n\n",
    "array in one line": json.dumps(ROWS),
    "array, one row a line": "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n",
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


def test_other_names_of_a_field(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"source": "c", "title": "a", "target": "q"}')
    ((row,), _) = read_rows(path, FIELDS)
    assert (row["context"], row["answer"], row["question"]) == ("c", "a", "q")


def test_optional_field(tmp_path):
    content = '{"instruction": "i", "output": "o"}\n{"instruction": "i", "input": null, "output": "o"}\n'
    path = write(tmp_path / "x.jsonl", content + '{"instruction": "i", "input": "t", "output": "o"}')
    rows, _ = read_rows(path, ("instruction", "output"), optional_fields=("input",))
    assert [row["input"] for row in rows] == ["", "", "t"]
    write(path, '{"instruction": "i", "input": 7, "output": "o"}')
    with pytest.raises(GLMError, match="field 'input' is a number, not text"):
        read_rows(path, ("instruction", "output"), optional_fields=("input",))


def test_folder_is_read_in_name_order(tmp_path):
    names = ["5.json", "1.jsonl", "4.json", "notes.txt", "3.json", "0.jsonl", "6.json", "2.json"]
    for name in names:
        write(tmp_path / name, f'{{"answer": "{name}"}}')
    rows, _ = read_rows(tmp_path, ("answer",))
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
        (GOOD.encode("utf-16"), "line 1: not UTF-8 (byte 0xff); save the file as UTF-8"),
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
    ("name", "fields", "count"),
    [
        ("dureader_qg.dev.jsonl", FIELDS, 984),
        ("adgen.dev.jsonl", ("content", "summary"), 1070),
        ("belle.dev1k.jsonl", ("instruction", "output"), 1000),
        ("alpaca_format.json", ("instruction", "output"), 175),
    ],
)
def test_real_files(name, fields, count):
    if not (REAL / name).is_file():
        pytest.skip(f"the real data is not at {REAL}")
    rows, skipped = read_rows(REAL / name, fields)
    assert (len(rows), skipped) == (count, 0)
