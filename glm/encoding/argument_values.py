"""Which values of `enum` and `const` an argument may have once its schema's other keywords are heard.

For models that write arguments between tags (glm/encoding/tagged_grammar.py): there a value is one text of several.
Imports no framework.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from glm.encoding.argument_types import types_of
from glm.encoding.json_schema import SchemaError

_JUDGED = ("type", "enum", "const", "minLength", "maxLength", "pattern")
MOST_STEPS = 10_000_000  # of re, which goes back and tries again


def allowed_values(schema: Mapping[str, Any], where: str) -> list[Any]:
    """The values of `enum` and `const` that obey all of a schema.

    Args:
        schema: of a value, with `enum` or `const`, without $ref and choices.
        where: what it is called in errors.

    Raises:
        SchemaError: no value is left, or another keyword stands beside them that is not judged here.
    """
    if odd := [word for word in schema if word not in _JUDGED]:
        raise SchemaError(f"{where}: '{odd[0]}' beside enum or const is not supported of a forced call's arguments")
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    kept = [value for value in values if _is_allowed(value, schema)]
    if "pattern" in schema:
        strings = [value for value in kept if isinstance(value, str)]
        matching = _matching(schema["pattern"], strings, where)
        kept = [value for value in kept if not isinstance(value, str) or value in matching]
    if not kept:
        raise SchemaError(f"{where}: the other keywords leave no value of its enum or const")
    return kept


def _is_allowed(value: Any, schema: Mapping[str, Any]) -> bool:
    types = {"type": schema["type"]} if "type" in schema else {}
    if not types_of({"enum": [value]}, {}) & types_of(types, {}):
        return False
    if "const" in schema and _json(value) != _json(schema["const"]):
        return False
    lowest, highest = schema.get("minLength", 0), schema.get("maxLength", float("inf"))
    return not isinstance(value, str) or lowest <= len(value) <= highest


def _json(value: Any) -> str:
    """For Python 1 and True are equal."""
    return json.dumps(value, sort_keys=True)


def parted(pattern: str, where: str) -> tuple[bool, str, bool]:
    """Whether ^ begins a pattern, what stands between, and whether $ ends it."""
    begins = pattern.startswith("^")
    ends = pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\"))) % 2 == 1
    inner = pattern[begins : len(pattern) - ends]
    if (begins or ends) and "|" in _outside_groups(inner):
        raise SchemaError(f"{where}: the pattern {pattern:.60} has alternatives beside ^ or $: put them in parentheses")
    return begins, inner, ends


def _bare(pattern: str) -> str:
    """Without escapes and classes."""
    return re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)


def _outside_groups(pattern: str) -> str:
    bare = _bare(pattern)
    while (shorter := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = shorter
    return bare


def _matching(pattern: str, values: list[str], where: str) -> list[str]:
    begins, inner, ends = parted(pattern, where)
    bare = _bare(inner)
    choices = len(re.findall(r"[*+?|{]", re.sub(r"\{\d+\}|\(\?:", "", bare)))
    if re.search(r"\)[*+?{]", bare) or sum((len(value) + 1) ** (choices + 1) for value in values) > MOST_STEPS:
        raise SchemaError(f"{where}: the pattern {pattern:.60} is too hard to judge beside enum or const: write one")
    try:
        known = re.compile("".join([r"\A" if begins else "", f"(?:{inner})", r"\Z" if ends else ""]))
    except (re.error, OverflowError, RecursionError) as error:
        raise SchemaError(f"{where}: the pattern {pattern:.60} beside enum or const is not judged: {error}") from None
    return [value for value in values if known.search(value)]
