"""Special tokens: their roles, their ids, and where they stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from glm.errors import GLMError
from glm.files.json_files import ADDED_TOKENS_FILE, CONFIG_FILE, read_json

# The order in which PaddleNLP gives ids to special tokens that a vocabulary lacks.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def content_of(entry: str | Mapping[str, Any]) -> str:
    """The token of an entry of the JSON files: a bare string, or an object with its text under "content"."""
    return entry if isinstance(entry, str) else entry["content"]


class RoleTokens:
    """`pad_token`, `pad_token_id` and their like, over `_role_text` and `_role_id`; None where there is none."""

    bos_token = property(lambda self: self._role_text("bos_token"))
    eos_token = property(lambda self: self._role_text("eos_token"))
    unk_token = property(lambda self: self._role_text("unk_token"))
    sep_token = property(lambda self: self._role_text("sep_token"))
    pad_token = property(lambda self: self._role_text("pad_token"))
    cls_token = property(lambda self: self._role_text("cls_token"))
    mask_token = property(lambda self: self._role_text("mask_token"))

    bos_token_id = property(lambda self: self._role_id("bos_token"))
    eos_token_id = property(lambda self: self._role_id("eos_token"))
    unk_token_id = property(lambda self: self._role_id("unk_token"))
    sep_token_id = property(lambda self: self._role_id("sep_token"))
    pad_token_id = property(lambda self: self._role_id("pad_token"))
    cls_token_id = property(lambda self: self._role_id("cls_token"))
    mask_token_id = property(lambda self: self._role_id("mask_token"))

    @property
    def all_special_tokens(self) -> list[str]:
        return self.convert_ids_to_tokens(self.all_special_ids)


class SpecialTokens:
    """The special tokens of one tokenizer, by role and in order."""

    def __init__(self, roles: Mapping[str, str], additional: Iterable[str]):
        self.roles = {role: roles[role] for role in ROLES if role in roles}
        self.additional = list(additional)
        self.in_order = list(dict.fromkeys([*self.roles.values(), *self.additional]))
        self.keep_whole(())

    @classmethod
    def read(cls, defaults: Mapping[str, Any], *files: Mapping[str, Any]) -> SpecialTokens:
        """`defaults`, overridden by the contents of the JSON files in turn; null overrides nothing."""
        entries = dict(defaults)
        for content in files:
            entries |= {key: content[key] for key in (*ROLES, "additional_special_tokens") if content.get(key)}
        additional = map(content_of, entries.pop("additional_special_tokens", ()))
        return cls({role: content_of(entry) for role, entry in entries.items()}, additional)

    def keep_whole(self, tokens: Iterable[str]) -> None:
        """Never cut `tokens` into pieces either, though they have no role."""
        longest_first = sorted({*self.in_order, *tokens}, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Parts of `text` in order: (whole token, True), or (what is between, False), stripped beside tokens."""
        parts = self._pattern.split(text)
        for index, part in enumerate(parts):
            if index % 2:
                yield part, True
                continue
            part = part.lstrip() if index else part
            part = part.rstrip() if index + 1 < len(parts) else part
            if part:
                yield part, False

    def json(self) -> dict[str, Any]:
        """What special_tokens_map.json holds."""
        return {**self.roles, "additional_special_tokens": self.additional}


def read_added_tokens(directory: Path) -> dict[str, int]:
    """Token -> id as the directory's files say: `added_tokens_decoder` first, else added_tokens.json, else nothing."""
    decoder = read_json(directory / CONFIG_FILE, missing={}).get("added_tokens_decoder")
    if decoder is not None:
        return {content_of(entry): int(index) for index, entry in decoder.items()}
    return read_json(directory / ADDED_TOKENS_FILE, missing={})


def complete_added_tokens(added: Mapping[str, int], special: SpecialTokens, piece_count: int) -> dict[str, int]:
    """`added` checked, plus every special token but the unknown one that has no id yet, numbered on from the last.

    Raises GLMError where an id is used twice or lies among the `piece_count` pieces of the vocabulary.
    """
    for token, index in added.items():
        if not isinstance(index, int) or index < piece_count:
            raise GLMError(
                f"{ADDED_TOKENS_FILE} gives {token} the id {index}, but the vocabulary's pieces have the ids "
                f"0 to {piece_count - 1}; take both files from one checkpoint."
            )
    if len(set(added.values())) < len(added):
        raise GLMError(f"{ADDED_TOKENS_FILE} gives one id to two tokens ({dict(added)}); copy the file again.")
    complete = dict(added)
    unknown = special.roles["unk_token"]
    for token in special.in_order:
        if token != unknown and token not in complete:
            complete[token] = max(complete.values(), default=piece_count - 1) + 1
    return complete
