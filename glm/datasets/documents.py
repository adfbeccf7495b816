"""Raw text out of files of every kind, one document after another, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Literal

from glm.datasets.formats import (
    JSON,
    PACKED,
    REFUSED,
    TABLES,
    Progress,
    holds_rows,
    natural,
    require_readable,
    split_name,
    unpacked_chunks,
)
from glm.datasets.indexed_record import RECORD
from glm.datasets.json_stream import UNDECODED, text_of
from glm.datasets.readers import Field, RowProblem, check_row, parse_file
from glm.errors import GLMError

SampleBy = Literal["document", "paragraph", "line"]
_TEXT = ".txt"
_READ = f"{', '.join((*JSON, *TABLES, _TEXT))}, packed by .gz, .bz2, .xz or .zst or not"


@dataclass(frozen=True)
class Document:
    """Attributes:
    place: file and line, or row.
    texts: of each key.
    """

    place: str
    texts: tuple[str, ...]


@dataclass
class Documents:
    """The documents of files, in order; what was skipped is counted while they are read.

    Args:
        files: to read.
        keys: of the texts in a row. A text file has one text, whatever it is called.
        sample_by: what a document is in a text file: the whole of it, what blank lines separate, or a line.
        skip_bad_rows: leave bad rows out and count them instead of raising.
        progress: is told how many bytes of the files were read, each time.

    Raises:
        GLMError: while reading, a file that is not what its name says, or the first bad row, with file and line.
    """

    files: Sequence[Path]
    keys: Sequence[str]
    sample_by: SampleBy = "document"
    skip_bad_rows: bool = False
    progress: Progress = lambda count: None
    skipped: int = 0

    def __iter__(self) -> Iterator[Document]:
        for path in self.files:
            yield from self._plain(path) if is_text(path) else self._rows(path)

    def _rows(self, path: Path) -> Iterator[Document]:
        fields = [Field((key,)) for key in self.keys]
        for item in parse_file(path, self.skip_bad_rows, self.keys, self.progress):
            try:
                row = check_row(item, fields)
            except RowProblem as problem:
                self._skip(item.place, str(problem))
            else:
                yield Document(item.place, tuple(row[key] for key in self.keys))

    def _plain(self, path: Path) -> Iterator[Document]:
        if len(self.keys) > 1:
            raise GLMError(f"{path} is plain text, and has no fields {', '.join(self.keys)}: give one --json_key")
        chunks = text_of(unpacked_chunks(path, self.progress), str(path), self.skip_bad_rows)
        for line, text in _SAMPLERS[self.sample_by](chunks):
            place = f"{path}, line {line}"
            if self.skip_bad_rows and UNDECODED.search(text):
                self._skip(place, "not UTF-8")
            else:
                yield Document(place, (text,))

    def _skip(self, place: str, problem: str) -> None:
        if not self.skip_bad_rows:
            raise GLMError(f"{place}: {problem}; fix the row or pass --skip_bad_rows")
        self.skipped += 1


def _whole(chunks: Iterable[str]) -> Iterator[tuple[int, str]]:
    yield 1, "".join(chunks)


def _lines(chunks: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number, line) without its end."""
    number, pieces = 1, []
    for chunk in chunks:
        first, *others = chunk.split("\n")
        pieces.append(first)
        for piece in others:
            yield number, "".join(pieces).removesuffix("\r")
            number, pieces = number + 1, [piece]
    if last := "".join(pieces):
        yield number, last


def _paragraphs(chunks: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number of the first line, lines between blank ones)."""
    start, lines = 0, []
    for number, line in _lines(chunks):
        if line.strip():
            start = start if lines else number
            lines.append(line)
        elif lines:
            yield start, "\n".join(lines)
            lines = []
    if lines:
        yield start, "\n".join(lines)


_SAMPLERS = {"document": _whole, "paragraph": _paragraphs, "line": _lines}


def is_text(path: Path) -> bool:
    """Whether a file is plain text, packed or not, by its name."""
    name = path.name.lower()
    return name.removesuffix(next((end for end in PACKED if name.endswith(end)), "")).endswith(_TEXT)


def is_input(path: Path) -> bool:
    """Whether a file in a folder is taken for raw text; records beside data made here are not."""
    hidden = path.name.startswith((".", "~")) or path.name.endswith(RECORD)
    return not hidden and (is_text(path) or holds_rows(path.name)) and path.is_file()


def input_files(inputs: Iterable[str]) -> list[Path]:
    """The files that are meant by files, folders (with all folders inside) and patterns, in natural order in each.

    Raises:
        GLMError: one stands for nothing, or for a kind of file that is not read.
    """
    found: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = _in_folder(path)
        elif path.is_file():
            files = [path]
        else:
            files = sorted(filter(_is_matched, map(Path, glob(given, recursive=True))), key=natural)  # noqa: PTH207
        if not files:
            raise GLMError(f"{given} is no file, no folder and no pattern that matches a file: check the path")
        found += files
    for path in found:
        require_readable(path)
        if not is_text(path) and not split_name(path.name)[1]:
            raise GLMError(f"{path} is of a kind that is not read: give it the ending of what it is, of {_READ}")
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise GLMError(f"{twice} is given twice: name each file once")
    return found


def _is_matched(path: Path) -> bool:
    return path.is_file() and not path.name.endswith(RECORD)


def _in_folder(folder: Path) -> list[Path]:
    inside = (path for path in folder.rglob("*") if is_input(path))
    visible = (path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if files := sorted(visible, key=natural):
        return files
    refused = next((path for path in sorted(folder.rglob("*")) if split_name(path.name)[1] in REFUSED), None)
    hint = (
        f": {refused} is not read, {REFUSED[split_name(refused.name)[1]]}" if refused else f": what is read is {_READ}"
    )
    raise GLMError(f"{folder} holds no text{hint}")
