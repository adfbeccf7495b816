"""The arguments that a tool's schema allows, as plain objects: without anyOf, oneOf, allOf and $ref around them.

For models that write arguments between tags (glm/encoding/tagged_grammar.py), which no grammar of JSON holds. Imports
no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glm.encoding.argument_types import referred, types_of
from glm.encoding.json_schema import DEEPEST, SchemaError

MOST_FORMS = 64
_OF_OBJECTS = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
_CHOICES = ("$ref", "allOf", "anyOf", "oneOf")


@dataclass(frozen=True)
class ArgumentForm:
    """One form of a call.

    Attributes:
        properties: schemas of the arguments, by their names.
        required: names of those that a call must have.
        closed: whether nothing but `properties` may be there (additionalProperties: false).
    """

    properties: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    closed: bool = False

    def joined(self, other: ArgumentForm, where: str) -> ArgumentForm:
        """What has both forms. Raises SchemaError where one is closed to arguments of the other."""
        for one, more in ((self, other), (other, self)):
            if one.closed and (odd := [name for name in more.properties if name not in one.properties]):
                raise SchemaError(f"{where}: additionalProperties beside the choice of '{odd[0]}' shuts it out")
        both = {
            name: schema if self.properties.get(name, schema) == schema else {"allOf": [self.properties[name], schema]}
            for name, schema in other.properties.items()
        }
        required = tuple(dict.fromkeys([*self.required, *other.required]))
        return ArgumentForm({**self.properties, **both}, required, self.closed or other.closed)


def argument_forms(schema: Any, root: Mapping[str, Any], where: str) -> list[ArgumentForm]:
    """The forms of a call's arguments, one of which a call has; of oneOf any, as of anyOf.

    Args:
        schema: of the arguments, checked.
        root: the schema that $ref points into.
        where: what it is called in errors.

    Raises:
        SchemaError: another keyword beside the properties, a required argument that no property names, or more than
            `MOST_FORMS` forms.
    """
    forms = _forms(schema, root, where, 0)
    for form in forms:
        if unknown := [name for name in form.required if name not in form.properties]:
            raise SchemaError(f"{where}: '{unknown[0]}' is required, and properties has no such argument")
    return forms


def _forms(schema: Any, root: Mapping[str, Any], where: str, depth: int) -> list[ArgumentForm]:
    schema = schema if isinstance(schema, Mapping) else {}
    if odd := [word for word in schema if word not in (*_OF_OBJECTS, *_CHOICES)]:
        raise SchemaError(f"{where}: '{odd[0]}' is not supported of a forced call's arguments; say it in properties")
    if depth > DEEPEST:
        raise SchemaError(f"{where}: $ref leads back to itself, and a call's arguments must end")
    closed = schema.get("additionalProperties") is False
    forms = [ArgumentForm(schema.get("properties", {}), tuple(schema.get("required", ())), closed)]
    for choices in _choices(schema, root):
        others = [form for each in choices for form in _forms(each, root, where, depth + 1)]
        if len(forms) * len(others) > MOST_FORMS:
            raise SchemaError(f"{where}: more than {MOST_FORMS} forms of a call come of its anyOf: write fewer")
        forms = [form.joined(other, where) for form in forms for other in others]
    return forms


def _choices(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[list[Any]]:
    """Lists of schemas; of each list one holds besides."""
    found = [[referred(schema["$ref"], root)]] if "$ref" in schema else []
    found += [[each] for each in schema.get("allOf", ())]
    return found + [schema[word] for word in ("anyOf", "oneOf") if word in schema]


def without_all_of(schema: Mapping[str, Any], root: Mapping[str, Any], where: str, depth: int = 0) -> Mapping[str, Any]:
    """The schema of a value whose allOf is taken into it, as far as keywords do not meet.

    Raises:
        SchemaError: they meet, and the value may be a string; what can be none is left to the grammar of JSON.
    """
    if "allOf" not in schema or "string" not in types_of(schema, root) or depth > DEEPEST:
        return schema
    joined = {word: value for word, value in schema.items() if word != "allOf"}
    for part in schema["allOf"]:
        each = referred(part["$ref"], root) if isinstance(part, Mapping) and [*part] == ["$ref"] else part
        each = without_all_of(each, root, where, depth + 1) if isinstance(each, Mapping) else {}
        if met := [word for word, value in each.items() if joined.get(word, value) != value]:
            raise SchemaError(
                f"{where}: allOf that says '{met[0]}' twice is not supported of a forced call's arguments"
            )
        joined |= each
    return joined
