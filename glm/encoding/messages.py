"""Chat messages in the forms that people have, brought into one. Data files and calls are read with it alike.

The one form is GLM-4's own: {"role": "user", "content": "…"} with the roles system, user, assistant and observation (a
tool's result). An assistant message that calls a tool has the tool's name under "metadata" and the arguments as its
content. "reasoning_content" holds thoughts, and "weight": 0 marks an answer that is context and not trained.

Other forms: OpenAI's (parts of content, `tool_calls`, `function_call`, `tool_call_id`, `refusal`, `weight`), ShareGPT's
({"from", "value"}) and ms-swift's (`loss`). Imports no framework.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from glm.errors import GLMError

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]

# What the speakers are called, in any case, and what they are here.
_SPEAKERS = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "bot", "model", "ai", "chatgpt", "chatglm", "function_call", "tool_call"),
    "observation": ("observation", "tool", "function", "ipython", "tool_response", "function_response"),
}
ROLES = tuple(_SPEAKERS)
_ROLE_OF = {name: role for role, names in _SPEAKERS.items() for name in names}
_CALLERS = ("function_call", "tool_call")  # ShareGPT's: the value is a call as JSON
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_MARKS = ("weight", "loss", "train", "loss_weight")
_CALL_ID = "tool_call_id"
_OF_ASSISTANT = (*_THOUGHTS, "tool_calls", "function_call", "refusal")
_FIELDS = frozenset({"role", "content", "metadata", "tools"})
_INSTEAD = {
    "system": ": put its text into the user's question",
    "observation": ": leave calls of tools and their results out",
}
_TYPE_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    str: "a text",
}


class MessageError(GLMError):
    """A message that cannot be read, or that a model has no place for."""


def type_name(value: Any) -> str:
    """A JSON value's type in words."""
    return _TYPE_NAMES.get(type(value)) or f"a {type(value).__name__}"  # tables hold times and bytes as well


def normal_messages(items: Sequence[Any], roles: Collection[str] = ROLES) -> list[Message]:
    """Messages in the one form; one that calls several tools becomes several. What is in that form stays as it is.

    Args:
        roles: those that the model has a place for.

    Raises:
        MessageError: naming the message, counted from 1.
    """
    messages: list[Message] = []
    for number, item in enumerate(items, 1):
        try:
            speaker = _speaker(item)
            read = _read(item, speaker) if speaker in _ROLE_OF else []
        except MessageError as error:
            raise MessageError(f"message {number}: {error}") from None
        if read and read[0]["role"] == "system" not in roles and not read[0]["content"].strip():
            continue  # says nothing, so nothing is lost
        if problem := _no_place(item, read, roles):
            raise MessageError(f"message {number} {problem}")
        messages += read
    return _in_order_of_calls(messages)


def normal_tools(name: str, value: Any) -> list[dict]:
    """The JSON schemas of field `name`, a list of them or of their JSON texts, or its JSON text; null is none.

    Raises MessageError for anything else.
    """
    value = (_json(name, value) if isinstance(value, str) and value.strip() else value) or []
    value = [] if isinstance(value, str) else value  # blank
    if isinstance(value, list):
        value = [_json(name, tool) if isinstance(tool, str) else tool for tool in value]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise MessageError(f"field '{name}' is not a list of tools' JSON schemas")
    return value


def role_of(item: Message) -> str:
    """The role here of a message in any form, "" where it names none that is known."""
    named = next((item[name] for name in _ROLE if name in item), "")
    return _ROLE_OF.get(named.strip().lower(), "") if isinstance(named, str) else ""


def is_read(message: Message, field: str) -> bool:
    """Whether a field of a message of the one form means something here; others only a chat template can read."""
    return field in _FIELDS or (message["role"] == "assistant" and field in ("reasoning_content", "weight"))


def is_trained(message: Message) -> bool:
    """Whether a message of the one form is an answer to train."""
    return message["role"] == "assistant" and message.get("weight") != 0


def said(message: Message) -> str:
    """The text of a message; a call is written as GLM-4 does, the tool's name on a line of its own."""
    tool = message.get("metadata")
    return f"{tool}\n{message['content']}" if tool else message["content"]


