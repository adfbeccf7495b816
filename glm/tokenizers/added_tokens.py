"""Tokens that stand outside a vocabulary's pieces: what they are, and where they stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glm.errors import GLMError
from glm.files.json_files import CONFIG_FILE

# A Unicode noncharacter: no text that is meant for reading holds it.
MARK = "\ufdd0"
_BLANKS = re.compile(r"\s*")


@dataclass(frozen=True)
class AddedToken:
    """A token that is never cut.

    Attributes:
        text: how it is written.
        id: its row in the embedding.
        special: left out of decoded text.
        lstrip, rstrip: white space on that side goes with it.
        behind: the text behind which alone it is a token; anywhere if not given.
    """

    text: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    behind: str = ""

    @property
    def pattern(self) -> str:
        """The regular expression of where it stands."""
        return (f"(?<={re.escape(self.behind)})" if self.behind else "") + re.escape(self.text)


def read_added_tokens(config: Mapping[str, Any]) -> list[AddedToken]:
    """tokenizer_config.json's `added_tokens_decoder`, [] without one. Raises GLMError where it is damaged."""
    decoder = config.get("added_tokens_decoder") or {}
    try:
        return [
            AddedToken(
                entry["content"],
                int(index),
                bool(entry.get("special", True)),
                bool(entry.get("lstrip")),
                bool(entry.get("rstrip")),
            )
            for index, entry in decoder.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise GLMError(f"{CONFIG_FILE}: added_tokens_decoder is damaged; copy the file again.") from None


def check_added_tokens(tokens: Iterable[AddedToken], piece_count: int) -> None:
    """Raises GLMError where an id lies among the `piece_count` pieces, or two tokens share an id or a text."""
    seen: dict[int | str, AddedToken] = {}
    for token in tokens:
        if token.id < piece_count:
            raise GLMError(
                f"{CONFIG_FILE} gives {token.text} the id {token.id}, but the vocabulary's pieces have the ids "
                f"0 to {piece_count - 1}; take both files from one checkpoint."
            )
        for key in (token.id, token.text):
            if key in seen:
                raise GLMError(f"{CONFIG_FILE} names {key!r} twice among its added tokens; copy the file again.")
            seen[key] = token


class Splitter:
    """Cuts a text at added tokens.

    `mark` hides the special ones in a text that a user wrote, so that a template can be filled with it: `split` then
    takes the template's own tokens for tokens, and the user's for text.

    Attributes:
        by_text: the tokens, the longest first.
    """

    def __init__(self, tokens: Iterable[AddedToken]):
        # The longest first: of two that fit at one place, the longer is meant.
        ordered = sorted(tokens, key=lambda token: -len(token.text))
        self.by_text = {token.text: token for token in ordered}
        special = [token for token in ordered if token.special]
        self._pattern = _any_of(token.pattern for token in ordered)
        self._others = _any_of(token.pattern for token in ordered if not token.special)
        self._special = _any_of(token.pattern for token in special)
        self._marked = _any_of(re.escape(_marked(token.text)) for token in special)

    def split(self, text: str) -> Iterator[str | AddedToken]:
        """The parts of `text` in order, none of them empty; marks are gone."""
        return (self.unmark(part) if isinstance(part, str) else part for part in self._cut(text, self._pattern))

    def split_others(self, text: str) -> Iterator[str | AddedToken]:
        """As `split`, but special tokens are text, and so are marks."""
        return self._cut(text, self._others)

    def _cut(self, text: str, pattern: re.Pattern[str]) -> Iterator[str | AddedToken]:
        start = 0
        for match in pattern.finditer(text):
            if match.start() < start:  # white space that an earlier token took along
                continue
            token, before = self.by_text[match[0]], text[start : match.start()]
            before = before.rstrip() if token.lstrip else before
            if before:
                yield before
            yield token
            start = _BLANKS.match(text, match.end()).end() if token.rstrip else match.end()
        if start < len(text):
            yield text[start:]

    def mark(self, text: str) -> str:
        """`text` with a mark inside each special token."""
        return self._special.sub(lambda match: _marked(match[0]), text)

    def unmark(self, text: str) -> str:
        return self._marked.sub(lambda match: match[0].replace(MARK, "", 1), text) if MARK in text else text


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or "(?!)")


def _marked(token: str) -> str:
    return token[0] + MARK + token[1:]
