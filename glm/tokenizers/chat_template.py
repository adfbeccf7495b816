"""Chat templates (Jinja) of tokenizer directories, rendered as transformers renders them, in jinja2's sandbox.

A template comes from a download, so it sees plain data only and can change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Name, Scope, Test
from jinja2.sandbox import ImmutableSandboxedEnvironment

from glm.errors import GLMError


class GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}`, which marks assistant text for transformers: the text as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads this name from the class

    def parse(self, parser) -> Scope:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body, lineno=line)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # transformers' parameter name, which a template may use
    return datetime.now().strftime(format)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


class ChatTemplate:
    """One template, compiled; `ChatTemplate.of` compiles each source once.

    Args:
        source: Jinja text; an attribute as well.

    Attributes:
        variables: names that it reads and does not always set itself.
        switches: those of them that it never sets, or asks whether they are defined.

    Raises GLMError for a syntax error.
    """

    def __init__(self, source: str):
        self.source = source
        try:
            self._template = _environment().from_string(source)
            parsed = _environment().parse(source)
        except jinja2.TemplateSyntaxError as error:
            raise GLMError(f"the chat template has an error in line {error.lineno}: {_one_line(error)}") from None
        self.variables = meta.find_undeclared_variables(parsed)
        tests = [test.node for test in parsed.find_all(Test) if test.name == "defined"]
        tested = {node.name for node in tests if isinstance(node, Name)}
        assigned = {name.name for name in parsed.find_all(Name) if name.ctx == "store"}
        self.switches = frozenset(self.variables - (assigned - tested))

    @classmethod
    @lru_cache(maxsize=32)
    def of(cls, source: str) -> ChatTemplate:
        return cls(source)

    def __reduce__(self):
        """Copies and pickles carry the source: compiled templates cannot be pickled."""
        return ChatTemplate.of, (self.source,)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        alter: Callable[[str], str] = str,
        asked: Mapping[str, Any] | None = None,
        **variables,
    ) -> str:
        """The conversation as one text.

        Args:
            messages: {"role", "content", …} each.
            tools: JSON schemas of functions; None is none, as in transformers.
            add_generation_prompt: end with the beginning of an assistant turn.
            alter: applied to every text in `messages`, `tools` and `asked`, names of fields among them.
            asked: variables of users; `variables` are what else the template may read.

        Raises:
            GLMError: a value that is not JSON-like, or the template refuses the messages or fails.
        """
        try:
            return self._template.render(
                **variables,
                **_plain(asked or {}, alter),
                messages=_plain(messages, alter),
                tools=_plain(tools, alter) if tools is not None else None,
                add_generation_prompt=add_generation_prompt,
            )
        except GLMError:
            raise
        except Exception as error:  # foreign code: anything can come out of it
            raise GLMError(f"the chat template does not take these messages: {_one_line(error)}") from None


def _plain(value: Any, alter: Callable[[str], str]) -> Any:
    """A copy of JSON-like data, without the methods that objects would bring into the sandbox."""
    if isinstance(value, str):
        return alter(str.__str__(value))
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {alter(str(key)): _plain(item, alter) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, alter) for item in value]
    raise GLMError(f"a chat message holds a {type(value).__name__}; pass text, numbers, lists and dictionaries only.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
