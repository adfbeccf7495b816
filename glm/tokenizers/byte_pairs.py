"""Byte-pair encoding of texts of any length by tiktoken, and errors of one line where a Rust library panics.

tiktoken's regular expressions (fancy-regex) remember each character of a run of white space to go back to, a million at
most, and panic beyond. Such runs are cut here, where the pattern cuts them, so the ids stay tiktoken's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import tiktoken

from glm.errors import GLMError

# What a text is cut into before bytes are merged: contractions, words, up to three digits, punctuation, white space.
PIECE_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LONG_RUN = 100_000  # characters; a tenth of what is too much
# Unicode's White_Space, which is \s in Rust; Python's \s has U+001C to U+001F as well.
_WHITE_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_LINE_ENDS = re.compile("[\r\n]*")


class BytePairs:
    """GLM-4's byte-pair encoding.

    Args:
        ranks: piece → id; byte pairs of lower ranks merge first.
    """

    def __init__(self, ranks: Mapping[bytes, int]):
        self._encoding = tiktoken.Encoding("glm4", pat_str=PIECE_PATTERN, mergeable_ranks=ranks, special_tokens={})
        # Asks the same tables of Unicode what a letter is: what matches is encoded, the rest is passed over.
        single_bytes = {bytes([byte]): byte for byte in range(256)}
        self._words = tiktoken.Encoding(
            "words", pat_str=r"[\p{L}\p{N}]", mergeable_ranks=single_bytes, special_tokens={}
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text, all of it plain. Raises GLMError where the library panics."""
        with no_panic(text):
            if len(text) < LONG_RUN:
                return self._encoding.encode_ordinary(text)
            ids: list[int] = []
            for part, whole in self._parts(text):
                # A part that is one piece goes past the pattern.
                ids += self._encoding._encode_single_piece(part) if whole else self._encoding.encode_ordinary(part)
            return ids

    def decode_bytes(self, ids: list[int]) -> bytes:
        return self._encoding.decode_bytes(ids)

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Parts of `text` in order, cut where PIECE_PATTERN cuts, and whether a part is one piece of it, a long one."""
        start = 0
        for run in _WHITE_SPACE.finditer(text):
            if run.end() - run.start() < LONG_RUN:
                continue
            begin = self._behind_punctuation(text, run.start())
            line = max(begin, 1 + max(text.rfind(end, begin, run.end()) for end in "\r\n"))
            # The last blank before something else goes with that.
            end = run.end() if run.end() == len(text) else max(line, run.end() - 1)
            yield text[start:begin], False
            yield from ((text[i:j], True) for i, j in ((begin, line), (line, end)) if i < j)
            start = end
        yield text[start:], False

    def _behind_punctuation(self, text: str, start: int) -> int:
        """Where the pieces of the white space at `start` begin: line ends right behind punctuation belong to that."""
        if start == 0 or self._words.encode_ordinary(text[start - 1]):
            return start
        return _LINE_ENDS.match(text, start).end()


@contextmanager
def no_panic(text: str) -> Iterator[None]:
    """Turns a panic of a library in Rust, which is no Exception, into a GLMError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's class cannot be imported
            raise
        reason = " ".join(str(error).split())[:100]
        raise GLMError(f"a text of {len(text):,} characters cannot be cut into tokens ({reason}): shorten it") from None
