"""Sizes in bytes as people write them."""

import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def size_in_bytes(text: str) -> int:
    """`5GB` → 5,000,000,000 and `5GiB` → 5,368,709,120; a plain number is bytes.

    Raises:
        ValueError: for anything else, and for nothing.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * (_BINARY if match[3] else _UNITS)[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size: write something like 5GB or 500MB")
    return size


def in_words(size: float) -> str:
    """19,000,000,000 → `19.0 GB`, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
