"""Grammars of calls between tags (glm/encoding/tagged_calls.py): what a forced call may be, so that it can be read.

A string stands between its tags as it is, so JSON's rules do not hold it: it is held by regular expressions of its own.
Grammars are Lark texts of llguidance (glm/encoding/json_schema.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glm.encoding.argument_forms import ArgumentSchemas, argument_forms, without_all_of
from glm.encoding.argument_types import ANY, STRING, argument_json, argument_types, types_of
from glm.encoding.argument_values import allowed_values, parted
from glm.encoding.json_in_tags import without_tag
from glm.encoding.json_schema import DEEPEST, EXACT, SchemaError, checked_rule, checked_schema, grammar
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
_A_VISIT = 256  # characters of a rule that count as one more schema
_OF_STRINGS = ("minLength", "maxLength", "pattern", "format")
_ESCAPED_VALUE_END, _ESCAPED_CALL_END = (tag.replace("/", r"\/") for tag in (VALUE_END, CALL_END))
# What the reader takes for values of other types, or a little more: texts that no string may be then.
_BLANK = r"[\s\x1c-\x1f]*"
_BEGINS_NUMBER = rf"{_BLANK}[0-9-](?s:.*)"
_READ_AS = {
    "null": f"{_BLANK}(null|None){_BLANK}",
    "boolean": f"{_BLANK}([Tt]rue|[Ff]alse){_BLANK}",
    "integer": rf"{_BLANK}-?[0-9][0-9.eE+-]*{_BLANK}",
    "number": rf"{_BLANK}-?[0-9][0-9.eE+-]*{_BLANK}",
    "array": rf"{_BLANK}\[(?s:.*)",
    "object": rf"{_BLANK}\{{(?s:.*)",
    "string": f'{_BLANK}"(?s:.*)"{_BLANK}',
}
# Values beside strings are one lexeme each: a lexer that may be inside a string does not see JSON begin.
_LEXEMES = {
    "null": "null",
    "boolean": "(true|false)",
    "integer": "-?(0|[1-9][0-9]{0,17})",
    "number": r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?",
}
_OF_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_UNSPLIT = ("enum", "const", "allOf", "anyOf", "oneOf", "$ref")
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
    schemas = ArgumentSchemas(root, where)
    every_form, read_as = argument_forms(root, schemas), argument_types(root)
    pairs: dict[str, str] = {}  # an argument of one key and one schema is one rule, in whatever forms it stands
    rules, forms = [], []
    for form in every_form:
        parts = []
        for key, every in form.properties.items():
            schema = every[0] if len(every) == 1 else {"allOf": [*every]}
            known = json.dumps([key, schema])
            if known not in pairs:
                pair = pairs[known] = f"{rule}_{len(pairs)}"
                rules.append(f"{pair}: {_text(KEY + key + KEY_END)} LINE? {_text(VALUE)} {pair}_value LINE?")
                value = _Value(schemas, read_as.get(key, ANY), f"{where}.properties.{key}")
                rules += value.rules(f"{pair}_value", schema)
            parts.append(pairs[known] if key in form.required else f"{pairs[known]}?")
        forms.append(" ".join([*parts, _text(CALL_END)]))
    return [f"{rule}: {_text(name)} LINE? ({' | '.join(forms)})", *rules]


@dataclass(frozen=True)
class _Value:
    """Rules of one argument's value.

    Attributes:
        schemas: see `ArgumentSchemas`.
        read_as: the types that it may be read as, in whatever form of the call: the string "12" may not be written
            where it would be read as a number that its own schema does not take.
        where: what it is called in errors.
    """

    schemas: ArgumentSchemas
    read_as: frozenset[str]
    where: str

    def rules(self, rule: str, schema: Any) -> list[str]:
        """Rules of a value and of the tag that ends it."""
        found, rules = self._alternatives(schema), []
        if not found:
            raise SchemaError(f"{self.where} takes no value at all")
        if any("string" in self._types(each) for each in found):
            found = [one for each in found for one in self._apart(each)]
            bounded = any(
                _is_bounded(kind, each) for each in found for kind in self._types(each) & {"integer", "number"}
            )
            written = [self._beside_strings(f"{rule}_{number}", each, bounded) for number, each in enumerate(found)]
        else:
            written = [self._json(f"{rule}_{number}", each) for number, each in enumerate(found)]
        for each in written:
            rules += each
        return [f"{rule}: {' | '.join(f'{rule}_{number}' for number in range(len(found)))}", *rules]

    def _alternatives(self, schema: Any, depth: int = 0) -> list[Mapping[str, Any]]:
        """Schemas, one of which a value has; of each all values are strings, or none, or any are."""
        self.schemas.visit()
        if not self.schemas.types.of(schema):
            return []
        schema = without_all_of(schema, self.schemas, self.where) if isinstance(schema, Mapping) else {}
        choice = next((word for word in ("$ref", "anyOf", "oneOf") if word in schema), None)
        if choice is None:
            return self._split(schema)
        if depth > DEEPEST or len(schema) > 1:
            raise SchemaError(
                f"{self.where}: {choice} beside other rules is not supported of a forced call's arguments"
            )
        each = [self.schemas.referred(schema[choice])] if choice == "$ref" else schema[choice]
        return [found for one in each for found in self._alternatives(one, depth + 1)]

    def _split(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        kinds = schema["type"] if isinstance(schema.get("type"), list) else []
        others = [kind for kind in kinds if kind != "string"]
        split = [{**schema, "type": each} for each in ("string", others) if each] if others != kinds else [schema]
        return [each for each in split if self._types(each)]

    def _types(self, schema: Mapping[str, Any]) -> frozenset[str]:
        return types_of(schema, self.schemas.root)

    def _apart(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """A schema of no strings as one for each type."""
        types = self._types(schema)
        if "string" in types or any(word in schema for word in _UNSPLIT):
            return [schema]
        kinds = types - {"integer"} if "number" in types else types
        return [{**schema, "type": kind} for kind in sorted(kinds)]

    def _beside_strings(self, rule: str, schema: Mapping[str, Any], bounded: bool) -> list[str]:
        """Rules of a value that is a string, or of another one where strings are allowed as well.

        Args:
            bounded: whether numbers are allowed that JSON's grammar has to hold, so that no string begins like one.
        """
        types = self._types(schema)
        if "allOf" not in schema and ("enum" in schema or "const" in schema):
            return [_lexeme(rule, f"({'|'.join(map(_literal, self._texts(schema)))})")]
        if "string" not in types:
            kind = schema.get("type")
            if kind in _LEXEMES and not _is_bounded(kind, schema):
                return [_lexeme(rule, _LEXEMES[kind])]
            if types & {"null", "boolean"}:
                raise SchemaError(f"{self.where}: allOf of null or boolean beside strings is not supported: say type")
            return self._json(rule, schema)
        if types != STRING and (odd := [word for word in schema if word not in ("type", *_OF_STRINGS)]):
            raise SchemaError(f"{self.where}: '{odd[0]}' needs a type beside it in a forced call's arguments")
        wrong = self.read_as - types
        if self.read_as != STRING and any(word in schema for word in _OF_STRINGS):
            wrong |= STRING  # a text in quotation marks loses them
        misread = [_READ_AS[each] for each in sorted(wrong)] + ([_BEGINS_NUMBER] if bounded and wrong else [])
        excluded = "".join(f" & ~/{each}{_ESCAPED_VALUE_END}/" for each in misread)
        return [f"{_lexeme(rule, _string(schema, self.where))} & {_NO_END}{excluded}"]

    def _json(self, rule: str, schema: Mapping[str, Any]) -> list[str]:
        root = self.schemas.root
        names = ("$defs", "definitions") if '"$ref"' in json.dumps(schema) else ()
        checked = checked_schema({**{name: root[name] for name in names if name in root}, **schema}, self.where)
        held = checked_rule(without_tag(checked, VALUE_END, self.where))
        self.schemas.visit(len(held) // _A_VISIT)
        return [f"{rule}: {rule}_json {_text(VALUE_END)}", f"{rule}_json: {held}"]

    def _texts(self, schema: Mapping[str, Any]) -> list[str]:
        """The values of enum and const as they are written."""
        self.schemas.visit(len(schema.get("enum", ())))
        texts = [self._text_of(value) for value in allowed_values(schema, self.where)]
        if all(text is None for text in texts):
            raise SchemaError(f"{self.where}: its enum or const would be read as values of another type")
        self.schemas.visit(sum(len(text or "") for text in texts) // _A_VISIT)
        return [text for text in texts if text is not None]

    def _text_of(self, value: Any) -> str | None:
        """How a value is written, None where it would not be read as what it is."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        is_read = VALUE_END not in text and argument_json(text, self.read_as) == json.dumps(value, ensure_ascii=False)
        return text if is_read else None


