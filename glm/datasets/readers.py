"""Rows from JSON Lines, JSON arrays and pretty-printed JSON, with errors that name file, line and field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm.errors import GLMError

Field = str | tuple[str, ...]
Row = dict[str, Any]

_BETWEEN_ROWS = re.compile(r"[\s,]*")
# Where reading goes on behind a row that is not JSON: the next line that starts an object.
_NEXT_OBJECT = re.compile(r"\n[ \t]*(?=\{)")
_UNDECODED = re.compile("[\udc80-\udcff]")
_TYPE_NAMES = {
    type(None): "null",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    str: "a text",
}


@dataclass(frozen=True)
class Parsed:
    """A JSON value of a file and the place it starts at, or `problem`, what is wrong there."""

    place: str
    value: Any = None
    problem: str | None = None


def read_rows(
    path: str | Path,
    required_fields: Sequence[Field] = (),
    skip_bad_rows: bool = False,
    optional_fields: Sequence[Field] = (),
) -> tuple[list[Row], int]:
    """Rows of a file, or of all *.json and *.jsonl files of a folder in name order.

    Args:
        path: one object a line, one array, or objects printed over several lines; UTF-8 with or without BOM.
        required_fields: every row must have these as text. A tuple lists the names of one field; the row also gets
            the value under the first.
        skip_bad_rows: leave bad rows out and count them instead of raising.
        optional_fields: text where present; a missing one or null becomes "".

    Returns:
        The rows and the number of rows left out.

    Raises:
        GLMError: one line with file, line and field of the first bad row, or because there is nothing to read.
    """
    parsed = (item for file in data_files(Path(path)) for item in parse_file(file, skip_bad_rows))
    rows, skipped = check_rows(parsed, required_fields, optional_fields, skip_bad_rows)
    if not rows:
        detail = f"all {skipped} rows are bad; leave out --skip_bad_rows to see why" if skipped else "it holds no rows"
        raise GLMError(f"nothing to read from {path}: {detail}.")
    return rows, skipped


def data_files(path: Path) -> list[Path]:
    """`path`, or the *.json and *.jsonl files of a folder in name order. Raises GLMError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise GLMError(f"{path} does not exist; pass a JSON or JSON Lines file or a folder of them.")
    found = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl") and file.is_file())
    if not found:
        folders = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
        hint = f"pass one of its folders ({folders})" if folders else "pass the folder that holds the data"
        raise GLMError(f"{path} holds no .json or .jsonl file; {hint}.")
    return found


def parse_file(path: Path, skip_bad_rows: bool = False) -> Iterator[Parsed]:
    """The JSON values of a file, in order. Raises GLMError for a file that cannot be opened or holds other than UTF-8.

    With `skip_bad_rows`, rows with bytes that are not UTF-8 come out as problems instead.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error.strerror}); check the file's permissions.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not skip_bad_rows:
            line = error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            raise GLMError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8.") from error
        text = content.decode("utf-8-sig", "surrogateescape")
    return _parse_text(text, str(path))


def _parse_text(text: str, name: str) -> Iterator[Parsed]:
    position = _BETWEEN_ROWS.match(text).end()
    in_array = text.startswith("[", position)
    position += in_array
    lines = _LineCounter(text)
    while (position := _BETWEEN_ROWS.match(text, position).end()) < len(text):
        if in_array and text[position] == "]":
            in_array = False
            position += 1
            continue
        place = f"{name}, line {lines.at(position)}"
        value, problem, end = _parse_value(text, position)
        yield Parsed(place, value, problem)
        # Behind a broken last row the end of the array is lost with it: that is one problem, not two.
        in_array = in_array and (end < len(text) or problem is None)
        position = end
    if in_array:
        problem = "the file ends before the closing ']'; it looks cut off, copy it again"
        yield Parsed(f"{name}, line {lines.at(len(text))}", problem=problem)


def _parse_value(text: str, start: int) -> tuple[Any, str | None, int]:
    """(value, problem, position behind it) of the JSON value at `start`."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        following = _NEXT_OBJECT.search(text, start)
        detail = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        return None, f"not valid JSON ({detail})", following.end() if following else len(text)
    problem = "not UTF-8" if _UNDECODED.search(text, start, end) else None
    return value, problem, end


class _LineCounter:
    """Line numbers of growing positions, counting each line break once."""

    def __init__(self, text: str):
        self._text, self._position, self._line = text, 0, 1

    def at(self, position: int) -> int:
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return self._line


def check_rows(
    parsed: Iterable[Parsed], required: Sequence[Field], optional: Sequence[Field], skip_bad_rows: bool
) -> tuple[list[Row], int]:
    """The good rows and the number of bad ones; raises GLMError for the first bad one unless they are skipped."""
    rows: list[Row] = []
    skipped = 0
    for item in parsed:
        row, problem = (None, item.problem) if item.problem else _check_row(item.value, required, optional)
        if problem is None:
            rows.append(row)
        elif skip_bad_rows:
            skipped += 1
        else:
            raise GLMError(f"{item.place}: {problem}; mend the row or pass --skip_bad_rows.")
    return rows, skipped


def _check_row(value: Any, required: Sequence[Field], optional: Sequence[Field]) -> tuple[Row, str | None]:
    if not isinstance(value, dict):
        return {}, f"a row must be an object {{…}}, this is {_TYPE_NAMES[type(value)]}"
    row = dict(value)
    for field, needed in [*((field, True) for field in required), *((field, False) for field in optional)]:
        names = (field,) if isinstance(field, str) else field
        name = next((name for name in names if name in value), None)
        if name is None and needed:
            alternatives = " or ".join(f"'{name}'" for name in names)
            return {}, f"field {alternatives} is missing, the row has {', '.join(value) or 'no fields'}"
        text = value.get(name) if needed or value.get(name) is not None else ""
        if not isinstance(text, str):
            return {}, f"field '{name}' is {_TYPE_NAMES[type(text)]}, not text"
        row[names[0]] = text
    return row, None
