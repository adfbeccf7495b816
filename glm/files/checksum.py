"""Checksums of whole files."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20  # bytes


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
