"""Which tools a model may or must call: OpenAI's `tools` and `tool_choice`, and grammars that force or check a call.

Imports no framework and no server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm.encoding.chat_roles import ASSISTANT
from glm.encoding.json_schema import grammar, json_rule
from glm.encoding.messages import normal_tools, type_name
from glm.errors import UsageError

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_CHOICES = "none, auto, required or {'type': 'function', 'function': {'name': …}}"


@dataclass(frozen=True)
class ToolChoice:
    """What a request says of tools.

    Attributes:
        tools: for the prompt; () where none may be called.
        names: what makes a call of a line (glm/encoding/tool_calls.py).
        forced: names of the functions of which one must be called; () where the model may as well say something.
        one_call: whether the answer ends with its first call.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    names: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    one_call: bool = False

    @classmethod
    def read(cls, tools: Any, choice: Any = None, parallel: bool = True) -> ToolChoice:
        """Of a request's fields `tools`, `tool_choice` and `parallel_tool_calls`, as its JSON has them.

        Raises:
            UsageError: tools or a choice that are not of OpenAI's form, two tools of one name, a tool that is not
                there. SchemaError: parameters of a forced or strict function that texts cannot be held to.
        """
        offered = normal_tools("tools", tools)
        names = [tool_name(tool, number) for number, tool in enumerate(offered)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"tools has two tools of the name {twice[0]}: give each a name of its own")
        choice = ("auto" if offered else "none") if choice is None else choice
        forced = _forced(choice, offered, names)
        if choice == "none" or not offered:
            return cls()
        read = cls(tuple(offered), tuple(names), forced, not parallel)
        read.grammar()
        return read

    def grammar(self, thinks: bool = False, may_think: bool = False) -> str | None:
        """The grammar of the answer, None where any text will do: nothing is forced, and no function is strict.

        A strict function's arguments follow its parameters wherever the model calls it of its own accord.

        Args:
            thinks, may_think: as in `glm.encoding.json_schema.response_grammar`.
        """
        held = self.held()
        if not held:
            return None
        calls = [
            f"call_{number}: {_line(name)} {json_rule(parameters_of(tool), f'parameters of {name}')}"
            for number, (name, tool) in enumerate(held.items())
        ]
        any_call = " | ".join(f"call_{number}" for number in range(len(held)))
        if self.forced:
            return grammar("\n".join([any_call, *calls]), thinks, may_think)
        # Lines of a held function's name are no text: they begin a call.
        lines = "|".join(map(_escaped, held))
        text = rf"TEXT: /(?s:.*)/ & ~/((?s:.*)\n)?\s*({lines})[ \t]*\n(?s:.*)/"
        rules = [f"turn ({ASSISTANT} turn)*", f"turn: {any_call} | TEXT", text, *calls]
        return grammar("\n".join(rules), thinks, may_think)

    def held(self) -> dict[str, Mapping[str, Any]]:
        """The functions whose calls are held to their parameters: those that are forced, else the strict ones."""
        return {name: tool for name, tool in zip(self.names, self.tools, strict=True) if self._is_held(name, tool)}

    def _is_held(self, name: str, tool: Mapping[str, Any]) -> bool:
        """Whether a call of it is held to its parameters."""
        return name in self.forced if self.forced else _function(tool).get("strict") is True


def tool_name(tool: Mapping[str, Any], number: int = 0) -> str:
    """Of {"type": "function", "function": {"name": …}}, of {"name": …}, or of a built-in {"type": "python"}.

    Args:
        number: its place in `tools`, for the error.

    Raises:
        UsageError: no name, or one that cannot stand on a line of its own.
    """
    name = _function(tool).get("name") or (tool.get("type") if tool.get("type") != "function" else None)
    if not isinstance(name, str) or name != name.strip() or not name or not name.isprintable():
        raise UsageError(f"tools[{number}] has the name {json.dumps(name)}, and a name is text on one line")
    return name


def _forced(choice: Any, tools: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, ...]:
    """The functions of which one must be called."""
    if choice in ("none", "auto"):
        return ()
    functions = [name for name, tool in zip(names, tools, strict=True) if _is_function(tool)]
    if choice == "required":
        if not functions:
            raise UsageError("tool_choice is required, and tools has no function: give one")
        return tuple(functions)
    named = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    if not isinstance(named, Mapping):
        what = json.dumps(choice) if isinstance(choice, str) else type_name(choice)
        raise UsageError(f"tool_choice is {what:.60}, and must be {_CHOICES}")
    if named.get("name") not in functions:
        offered = ", ".join(functions) or "none"
        raise UsageError(f"tool_choice names {json.dumps(named.get('name')):.60}; functions in tools: {offered}")
    return (named["name"],)


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else tool


def _is_function(tool: Mapping[str, Any]) -> bool:
    """Whether its arguments are JSON: a built-in tool takes code or a query."""
    return bool(_function(tool).get("name"))


def parameters_of(tool: Mapping[str, Any]) -> Any:
    """JSON schema of the arguments; a function that names none takes none."""
    parameters = _function(tool).get("parameters")
    return _NO_PARAMETERS if parameters is None else parameters


def _line(name: str) -> str:
    """The line of a name, as an expression of the grammar; sentencepiece puts a blank before a word."""
    return f"/ ?{_escaped(name)}\\n/"


def _escaped(name: str) -> str:
    return re.escape(name).replace("/", r"\/")