def _is_bounded(kind: str, schema: Mapping[str, Any]) -> bool:
    """Whether keywords hold values of a type to more than that."""
    return any(word in schema for word in (*(_OF_NUMBERS if kind in ("integer", "number") else ()), *_UNSPLIT))


def _lexeme(rule: str, pattern: str) -> str:
    return f"{rule}[lazy]: /{pattern}{_ESCAPED_VALUE_END}/"


def _literal(text: str) -> str:
    """A text as a regular expression."""
    return re.sub(r"[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)


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
    if schema.get("maxLength", EXACT) < schema.get("minLength", 0):
        raise SchemaError(f"{where}: maxLength {schema['maxLength']} is below minLength {schema['minLength']}")
    return f"(?s:.{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}})" if asked else "(?s:.*)"


def _whole(pattern: str, where: str) -> str:
    """A pattern, which may match anywhere, as one of the whole text."""
    begins, inner, ends = parted(pattern, where)
    return f"{'' if begins else '(?s:.*)'}({inner}){'' if ends else '(?s:.*)'}"


def _slashed(pattern: str) -> str:
    return re.sub(r"(?<!\\)/", r"\\/", pattern)


def _text(text: str) -> str:
    """A text as a string of the grammar."""
    return json.dumps(text, ensure_ascii=False)
