"""Conversations as they are found in data files, read as the messages of `glm.encoding.messages`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from glm.datasets.readers import RowProblem
from glm.encoding.messages import Message, MessageError, is_trained, normal_messages, normal_tools, type_name


def read_messages(name: str, value: Any) -> list[Message]:
    """The messages of field `name`, a list or its JSON text; other entries of a message stay unless they are null.

    Raises:
        RowProblem: naming the message that is wrong, counted from 1, or because the assistant does not end it, or none
            of its answers is to be trained.
    """
    turns = unpacked_turns(name, value)
    if turns is None:
        raise RowProblem(f"field '{name}' is {type_name(value)}, not a list of messages")
    messages = _normal(turns)
    if not messages:
        raise RowProblem(f"field '{name}' is empty; a conversation has at least one message")
    if messages[-1]["role"] != "assistant":
        raise RowProblem(f"the last message is the {messages[-1]['role']}'s; end with the assistant's answer")
    if not any(map(is_trained, messages)):
        raise RowProblem("every answer is marked as context, so there is nothing to train")
    return messages


def read_turns(name: str, value: Any) -> list[Message]:
    """Messages of any speakers in field `name`: a list, its JSON text, or a message by itself.

    Raises:
        RowProblem: naming the field, and the message that is wrong, counted from 1.
    """
    turns = [value] if isinstance(value, dict) else unpacked_turns(name, value)
    if turns is None:
        raise RowProblem(f"field '{name}' is {type_name(value)}, not a list of messages")
    try:
        return _normal(turns)
    except RowProblem as problem:
        raise RowProblem(f"field '{name}': {problem}") from problem


def unpacked_turns(name: str, value: Any) -> list[Any] | None:
    """What stands for messages in a list or its JSON text, None for anything else; raises RowProblem."""
    value = _unpacked(name, value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    return [turn for item in value for turn in _turns(item)] if isinstance(value, list) else None


def read_tools(name: str, value: Any) -> list[dict]:
    """The JSON schemas of field `name`, a list or its JSON text. Raises RowProblem for anything else."""
    try:
        tools = normal_tools(name, value)
    except MessageError as error:
        raise RowProblem(str(error)) from error
    # OpenAI's older field holds the functions themselves.
    return [{"type": "function", "function": tool} for tool in tools] if name == "functions" else tools


def read_history(name: str, value: Any) -> list[Message]:
    """The turns of field `name`: (question, answer) pairs or messages, a list or its JSON text; "" is none.

    Raises:
        RowProblem: naming the turn that is wrong, counted from 1.
    """
    if isinstance(value, str):
        value = _unpacked(name, value) if value.strip() else []
    if value is None or value in ([], {}):
        return []
    if not isinstance(value, list):
        raise RowProblem(f"field '{name}' is {type_name(value)}, not a list of (question, answer) pairs")
    if all(isinstance(turn, dict) for turn in value):
        return _normal([message for turn in value for message in _turns(turn)])
    return [message for number, turn in enumerate(value, 1) for message in _pair(name, number, turn)]


def _unpacked(name: str, text: str) -> Any:
    """The value of a field that holds JSON as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowProblem(f"field '{name}' is not valid JSON ({error})") from error


def _turns(item: Any) -> list[Any]:
    """ms-swift's {"human": question, "assistant": answer} as two messages, anything else as it is."""
    if not isinstance(item, dict) or not {"human", "assistant"} <= item.keys() or {"role", "from"} & item.keys():
        return [item]
    return [{"role": role, "content": item[role]} for role in ("human", "assistant")]


def _pair(name: str, number: int, turn: Any) -> list[Message]:
    if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
        raise RowProblem(f"turn {number} of '{name}' is no [question, answer] pair of texts")
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turn, strict=True)]


def _normal(value: Sequence[Any]) -> list[Message]:
    try:
        return normal_messages(value)
    except MessageError as error:
        raise RowProblem(str(error)) from error
