"""The one reader of JSON files: what is wrong is one line that names the file and says what to do."""

import pytest

from glm.errors import GLMError
from glm.files.atomic import write_json
from glm.files.json_files import COPY, parse_json, read_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WRONG = {
    "nothing": (b"", "is empty: copy or download it again"),
    "cut": (b'{"a": [1', f"is not valid JSON (Expecting ',' delimiter: line 1 column 9 (char 8)): {COPY}"),
    "too deep": (b"[" * 100_000, "is not valid JSON ("),
    "a list": (b"[1]", f"holds a JSON list, not an object: {COPY}"),
    "null": (b"null", f"holds a JSON NoneType, not an object: {COPY}"),
    "git-lfs": (POINTER, "is a git-lfs pointer, not the file itself: run `git lfs pull`"),
    "a web page": (b"<!DOCTYPE html><html>", "is a web page"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is UTF-16, not UTF-8"),
    "Latin-1": ('{\n"a": "caf\u00e9"}'.encode("latin-1"), ", line 2: not UTF-8 (byte 0xe9)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_none(tmp_path, case):
    content, message = WRONG[case]
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(GLMError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}{'' if message.startswith(',') else ' '}{message}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(GLMError, match=r"a\.json cannot be read: No such file or directory; look for it$"):
        read_json(path, "look for it")
    assert read_json(path, missing={}) == {}
    path.mkdir()
    with pytest.raises(GLMError, match=r"a\.json cannot be read: Is a directory"):
        read_json(path)


def test_what_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"名": 1}'.encode())
    assert read_json(path) == parse_json(path) == {"名": 1}
    path.write_text("[1, null]")
    assert parse_json(path) == [1, None]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": "名", "a": [1, None]})
    assert path.read_text("utf-8") == '{\n  "b": "名",\n  "a": [\n    1,\n    null\n  ]\n}\n'
    assert read_json(path) == {"b": "名", "a": [1, None]}
    write_json(path, {"b": 1, "a": 2}, indent=None, sort_keys=True)
    assert path.read_text("utf-8") == '{"a": 2, "b": 1}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