def last_answer(messages: Sequence[Message]) -> int:
    """The number of the last answer that is trained, of the last message where all are empty."""
    answers = (n for n in reversed(range(len(messages))) if is_trained(messages[n]) and said(messages[n]).strip())
    return next(answers, len(messages) - 1)


def without_oldest(messages: Sequence[Message]) -> list[Message]:
    """Without what comes before the second question, but for system messages; [] where there is no second one."""
    questions = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if len(questions) < 2:
        return []
    system = [message for message in messages[: questions[1]] if message["role"] == "system"]
    return [*system, *messages[questions[1] :]]


def _no_place(item: Message, read: list[Message], roles: Collection[str]) -> str:
    """Why there is no place for a message among `roles`, "" if there is one."""
    named = item.get("role", item.get("from"))
    if not read:
        return f"has the role '{named}'; known roles: {', '.join(_ROLE_OF)}"
    role = read[0]["role"]
    if role not in roles:
        return f"has the role '{named}'; this model knows {', '.join(roles)}{_INSTEAD[role]}"
    if "observation" not in roles and any(message.get("metadata") for message in read):
        return f"calls a tool, and this model calls none{_INSTEAD['observation']}"
    return ""


def _speaker(item: Any) -> str:
    if not isinstance(item, Mapping):
        raise MessageError(f"a message must be an object {{…}}, this is {type_name(item)}")
    return _text(*_taken(item, _ROLE)).strip().lower()


def _read(item: Message, speaker: str) -> list[Message]:
    """The message, or several where it calls several tools."""
    role = _ROLE_OF[speaker]
    mark = {} if _weight(item, role) or role != "assistant" else {"weight": 0}
    others = _others(item, role)
    read = _called(item) if speaker in _CALLERS else _said(item, role)
    read[0] = {"role": role, **others, **read[0]}
    return [{**message, **mark} for message in read]


def _others(item: Message, role: str) -> Message:
    """What a message has besides: for a chat template, or for nobody."""
    taken = {_taken(item, _ROLE)[0], next((name for name in _CONTENT if name in item), ""), *_MARKS, _CALL_ID}
    taken |= {*_OF_ASSISTANT} if role == "assistant" else {"name"} if role == "observation" else set()
    others = {key: value for key, value in item.items() if key not in taken and value is not None}
    if "tools" in others:
        others["tools"] = normal_tools("tools", others["tools"])
    _text("metadata", others.get("metadata", ""))
    return others


def _called(item: Message) -> list[Message]:
    """The calls that a speaker of ShareGPT's `function_call` makes: one as JSON text, or a list of them."""
    name, value = _taken(item, _CONTENT)
    calls = _json(name, value) if isinstance(value, str) else value
    return [_call(call) for call in (calls if isinstance(calls, list) and calls else [calls])]


def _said(item: Message, role: str) -> list[Message]:
    """A message, and behind it the calls of tools that it makes."""
    if role != "assistant":
        answers = {_CALL_ID: item[_CALL_ID]} if role == "observation" and item.get(_CALL_ID) is not None else {}
        return [{"role": role, **answers, "content": _content(*_taken(item, _CONTENT))}]
    calls = _calls(item)
    thoughts = next((text for name in _THOUGHTS if (text := _text(name, item.get(name) or "")).strip()), None)
    message = {"role": role, "content": _answer(item, bool(calls or thoughts))}
    if thoughts:
        message |= {"content": _without_repeated(thoughts, message["content"]), "reasoning_content": thoughts}
    if calls and not message["content"].strip():
        return [{**calls[0], **({"reasoning_content": thoughts} if thoughts else {})}, *calls[1:]]
    return [message, *calls]


def _without_repeated(thoughts: str, content: str) -> str:
    """The content without the thoughts that it begins with, which servers send in both places."""
    found = _THOUGHT.fullmatch(content)
    if found and found[1].strip() not in ("", thoughts.strip()):
        raise MessageError("thoughts are in a field of their own and, other ones, in <think> of the content: keep one")
    return found[2].lstrip() if found else content


