"""What the JSON schema of a tool's argument says of its type, and an argument's text as JSON. Imports no framework.

Models that write arguments between tags (glm/encoding/tagged_calls.py) write a string as it is and anything else as
JSON, so that only the schema tells the string "12" from the number 12.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from glm.encoding.json_schema import DEEPEST, TYPES

ANY = frozenset(TYPES)
STRING = frozenset({"string"})
_NONE: frozenset[str] = frozenset()
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # which models write as well

# Argument → its types where it is named, and whether a call may have a form that does not name it.
Arguments = dict[str, tuple[frozenset[str], bool]]
_UNNAMED = (_NONE, True)


def argument_types(parameters: Any) -> dict[str, frozenset[str]]:
    """Argument → the types that it may have, by the schema of a tool's parameters; one that is not there has `ANY`.

    What holds together is intersected, and united are the alternatives that name the argument.
    """
    root = parameters if isinstance(parameters, Mapping) else {}
    return {name: types for name, (types, _) in SchemaTypes(root).arguments(root).items()}


def types_of(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """See `SchemaTypes.of`."""
    return SchemaTypes(root).of(schema)


class SchemaTypes:
    """The types of JSON that schemas describe. Each schema is looked at once, however often $ref points to it.

    Args:
        root: the schema that $ref points into.
    """

    def __init__(self, root: Mapping[str, Any]):
        self._root = root
        # id → the schema, which keeps the id its own, and what was found.
        self._types: dict[int, tuple[Any, frozenset[str]]] = {}
        self._arguments: dict[int, tuple[Any, Arguments]] = {}

    def of(self, schema: Any, depth: int = 0) -> frozenset[str]:
        """The types of one schema; what it says in ways that are not read here allows all, `false` none."""
        if not isinstance(schema, Mapping) or depth > DEEPEST:
            return _NONE if schema is False else ANY
        if id(schema) not in self._types:
            self._types[id(schema)] = (schema, ANY)  # of a $ref that leads back
            self._types[id(schema)] = (schema, self._read(schema, depth + 1))
        return self._types[id(schema)][1]

    def _read(self, schema: Mapping[str, Any], depth: int) -> frozenset[str]:
        found = ANY
        if "type" in schema:
            names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            found &= frozenset(name for name in names if isinstance(name, str))
            found |= {"integer"} if "number" in found else _NONE
        if "const" in schema:
            found &= _types_of_value(schema["const"])
        if isinstance(schema.get("enum"), list):
            found &= _NONE.union(*map(_types_of_value, schema["enum"]))
        for alternatives in together(schema, self._root):
            found &= _NONE.union(*(self.of(each, depth) for each in alternatives))
        return found

    def arguments(self, schema: Any, depth: int = 0) -> Arguments:
        """The arguments that a schema of objects names."""
        if not isinstance(schema, Mapping) or depth > DEEPEST:
            return {}
        if id(schema) not in self._arguments:
            self._arguments[id(schema)] = (schema, {})
            self._arguments[id(schema)] = (schema, self._named(schema, depth + 1))
        return self._arguments[id(schema)][1]

    def _named(self, schema: Mapping[str, Any], depth: int) -> Arguments:
        properties = schema["properties"] if isinstance(schema.get("properties"), Mapping) else {}
        found = {name: (self.of(each), False) for name, each in properties.items()}
        for alternatives in together(schema, self._root):
            objects = [each for each in alternatives if "object" in self.of(each, depth)]
            found = _both(found, _either(self.arguments(each, depth) for each in objects))
        return found


def together(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[list[Any]]:
    """Lists of the schemas in $ref, allOf, anyOf and oneOf; of each list one holds besides."""
    found = [[referred(schema["$ref"], root)]] if "$ref" in schema else []
    lists = {word: schema[word] for word in ("allOf", "anyOf", "oneOf") if isinstance(schema.get(word), list)}
    found += [[each] for each in lists.pop("allOf", ())]
    return [*found, *lists.values()]


def _both(one: Arguments, other: Arguments) -> Arguments:
    """Of two schemas that hold together."""
    if not one or one is other:  # as of one $ref twice
        return other
    found = {}
    for name in [*one, *(name for name in other if name not in one)]:
        (types, free), (others, others_free) = one.get(name, _UNNAMED), other.get(name, _UNNAMED)
        joined = (types & others) | (types if others_free else _NONE) | (others if free else _NONE)
        found[name] = (joined, free and others_free)
    return found


def _either(alternatives: Iterable[Arguments]) -> Arguments:
    """Of schemas of which one holds."""
    every = [*{id(each): each for each in alternatives}.values()]
    if len(every) == 1:
        return every[0]
    found: Arguments = {}
    for number, each in enumerate(every):
        for name, (types, free) in each.items():
            united, was_free = found.get(name, (_NONE, number > 0))
            found[name] = (united | types, was_free or free)
        for name in [name for name in found if name not in each]:
            found[name] = (found[name][0], True)
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
        if isinstance(found, list):
            found = {str(number): each for number, each in enumerate(found)}
        if step:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
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
