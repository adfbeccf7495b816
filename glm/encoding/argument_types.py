"""What the JSON schema of a tool's argument says of its type, and an argument's text as JSON. Imports no framework.

Models that write arguments between tags (glm/encoding/tagged_calls.py) write a string as it is and anything else as
JSON, so that only the schema tells the string "12" from the number 12.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from glm.encoding.json_schema import DEEPEST, TYPES

ANY = frozenset(TYPES)
STRING = frozenset({"string"})
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # which models write as well


def argument_types(parameters: Any) -> dict[str, frozenset[str]]:
    """Argument → the types that it may have, by the schema of a tool's parameters; one that is not there has `ANY`."""
    root = parameters if isinstance(parameters, Mapping) else {}
    found: dict[str, frozenset[str]] = {}
    for name, schema in _properties(root, root):
        found[name] = found.get(name, frozenset()) | types_of(schema, root)
    return found


def _properties(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Arguments and their schemas, those of every choice among them."""
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return
    if isinstance(schema.get("properties"), Mapping):
        yield from schema["properties"].items()
    if "$ref" in schema:
        yield from _properties(referred(schema["$ref"], root), root, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        for each in schema[word] if isinstance(schema.get(word), list) else ():
            yield from _properties(each, root, depth + 1)


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The types of JSON that a schema describes; what it says in ways that are not read here allows all.

    Args:
        root: the schema that $ref points into.
    """
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return ANY
    found = ANY
    if "$ref" in schema:
        found &= types_of(referred(schema["$ref"], root), root, depth + 1)
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        found &= frozenset(name for name in names if isinstance(name, str)) | (
            {"integer"} if "number" in names else set()
        )
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        found &= frozenset().union(*map(_types_of_value, values))
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            found &= frozenset().union(*(types_of(each, root, depth + 1) for each in schema[name]))
    for each in schema.get("allOf") or ():
        found &= types_of(each, root, depth + 1)
    return found


def argument_json(text: str, types: frozenset[str]) -> str:
    """An argument's text as JSON: what it looks like, if it may be that, else a string."""
    bare = text.strip()
    bare = _PYTHON.get(bare, bare)
    if types != STRING and _types_of_text(bare) & types:
        return bare
    return json.dumps(text, ensure_ascii=False)


def referred(reference: Any, root: Mapping[str, Any]) -> Any:
    """What "#/$defs/name" points to, None where that is not there."""
    found: Any = root
    for step in str(reference).removeprefix("#").strip("/").split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if step and isinstance(found, Mapping) else found
    return found


def _types_of_text(text: str) -> frozenset[str]:
    try:
        return _types_of_value(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return frozenset()


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _types_of_value(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, (int, float)):
        whole = isinstance(value, int) or value.is_integer()
        return frozenset({"number", "integer"} if whole else {"number"})
    names = {str: "string", list: "array", dict: "object"}
    return frozenset({names[type(value)]} if type(value) in names else ())
