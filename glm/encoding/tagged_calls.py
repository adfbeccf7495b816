"""Calls of tools as GLM-4.5 and those after it write them, between tags, read while they are written.

    <tool_call>get_weather           GLM-4.5 and 4.6 write a line end behind the name and behind each pair of tags,
    <arg_key>city</arg_key>          GLM-4.7 and 4.7-Flash none
    <arg_value>北京</arg_value>
    </tool_call>

Both are read, with white space anywhere between tags, as OpenAI's arguments {"city": "北京"}. A string stands as it is,
and other values as JSON; which it is the tool's schema says (glm/encoding/argument_types.py). A call may have no
arguments, and an answer several calls, with text before them. What names no tool that was offered is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glm.encoding.argument_types import ANY, STRING, argument_json, argument_types
from glm.encoding.tool_calls import ARGUMENTS, CONTENT, NAME, Clean, ToolCallReader, overlap
from glm.encoding.tool_choice import parameters_of, tool_name

CALL, CALL_END = "<tool_call>", "</tool_call>"
KEY, KEY_END = "<arg_key>", "</arg_key>"
VALUE, VALUE_END = "<arg_value>", "</arg_value>"


class TaggedCallReader(ToolCallReader):
    """As `ToolCallReader`, of calls between tags.

    Args:
        tools: that were offered.
        others: see `ToolCallReader`.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], clean: Clean, thinks: bool = False, one_call: bool = False):
        self._types = {tool_name(tool): argument_types(parameters_of(tool)) for tool in tools}
        super().__init__(self._types, clean, thinks, one_call)

    # What is read next is a method; `_held` is text that is not yet known to be one thing or the other.

    def _begin_turn(self) -> None:
        super()._begin_turn()
        self._tool, self._key, self._count = "", "", 0

    def _end_turn(self) -> None:
        """What was held back is what it looks like now: a call that was cut off stays so."""
        if self._read == self._in_name:
            self._held = f"{CALL}{self._held}"
        elif self._read == self._in_string:
            self._argue(_escaped(self._held))
        elif self._read == self._in_value:
            self._argue(self._held.strip())
        if self._read in (self._in_string, self._in_value, self._between, self._in_key, self._behind_key):
            self._held = ""
        super()._end_turn()
        self.done = self._one_call and self.calls > 0

    def _line_start(self, character: str) -> None:
        """Text, in which a call may begin."""
        self._held += character
        if self._held.endswith(CALL):
            self._content.add(self._held.removesuffix(CALL))
            self._read, self._held = self._in_name, ""
            return
        sure = len(self._held) - overlap(self._held, CALL)
        self._content.add(self._held[:sure])
        self._held = self._held[sure:]

    def _in_name(self, character: str) -> None:
        """A tool's name ends with its line, or where a tag begins."""
        self._held += character
        tag = next((tag for tag in (KEY, CALL_END, "\n") if self._held.endswith(tag)), "")
        name = self._held.removesuffix(tag).strip()
        if not tag or (tag == "\n" and not name):
            return
        if name not in self._types:
            held, self._held = f"{CALL}{self._held}", ""
            self._content.add(held)
            self._read = self._line_start
            return
        self._say(CONTENT, self._content.new())
        self._say(NAME, name, self.calls)
        self.calls += 1
        self._tool, self._count, self._held = name, 0, ""
        self._read = self._between
        self._tagged(tag)

    def _between(self, character: str) -> None:
        """Behind the name, or behind an argument."""
        self._held += character
        self._tagged(next((tag for tag in (KEY, CALL_END) if self._held.endswith(tag)), ""))

    def _tagged(self, tag: str) -> None:
        if tag == KEY:
            self._read, self._held = self._in_key, ""
        elif tag == CALL_END:
            self._argue("}" if self._count else "{}")
            self.done = self._one_call
            self._read, self._held = self._line_start, ""

    def _in_key(self, character: str) -> None:
        self._held += character
        if self._held.endswith(KEY_END):
            self._key = self._held.removesuffix(KEY_END).strip()
            self._read, self._held = self._behind_key, ""

    def _behind_key(self, character: str) -> None:
        self._held += character
        if self._held.endswith(VALUE):
            self._argue(f"{', ' if self._count else '{'}{json.dumps(self._key, ensure_ascii=False)}: ")
            self._count += 1
            is_string = self._argument_types() == STRING
            self._argue('"' if is_string else "")
            self._read, self._held = self._in_string if is_string else self._in_value, ""

    def _in_string(self, character: str) -> None:
        """A string, which is passed on as it comes."""
        self._held += character
        if self._held.endswith(VALUE_END):
            self._argue(f'{_escaped(self._held.removesuffix(VALUE_END))}"')
            self._read, self._held = self._between, ""
            return
        sure = len(self._held) - overlap(self._held, VALUE_END)
        self._argue(_escaped(self._held[:sure]))
        self._held = self._held[sure:]

    def _in_value(self, character: str) -> None:
        """Any value, whose type its end tells."""
        self._held += character
        if self._held.endswith(VALUE_END):
            self._argue(argument_json(self._held.removesuffix(VALUE_END), self._argument_types()))
            self._read, self._held = self._between, ""

    def _argument_types(self) -> frozenset[str]:
        return self._types[self._tool].get(self._key, ANY)

    def _argue(self, text: str) -> None:
        self._say(ARGUMENTS, text, self.calls - 1)


def _escaped(text: str) -> str:
    """A part of a string as JSON writes it."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
