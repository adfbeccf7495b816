"""What the fields of a request's JSON may be: each kind takes (name, value) and gives the value, or raises an error
that names the field."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glm.encoding.messages import type_name
from glm.serving.errors import RequestError, invalid

Kind = Callable[[str, Any], Any]


def wrong(name: str, value: Any, wanted: str) -> RequestError:
    """The error for a value of another type, or out of range."""
    plain = isinstance(value, (bool, int, float)) and not (isinstance(value, int) and abs(value) >= 1 << 64)
    shown = str(value).lower() if isinstance(value, bool) else value if plain else type_name(value)
    return invalid(f"'{name}' is {shown}, and must be {wanted}", name)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(name, value, "a text")
    return value


def one_of(*texts: str) -> Kind:
    """One of a few texts."""

    def read(name: str, value: Any) -> str:
        if value not in texts:
            raise wrong(name, value, " or ".join(texts))
        return value

    return read


def whole(least: int, most: int) -> Kind:
    """A whole number; 2.0 is one in JSON."""

    def read(name: str, value: Any) -> int:
        integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not integral or not least <= value <= most:
            raise wrong(name, value, f"a whole number from {least} to {most}")
        return int(value)

    return read


def number(least: float, most: float) -> Kind:
    def read(name: str, value: Any) -> float:
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not real or not least <= value <= most:
            raise wrong(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    return read


def listed(kind: Kind, most: int, what: str) -> Kind:
    """A list of at most so many."""

    def read(name: str, value: Any) -> tuple:
        if not isinstance(value, list):
            raise wrong(name, value, f"a list of {what}")
        if len(value) > most:
            raise invalid(f"'{name}' has {len(value)} {what}, and may have {most}", name)
        return tuple(kind(name, each) for each in value)

    return read


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise wrong(name, value, "an object")
    return value


def anything(name: str, value: Any) -> Any:
    return value


def no_effect(name: str, value: Any) -> None:
    """A field that is taken and changes nothing here."""


def refused(reason: str, *neutral: Any) -> Kind:
    """A field that is known and not served, at any value but those at which it does nothing."""

    def read(name: str, value: Any) -> None:
        # Compared with their types: 1 is no true.
        if not any(type(value) is type(each) and value == each for each in neutral):
            raise invalid(f"'{name}' is not supported here: {reason}", name, "unsupported_parameter")

    return read


def stops(most: int) -> Kind:
    """A string, or a list of strings; none may be empty."""
    several = listed(text, most, "strings")

    def read(name: str, value: Any) -> tuple[str, ...]:
        strings = (value,) if isinstance(value, str) else several(name, value)
        if "" in strings:
            raise invalid(f"'{name}' has an empty string, which would end every text at once: leave it out", name)
        return strings

    return read


def biases(most: int) -> Kind:
    """Token ids as text → what is added to their logits, from -100 to 100."""
    bias = number(-100, 100)

    def read(name: str, value: Any) -> tuple[tuple[int, float], ...]:
        entries = mapping(name, value)
        if len(entries) > most:
            raise invalid(f"'{name}' has {len(entries)} tokens, and may have {most}", name)
        for key in entries:
            if not (key.isascii() and key.isdecimal() and len(key) < 10):
                raise invalid(f"'{name}' has the key {key[:20]!r}, and keys must be token ids", name)
        return tuple((int(key), bias(name, each)) for key, each in entries.items())

    return read


def read_fields(body: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The fields that are given, read; null is not given.

    Raises:
        RequestError: naming the first field that is wrong.
    """
    given = {name: value for name, value in body.items() if value is not None and name in kinds}
    return {name: kinds[name](name, value) for name, value in given.items()}


def unknown_fields(body: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Sequence[str]:
    """Names that no table knows; OpenAI's clients may send their own."""
    return [name for name, value in body.items() if name not in kinds and value is not None]
