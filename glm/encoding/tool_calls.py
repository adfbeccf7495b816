"""What GLM-4 writes when it calls tools, read while it is written, and OpenAI's `tool_calls`. No framework, no server.

A turn of GLM-4 is text, or a call: the tool's name, a line end and the arguments. An answer may have several turns,
<|assistant|> between them: words, then the call. So much is of GLM-4-9B; the example of GLM-4-0414's model card also
takes a call behind lines of text, and one behind another's arguments:

    get_weather                 我来查一下。                get_weather
    {"city": "北京"}            get_weather                 {"city": "北京"}get_time
                                {"city": "北京"}            {}

A first line that is a tool's name makes a call, whatever follows it (a built-in tool takes code). Later such a line
makes one only if a { follows it, for a text may speak of a tool. Thoughts come first, up to </think>.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glm.encoding.chat_roles import ASSISTANT, THINK, THINK_END, last_turn
from glm.tokenizers.base import Tokenizer
from glm.tokenizers.stop_strings import StopStrings, overlap

# What a user sees of a text, and how much of an unfinished one stands for certain (`ChatFormat`).
Clean = tuple[Callable[[str], str], Callable[[str], int]]
CONTENT, THOUGHTS, NAME, ARGUMENTS = "content", "reasoning_content", "name", "arguments"


@dataclass(frozen=True)
class Piece:
    """A piece of an answer, in the order in which pieces stand in it.

    Attributes:
        field: CONTENT, THOUGHTS, NAME (a call begins) or ARGUMENTS; pieces of one field of one call are joined.
        text: of a name all, of the others the next part.
        call: which call, counted from 0; None for text and thoughts.
    """

    field: str
    text: str
    call: int | None = None


class ToolCallReader:
    """Reads one answer. However its text is cut, what the pieces say joined is the same.

    Args:
        names: of the tools that were offered.
        clean: of the text.
        thinks: whether the prompt opened the model's thoughts (<think>).
        one_call: ends with the first call: OpenAI's `parallel_tool_calls` false.
        read_arguments: what the arguments of a call are, of a model that writes no JSON: the rest of
            its turn, which then is read at once when that is over.

    Attributes:
        calls: how many there are so far.
        done: whether nothing more is read; the rest of the answer need not be written.
    """

    def __init__(
        self,
        names: Collection[str],
        clean: Clean = (str.strip, lambda text: len(text.rstrip())),
        thinks: bool = False,
        one_call: bool = False,
        read_arguments: Callable[[str], str] | None = None,
    ):
        self._names, self._one_call, self._read_arguments = frozenset(names), one_call, read_arguments
        self.calls, self.done = 0, False
        self._content = _Cleaned(*clean)
        self._pieces: list[Piece] = []
        self._begin_turn()
        if thinks:
            self._read = self._thought

    def put(self, text: str) -> list[Piece]:
        """The pieces that more text completes."""
        for character in text:
            if not self.done:
                self._read(character)
        return self._taken()

    def turn(self) -> list[Piece]:
        """Says that the token <|assistant|> stands here."""
        if not self.done:
            self._end_turn()
            self._begin_turn()
        return self._taken()

    def end(self) -> list[Piece]:
        """Says that no text follows; gives what was held back."""
        if not self.done:
            self._end_turn()
        self.done = True
        self._say(CONTENT, self._content.end())
        return self._taken()

    def _taken(self) -> list[Piece]:
        self._say(CONTENT, self._content.new())
        pieces, self._pieces = self._pieces, []
        return pieces

    # What is read next is a method; `_held` is text that is not yet known to be one thing or the other.

    def _begin_turn(self) -> None:
        self._read, self._held = self._opening, ""
        self._first_line, self._thinking, self._arguments = True, False, None

    def _end_turn(self) -> None:
        """What was held back is what it looks like now."""
        held, self._held = self._held, ""
        if self._read == self._thought:
            self._say_thought(held.rstrip())
        elif self._arguments is None:
            self._content.add(held)
        else:
            self._say(ARGUMENTS, self._read_arguments(held) if self._read_arguments else "", self.calls - 1)
            self.done = self._one_call

    def _opening(self, character: str) -> None:
        """The beginning of a turn, where <think> may stand."""
        self._held += character
        seen = self._held.lstrip()
        if seen == THINK:
            self._read, self._held = self._thought, ""
        elif not THINK.startswith(seen):
            self._again(self._line_start)

    def _thought(self, character: str) -> None:
        self._held += character
        if self._held.endswith(THINK_END):
            self._say_thought(self._held.removesuffix(THINK_END).rstrip())
            self._read, self._held = self._behind_thought, ""
            return
        sure = self._held[: len(self._held) - overlap(self._held, THINK_END)].rstrip()
        if sure.strip():
            self._say_thought(sure)
            self._thinking, self._held = True, self._held[len(sure) :]

    def _say_thought(self, text: str) -> None:
        """White space before the first of it is left out."""
        self._say(THOUGHTS, text if self._thinking else text.lstrip())

    def _behind_thought(self, character: str) -> None:
        if not character.isspace():
            self._read = self._line_start
            self._line_start(character)

    def _line_start(self, character: str) -> None:
        """A line that may be a tool's name."""
        if character == "\n":
            if self._held.strip() in self._names:
                self._named()
                return
            self._content.add(f"{self._held}\n")
            self._held, self._first_line = "", False
            return
        self._held += character
        if not self._may_be_name(self._held):
            self._content.add(self._held)
            self._read, self._held = self._line, ""

    def _may_be_name(self, held: str) -> bool:
        seen = held.lstrip()
        return seen.rstrip() in self._names or any(name.startswith(seen) for name in self._names)

    def _line(self, character: str) -> None:
        """The rest of a line that is text."""
        self._content.add(character)
        if character == "\n":
            self._read, self._first_line = self._line_start, False

    def _named(self) -> None:
        """A line was a tool's name."""
        if self._first_line:
            self._begin_call(self._held)
        else:
            self._held += "\n"
            self._read = self._behind_name

    def _behind_name(self, character: str) -> None:
        """What makes a call of a later line: a { behind it."""
        if character == "{":
            self._begin_call(self._held)
            self._read(character)
            return
        self._held += character
        if not character.isspace():
            name, line_end, rest = self._held.partition("\n")
            self._content.add(name + line_end)
            self._held = rest
            self._again(self._line_start)

    def _begin_call(self, name: str) -> None:
        self._say(CONTENT, self._content.new())
        self._say(NAME, name.strip(), self.calls)
        self.calls += 1
        self._read, self._held, self._arguments = self._in_arguments, "", _Object()

    def _in_arguments(self, character: str) -> None:
        """White space waits: at the ends of the arguments it is left out."""
        if self._read_arguments:
            self._held += character
            return
        if character.isspace():
            self._held += character if self._arguments.begun else ""
            self._arguments.put(character)
            return
        self._say(ARGUMENTS, self._held + character, self.calls - 1)
        self._held = ""
        if self._arguments.put(character):
            self.done = self._one_call
            self._read, self._arguments, self._first_line = self._line_start, None, False

    def _again(self, read: Callable[[str], None]) -> None:
        """Reads what was held back once more, as something else."""
        held, self._held, self._read = self._held, "", read
        for character in held:
            self._read(character)

    def _say(self, field: str, text: str, call: int | None = None) -> None:
        if not text:
            return
        last = self._pieces[-1] if self._pieces else None
        if last and (last.field, last.call) == (field, call) and field != NAME:
            self._pieces[-1] = Piece(field, last.text + text, call)
        else:
            self._pieces.append(Piece(field, text, call))