def _answer(item: Message, may_be_absent: bool) -> str:
    """What an assistant says: null is nothing said, a refusal is."""
    refusal = item.get("refusal")
    if (may_be_absent or refusal) and not any(name in item for name in _CONTENT):
        return _text("refusal", refusal or "")
    name, value = _taken(item, _CONTENT)
    return _text("refusal", refusal or "") if value is None or value == [] else _content(name, value)


def _content(name: str, value: Any) -> str:
    """Text, or OpenAI's list of parts, whose texts are joined as they are."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, Mapping) for part in value):
        return "".join(map(_part, value))
    return _text(name, value)


def _part(part: Message) -> str:
    kind = part.get("type", "text")
    name = "refusal" if kind == "refusal" else "text"
    if kind not in ("text", "input_text", "output_text", "refusal"):
        raise MessageError(f"the content has a part of type '{kind}', and these models read text alone: leave it out")
    return _text(name, part.get(name))


def _calls(item: Message) -> list[Message]:
    """OpenAI's `tool_calls`, or the `function_call` that came before them."""
    if item.get("function_call"):
        return [_call(item["function_call"])]
    calls = item.get("tool_calls") or []
    calls = _json("tool_calls", calls) if isinstance(calls, str) else calls
    if not isinstance(calls, (list, tuple)) or not all(isinstance(call, Mapping) for call in calls):
        raise MessageError("field 'tool_calls' is not a list of objects")
    return [
        _call(call.get("function", call)) | ({_CALL_ID: call["id"]} if call.get("id") is not None else {})
        for call in calls
    ]


def _call(call: Any) -> Message:
    """Arguments that are JSON are written in one way, whether they came as text or as an object."""
    if not isinstance(call, Mapping):
        raise MessageError(f"a call must be an object {{name, arguments}}, this is {type_name(call)}")
    if "name" not in call:
        raise MessageError(f"field 'name' is missing, the call has {', '.join(call) or 'no fields'}")
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        try:
            found = json.loads(arguments)
        except (ValueError, RecursionError):
            found = None  # the code that a built-in tool runs, for example
        arguments = found if isinstance(found, dict) else arguments
    text = arguments if isinstance(arguments, str) and arguments.strip() else _dumped(arguments or {})
    return {"role": "assistant", "metadata": _text("name", call["name"]), "content": text}


def _weight(item: Message, role: str) -> bool:
    """Whether the marks of a message leave it trained; those of others than the assistant may say that it is not."""
    marks = {name: item[name] for name in _MARKS if item.get(name) is not None}
    for name, value in marks.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            shown = json.dumps(value, default=str)[:40]
            raise MessageError(f"field '{name}' is {shown}: an answer is trained (1) or not (0)")
        if value and role != "assistant":
            raise MessageError(f"field '{name}' asks to train the {role}'s text, and only answers are trained")
    if len({bool(value) for value in marks.values()}) > 1:
        raise MessageError(f"fields {' and '.join(map(repr, marks))} contradict each other: keep one")
    return all(marks.values())


def _in_order_of_calls(messages: list[Message]) -> list[Message]:
    """Results of several calls in the order of the calls, which is all that GLM-4's form knows of them."""
    ordered: list[Message] = []
    calls: list[Any] = []
    for role, run in groupby(messages, key=itemgetter("role")):
        some = list(run)
        if role == "observation" and all(message.get(_CALL_ID) in calls for message in some):
            some.sort(key=lambda message: calls.index(message[_CALL_ID]))
        if role == "assistant":
            calls = [message[_CALL_ID] for message in some if _CALL_ID in message]
        ordered += [{key: value for key, value in message.items() if key != _CALL_ID} for message in some]
    return ordered


def _taken(item: Message, names: Sequence[str]) -> tuple[str, Any]:
    """The first of `names` that the message has, and its value."""
    for name in names:
        if name in item:
            return name, item[name]
    alternatives = " or ".join(f"'{name}'" for name in names)
    raise MessageError(f"field {alternatives} is missing, the message has {', '.join(map(str, item)) or 'no fields'}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MessageError(f"field '{name}' is {type_name(value)}, not text")
    return value


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"field '{name}' is not valid JSON ({error})") from error


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
