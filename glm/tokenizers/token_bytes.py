"""The bytes that a piece of a vocabulary stands for, in the two alphabets in which vocabularies write them."""

from __future__ import annotations

from functools import lru_cache

from glm.errors import GLMError

SPACE = "\u2581"  # how sentencepiece writes a blank


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE (GPT-2): printable Latin-1 is itself, other bytes are U+0100 and on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def byte_level_bytes(piece: str) -> bytes:
    """Of a piece of tokenizer.json. Raises GLMError where a character is none of the alphabet's."""
    try:
        return bytes(map(_byte_of_character().__getitem__, piece))
    except KeyError:
        raise GLMError(f"the piece {piece!r} is not written in bytes, so this is no vocabulary of GLM-4's") from None


def sentencepiece_bytes(pieces, index: int) -> bytes:
    """Of a piece of a sentencepiece model; b"" for pieces that stand for no text.

    Args:
        pieces: a `SentencePieceProcessor`.
    """
    if pieces.IsControl(index) or pieces.IsUnused(index) or pieces.IsUnknown(index):
        return b""
    piece = pieces.IdToPiece(index)
    return bytes([int(piece[1:-1], 16)]) if pieces.IsByte(index) else piece.replace(SPACE, " ").encode()
