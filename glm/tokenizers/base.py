"""What the tokenizers of all models share; each adds how plain text becomes ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

from glm.errors import GLMError
from glm.files.json_files import CONFIG_FILE
from glm.tokenizers.added_tokens import AddedToken, Splitter
from glm.tokenizers.batch_encoding import as_lists
from glm.tokenizers.calls import TokenizerCalls
from glm.tokenizers.chat_calls import ChatCalls
from glm.tokenizers.chat_template import ChatTemplate
from glm.tokenizers.kept_files import KeptFiles
from glm.tokenizers.source import tokenizer_directory
from glm.tokenizers.special_tokens import ROLES, RoleTokens, content_of
from glm.tokenizers.vocabulary_queries import VocabularyQueries


class Tokenizer(VocabularyQueries, RoleTokens, ChatCalls, TokenizerCalls):
    """Pieces of a vocabulary, added tokens that are never cut, and the files both came from.

    Class attributes, which make a family:
        kind: key of `glm.encoding.chat_formats.CHAT_FORMATS`.
        vocabulary_file: its name in a model directory.
        default_config: tokenizer_config.json where the directory has none, or lacks the entry.
        prefix, suffix: tokens around a prompt.
        stop_tokens: tokens that end an output.

    Args:
        files: the vocabulary file, or what was read of a directory.
        config: entries of tokenizer_config.json to change.
    """

    kind: ClassVar[str]
    vocabulary_file: ClassVar[str]
    default_config: ClassVar[Mapping[str, Any]]
    prefix: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[tuple[str, ...]] = ()
    stop_tokens: ClassVar[tuple[str, ...]]

    def __init__(self, files: KeptFiles | str | Path, **config):
        self._files = files = KeptFiles.of(files, self.vocabulary_file)
        self.config = {**self.default_config, **files.config, **config}
        self.padding_side = self.config.get("padding_side", "left")
        self.truncation_side = self.config.get("truncation_side", "right")
        self.model_max_length = int(self.config.get("model_max_length") or self.model_max_length)
        self.added_tokens: dict[str, int] = {}
        self._templates: dict[str, ChatTemplate] = {}

    def _finish(self, added: Sequence[AddedToken]) -> None:
        """Called at the end of a subclass's __init__, when the vocabulary is there."""
        self.added_tokens = {token.text: token.id for token in added}
        self._added_by_id = {token.id: token.text for token in added}
        self._splitter = Splitter(self._written_tokens(added))
        self._special_ids = self._find_special_ids(added)
        needed = {
            *self.prefix,
            *self.suffix,
            *self.stop_tokens,
            self._role_text("pad_token"),
            self._role_text("eos_token"),
        }
        missing = sorted(token for token in needed if token not in self.added_tokens)
        if missing:
            raise GLMError(f"the vocabulary lacks {', '.join(missing)}, so it is not that of a {self.kind} model")
        self._templates = {name: ChatTemplate.of(text) for name, text in self._files.chat_templates().items()}

    def _written_tokens(self, added: Sequence[AddedToken]) -> Sequence[AddedToken]:
        """Those that a text may spell."""
        return added

    def _find_special_ids(self, added: Sequence[AddedToken]) -> frozenset[int]:
        return frozenset(token.id for token in added if token.special)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Tokenizer:
        """Reads the vocabulary file and what stands beside it; nothing in the directory is run.

        Args:
            directory: of a model, or a preset's name.

        Raises GLMError, one line, for a missing or damaged file.
        """
        directory = tokenizer_directory(directory)
        try:
            return cls(KeptFiles.read(directory, cls.vocabulary_file))
        except GLMError as error:
            text = str(error)
            raise GLMError(text if str(directory) in text else f"{directory / cls.vocabulary_file}: {text}") from error

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the files that were read, byte for byte, and a tokenizer_config.json where there was none."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        files = self._files if CONFIG_FILE in self._files.contents else self._files.with_config(dict(self.config))
        files.write(directory)

    @abstractmethod
    def _encode_text(self, text: str) -> list[int]:
        """Ids of text without added tokens; `text` has no surrogates."""

    @abstractmethod
    def _decode_run(self, ids: list[int]) -> str:
        """Text of ids of pieces; U+FFFD for each byte of an unfinished character."""

    @abstractmethod
    def _piece_id(self, piece: str) -> int | None:
        """Id of a piece, None where the vocabulary lacks it."""

    @abstractmethod
    def _piece(self, index: int) -> str:
        """The piece of an id below `vocab_size`."""

    @abstractmethod
    def _piece_bytes(self, index: int) -> bytes:
        """What the piece of an id below `vocab_size` adds to a text."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """How many pieces there are; tokens that were added behind them do not count."""

    def __len__(self) -> int:
        """Largest id + 1, added tokens included."""
        return max(self.vocab_size, *(index + 1 for index in self.added_tokens.values()))

    def text_ids(self, text: str, split_special_tokens: bool = False) -> list[int]:
        """See `TokenizerCalls.text_ids`; `encode` and a call put the family's tokens around them."""
        # Surrogates (JSON's "\ud83d") have no UTF-8 form: pairs become their character, a lone one becomes U+FFFD.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        cut = self._splitter.split_others if split_special_tokens else self._splitter.split
        ids: list[int] = []
        for part in cut(text):
            ids += [part.id] if isinstance(part, AddedToken) else self._encode_text(part)
        return ids

    def build_inputs(self, ids: Sequence[int]) -> list[int]:
        """A prompt's ids with the tokens that every prompt of this model has around it."""
        return [*map(self.added_tokens.get, self.prefix), *ids, *map(self.added_tokens.get, self.suffix)]

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None) -> list[int]:
        """Ids of a text, or of two, with the tokens that the family's own tokenizer puts around them."""
        if token_ids_1 is None:
            return self.build_inputs(token_ids_0)
        return [*self.build_inputs(token_ids_0), *token_ids_1, self.eos_token_id]

    def text_of(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """See `TokenizerCalls.text_of`."""
        texts: list[str] = []
        run: list[int] = []
        for index in map(int, ids):
            if skip_special_tokens and index in self._special_ids:
                continue
            if index in self._added_by_id:
                texts += [self._decode_run(run), self._added_by_id[index]]
                run = []
            elif 0 <= index < self.vocab_size:
                run.append(index)
        return "".join([*texts, self._decode_run(run)])

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int] | None:
        """Id of one token, or ids of several; the unknown token's (None without one) where the vocabulary lacks it."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self.added_tokens.get(tokens, self._piece_id(tokens))
        return self.unk_token_id if index is None else index

    def convert_ids_to_tokens(self, ids: int | Sequence[int], skip_special_tokens: bool = False) -> str | list[str]:
        """The token of one id, or tokens of several. Raises GLMError for an id outside the vocabulary."""
        if not isinstance(ids, Integral):
            kept = (i for i in as_lists(ids) if not (skip_special_tokens and i in self._special_ids))
            return [self.convert_ids_to_tokens(index) for index in kept]
        if ids in self._added_by_id:
            return self._added_by_id[ids]
        if not 0 <= ids < self.vocab_size:
            raise GLMError(f"token id {ids} is outside the vocabulary of {len(self)}; use the model's tokenizer.")
        return self._piece(int(ids))

    @property
    def written_tokens(self) -> list[AddedToken]:
        """The added tokens that a text may spell."""
        return [*self._splitter.by_text.values()]

    @property
    def role_tokens(self) -> dict[str, str]:
        """Role -> token, `eos_token` for example: what a chat template may name."""
        return {role: content_of(self.config[role]) for role in ROLES if self.config.get(role)}

    def _role_text(self, role: str) -> str | None:
        return self.role_tokens.get(role)

    def _role_id(self, role: str) -> int | None:
        """None for `unk_token` of vocabularies of bytes, to which no text is unknown."""
        return self.added_tokens.get(self._role_text(role))

    @property
    def additional_special_tokens(self) -> list[str]:
        """What tokenizer_config.json names beside the roles; transformers 5 calls it extra_special_tokens."""
        entries = self.config.get("additional_special_tokens") or self.config.get("extra_special_tokens") or ()
        return [content_of(entry) for entry in (entries.values() if isinstance(entries, Mapping) else entries)]

    @property
    def all_special_ids(self) -> list[int]:
        return sorted(self._special_ids)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        pieces = {self._piece(index): index for index in range(self.vocab_size) if index not in self._added_by_id}
        return pieces | self.added_tokens

    @property
    def mask_token_id(self) -> int:
        return self.added_tokens["[MASK]"]

    @property
    def gmask_token_id(self) -> int:
        return self.added_tokens["[gMASK]"]

    @property
    def sop_token_id(self) -> int:
        """Start of piece: stands between [gMASK] and what the model writes, or what it reads in GLM-4."""
        return self.added_tokens["<sop>"]

    @property
    def stop_token_ids(self) -> list[int]:
        """Every id that ends an output."""
        return [self.added_tokens[token] for token in self.stop_tokens]
