"""Checksums of files, whole and sampled."""

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20  # bytes
_SAMPLE = 1 << 16  # bytes of a large file, at three places, that tell it from another


def file_digest(path: Path, progress: Callable[[int], Any] = lambda count: None) -> str:
    """A checksum of a whole file: it tells an unfinished or damaged one from what was written.

    Args:
        progress: is told the number of bytes each time some have been read.
    """
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
            progress(len(chunk))
    return f"{checksum:08x}"


def sha256(path: Path) -> str:
    """Of a whole file, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def sample(path: Path) -> bytes:
    """The size of a file, and its beginning, middle and end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        parts = []
        for start in (0, size // 2, max(0, size - _SAMPLE)):
            file.seek(start)
            parts.append(file.read(_SAMPLE))
    return size.to_bytes(8, "little") + b"".join(parts)
