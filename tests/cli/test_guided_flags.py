"""--json_schema and --response_format: what is wrong with them is said in one line, before anything is loaded."""

import json
from functools import partial

import pytest

import infer_generation
from tests.in_process import run_main


@pytest.fixture
def infer(monkeypatch, capsys):
    command = partial(run_main, infer_generation.main, monkeypatch, capsys)
    return lambda *arguments: command("--model_path", "nowhere", *map(str, arguments), "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ('{"not": {}}', "schema: the keyword 'not' is not supported; supported: type, enum, const"),
        (
            '{"properties": {"a": {"type": "int"}}}',
            'schema.properties.a.type is "int", and must be one of null,',
        ),
        ("[]", "schema is a list, and a schema is an object"),
        ("[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_file_that_is_no_schema(infer, tmp_path, content, message):
    path = tmp_path / "city.json"
    path.write_text(content)
    code, out, err = infer("--json_schema", path)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_a_file_that_is_not_there(infer, tmp_path):
    code, _, err = infer("--json_schema", tmp_path / "gone.json")
    assert code == 2 and err == f"error: {tmp_path / 'gone.json'} cannot be read: No such file or directory\n"


def test_flags_that_do_not_go_together(infer, tmp_path):
    path = tmp_path / "city.json"
    path.write_text(json.dumps({"type": "object"}))
    code, _, err = infer("--json_schema", path, "--response_format", "json_object")
    assert code == 2 and "both ask for JSON: choose one" in err
    code, _, err = infer("--json_schema", path, "--num_beams", "3")
    assert code == 2 and err == "error: JSON is written by one beam, and num_beams is 3: leave it out\n"
    code, _, err = infer("--response_format", "xml")
    assert code == 2 and "invalid choice: 'xml'" in err


def test_a_sound_schema_goes_on_to_the_model(infer, tmp_path):
    path = tmp_path / "city.json"
    path.write_text(json.dumps({"type": "object"}), encoding="utf-8-sig")
    code, _, err = infer("--json_schema", path)
    assert code == 1 and "nowhere is not a directory" in err
