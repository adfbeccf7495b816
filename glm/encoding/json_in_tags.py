"""Schemas of JSON that stands between tags: as given, but none of its strings and names holds the tag that ends it.

The reader of calls (glm/encoding/tagged_calls.py) ends a value at the first such tag, wherever it stands. Imports no
framework.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from glm.encoding.argument_types import referred, types_of
from glm.encoding.json_schema import SchemaError

_DEFINED = ("$defs", "definitions")
_CHOICES = ("$ref", "allOf", "anyOf", "oneOf")
_INNER = ("properties", "items", "prefixItems", "additionalProperties", "pattern")


def without_tag(schema: Mapping[str, Any], tag: str, where: str) -> dict[str, Any]:
    """A schema of the same JSON but for strings and names that hold a tag.

    Args:
        schema: checked (`glm.encoding.json_schema.checked_schema`); $ref points into it.
        tag: its first character stands in it once.
        where: what the schema is called in errors.

    Raises:
        SchemaError: it asks for such a string or name.
    """
    if tag in json.dumps(schema, ensure_ascii=False):
        raise SchemaError(f"{where}: a name or value of its JSON holds {tag}, which ends the argument: leave it out")
    return _Tagless(schema, tag).whole()


class _Tagless:
    """Schemas of one root, whose definitions stay beside those without a tag.

    Of schemas that hold together one is made without the tag: llguidance does not join two that each say of all JSON
    what it may hold.
    """

    def __init__(self, root: Mapping[str, Any], tag: str):
        self._root, self._tag, self._pattern = root, tag, without_pattern(tag)
        self._prefix = "tagless"
        while any(name.startswith(self._prefix) for name in root.get("$defs", {})):
            self._prefix += "_"
        self._anything: dict[str, Any] = {}
        self._targets: list[Any] = [self._anything]  # what the definitions without the tag are made of, by number
        self._numbers: dict[str, int] = {}  # of a $ref

    def whole(self) -> dict[str, Any]:
        found, made, number = self._of(self._root), {}, 0
        while number < len(self._targets):  # of each schema that a $ref leads to more may come
            made[f"{self._prefix}{number}"] = self._of(self._targets[number])
            number += 1
        kept = {word: self._root[word] for word in _DEFINED if word in self._root}
        return {**found, **kept, "$defs": {**kept.get("$defs", {}), **made}}

    def _inner(self, schema: Any) -> Any:
        """Of a schema inside another one."""
        if schema is True or schema == {}:
            return {"$ref": f"#/$defs/{self._prefix}0"}
        return schema if schema is False else self._of(schema)

    def _of(self, schema: Any) -> Any:
        if not isinstance(schema, Mapping) or "enum" in schema or "const" in schema:
            return schema
        schema = {word: value for word, value in schema.items() if word not in _DEFINED}
        choice = next((word for word in _CHOICES if word in schema), None)
        if choice is None or _says_much(schema, _INNER):
            return self._open(schema)
        return {**schema, choice: self._chosen(choice, schema[choice])}

    def _chosen(self, word: str, value: Any) -> Any:
        if word == "$ref":
            return self._reference(value)
        if word == "allOf":
            one = next((place for place, each in enumerate(value) if _says_much(each, (*_INNER, *_CHOICES))), 0)
            return [*value[:one], self._inner(value[one]), *value[one + 1 :]]
        return [self._inner(each) for each in value]

    def _reference(self, reference: str) -> str:
        target = referred(reference, self._root)
        if not isinstance(target, (Mapping, bool)):
            return reference  # which llguidance refuses
        if reference not in self._numbers:
            self._numbers[reference] = len(self._targets)
            self._targets.append(self._anything if target is True else target)
        return f"#/$defs/{self._prefix}{self._numbers[reference]}"

    def _open(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A schema whose own words let it have no tag, in what it names and in what it leaves open."""
        types, found = types_of(schema, self._root), dict(schema)
        if "properties" in schema:
            found["properties"] = {name: self._inner(each) for name, each in schema["properties"].items()}
        if "prefixItems" in schema:
            found["prefixItems"] = [self._inner(each) for each in schema["prefixItems"]]
        if "array" in types:
            found["items"] = self._inner(schema.get("items", True))
        if "object" in types:
            found["additionalProperties"] = self._inner(schema.get("additionalProperties", True))
            found["patternProperties"] = {self._tag: False}
        if "string" in types and "format" not in schema:  # no format has a "<"
            if "pattern" in schema:
                found["allOf"] = [*schema.get("allOf", ()), {"pattern": schema["pattern"]}]
            found["pattern"] = self._pattern
        return found


def _says_much(schema: Any, words: tuple[str, ...]) -> bool:
    return isinstance(schema, Mapping) and any(word in schema for word in words)


def without_pattern(tag: str) -> str:
    """The regular expression of all texts without a tag, whose first character stands in it once."""
    first, *others = tag
    tail = ""
    for character in reversed(others):  # behind `first` stands another text than the rest of the tag
        tail = f"([^{first}{character}][^{first}]*{f'|{character}{tail}' if tail else ''})?"
    return f"^[^{first}]*({first}{tail})*$"
