"""What the tokenizers of ChatGLM-6B, GLM-4-9B and GLM-4-0414 share; each adds how plain text becomes ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

from glm.errors import GLMError
from glm.tokenizers.added_tokens import AddedToken, Splitter
from glm.tokenizers.chat_template import ChatTemplate
from glm.tokenizers.files import CONFIG_FILE
from glm.tokenizers.kept_files import KeptFiles
from glm.tokenizers.special_tokens import ROLES, content_of


class Tokenizer(ABC):
    """Pieces of a vocabulary, added tokens that are never cut, and the files both came from.

    Class attributes, which make a generation:
        kind: key of `glm.chat.CHAT_FORMATS`.
        vocabulary_file: its name in a model directory.
        default_config: tokenizer_config.json where the directory has none, or lacks the entry.
        prefix, suffix: tokens around a prompt.
        stop_tokens: tokens that end a generation.
    """

    kind: ClassVar[str]
    vocabulary_file: ClassVar[str]
    default_config: ClassVar[Mapping[str, Any]]
    prefix: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[tuple[str, ...]] = ()
    stop_tokens: ClassVar[tuple[str, ...]]

    def __init__(self, files: KeptFiles):
        self._files = files
        self.config = {**self.default_config, **files.config}
        self.added_tokens: dict[str, int] = {}
        self._templates: dict[str, ChatTemplate] = {}

    def _finish(self, added: Sequence[AddedToken]) -> None:
        """Called at the end of a subclass's __init__, when the vocabulary is there."""
        self.added_tokens = {token.text: token.id for token in added}
        self._added_by_id = {token.id: token.text for token in added}
        self._splitter = Splitter(added)
        self._special_ids = self._find_special_ids(added)
        needed = {*self.prefix, *self.suffix, *self.stop_tokens, self._role("pad_token"), self._role("eos_token")}
        missing = sorted(token for token in needed if token not in self.added_tokens)
        if missing:
            raise GLMError(f"the vocabulary lacks {', '.join(missing)}, so it is not that of a {self.kind} model")
        self._templates = {name: ChatTemplate.of(text) for name, text in self._files.chat_templates().items()}

    def _find_special_ids(self, added: Sequence[AddedToken]) -> frozenset[int]:
        return frozenset(token.id for token in added if token.special)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Tokenizer:
        """Reads the vocabulary file and what stands beside it; nothing in the directory is run.

        Raises GLMError, one line, for a missing or damaged file.
        """
        directory = Path(directory)
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

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """How many pieces there are; tokens that were added behind them do not count."""

    def __len__(self) -> int:
        """Largest id + 1, added tokens included."""
        return max(self.vocab_size, *(index + 1 for index in self.added_tokens.values()))

    def encode(self, text: str, split_special_tokens: bool = False) -> list[int]:
        """Ids of `text`; none are put around it (`build_inputs` does).

        An added token written in the text becomes that token. With `split_special_tokens` it is text like any other:
        use it for what a user typed.
        """
        # Surrogates (JSON's "\ud83d") have no UTF-8 form: pairs become their character, a lone one becomes U+FFFD.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if split_special_tokens:
            return self._encode_text(text)
        ids: list[int] = []
        for part in self._splitter.split(text):
            ids += [part.id] if isinstance(part, AddedToken) else self._encode_text(part)
        return ids

    def build_inputs(self, ids: Sequence[int]) -> list[int]:
        """A prompt's ids with the tokens that every prompt of this model has around it."""
        return [*map(self.added_tokens.get, self.prefix), *ids, *map(self.added_tokens.get, self.suffix)]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`. Ids the vocabulary lacks are dropped: a model's embedding is often padded beyond it."""
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

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | list[str]:
        """The token of one id, or tokens of several. Raises GLMError for an id outside the vocabulary."""
        if not isinstance(ids, Integral):
            return [self.convert_ids_to_tokens(index) for index in ids]
        if ids in self._added_by_id:
            return self._added_by_id[ids]
        if not 0 <= ids < self.vocab_size:
            raise GLMError(f"token id {ids} is outside the vocabulary of {len(self)}; use the model's tokenizer.")
        return self._piece(int(ids))

    def chat_template(self, tools: bool = False, default: str = "") -> ChatTemplate:
        """The directory's template; one named "tool_use" where there are tools, as in transformers.

        Raises GLMError where the directory has none and `default` is empty.
        """
        named = self._templates.get("tool_use") if tools else None
        found = named or self._templates.get("default")
        if found or default:
            return found or ChatTemplate.of(default)
        known = f"only those named {', '.join(self._templates)}" if self._templates else "none"
        raise GLMError(f"the tokenizer has no default chat template ({known}); copy chat_template.jinja beside it.")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        default: str = "",
        **variables,
    ) -> list[int] | str:
        """Ids or text of a conversation as the directory's template writes it.

        A special token spelt inside a message is text, not that token: nobody can end a turn by typing `<|user|>`.

        Args:
            default: the template where the directory has none.
        """
        template = self.chat_template(bool(tools), default)
        marked = self.marked_chat(template, messages, tools, add_generation_prompt, **variables)
        return self.encode(marked) if tokenize else self._splitter.unmark(marked)

    def marked_chat(
        self,
        template: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables,
    ) -> str:
        """A conversation's text in which special tokens that a message spells are marked; `encode` takes the marks."""
        variables = {**self.role_tokens, **variables}
        return template.render(messages, tools, add_generation_prompt, self._splitter.mark, **variables)

    def marked(self, text: str) -> str:
        """A user's text as `marked_chat` has it."""
        return self._splitter.mark(text)

    @property
    def role_tokens(self) -> dict[str, str]:
        """Role -> token, `eos_token` for example: what a chat template may name."""
        return {role: content_of(self.config[role]) for role in ROLES if self.config.get(role)}

    def _role(self, role: str) -> str | None:
        return self.role_tokens.get(role)

    def _role_id(self, role: str) -> int | None:
        return self.added_tokens.get(self._role(role))

    @property
    def all_special_ids(self) -> list[int]:
        return sorted(self._special_ids)

    @property
    def pad_token_id(self) -> int:
        return self._role_id("pad_token")

    @property
    def eos_token_id(self) -> int:
        return self._role_id("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        """None for vocabularies of bytes, to which no text is unknown."""
        return self._role_id("unk_token")

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
        """Every id that ends a generation."""
        return [self.added_tokens[token] for token in self.stop_tokens]
