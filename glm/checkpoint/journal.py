"""What a conversion has done so far, on disk, so that the same command continues after a kill.

Finished files wait in a hidden directory of the target, each recorded with size and checksum; the target's own files
are not touched before all of them are there.
"""

import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from glm.errors import GLMError
from glm.files.atomic import lock_directory, write_json
from glm.files.checksum import file_digest
from glm.files.json_files import read_json

STAGING = ".conversion"
_NAME = "journal.json"
_SAMPLE = 1 << 16  # bytes at either end of a source file


class Journal:
    """The journal of one target directory.

    Args:
        target: the directory that is written to.
        command: what was asked for, as JSON has it; only the same command continues.
        source: of `fingerprint`; other source files start the conversion anew.
    Attributes:
        directory: where finished files wait.
        restarted: whether an unfinished conversion was thrown away, because the source has changed.
    Raises:
        GLMError: another command was not finished in that directory.
    """

    def __init__(self, target: Path, command: dict[str, Any], source: dict[str, Any]):
        self._target, self.directory = target, target / STAGING
        self.restarted = False
        found = self._read()
        if found and found["command"] != command:
            changed = [name for name in command if found["command"].get(name) != command[name]]
            what = ", ".join(f"--{name} {found['command'].get(name)}" for name in changed)
            raise GLMError(
                f"{target} holds an unfinished conversion with {what}: finish it with the same command, or remove "
                f"{self.directory}"
            )
        if found and found["source"] != source:
            self.restarted, found = True, None
        self._content = found or {"command": command, "source": source, "done": {}, "moving": False}

    @property
    def moving(self) -> bool:
        """Whether all files were complete and their move into the target has begun."""
        return self._content["moving"]

    @contextmanager
    def opened(self) -> Iterator["Journal"]:
        """Hold the staging directory for this process.

        Raises:
            GLMError: another process has it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = lock_directory(self.directory)
        if lock is None:
            raise GLMError(f"another process is converting into {self._target}: wait for it, or choose another target")
        try:
            self._clean(keep={_NAME, *self._content["done"]})
            self._save()
            yield self
        except BaseException:
            if not self._content["done"]:
                self._undo()
            raise
        finally:
            os.close(lock)

    def where(self, name: str) -> Path:
        """Where a finished file is now."""
        staged = self.directory / name
        return self._target / name if self.moving and not staged.exists() else staged

    def has(self, name: str) -> bool:
        """Whether a file is finished, and still what was written."""
        recorded, path = self._content["done"].get(name), self.where(name)
        if recorded is None or not path.is_file() or path.stat().st_size != recorded[0]:
            return False
        return file_digest(path) == recorded[1]

    def add(self, name: str) -> None:
        """Record a file that is complete in the staging directory."""
        path = self.directory / name
        self._content["done"][name] = [path.stat().st_size, file_digest(path)]
        self._save()

    def begin_move(self) -> None:
        self._content["moving"] = True
        self._save()

    def end(self) -> None:
        """Remove the journal and its directory."""
        shutil.rmtree(self.directory)

    def _clean(self, keep: set[str]) -> None:
        """Remove what a killed process was writing."""
        for path in sorted(self.directory.rglob("*"), reverse=True):  # what a folder holds is before it
            if path.is_dir():
                with suppress(OSError):  # it holds finished files
                    path.rmdir()
            elif path.relative_to(self.directory).as_posix() not in keep:
                path.unlink()

    def _undo(self) -> None:
        """Leave no trace where nothing was finished, so that another command may follow."""
        shutil.rmtree(self.directory, ignore_errors=True)
        with suppress(OSError):  # it holds something else
            self._target.rmdir()

    def _save(self) -> None:
        write_json(self.directory / _NAME, self._content)

    def _read(self) -> dict[str, Any] | None:
        return read_json(self.directory / _NAME, f"remove {self.directory}", missing={}) or None


def fingerprint(directory: Path, files: list[Path]) -> dict[str, list]:
    """Size, time of change and a checksum of both ends of every file, by name: cheap, whatever their size."""
    stats = {path.relative_to(directory).as_posix(): path.stat() for path in sorted(files)}
    return {name: [stat.st_size, stat.st_mtime_ns, _ends(directory / name)] for name, stat in stats.items()}


def _ends(path: Path) -> str:
    with path.open("rb") as file:
        checksum = zlib.crc32(file.read(_SAMPLE))
        file.seek(max(0, path.stat().st_size - _SAMPLE))
        return f"{zlib.crc32(file.read(_SAMPLE), checksum):08x}"
