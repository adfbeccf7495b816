"""Indices that took a while to build, kept on the disk beside the data, for every later run and every process.

An entry is a directory, named after all that its arrays depend on, that appears whole or not at all. It is built once:
other processes of the machine, or of a launch, wait for its builder.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from glm.errors import GLMError
from glm.files.atomic import atomic_directory, write_json
from glm.files.json_files import read_json
from glm.files.locks import lock

DESCRIPTION, LOCK = "description.json", ".lock"
WAIT_SECONDS = 1800.0

Arrays = Mapping[str, np.ndarray]


class IndexCache:
    """A folder of entries.

    Args:
        folder: created where it is missing.
        wait: seconds for which another process may build.
    """

    def __init__(self, folder: Path, wait: float = WAIT_SECONDS):
        self.folder, self.wait = folder, wait

    def arrays(self, description: Mapping[str, Any], build: Callable[[], Arrays]) -> Arrays:
        """The arrays of an entry, mapped from its files.

        Args:
            description: all that they depend on, as JSON has it.
            build: makes them, if they are not there.

        Raises:
            GLMError: the folder cannot be written, the disk is full, another process builds for too long, or the entry
                is damaged or of other data.
        """
        place = self.folder / key(description)
        if not place.is_dir():
            with self._locked():
                if not place.is_dir():
                    self._write(place, description, build())
        return self._read(place, description)

    def _write(self, place: Path, description: Mapping[str, Any], arrays: Arrays) -> None:
        with atomic_directory(place) as building:
            for name, array in arrays.items():
                np.save(building / f"{name}.npy", array, allow_pickle=False)
            write_json(building / DESCRIPTION, description)

    def _read(self, place: Path, description: Mapping[str, Any]) -> Arrays:
        cure = f"remove {place}, and it is built anew"
        found = read_json(place / DESCRIPTION, cure)
        for name, value in description.items():
            if found.get(name) != value:
                raise GLMError(f"{place} is of other data: its {name} is {found.get(name)}, here it is {value}: {cure}")
        try:
            return {path.stem: np.load(path, mmap_mode="r") for path in sorted(place.glob("*.npy"))}
        except (ValueError, EOFError) as error:
            raise GLMError(f"{place} is damaged ({error}): {cure}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """For one process at a time; where the file system has no locks, several may build the same."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise GLMError(
                f"{self.folder} cannot be written ({error.strerror}), and indices are kept there: pass --data_cache "
                "with another folder"
            ) from None
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        end = time.monotonic() + self.wait
        while not lock(descriptor):
            if time.monotonic() > end:
                raise GLMError(
                    f"another process has been building indices in {self.folder} for {self.wait:g} s: end it, or "
                    "pass --data_cache with another folder"
                )
            time.sleep(0.05)


def key(description: Mapping[str, Any]) -> str:
    """The name of an entry."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]
