"""JSON values of a text that comes in pieces: lines, arrays, printed over several lines, joined. One value is held."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from glm.errors import GLMError
from glm.files.foreign_files import HEAD, other_encoding

# Joined files have a byte order mark each, and arrays may follow each other.
_BETWEEN_ROWS = re.compile(r"[\s,\ufeff]*")
_ARRAY = re.compile(r"\[\s*[{\]]")
_OPEN = re.compile(r"\[\s*\Z")
# Where reading resumes after a row that is not JSON: the next line that starts an object.
_NEXT_OBJECT = re.compile(r"\n[ \t\ufeff]*(?=\{)")
UNDECODED = re.compile("[\udc80-\udcff]")  # what `text_of` makes of bytes that are not UTF-8
_DECODER = json.JSONDecoder()
_LONGEST_WORD = 16  # characters; an error this near the end may be due to the end: "tru", "\ud83d\ude"


@dataclass(frozen=True)
class Parsed:
    """A JSON value of a file and the place it starts at, or `problem`, what is wrong there."""

    place: str
    value: Any = None
    problem: str | None = None


def text_of(chunks: Iterable[bytes], name: str, lenient: bool = False) -> Iterator[str]:
    """UTF-8 in pieces as text in pieces; a byte order mark at the start goes.

    Args:
        lenient: bytes that are not UTF-8 become surrogates, by which `parse_chunks` knows them.

    Raises:
        GLMError: another encoding, with the line of the first byte that is wrong.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape" if lenient else "strict")
    lines = 0
    for number, chunk in enumerate(_and_end(chunks)):
        if number == 0 and (encoding := other_encoding(chunk[:HEAD])):
            raise GLMError(f"{name} is {encoding}, not UTF-8: save the file as UTF-8")
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line, byte = lines + 1 + error.object.count(b"\n", 0, error.start), error.object[error.start]
            raise GLMError(f"{name}, line {line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8.") from None
        lines += chunk.count(b"\n")
        yield text.removeprefix("\ufeff") if number == 0 else text


def _and_end(chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield from (chunk for chunk in chunks if chunk)
    yield b""


def parse_chunks(chunks: Iterable[str], name: str) -> Iterator[Parsed]:
    """The JSON values of a text that is called `name`, in order."""
    text = _Window(chunks)
    in_array = text.skip(_BETWEEN_ROWS).startswith("[")
    text.position += in_array
    while text.skip(_BETWEEN_ROWS):
        if in_array and text.startswith("]"):
            in_array = False
            text.position += 1
            continue
        if not in_array and text.begins_array():
            in_array = True
            text.position += 1
            continue
        place = f"{name}, line {text.line()}"
        value, problem = _parse_value(text)
        yield Parsed(place, value, problem)
        # Behind a broken last row the end of the array is lost with it: that is one problem, not two.
        in_array = in_array and (problem is None or bool(text))
    if in_array:
        problem = "the file ends before the closing ']'; it looks cut off, copy it again"
        yield Parsed(f"{name}, line {text.line()}", problem=problem)


class _Window:
    """The part of a text that is looked at. It is true until the text ends.

    Attributes:
        text: of which everything before `position` is done with.
    """

    def __init__(self, chunks: Iterable[str]):
        self._chunks = iter(chunks)
        self._ended = False
        self._counted, self._line, self._before = 0, 1, 0
        self.text, self.position = "", 0

    def __bool__(self) -> bool:
        while self.position >= len(self.text):
            if not self.more():
                return False
        return True

    def more(self) -> bool:
        """Reads at least as much again as there is, so that what is looked at twice stays bounded; False at the end."""
        pieces, wanted = [], max(1, len(self.text) - self.position)
        while wanted > 0 and not self._ended:
            piece = next(self._chunks, None)
            self._ended = piece is None
            pieces.append(piece or "")
            wanted -= len(pieces[-1])
        if not any(pieces):
            return False
        self._line, self._before = self.line(), self.column(self.position) - 1
        self.text, self.position, self._counted = self.text[self.position :] + "".join(pieces), 0, 0
        return True

    def line(self) -> int:
        """Of `position`; each line break is counted once."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def column(self, place: int) -> int:
        """Of a place in `text`, from 1 on."""
        line = self.text.rfind("\n", 0, place)
        return place - line if line >= 0 else self._before + place + 1

    def skip(self, pattern: re.Pattern[str]) -> _Window:
        """Moves behind what a pattern matches that matches anywhere."""
        while True:
            self.position = pattern.match(self.text, self.position).end()
            if self.position < len(self.text) or not self.more():
                return self

    def startswith(self, character: str) -> bool:
        return bool(self) and self.text[self.position] == character

    def begins_array(self) -> bool:
        """Whether an array of objects begins here, or an empty one."""
        while _OPEN.match(self.text, self.position) and self.more():
            pass
        return bool(_ARRAY.match(self.text, self.position))

    def next_object(self) -> None:
        """Moves to the next line that begins an object, or to the end."""
        while not (found := _NEXT_OBJECT.search(self.text, self.position)):
            # What follows the last line break may go on.
            last = self.text.rfind("\n", self.position)
            self.position = last if last >= 0 else len(self.text)
            if not self.more():
                self.position = len(self.text)
                return
        self.position = found.end()

    def cut_off(self, place: int) -> bool:
        """Whether what was read until `place` may look otherwise when there is more, and there was more."""
        return place >= len(self.text) - _LONGEST_WORD and self.more()


def _parse_value(text: _Window) -> tuple[Any, str | None]:
    """(value, problem) of the JSON value at the window's place, which moves behind it."""
    while True:
        start = text.position
        try:
            value, end = _DECODER.raw_decode(text.text, start)
        except json.JSONDecodeError as error:
            at = len(text.text) if error.msg.startswith("Unterminated string") else error.pos
            if text.cut_off(at):
                continue
            problem = f"not valid JSON ({error.msg}, column {text.column(error.pos)})"
        except (ValueError, RecursionError) as error:
            problem = f"not valid JSON ({error})"
        else:
            if end == len(text.text) and text.more():
                continue
            text.position = end
            return value, "not UTF-8" if UNDECODED.search(text.text, start, end) else None
        text.next_object()
        return None, problem
