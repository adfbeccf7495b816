"""Files that are not what their names say: git-lfs pointers, saved web pages, other encodings. Imports no framework."""

from __future__ import annotations

from pathlib import Path

from glm.errors import GLMError

HEAD = 512  # bytes that tell
_LFS = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html")
# What the Hugging Face Hub answers instead of a file.
_REFUSALS = (b"Entry not found", b"Invalid username or password", b"Access to model", b"Repository not found")
# UTF-32 first: its mark begins as UTF-16's does.
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def stand_in(head: bytes) -> str | None:
    """What a file with these first bytes is, and what to do, where it only stands in the place of another."""
    if head.startswith(_LFS):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository, or download the file"
    if head.lstrip().lower().startswith(_PAGES):
        return "is a web page that was saved in the file's place: download the file itself"
    if head.startswith(_REFUSALS):
        return f"holds a server's refusal ({head.split(b'.')[0][:60].decode('ascii', 'replace')}): download it again"
    return None


def require_real(path: Path) -> None:
    """Raises GLMError, one line, where a file only stands in the place of another, or is empty.

    A file that cannot be read is left to its reader.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return
    if what := stand_in(head) or (None if head else "is empty: copy or download it again"):
        raise GLMError(f"{path} {what}")


def other_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, where a text begins so; None for anything else."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    # Without a mark, every other byte of ASCII is zero.
    return "UTF-16" if len(head) > 3 and (0 in head[:2]) and head[:4].count(0) == 2 else None


def decode_text(content: bytes, name: str) -> str:
    """UTF-8 with or without byte order mark.

    Raises:
        GLMError: another encoding, which is named, with the line of the first byte that is wrong.
    """
    if encoding := other_encoding(content[:HEAD]):
        raise GLMError(f"{name} is {encoding}, not UTF-8: save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise GLMError(f"{name}, line {line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8.") from None
