"""JSON schemas that a text can be held to, and the grammars they become. Imports no framework.

What is taken is a part of JSON Schema 2020-12 that holds all of OpenAI's structured outputs. A keyword outside of it is
an error that names it, for a schema that is obeyed in part is not obeyed. Grammars are Lark texts of llguidance
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md), which glm/engine/guided.py compiles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from glm.encoding.messages import type_name
from glm.errors import UsageError

MOST_BYTES = 64 << 10
DEEPEST = 32  # schemas inside one another
EXACT = 2**53  # whole numbers up to here have a float of their own, and bounds are compared as floats
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
# Said to people, and obeyed by nothing.
ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
_OF_ROOT = ("$schema", "$id")
# Compact, with at most the one blank that models write behind , and : — with free white space a text may never end.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
# The model's thoughts up to their end, and the line ends behind them; a prompt may have opened them.
_THOUGHTS = "thoughts: thought BLANK?\nthought[lazy]: /(?s:.*)<\\/think>/\nBLANK: /[ \\n]{1,4}/\n"
_OWN_THOUGHTS = 'own_thoughts: BLANK? "<think>" thoughts\n'
# In a class of characters: operators of Rust's regular expressions that are plain characters in JSON Schema's.
_CLASS_OPERATORS = ("[", "&&", "--", "~~")


class SchemaError(UsageError):
    """A schema that is none, or one that this project does not hold texts to."""


def response_grammar(response_format: Any, thinks: bool = False, may_think: bool = False) -> str | None:
    """The grammar of OpenAI's `response_format`, None where any text will do.

    Args:
        response_format: {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"name",
            "schema", …}}; `strict` may be given, and texts are held to the schema either way.
        thinks: whether the prompt opened the model's thoughts, which come first then.
        may_think: whether the model may open them itself.

    Raises:
        SchemaError: anything else.
    """
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return json_grammar({"type": "object"}, thinks, may_think)
    if kind != "json_schema":
        raise SchemaError("response_format must be an object whose type is text, json_object or json_schema")
    named = response_format.get("json_schema")
    if not isinstance(named, Mapping) or "schema" not in named:
        raise SchemaError('response_format of type json_schema needs {"json_schema": {"name": …, "schema": {…}}}')
    return json_grammar(named["schema"], thinks, may_think)


def json_grammar(schema: Any, thinks: bool = False, may_think: bool = False) -> str:
    """The grammar of JSON texts that a schema describes.

    Raises:
        SchemaError: see `checked_schema`.
    """
    return grammar(f"value\nvalue: {json_rule(schema)}", thinks, may_think)


def grammar(body: str, thinks: bool = False, may_think: bool = False) -> str:
    """A grammar of what its start rule holds, and of rules behind that.

    Args:
        thinks, may_think: see `response_grammar`.
    """
    if not (thinks or may_think):
        return f"start: {body}\n"
    first = "thoughts" if thinks else "own_thoughts?"
    return f"start: {first} {body}\n{_THOUGHTS}{'' if thinks else _OWN_THOUGHTS}"


def json_rule(schema: Any, where: str = "schema") -> str:
    """The body of the rule that writes JSON of a schema. Raises as `checked_schema`."""
    return checked_rule(checked_schema(schema, where))


def checked_rule(checked: Mapping[str, Any] | bool) -> str:
    """The same of a schema that is checked."""
    # Not nested in a condition of its own, for the layout is read at the top alone.
    body = {"x-guidance": _LAYOUT, **(checked if isinstance(checked, Mapping) else {})}
    return f"%json {json.dumps(body, ensure_ascii=False)}"


def checked_schema(schema: Any, where: str = "schema") -> dict[str, Any] | bool:
    """A schema without what only describes it.

    Args:
        where: what it is called in errors.

    Raises:
        SchemaError: a keyword that is not supported, a value that it cannot have, or more than `MOST_BYTES` bytes of
            JSON or `DEEPEST` schemas inside one another.
    """
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        reason = " ".join(str(error).split())
        raise SchemaError(f"{where} is not JSON ({reason:.100})") from None
    if size > MOST_BYTES:
        raise SchemaError(f"{where} has {size:,} bytes, and at most {MOST_BYTES:,} are taken: make it smaller")
    checked = _schema(schema, where, 0, root=True)
    if checked is False:
        raise SchemaError(f"{where} is false, which describes no JSON at all")
    return checked


def _schema(schema: Any, where: str, depth: int, root: bool = False) -> dict[str, Any] | bool:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        raise SchemaError(f"{where} is {type_name(schema)}, and a schema is an object")
    if depth > DEEPEST:
        raise SchemaError(f"{where[:60]}… lies deeper than {DEEPEST} schemas inside one another")
    known = {}
    for name, value in schema.items():
        if name in ANNOTATIONS or (root and name in _OF_ROOT):
            continue
        if name not in _CHECKS:
            raise SchemaError(f"{where}: the keyword '{name}' is not supported; supported: {', '.join(_CHECKS)}")
        known[name] = _CHECKS[name](value, f"{where}.{name}", depth)
    return known


def _one(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, list):
        raise SchemaError(f"{where} is a list, and must be one schema: JSON Schema 2020-12 has prefixItems for lists")
    return _schema(value, where, depth + 1)


def _list(value: Any, where: str, depth: int) -> list:
    if not isinstance(value, list) or not value:
        raise SchemaError(f"{where} must be a list of schemas, with at least one in it")
    return [_schema(each, f"{where}[{number}]", depth + 1) for number, each in enumerate(value)]


def _map(value: Any, where: str, depth: int) -> dict:
    if not isinstance(value, Mapping):
        raise SchemaError(f"{where} is {type_name(value)}, and must be an object of schemas")
    return {name: _schema(each, f"{where}.{name}", depth + 1) for name, each in value.items()}


def _types(value: Any, where: str, depth: int) -> Any:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in TYPES for name in names):
        raise SchemaError(f"{where} is {_shown(value)}, and must be one of {', '.join(TYPES)}, or a list of them")
    return value


def _names(value: Any, where: str, depth: int) -> Any:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SchemaError(f"{where} is {_shown(value)}, and must be a list of names")
    return value


def _number(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SchemaError(f"{where} is {_shown(value)}, and must be a number")
    return _values(value, where, depth)


def _step(value: Any, where: str, depth: int) -> Any:
    if _number(value, where, depth) <= 0:
        raise SchemaError(f"{where} is {value}, and must be above 0")
    return value


def _count(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= EXACT:
        raise SchemaError(f"{where} is {_shown(value)}, and must be a whole number of at least 0")
    return value


def _format(value: Any, where: str, depth: int) -> Any:
    if value not in FORMATS:
        raise SchemaError(f"{where} {_shown(value)} is not supported; supported: {', '.join(FORMATS)}")
    return value


def _pattern(value: Any, where: str, depth: int) -> Any:
    if not isinstance(value, str):
        raise SchemaError(f"{where} is {type_name(value)}, and must be a regular expression")
    if operator := _class_operator(value):
        raise SchemaError(f"{where} {_shown(value)} has {operator} inside […]: write a backslash before it")
    return value


def _class_operator(pattern: str) -> str:
    """The first operator inside a class of characters, "" without one."""
    for found in re.finditer(r"\\.|\[\^?\]?((?:\\.|[^\]\\])*)\]", pattern, re.DOTALL):
        body = re.sub(r"\\.", "", found[1] or "", flags=re.DOTALL)
        if operators := [operator for operator in _CLASS_OPERATORS if operator in body]:
            return operators[0]
    return ""


def _choices(value: Any, where: str, depth: int) -> Any:
    if not isinstance(value, list) or not value:
        raise SchemaError(f"{where} must be a list of values, with at least one in it")
    return _values(value, where, depth)


def _values(value: Any, where: str, depth: int) -> Any:
    """JSON values whose numbers are exact."""
    if isinstance(value, Mapping):
        _values([*value.values()], where, depth)
    elif isinstance(value, list):
        for each in value:
            _values(each, where, depth)
    elif isinstance(value, (int, float)) and not (isfinite(value) and abs(value) <= EXACT):
        raise SchemaError(f"{where} holds {_shown(value)}, and numbers beyond ±2^53 are not exact")
    return value


def _reference(value: Any, where: str, depth: int) -> Any:
    if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
        raise SchemaError(f"{where} is {_shown(value)}, and must point into this schema, as #/$defs/name does")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


# Keyword → (value, where it stands, how deep) → the value to use.
_CHECKS: dict[str, Callable[[Any, str, int], Any]] = {
    "type": _types,
    "enum": _choices,
    "const": _values,
    "$ref": _reference,
    "$defs": _map,
    "definitions": _map,
    "anyOf": _list,
    "oneOf": _list,
    "allOf": _list,
    "properties": _map,
    "required": _names,
    "additionalProperties": _one,
    "items": _one,
    "prefixItems": _list,
    "minItems": _count,
    "maxItems": _count,
    "minLength": _count,
    "maxLength": _count,
    "pattern": _pattern,
    "format": _format,
    "minimum": _number,
    "maximum": _number,
    "exclusiveMinimum": _number,
    "exclusiveMaximum": _number,
    "multipleOf": _step,
}
