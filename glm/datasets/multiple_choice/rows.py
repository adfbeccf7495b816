"""Rows of one subject's file as questions, and what may be wrong with them.

The files are read by the rules of RFC 4180: fields in quotes hold commas, quotes and line ends. No text stands for a
missing value: MMLU has answers that are called None, NA and nan.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glm.datasets.multiple_choice.benchmarks import LETTERS, Question
from glm.datasets.readers import RowProblem
from glm.errors import GLMError
from glm.files.json_files import read_text

COLUMNS = ("question", *LETTERS, "answer")
_UNNAMED = "id"  # CMMLU's first column has no name
_LIMIT = 1 << 24  # characters of a field; the module's own limit is 131,072


@dataclass(frozen=True)
class Read:
    """The good rows of a file, and how many were left out."""

    questions: tuple[Question, ...]
    skipped: int = 0


def read_questions(path: Path, header: bool, hidden: bool, skip_bad_rows: bool = False) -> Read:
    """The questions of a csv file.

    Args:
        header: whether its first row names the columns; without it they are question, A, B, C, D and answer.
        hidden: whether the rows have no answers.
        skip_bad_rows: leave bad rows out and count them instead of raising.

    Raises:
        GLMError: one line with file and line of the first bad row, or because the file cannot be read or lacks columns.
    """
    rows = _rows(path)
    names = _header(path, rows, hidden) if header else None
    return questions_of(_named(rows, names, hidden), hidden, skip_bad_rows)


def questions_of(rows: Iterable[tuple[str, Mapping[str, str] | RowProblem]], hidden: bool, skip_bad_rows: bool) -> Read:
    """Questions of rows that were read; arguments and errors of `read_questions`.

    Args:
        rows: where each stands, in words, and its fields by the names of `COLUMNS`, with an id or without.
    """
    questions, skipped = [], 0
    for number, (place, row) in enumerate(rows):
        try:
            if isinstance(row, RowProblem):
                raise row
            questions.append(_question(row, number, hidden))
        except RowProblem as problem:
            if not skip_bad_rows:
                raise GLMError(f"{place}: {problem}; fix the row or pass --skip_bad_rows") from None
            skipped += 1
    return Read(tuple(questions), skipped)


def _question(row: Mapping[str, str], number: int, hidden: bool) -> Question:
    answer = "" if hidden else row["answer"].strip()
    if not row["question"].strip():
        raise RowProblem("the question is empty")
    if not hidden and answer not in LETTERS:
        raise RowProblem(f"the answer is {row['answer']!r:.40}, and must be one of {', '.join(LETTERS)}")
    return Question(row.get("id") or str(number), row["question"], tuple(row[letter] for letter in LETTERS), answer)


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    """Where each row begins, and its fields; blank lines are no rows."""
    text = read_text(path)
    csv.field_size_limit(_LIMIT)
    reader, rows, line = csv.reader(io.StringIO(text, newline="")), [], 1
    try:
        for fields in reader:
            if fields:
                rows.append((f"{path}, line {line}", fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise GLMError(f"{path}, line {line}: no csv ({error}): save the file as csv with UTF-8") from None
    if text.count('"') % 2 and rows:
        # Such a quote takes all that follows into one field, so this is no matter of a single row.
        raise GLMError(f"{rows[-1][0]}: a quote is opened and never closed; close it, or double it inside a field")
    return rows


def _header(path: Path, rows: list[tuple[str, list[str]]], hidden: bool) -> list[str]:
    """The columns by the names of `COLUMNS`; the row that has them is taken off."""
    first = rows.pop(0)[1] if rows else []
    known = {name.lower(): name for name in COLUMNS} | {"": _UNNAMED}
    names = [known.get(name.strip().lower(), name.strip()) for name in first]
    needed = COLUMNS[:-1] if hidden else COLUMNS
    if missing := [name for name in needed if name not in names]:
        raise GLMError(
            f"{path}, line 1: the columns are {', '.join(first) or 'none'}, and {', '.join(missing)} is missing: the "
            f"first row names {', '.join(needed)}"
        )
    return names


def _named(
    rows: list[tuple[str, list[str]]], names: Sequence[str] | None, hidden: bool
) -> Iterator[tuple[str, Mapping[str, str] | RowProblem]]:
    columns = names or COLUMNS
    for place, fields in rows:
        if len(fields) == len(columns):
            yield place, dict(zip(columns, fields, strict=True))
        else:
            wanted = ", ".join(columns)
            yield place, RowProblem(f"the row has {len(fields)} columns, and {len(columns)} are needed ({wanted})")
