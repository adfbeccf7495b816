"""What a run has found so far, as lines of JSON that only grow: a killed run goes on behind the last whole unit.

The first line describes the run; each other one is a question's record. Questions are answered in units, always the
same ones, and a unit's lines are written together: what follows does not depend on where a run was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glm.errors import GLMError, UsageError

NAME = "questions.jsonl"
Record = dict[str, Any]


class Journal:
    """The records of a run, in the order of its questions.

    Args:
        directory: where `questions.jsonl` goes; it is created.
        run: what the run depends on, by its name in words. Values are JSON.
        sizes: the numbers of questions of the units, in their order.
        overwrite: start anew, whatever is there.

    Attributes:
        records: those of whole units that are on the disk.

    Raises:
        UsageError: the directory has another run's records.
        GLMError: another process writes there, or the file is damaged.
    """

    def __init__(self, directory: Path, run: Mapping[str, Any], sizes: Sequence[int], overwrite: bool = False):
        self.path, self.records = directory / NAME, []
        directory.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        self._lock()
        first = _line({"run": dict(run)})
        content = b"" if overwrite else self._content()
        kept = 0
        if content:
            header, *lines = content.splitlines(keepends=True)
            self._require_same(header, first)
            self.records, kept = _whole_units(lines, sizes, self.path)
        self._file.truncate(len(first) + kept if content else 0)
        if not content:
            self._write(first)

    def append(self, records: Sequence[Record]) -> None:
        """Adds the records of a unit; they are on the disk when this returns."""
        self._write(b"".join(map(_line, records)))
        self.records += records

    def close(self) -> None:
        self._file.close()

    def _content(self) -> bytes:
        """Whole lines; the rest was being written when a process was killed."""
        self._file.seek(0)
        content = self._file.read()
        return content[: content.rfind(b"\n") + 1]

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise GLMError(
                f"{self.path} cannot be written ({error.strerror}): make room; the same command then goes on there"
            ) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise GLMError(f"another process writes {self.path}: wait for it or choose another --output_dir") from None

    def _require_same(self, header: bytes, first: bytes) -> None:
        if header == first:
            return
        there, here = (_run(line, self.path) for line in (header, first))
        for name in {**here, **there}:
            if there.get(name) != here.get(name):
                raise UsageError(
                    f"{self.path.parent} has the records of another run: {name} is {_shown(there.get(name))} there and "
                    f"{_shown(here.get(name))} here: choose another --output_dir, or pass --overwrite_output_dir"
                )


def _whole_units(lines: Sequence[bytes], sizes: Sequence[int], path: Path) -> tuple[list[Record], int]:
    """The records of whole units, and how many bytes they take."""
    count = 0
    for size in sizes:
        if count + size > len(lines):
            break
        count += size
    try:
        return [json.loads(line) for line in lines[:count]], sum(map(len, lines[:count]))
    except ValueError:
        raise GLMError(f"{path} is damaged: pass --overwrite_output_dir to start anew") from None


def _run(line: bytes, path: Path) -> dict[str, Any]:
    try:
        return json.loads(line)["run"]
    except (ValueError, KeyError, TypeError):
        raise GLMError(
            f"{path} does not begin with the description of a run: choose another --output_dir, or pass "
            "--overwrite_output_dir"
        ) from None


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
