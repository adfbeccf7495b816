"""JSON schemas drawn from a seed, and texts drawn from what a constraint allows."""

import random
from typing import Any

import numpy as np

from glm.engine import Constraint

NAMES = (
    "name",
    "city",
    "城市",
    "a",
    "b c",
    'quo"te',
    "n_1",
    "back\\slash",
    "😀",
    "type",
    "required",
    "x/y",
    "~t",
    "$ref",
)
PATTERNS = (
    "^[a-z]{2,5}$",
    "^\\d{3}-\\d{4}$",
    "b+",
    "^(yes|no)$",
    "^[\\w.]+@[a-z]+\\.com$",
    "^[一-龥]{1,3}$",
    "^\\S*$",
    "",
)
# Those of which Python's own checks agree with RFC 3339 and its like on every text of the grammar.
FORMATS = ("ipv4", "ipv6", "uuid", "email")
WORDS = ("red", "", "蓝", "a\nb", 'a"b', "\\", "\u0001", "  two", "😀é")
CLOSERS = frozenset(b'"}],:0123456789truefalsnb@.')
SHUT = (b'"', b"}", b"]", b"null")


class Schemas:
    """A source of schemas.

    Args:
        seed: the same gives the same schemas.
    """

    def __init__(self, seed: int):
        self.draw, self.defs = random.Random(seed), {}

    def root(self) -> dict[str, Any]:
        """An object, as OpenAI asks for, now and then anything else; some with definitions that refer to themselves."""
        self.defs = {}
        if self.draw.random() < 0.3:
            self.defs["node"] = {
                "type": "object",
                "properties": {"v": self.leaf(), "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["v", "next"],
                "additionalProperties": False,
            }
        schema = self.object(3) if self.draw.random() < 0.9 else self.any(3)
        return {**schema, "$defs": self.defs} if self.defs else schema

    def any(self, depth: int) -> dict[str, Any] | bool:
        if depth == 0:
            return self.leaf()
        kinds = [self.leaf, self.leaf, lambda: self.object(depth - 1), lambda: self.array(depth - 1)]
        kinds += [lambda: self.union(depth - 1), lambda: {"allOf": [self.any(0)]}]
        if self.defs:
            kinds.append(lambda: {"$ref": "#/$defs/node"})
        schema = self.draw.choice(kinds)()
        if isinstance(schema, dict) and self.draw.random() < 0.2:
            schema |= {"title": "T", "description": "says nothing", "default": None}
        return schema

    def object(self, depth: int) -> dict[str, Any]:
        names = self.draw.sample(NAMES, self.draw.randrange(5))
        schema = {"type": "object", "properties": {name: self.any(depth) for name in names}}
        schema["required"] = [name for name in names if self.draw.random() < 0.7]
        more = self.draw.choice([False, False, False, True, {"type": "integer"}, None])
        return schema if more is None else {**schema, "additionalProperties": more}

    def array(self, depth: int) -> dict[str, Any]:
        least = self.draw.randrange(3)
        schema = {"type": "array", "items": self.any(depth), "minItems": least}
        if self.draw.random() < 0.7:
            schema["maxItems"] = least + self.draw.randrange(3)
        if self.draw.random() < 0.2:
            schema |= {"prefixItems": [self.any(0), self.any(0)]}
            if self.draw.random() < 0.5:
                schema["items"] = False
                schema["minItems"] = min(least, 2)
                schema.pop("maxItems", None)
        return schema

    def union(self, depth: int) -> dict[str, Any]:
        kind = self.draw.randrange(3)
        if kind == 0:
            return {"anyOf": [self.any(depth) for _ in range(self.draw.randrange(1, 4))]}
        if kind == 1:
            return {"oneOf": [self.string(), self.number(), {"type": "null"}]}
        return {"type": self.draw.sample(["string", "integer", "null", "boolean", "array", "object"], 2)}

    def leaf(self) -> dict[str, Any]:
        return self.draw.choice([self.string, self.string, self.number, self.number, self.fixed])()

    def fixed(self) -> dict[str, Any]:
        values = [*self.draw.sample(WORDS, 3), self.draw.randrange(-99, 99), 0.5, None, True, [1, "a"], {"k": [None]}]
        if self.draw.random() < 0.5:
            return {"enum": self.draw.sample(values, self.draw.randrange(1, 5))}
        return self.draw.choice([{"const": self.draw.choice(values)}, {"type": "boolean"}, {"type": "null"}])

    def string(self) -> dict[str, Any]:
        kind, least = self.draw.randrange(5), self.draw.randrange(5)
        extra = [
            {},
            {"minLength": least, "maxLength": least + self.draw.randrange(6)},
            {"pattern": self.draw.choice(PATTERNS)},
            {"format": self.draw.choice(FORMATS)},
            {"enum": self.draw.sample(WORDS, 2)},
        ]
        return {"type": "string", **extra[kind]}

    def number(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": self.draw.choice(["integer", "number"])}
        least = self.draw.choice([-1000, -7, 0, 3, 2.5, -0.25])
        if self.draw.random() < 0.5:
            schema[self.draw.choice(["minimum", "exclusiveMinimum"])] = least
        if self.draw.random() < 0.5:
            schema[self.draw.choice(["maximum", "exclusiveMaximum"])] = least + self.draw.choice([2, 10, 5000, 3.5])
        if self.draw.random() < 0.2:
            schema["multipleOf"] = self.draw.choice([1, 2, 0.5, 0.25])
        return schema


def written(constraint: Constraint, tokens: list[bytes], ends: set[int], draw: np.random.Generator) -> list[int]:
    """Ids drawn among those that the constraint allows, an end last; the longer, the likelier those that close."""
    width = len(constraint.allowed())
    closing_V, shut_V = np.zeros([2, width], dtype="bool")
    closing_V[: len(tokens)] = [bool(token) and set(token) <= CLOSERS for token in tokens]
    shut_V[: len(tokens)] = [token in SHUT for token in tokens]
    ids: list[int] = []
    while not ids or ids[-1] not in ends:
        allowed_V = constraint.allowed()
        kinds = [allowed_V]
        if draw.random() < 0.4 + len(ids) / 100:
            kinds = [allowed_V & (shut_V if len(ids) > 60 and draw.random() < 0.7 else closing_V), *kinds]
        over = [index for index in ends if allowed_V[index]] if draw.random() < 0.5 else []
        choices = over or next(found for kind in kinds if len(found := np.flatnonzero(kind)))
        ids.append(int(draw.choice(choices)))
        constraint.advance(ids[-1])
        assert len(ids) < 3000, "the text does not end"
    return ids
