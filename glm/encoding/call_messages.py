"""Messages as GLM-4.5's templates have them: a turn's calls of tools in one message, their results by role `tool`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glm.encoding.messages import Message, MessageError

RESULT = "tool"


def with_tool_calls(messages: Sequence[Message]) -> list[Message]:
    """Messages of the one form (glm/encoding/messages.py) with OpenAI's `tool_calls`, whose arguments are objects.

    What an assistant says and the calls behind it are one turn, as the model writes them. Raises MessageError for
    arguments that are no JSON object.
    """
    turns: list[Message] = []
    for message in messages:
        if message["role"] == "observation":
            turns.append({**message, "role": RESULT})
        elif not message.get("metadata"):
            turns.append(message)
        else:
            _add_call(turns, message)
    return turns


def calls_tools(message: Message) -> bool:
    """Whether an assistant's message, in either form, calls a tool."""
    return bool(message.get("metadata") or message.get("tool_calls"))


def _add_call(turns: list[Message], message: Message) -> None:
    call = {"type": "function", "function": {"name": message["metadata"], "arguments": _arguments(message)}}
    last = turns[-1] if turns else {}
    together = last.get("role") == "assistant" and last.get("weight") == message.get("weight")
    if together and "reasoning_content" not in message:
        turns[-1] = {**last, "tool_calls": [*last.get("tool_calls", ()), call]}
    else:
        bare = {key: value for key, value in message.items() if key != "metadata"}
        turns.append({**bare, "content": "", "tool_calls": [call]})


def _arguments(message: Message) -> Mapping[str, Any]:
    try:
        found = json.loads(message["content"])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MessageError(
            f"a call of {message['metadata']} has the arguments {message['content']!r:.60}: this model's are named, so "
            "give a JSON object"
        )
    return found
