"""Rows from JSON Lines, JSON arrays, pretty-printed JSON and tables, with errors that name file, line and field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm.datasets.formats import is_table, nothing_in, read_unpacked, rows_in, table_rows
from glm.encoding.messages import type_name
from glm.errors import GLMError
from glm.files.foreign_files import HEAD, decode_text, other_encoding

Row = dict[str, Any]
See = Callable[[Mapping[str, Any], Mapping[str, Any]], None]

# Joined files have a byte order mark each, and arrays may follow each other.
_BETWEEN_ROWS = re.compile(r"[\s,\ufeff]*")
_ARRAY = re.compile(r"\[\s*[{\]]")
# Where reading resumes after a row that is not JSON: the next line that starts an object.
_NEXT_OBJECT = re.compile(r"\n[ \t\ufeff]*(?=\{)")
_UNDECODED = re.compile("[\udc80-\udcff]")


class RowProblem(ValueError):
    """What is wrong with a row; whoever knows the row's place says where."""


def read_text(name: str, value: Any) -> str:
    """The value of field `name`. Raises RowProblem unless it is text."""
    if not isinstance(value, str):
        raise RowProblem(f"field '{name}' is {type_name(value)}, not text")
    return value


@dataclass(frozen=True)
class Field:
    """A field of a row.

    Attributes:
        names: what it may be called, the best name first.
        required: otherwise it may be missing or null, and its value is `empty`.
        read: (the name in this row, JSON value) → value; raises RowProblem.
        aliases: other names that it may have, which an error does not offer.
        key: under which a checked row has it; the best name, unless another is given.
    """

    names: tuple[str, ...]
    required: bool = True
    read: Callable[[str, Any], Any] = read_text
    empty: Any = ""
    aliases: tuple[str, ...] = ()
    key: str = ""

    def __post_init__(self):
        object.__setattr__(self, "key", self.key or self.names[0])

    def name_in(self, row: Mapping[str, Any]) -> str | None:
        """What the field is called in a row, None where it is missing; tables have null under names not in use."""
        named = [name for name in (*self.names, *self.aliases) if name in row]
        return next((name for name in named if row[name] is not None), named[0] if named else None)

    def take(self, row: Mapping[str, Any]) -> Any:
        """The field's value in a row. Raises RowProblem where it is missing or not what it must be."""
        name = self.name_in(row)
        if name is None and self.required:
            alternatives = " or ".join(f"'{name}'" for name in self.names)
            raise RowProblem(f"field {alternatives} is missing, the row has {', '.join(row) or 'no fields'}")
        if not self.required and row.get(name) is None:
            return self.empty
        return self.read(name, row[name])


@dataclass(frozen=True)
class Parsed:
    """A JSON value of a file and the place it starts at, or `problem`, what is wrong there."""

    place: str
    value: Any = None
    problem: str | None = None


def read_rows(
    path: str | Path, fields: Sequence[Field] = (), skip_bad_rows: bool = False, see: See | None = None
) -> tuple[list[Row], int]:
    """Rows of a file, or of all data files of a folder in name order.

    Args:
        path: one object per line, one array, or objects printed over several lines, UTF-8 with or without BOM, packed
            by gzip, bzip2 or xz or not; or a .parquet or .arrow table.
        fields: of every row; it gets the value of each under the field's first name.
        skip_bad_rows: leave bad rows out and count them instead of raising.
        see: gets each good row, as it is in the file and as it was read.

    Returns:
        The rows and the number of rows left out.

    Raises:
        GLMError: one line with file, line and field of the first bad row, or because there is nothing to read.
    """
    parsed = (item for file in data_files(Path(path)) for item in parse_file(file, skip_bad_rows))
    rows, skipped = check_rows(parsed, fields, skip_bad_rows, see)
    if not rows:
        detail = f"all {skipped} rows are bad; leave out --skip_bad_rows to see why" if skipped else "it holds no rows"
        raise GLMError(f"nothing to read from {path}: {detail}.")
    return rows, skipped


def data_files(path: Path) -> list[Path]:
    """`path`, or the data files of a folder in name order. Raises GLMError where there are none."""
    if path.is_file():
        return [path]
    found = rows_in(path)
    if not found:
        raise nothing_in(path)
    return found


def parse_file(path: Path, skip_bad_rows: bool = False) -> Iterator[Parsed]:
    """The JSON values of a file, in order.

    With `skip_bad_rows`, rows with bytes that are not UTF-8 come out as problems instead.

    Raises:
        GLMError: a file that cannot be opened, of a format that is not read, or that holds other than UTF-8.
    """
    if is_table(path):
        yield from (Parsed(f"{path}, row {number}", row) for number, row in enumerate(table_rows(path), 1))
        return
    content = read_unpacked(path)
    lenient = skip_bad_rows and not other_encoding(content[:HEAD])
    text = content.decode("utf-8", "surrogateescape") if lenient else decode_text(content, str(path))
    yield from parse_text(text, str(path))


def parse_text(text: str, name: str) -> Iterator[Parsed]:
    """The JSON values of a text that is called `name`, in order."""
    position = _BETWEEN_ROWS.match(text).end()
    in_array = text.startswith("[", position)
    position += in_array
    lines = _LineCounter(text)
    while (position := _BETWEEN_ROWS.match(text, position).end()) < len(text):
        if in_array and text[position] == "]":
            in_array = False
            position += 1
            continue
        if not in_array and _ARRAY.match(text, position):
            in_array = True
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
    parsed: Iterable[Parsed], fields: Sequence[Field], skip_bad_rows: bool, see: See | None = None
) -> tuple[list[Row], int]:
    """The good rows and the number of bad ones; raises GLMError for the first bad one unless they are skipped."""
    rows: list[Row] = []
    skipped = 0
    for item in parsed:
        try:
            rows.append(check_row(item, fields))
            if see is not None:
                see(item.value, rows[-1])
        except RowProblem as problem:
            if not skip_bad_rows:
                raise GLMError(f"{item.place}: {problem}; fix the row or pass --skip_bad_rows.") from problem
            skipped += 1
    return rows, skipped


def check_row(item: Parsed, fields: Sequence[Field]) -> Row:
    """The row with the value of each field under its first name. Raises RowProblem for a bad one."""
    if item.problem:
        raise RowProblem(item.problem)
    if not isinstance(item.value, dict):
        raise RowProblem(f"a row must be an object {{…}}, this is {type_name(item.value)}")
    return item.value | {field.key: field.take(item.value) for field in fields}
