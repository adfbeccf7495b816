"""What else programs ask a tokenizer: special tokens by role, added tokens, where special tokens stand, bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glm.errors import UsageError
from glm.tokenizers.batch_encoding import as_lists
from glm.tokenizers.special_tokens import ROLES


class VocabularyQueries:
    """Over `_role_text`, `additional_special_tokens`, `added_tokens`, `all_special_ids`, `text_of` and `_piece_bytes`.

    Class attributes:
        is_fast: as Hugging Face's; offsets of characters are not given.
        name_or_path: what `from_pretrained` was given.
    """

    is_fast = False
    name_or_path = ""

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Role -> token; "additional_special_tokens" -> those without a role, where the files name any."""
        more = self.additional_special_tokens
        roles = {role: self._role_text(role) for role in ROLES if self._role_text(role)}
        return {**roles, **({"additional_special_tokens": more} if more else {})}

    @property
    def vocab(self) -> dict[str, int]:
        """As `get_vocab`."""
        return self.get_vocab()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token -> id of tokens that are never cut, by id."""
        return dict(sorted(self.added_tokens.items(), key=lambda entry: entry[1]))

    @property
    def added_tokens_decoder(self) -> dict[int, str]:
        """Id -> token of tokens that are never cut."""
        return {index: token for token, index in self.added_tokens_encoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """As `added_tokens_encoder`."""
        return self.added_tokens_encoder

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens as the vocabulary writes them, special ones in it."""
        return self.text_of(self.convert_tokens_to_ids(list(tokens)), skip_special_tokens=False)

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for special tokens, 0 for the others.

        Args:
            already_has_special_tokens: `token_ids_0` is framed; else the frame is put around the ids first.
        """
        ids = as_lists(token_ids_0)
        if not already_has_special_tokens:
            ids = self.build_inputs_with_special_tokens(ids, token_ids_1)
        special = set(self.all_special_ids)
        return [int(index in special) for index in ids]

    def token_bytes(self, index: int) -> bytes:
        """What a token adds to a text, special tokens as they are written: the bytes of a text are its tokens' joined.

        sentencepiece drops the blank that its first piece begins with, and GLM (2021) puts blanks around added tokens.

        Raises:
            GLMError: an id outside the vocabulary.
        """
        token = self.convert_ids_to_tokens(index)
        return token.encode() if index in self._added_by_id else self._piece_bytes(int(index))

    def text_bytes(self) -> list[bytes]:
        """`token_bytes` of every id below `len(self)`; b"" for those that a text of nothing else is not made of.

        These are special tokens, and those whose text depends on what stands beside them.
        """
        found = [b""] * len(self)
        for index in {*range(self.vocab_size), *self._added_by_id} - {*self.all_special_ids, *self._unfaithful_ids()}:
            found[index] = self.token_bytes(index)
        return found

    def _unfaithful_ids(self) -> Iterable[int]:
        """Ids whose text depends on what stands beside them."""
        return ()

    def add_tokens(self, new_tokens, special_tokens: bool = False) -> int:
        """Raises UsageError: vocabularies are those of their files, as a model's embedding is."""
        raise UsageError(f"tokens are not added to a vocabulary ({new_tokens!r:.60}): its model has no rows for them")

    def add_special_tokens(self, special_tokens_dict) -> int:
        """Raises UsageError, as `add_tokens`."""
        return self.add_tokens(special_tokens_dict)
