"""Rows from JSON Lines, JSON arrays, pretty-printed JSON and tables, with errors that name file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm.datasets.formats import Progress, is_table, nothing_in, rows_in, table_rows, unpacked_chunks
from glm.datasets.json_stream import Parsed, parse_chunks, text_of
from glm.encoding.messages import type_name
from glm.errors import GLMError

Row = dict[str, Any]
See = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
Complete = Callable[[Row, str], Row]


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


def read_rows(
    path: str | Path,
    fields: Sequence[Field] = (),
    skip_bad_rows: bool = False,
    see: See | None = None,
    complete: Complete = lambda row, place: row,
) -> tuple[list[Row], int]:
    """Rows of a file, or of all data files of a folder in name order.

    Args:
        path: one object per line, one array, or objects printed over several lines, UTF-8 with or without BOM, packed
            by gzip, bzip2, xz or zstd or not; or a .parquet or .arrow table.
        fields: of every row; it gets the value of each under the field's first name.
        skip_bad_rows: leave bad rows out and count them instead of raising.
        see: gets each good row, as it is in the file and as it was read.
        complete: (row, its place) → the row, with what several fields say together; raises RowProblem for a bad one.

    Returns:
        The rows and the number of rows left out.

    Raises:
        GLMError: one line with file, line and field of the first bad row, or because there is nothing to read.
    """
    parsed = (item for file in data_files(Path(path)) for item in parse_file(file, skip_bad_rows))
    rows, skipped = check_rows(parsed, fields, skip_bad_rows, see, complete)
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


def parse_file(
    path: Path, skip_bad_rows: bool = False, columns: Sequence[str] = (), progress: Progress = lambda count: None
) -> Iterator[Parsed]:
    """The JSON values of a file, in order; one is in memory at a time, of a table a thousand.

    With `skip_bad_rows`, rows with bytes that are not UTF-8 come out as problems instead.

    Args:
        columns: of a table, to read no others where all of these are there.
        progress: is told how many bytes of the file were read, each time.

    Raises:
        GLMError: a file that cannot be opened, of a format that is not read, or that holds other than UTF-8.
    """
    if is_table(path):
        rows = table_rows(path, columns, progress)
        yield from (Parsed(f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
        return
    yield from parse_chunks(text_of(unpacked_chunks(path, progress), str(path), skip_bad_rows), str(path))


def parse_text(text: str, name: str) -> Iterator[Parsed]:
    """The JSON values of a text that is called `name`, in order."""
    return parse_chunks([text], name)


def check_rows(
    parsed: Iterable[Parsed],
    fields: Sequence[Field],
    skip_bad_rows: bool,
    see: See | None = None,
    complete: Complete = lambda row, place: row,
) -> tuple[list[Row], int]:
    """The good rows and the number of bad ones; raises GLMError for the first bad one unless they are skipped."""
    rows: list[Row] = []
    skipped = 0
    for item in parsed:
        try:
            rows.append(complete(check_row(item, fields), item.place))
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
