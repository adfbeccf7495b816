"""Conversations as they are found in data files, read as the messages of `glm.chat`.

Forms: {"role", "content"} as in GLM-4's fine-tuning files and OpenAI's, {"from", "value"} as in ShareGPT's. A call of a
tool becomes an assistant message with the tool's name under "metadata" and the arguments as its content.
"""

from __future__ import annotations

import json
from typing import Any

from glm.chat import Message
from glm.datasets.readers import Field, RowProblem, type_name

# What the speakers are called, and what they are here.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "observation",
    "tool": "observation",
}
_ROLE, _CONTENT, _NAME = Field(("role", "from")), Field(("content", "value")), Field(("name",))


def read_messages(name: str, value: Any) -> list[Message]:
    """The messages of field `name`; other entries of a message stay in it unless they are null.

    Raises:
        RowProblem: naming the message that is wrong, counted from 1, or because the assistant does not end it.
    """
    if not isinstance(value, list):
        raise RowProblem(f"field '{name}' is {type_name(value)}, not a list of messages")
    messages = [message for number, item in enumerate(value, 1) for message in _numbered(number, item)]
    if not messages:
        raise RowProblem(f"field '{name}' is empty; a conversation has at least one message")
    if messages[-1]["role"] != "assistant":
        raise RowProblem(f"the last message is the {messages[-1]['role']}'s; end with the assistant's answer")
    return messages


def read_tools(name: str, value: Any) -> list[dict]:
    """The JSON schemas of field `name`, a list or its JSON text. Raises RowProblem for anything else."""
    value = _json(name, value) if isinstance(value, str) and value else value or []
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowProblem(f"field '{name}' is not a list of tools' JSON schemas")
    return value


def _numbered(number: int, item: Any) -> list[Message]:
    try:
        return _read_message(item)
    except RowProblem as problem:
        raise RowProblem(f"message {number}: {problem}") from problem


def _read_message(item: Any) -> list[Message]:
    """The message, or several where it calls several tools."""
    if not isinstance(item, dict):
        raise RowProblem(f"a message must be an object {{…}}, this is {type_name(item)}")
    speaker = _ROLE.take(item, "message")
    if speaker not in ROLES:
        raise RowProblem(f"the role '{speaker}' is unknown; known roles: {', '.join(ROLES)}")
    if speaker == "function_call":
        return [_call(_json("value", _CONTENT.take(item, "message")))]
    if item.get("tool_calls"):
        return _tool_calls(item)
    taken = {*_ROLE.names, *_CONTENT.names}
    others = {key: value for key, value in item.items() if key not in taken and value is not None}
    if "tools" in others:
        others["tools"] = read_tools("tools", others["tools"])
    if not isinstance(others.get("metadata", ""), str):
        raise RowProblem(f"field 'metadata' is {type_name(others['metadata'])}, not text")
    return [{"role": ROLES[speaker], **others, "content": _CONTENT.take(item, "message")}]


def _tool_calls(item: dict) -> list[Message]:
    calls = item["tool_calls"]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowProblem("field 'tool_calls' is not a list of objects")
    said = [{"role": "assistant", "content": item["content"]}] if item.get("content") else []
    return [*said, *(_call(call.get("function", call)) for call in calls)]


def _call(call: Any) -> Message:
    if not isinstance(call, dict):
        raise RowProblem(f"a call must be an object {{name, arguments}}, this is {type_name(call)}")
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"role": "assistant", "metadata": _NAME.take(call, "call"), "content": text}


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RowProblem(f"field '{name}' is not valid JSON ({error})") from error
