"""A made-up vocabulary for random weights, because servers answer in texts: GLM-4's kind, each token with its own text.

Read by this project as `tokenizer.model`, and by benchmarks/gguf_file.py, which imports nothing of glm.
"""

import base64
from pathlib import Path

FILE = "tokenizer.model"
BYTES = 256
SPECIAL = 14  # GLM-4's special tokens, which follow the pieces


def pieces(vocab_size: int) -> list[bytes]:
    """Single bytes, then made-up words, so many that special tokens fill the rest of `vocab_size`."""
    words = [b" w%d" % number for number in range(vocab_size - SPECIAL - BYTES)]
    return [*(bytes([byte]) for byte in range(BYTES)), *words]


def write_vocabulary(directory: Path, vocab_size: int) -> None:
    """tiktoken ranks."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [b"%s %d\n" % (base64.b64encode(piece), rank) for rank, piece in enumerate(pieces(vocab_size))]
    (directory / FILE).write_bytes(b"".join(lines))


def gguf_tokens(vocab_size: int) -> list[str]:
    """Every token as GGUF's byte-level vocabularies have them: a printable character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(BYTES + n) for n, byte in enumerate(others)}
    texts = ["".join(characters[byte] for byte in piece) for piece in pieces(vocab_size)]
    return [*texts, *(f"<|special_{number}|>" for number in range(SPECIAL))]