class _Cleaned:
    """A text of which a user sees a cleaned form, piece by piece."""

    def __init__(self, clean: Callable[[str], str], stable_length: Callable[[str], int]):
        self._clean, self._stable_length = clean, stable_length
        self._text, self._shown = "", 0

    def add(self, text: str) -> None:
        self._text += text

    def new(self) -> str:
        """What has become certain."""
        return self._beyond(self._clean(self._text[: self._stable_length(self._text)]))

    def end(self) -> str:
        """What was held back."""
        return self._beyond(self._clean(self._text))

    def _beyond(self, settled: str) -> str:
        new, self._shown = settled[self._shown :], max(self._shown, len(settled))
        return new


class _Object:
    """Finds the end of a JSON object; what begins with something else has none."""

    def __init__(self):
        self.begun, self._depth, self._string, self._escaped, self._is_object = False, 0, False, False, False

    def put(self, character: str) -> bool:
        """Takes the next character; whether the object ends with it."""
        if not self.begun:
            self.begun = not character.isspace()
            self._is_object = character == "{"
        if not self._is_object:
            return False
        if self._string:
            self._string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
            return False
        self._string = character == '"'
        self._depth += (character in "{[") - (character in "}]")
        return self._depth == 0


class AnswerReading:
    """Feeds a reader from the text of an answer's ids, and tells it where turns end.

    Args:
        reader: of a new answer.
        between: id of the token that stands between turns, None where there is none.
    """

    def __init__(self, reader: ToolCallReader, between: int | None):
        self._reader, self._between, self._read = reader, between, 0
        self._turns: deque[int] = deque()  # where turns begin that are not yet read

    @property
    def calls(self) -> int:
        """How many calls there are so far."""
        return self._reader.calls

    def note(self, token: int, watch: StopStrings) -> None:
        """Takes note of an id before `watch` takes it."""
        if token == self._between:
            self._turns.append(len(watch.text))

    def take(self, watch: StopStrings) -> list[Piece]:
        """The pieces that have become certain."""
        pieces, certain = [], watch.certain
        while self._turns and self._turns[0] <= certain:
            start = self._turns.popleft()
            pieces += [*self._reader.put(watch.text[self._read : start]), *self._reader.turn()]
            self._read = start
        pieces += self._reader.put(watch.text[self._read : certain])
        self._read = certain
        return pieces

    def end(self, rest: str = "") -> list[Piece]:
        """The last pieces; `rest` is text behind all of it."""
        return [*self._reader.put(rest), *self._reader.end()]


