"""What the libraries of GLM-4's tokenizers take for letters, numbers and white space: their own tables of Unicode.

Each library brings a version of Unicode of its own, so a program that cuts words as they do has to have their tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tiktoken
import tokenizers

LETTER, NUMBER, WHITE_SPACE = 1, 2, 3
PATTERNS = {LETTER: r"\p{L}", NUMBER: r"\p{N}", WHITE_SPACE: r"\s"}
# Planes in which characters are assigned that are no private ones; U+D800 to U+DFFF are no characters.
_PLANES = (range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000))

Found = Callable[[str, str], str]  # (pattern, text) → the characters of the text that match, joined


def character_ranges(found: Found) -> list[tuple[int, int, int]]:
    """(first, last, class) of code points, rising.

    Args:
        found: asks a library, as `tiktoken_found` and `tokenizers_found`.
    """
    everything = "".join(map(chr, (code for plane in _PLANES for code in plane)))
    ranges = [
        (first, last, kind) for kind, pattern in PATTERNS.items() for first, last in _runs(found(pattern, everything))
    ]
    return sorted(ranges)


def _runs(characters: Iterable[str]) -> list[tuple[int, int]]:
    """First and last code points of neighbours."""
    runs: list[tuple[int, int]] = []
    for code in map(ord, characters):
        if runs and runs[-1][1] == code - 1:
            runs[-1] = runs[-1][0], code
        else:
            runs.append((code, code))
    return runs


def tiktoken_found(pattern: str, text: str) -> str:
    """By tiktoken: each byte that matches is an id of its own, what does not match is passed over."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return bytes(encoding.encode_ordinary(text)).decode()


def tokenizers_found(pattern: str, text: str) -> str:
    """By the library tokenizers, which takes out all but what matches."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"(?:{pattern})+"), "removed", invert=True)
    return "".join(part for part, _ in split.pre_tokenize_str(text))
