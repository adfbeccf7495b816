"""Arguments of a tool as ChatGLM3 writes them: a call in Python, in a fence. Nothing of it is ever run.

    get_current_weather            is, as OpenAI's `tool_calls` have it, the name, and as arguments
    ```python                      {"location": "beijing", "unit": "celsius"}
    tool_call(location="beijing", unit="celsius")
    ```

Source: THUDM/ChatGLM3, PROMPT.md; `process_response` of its modeling_chatglm.py evaluates the same.
"""

from __future__ import annotations

import ast
import json
import keyword
import re

from glm.encoding.messages import Message

_FUNCTION = "tool_call"
_FENCED = re.compile(r"\s*```[^\n]*\n(.*?)\n?\s*(?:```\s*)?", re.DOTALL)


def python_arguments(text: str) -> str:
    """Arguments that are a JSON object as such a call; other texts, such as code for an interpreter, as they are."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(arguments, dict):
        return text
    # Python writes identifiers in one normal form, so that others than ASCII could come back changed.
    plain = all(name.isascii() and name.isidentifier() and not keyword.iskeyword(name) for name in arguments)
    inside = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) if plain else f"**{arguments!r}"
    return f"```python\n{_FUNCTION}({inside})\n```"


def with_python_calls(messages: list[Message]) -> list[Message]:
    """Messages whose calls have their arguments so."""
    return [
        {**message, "content": python_arguments(message["content"])} if _calls(message) else message
        for message in messages
    ]


def _calls(message: Message) -> bool:
    return message["role"] == "assistant" and bool(message.get("metadata"))


def json_arguments(text: str) -> str:
    """Arguments that are such a call as a JSON object; other texts without white space around them."""
    found = _FENCED.fullmatch(text)
    try:
        call = ast.parse((found[1] if found else text).strip(), mode="eval").body
        return json.dumps(_keywords(call), ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text.strip()


def _keywords(call: ast.expr) -> dict[str, object]:
    """Keyword arguments that are literals; those of **{…} in their place. Raises ValueError for anything else."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == _FUNCTION):
        raise ValueError("no call of a tool")
    if call.args:
        raise ValueError("an argument without a name")
    arguments: dict[str, object] = {}
    for each in call.keywords:
        value = ast.literal_eval(each.value)
        arguments.update({each.arg: value} if each.arg else value)
    return arguments
