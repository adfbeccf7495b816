"""The arguments that a tool's schema allows, as plain objects: without anyOf, oneOf, allOf and $ref around them.

For models that write arguments between tags (glm/encoding/tagged_grammar.py), which no grammar of JSON holds. Imports
no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from glm.encoding.argument_types import SchemaTypes, referred, together
from glm.encoding.json_schema import DEEPEST, SchemaError

MOST_FORMS = 64
MOST_VISITS = 16_384  # a small schema may say through $ref that it holds a million
_OF_OBJECTS = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
_CHOICES = ("$ref", "allOf", "anyOf", "oneOf")
_LOOKS_AT = {"additionalProperties": "properties", "items": "prefixItems"}  # of the same schema alone


class ArgumentSchemas:
    """The schemas of one function's arguments, and how many of them may still be looked at.

    Args:
        root: the schema of the parameters, checked, into which $ref points.
        where: what it is called in errors.
    """

    def __init__(self, root: Mapping[str, Any], where: str):
        self.root, self.where = root, where
        self.types = SchemaTypes(root)
        self._visits = 0

    def visit(self, times: int = 1) -> None:
        """Counts schemas and values that are looked at. Raises SchemaError beyond `MOST_VISITS`."""
        self._visits += times
        if self._visits > MOST_VISITS:
            raise SchemaError(
                f"{self.where}: $ref, allOf and anyOf come to more than {MOST_VISITS:,} schemas and values: write fewer"
            )

    def referred(self, reference: str) -> Any:
        """What $ref points to. Raises SchemaError where it leads nowhere."""
        found = referred(reference, self.root)
        if not isinstance(found, (Mapping, bool)):
            raise SchemaError(f"{self.where}: $ref {reference:.60} leads to no schema")
        return found


@dataclass(frozen=True)
class ArgumentForm:
    """One form of a call.

    Attributes:
        properties: argument → schemas that all hold of it.
        required: names of those that a call must have.
        others: schemas that hold of every argument beside `properties`; `False` shuts it out.
    """

    properties: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    others: tuple[Any, ...] = ()

    def joined(self, other: ArgumentForm) -> ArgumentForm:
        """What has both forms."""
        both = {name: _with(self.properties[name], other.schemas(name)) for name in self.properties}
        more = {name: _with(self.others, each) for name, each in other.properties.items() if name not in both}
        required, others = _with(self.required, other.required), _with(self.others, other.others)
        return ArgumentForm({**both, **more}, required, others)

    def schemas(self, name: str) -> tuple[Any, ...]:
        """All that holds of one argument."""
        return self.properties.get(name, self.others)

    def shut_out(self) -> str | None:
        """An argument that it names and that can have no value."""
        return next((name for name, schemas in self.properties.items() if False in schemas), None)


def _with(known: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*known, *(each for each in more if each not in known))


def argument_forms(schema: Any, schemas: ArgumentSchemas) -> list[ArgumentForm]:
    """The forms of a call's arguments, one of which a call has; of oneOf any, as of anyOf.

    A choice that no call can make is left out.

    Args:
        schema: of the arguments, checked.

    Raises:
        SchemaError: another keyword beside the properties, a required argument that no property names, a $ref that
            leads nowhere, more than `MOST_FORMS` forms or `MOST_VISITS` schemas, or no form at all.
    """
    forms = _forms(schema, schemas, 0)
    if not forms:
        raise SchemaError(f"{schemas.where} fit no call at all: a call's arguments are an object")
    for form in forms:
        if unknown := [name for name in form.required if name not in form.properties]:
            raise SchemaError(f"{schemas.where}: '{unknown[0]}' is required, and properties has no such argument")
    return forms


def _forms(schema: Any, schemas: ArgumentSchemas, depth: int) -> list[ArgumentForm]:
    schemas.visit()
    if depth > DEEPEST:
        raise SchemaError(f"{schemas.where}: $ref leads back to itself, and a call's arguments must end")
    if "object" not in schemas.types.of(schema):
        return []
    schema = schema if isinstance(schema, Mapping) else {}
    if odd := [word for word in schema if word not in (*_OF_OBJECTS, *_CHOICES)]:
        raise SchemaError(
            f"{schemas.where}: '{odd[0]}' is not supported of a forced call's arguments; say it in properties"
        )
    if "$ref" in schema:
        schemas.referred(schema["$ref"])
    forms = [_own_form(schema)]
    for choices in together(schema, schemas.root):
        others = [form for each in choices for form in _forms(each, schemas, depth + 1)]
        forms = _joined(forms, others, schemas)
    return forms


def _own_form(schema: Mapping[str, Any]) -> ArgumentForm:
    properties = {name: (each,) for name, each in schema.get("properties", {}).items()}
    others = (schema["additionalProperties"],) if "additionalProperties" in schema else ()
    return ArgumentForm(properties, tuple(dict.fromkeys(schema.get("required", ()))), others)


def _joined(forms: list[ArgumentForm], others: list[ArgumentForm], schemas: ArgumentSchemas) -> list[ArgumentForm]:
    if len(forms) * len(others) > MOST_FORMS:
        raise SchemaError(f"{schemas.where}: more than {MOST_FORMS} forms of a call come of its anyOf: write fewer")
    found = []
    for form, other in ((form, other) for form in forms for other in others):
        schemas.visit(len(form.properties) + len(other.properties))
        found.append(form.joined(other))
    able = [form for form in found if not form.shut_out()]
    if found and not able:
        raise SchemaError(
            f"{schemas.where}: '{found[0].shut_out()}' can have no value in any form of a call: "
            "additionalProperties beside a choice, or false, shuts it out"
        )
    return able


def without_all_of(
    schema: Mapping[str, Any], schemas: ArgumentSchemas, where: str, depth: int = 0
) -> Mapping[str, Any]:
    """The schema of a value whose allOf is taken into it, as far as keywords do not meet.

    Args:
        where: what the value is called in errors.

    Raises:
        SchemaError: they meet, and the value may be a string; what can be none is left to the grammar of JSON.
    """
    if "allOf" not in schema or "string" not in schemas.types.of(schema):
        return schema
    schemas.visit(len(schema["allOf"]))
    if depth > DEEPEST:
        raise SchemaError(f"{where}: $ref leads back to itself")
    joined = {word: value for word, value in schema.items() if word != "allOf"}
    for part in schema["allOf"]:
        each = schemas.referred(part["$ref"]) if isinstance(part, Mapping) and [*part] == ["$ref"] else part
        each = without_all_of(each, schemas, where, depth + 1) if isinstance(each, Mapping) else {}
        if met := next(_met(joined, each), None):
            raise SchemaError(f"{where}: allOf that says '{met}' twice is not supported of a forced call's arguments")
        joined |= each
    return joined


def _met(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """Keywords that mean something else, or nothing, once both schemas are one."""
    yield from (word for word, value in other.items() if one.get(word, value) != value)
    for left, right in ((one, other), (other, one)):
        yield from (w for w, seen in _LOOKS_AT.items() if w in left and seen in right and seen not in left)