def stream_pieces(
    tokenizer: Tokenizer, ids: Iterable[int], reader: ToolCallReader, stop_strings: Sequence[str] = ()
) -> Iterator[Piece]:
    """The pieces of an answer while its ids arrive; no id is taken behind its end.

    Args:
        stop_strings: what ends it, and is not part of it.
    """
    watch, reading = StopStrings(tokenizer, stop_strings), AnswerReading(reader, tokenizer.added_tokens.get(ASSISTANT))
    for index in ids:
        reading.note(index, watch)
        ended = watch.put(index)
        yield from reading.take(watch)
        if ended or reader.done:
            break
    watch.end()
    yield from reading.take(watch)
    yield from reading.end()


def last_call(
    text: str, names: Collection[str], read_arguments: Callable[[str], str] | None = None
) -> dict[str, str] | None:
    """GLM-4's own message of the call that the last turn of a generated text makes last, None if it calls no tool.

    Args:
        read_arguments: as of `ToolCallReader`.
    """
    turn = last_turn(text)
    thinks = THINK_END in turn and not turn.lstrip().startswith(THINK)
    reader = ToolCallReader(names, thinks=thinks, read_arguments=read_arguments)
    calls = openai_message([*reader.put(turn), *reader.end()]).get("tool_calls")
    if not calls:
        return None
    return {
        "role": "assistant",
        "metadata": calls[-1]["function"]["name"],
        "content": calls[-1]["function"]["arguments"],
    }


def new_call_id() -> str:
    """An id by which a tool's result names the call."""
    return f"call_{secrets.token_hex(12)}"


def openai_message(pieces: Iterable[Piece], new_id: Callable[[], str] = new_call_id) -> dict[str, Any]:
    """OpenAI's assistant message of all pieces of an answer.

    `content` is null where only tools are called. Arguments are text as the model wrote it, which need not be JSON.
    """
    texts = {CONTENT: "", THOUGHTS: ""}
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.field == NAME:
            calls.append({"id": new_id(), "type": "function", "function": {"name": piece.text, "arguments": ""}})
        elif piece.field == ARGUMENTS:
            calls[piece.call]["function"]["arguments"] += piece.text
        else:
            texts[piece.field] += piece.text
    message: dict[str, Any] = {"role": "assistant", "content": texts[CONTENT] or (None if calls else "")}
    if texts[THOUGHTS]:
        message["reasoning_content"] = texts[THOUGHTS]
    return message | ({"tool_calls": calls} if calls else {})
