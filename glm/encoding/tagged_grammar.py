"""Grammars of calls between tags (glm/encoding/tagged_calls.py): what a forced call may be, so that it can be read.

A string stands between its tags as it is, so JSON's rules do not hold it: it is held by regular expressions of its own.
Grammars are Lark texts of llguidance (glm/encoding/json_schema.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from glm.encoding.argument_forms import argument_forms, without_all_of
from glm.encoding.argument_types import referred, types_of
from glm.encoding.json_schema import DEEPEST, SchemaError, checked_schema, grammar, json_rule
from glm.encoding.tagged_calls import CALL, CALL_END, KEY, KEY_END, VALUE, VALUE_END
from glm.encoding.tool_choice import ToolChoice, parameters_of

_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": rf"[A-Za-z0-9._%+-]+@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>]+",
}
_OF_STRINGS = ("minLength", "maxLength", "pattern", "format")
_ESCAPED_VALUE_END, _ESCAPED_CALL_END = (tag.replace("/", r"\/") for tag in (VALUE_END, CALL_END))
_NO_END = rf"~/(?s:.*){_ESCAPED_VALUE_END}(?s:.+)/"


def tagged_grammar(choice: ToolChoice, thinks: bool = False, may_think: bool = False) -> str | None:
    """The grammar of the answer, None where any text will do: nothing is forced, and no function is strict.

    A call that is held has the required arguments and may have the others, in the order of the schema.

    Args:
        thinks, may_think: as in `glm.encoding.json_schema.response_grammar`.

    Raises:
        SchemaError: parameters that such calls cannot be held to.
    """
    held = choice.held()
    if not held:
        return None
    any_call = " | ".join(f"call_{number}" for number in range(len(held)))
    rules = [r"LINE: /\n/"]
    for number, (name, tool) in enumerate(held.items()):
        rules += _call(f"call_{number}", name, parameters_of(tool))
    if choice.forced:
        return grammar("\n".join([f"LINE? {_text(CALL)} ({any_call})", *rules]), thinks, may_think)
    names = "|".join(re.escape(name).replace("/", r"\/") for name in held)
    rules += [
        f"until[lazy]: /(?s:.*){CALL}/",
        rf"other[lazy]: /(?s:.*){_ESCAPED_CALL_END}/ & ~/\s*({names})[\s<](?s:.*)/",
        f"TAIL: /(?s:.+)/ & ~/(?s:.*){CALL}(?s:.*)/",
    ]
    return grammar("\n".join([f"(until (other | {any_call}))* TAIL?", *rules]), thinks, may_think)


def _call(rule: str, name: str, parameters: Any) -> list[str]:
    where = f"parameters of {name}"
    checked = checked_schema(parameters, where)
    root = checked if isinstance(checked, Mapping) else {}
    pairs: dict[str, str] = {}  # an argument of one key and one schema is one rule, in whatever forms it stands
    rules, forms = [], []
    for form in argument_forms(root, root, where):
        parts = []
        for key, schema in form.properties.items():
            known = json.dumps([key, schema])
            if known not in pairs:
                pair = pairs[known] = f"{rule}_{len(pairs)}"
                rules.append(f"{pair}: {_text(KEY + key + KEY_END)} LINE? {_text(VALUE)} {pair}_value LINE?")
                rules += _value(f"{pair}_value", schema, root, f"{where}.properties.{key}")
            parts.append(pairs[known] if key in form.required else f"{pairs[known]}?")
        forms.append(" ".join([*parts, _text(CALL_END)]))
    return [f"{rule}: {_text(name)} LINE? ({' | '.join(forms)})", *rules]


def _value(rule: str, schema: Any, root: Mapping[str, Any], where: str) -> list[str]:
    """Rules of a value and of the tag that ends it."""
    found, rules = _alternatives(schema, root, where), []
    for number, each in enumerate(found):
        rules += _one_value(f"{rule}_{number}", each, root, where)
    return [f"{rule}: {' | '.join(f'{rule}_{number}' for number in range(len(found)))}", *rules]


def _alternatives(schema: Any, root: Mapping[str, Any], where: str, depth: int = 0) -> list[Mapping[str, Any]]:
    """Schemas, one of which a value has; of each all values are strings, or none, or any are."""
    schema = without_all_of(schema, root, where) if isinstance(schema, Mapping) else {}
    choice = next((word for word in ("$ref", "anyOf", "oneOf") if word in schema), None)
    if choice is None:
        kinds = schema["type"] if isinstance(schema.get("type"), list) else []
        others = [kind for kind in kinds if kind != "string"]
        split = len(others) < len(kinds) and "enum" not in schema
        return [{**schema, "type": each} for each in ("string", others) if each] if split else [schema]
    if depth > DEEPEST or len(schema) > 1:
        raise SchemaError(f"{where}: {choice} beside other rules is not supported of a forced call's arguments")
    each = [referred(schema[choice], root)] if choice == "$ref" else schema[choice]
    return [found for one in each for found in _alternatives(one, root, where, depth + 1)]


def _one_value(rule: str, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> list[str]:
    types = types_of(schema, root)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
        return [f"{rule}: ({' | '.join(map(_text, texts))}) {_text(VALUE_END)}"]
    if "string" not in types:
        held = {**{name: root[name] for name in ("$defs", "definitions") if name in root}, **schema}
        return [f"{rule}: {rule}_json {_text(VALUE_END)}", f"{rule}_json: {json_rule(held, where)}"]
    return [f"{rule}[lazy]: /{_string(schema, where)}{_ESCAPED_VALUE_END}/ & {_NO_END}"]


def _string(schema: Mapping[str, Any], where: str) -> str:
    """The regular expression of a string, or of any value."""
    asked = [word for word in _OF_STRINGS if word in schema]
    if len(asked) > 1 and set(asked) != {"minLength", "maxLength"}:
        raise SchemaError(f"{where}: {' and '.join(asked)} together are not supported of a forced call's arguments")
    if "format" in schema:
        if schema["format"] not in _FORMATS:
            raise SchemaError(f"{where}: the format '{schema['format']}' is not supported of a forced call's arguments")
        return _slashed(_FORMATS[schema["format"]])
    if "pattern" in schema:
        return _slashed(_whole(schema["pattern"], where))
    return f"(?s:.{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}})" if asked else "(?s:.*)"


def _whole(pattern: str, where: str) -> str:
    """A pattern, which may match anywhere, as one of the whole text."""
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith(r"\$")
    inner = pattern[begins : len(pattern) - ends]
    bare = re.sub(r"\\.|\[[^\]]*\]", "", inner)
    while (shorter := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = shorter
    if (begins or ends) and "|" in bare:
        raise SchemaError(f"{where}: the pattern {pattern:.60} has alternatives beside ^ or $: put them in parentheses")
    return f"{'' if begins else '(?s:.*)'}({inner}){'' if ends else '(?s:.*)'}"


def _slashed(pattern: str) -> str:
    return re.sub(r"(?<!\\)/", r"\\/", pattern)


def _text(text: str) -> str:
    """A text as a string of the grammar."""
    return json.dumps(text, ensure_ascii=False)
