"""The tokenizer of GLM-Large-Chinese and GLM-10B-Chinese: sentencepiece pieces, special tokens behind them.

Ids are those of PaddleNLP's GLMChineseTokenizer, opened with `from_pretrained`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import sentencepiece

from glm.errors import GLMError, UsageError
from glm.files import json_files
from glm.files.atomic import write_bytes
from glm.files.foreign_files import require_real
from glm.tokenizers.batch_encoding import BatchEncoding, as_lists
from glm.tokenizers.blank import generation_inputs
from glm.tokenizers.calls import TokenizerCalls
from glm.tokenizers.source import tokenizer_directory
from glm.tokenizers.special_tokens import RoleTokens, SpecialTokens, complete_added_tokens, read_added_tokens
from glm.tokenizers.token_bytes import sentencepiece_bytes
from glm.tokenizers.vocabulary_queries import VocabularyQueries

logger = logging.getLogger(__name__)

DEFAULT_SPECIAL_TOKENS: dict[str, Any] = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
    "pad_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "additional_special_tokens": [
        "[UNUSED1]",
        "[UNUSED2]",
        "<|startofpiece|>",
        "<|endofpiece|>",
        "[sMASK]",
        "[gMASK]",
    ],
}


class GLMChineseTokenizer(VocabularyQueries, RoleTokens, TokenizerCalls):
    """Sentencepiece vocabulary plus special tokens.

    Args:
        model: the serialised sentencepiece model, or the path of its file.
        added_tokens: token -> id of the tokens behind the pieces; special tokens without an entry get the next ids.
        config: contents of tokenizer_config.json; entries this class does not know are kept and written back.
        special_tokens_map: contents of special_tokens_map.json; overrides `config`.

    Raises GLMError where the model is no sentencepiece model or the ids collide.
    """

    kind = "glm-chinese"
    vocabulary_file = "cog-pretrain.model"
    truncation_side = "left"
    model_input_names = ("input_ids", "position_ids", "attention_mask")
    pad_adds = ("attention_mask",)
    chat_template = None

    def __init__(
        self,
        model: bytes | str | Path,
        added_tokens: dict[str, int] | None = None,
        config: dict[str, Any] | None = None,
        special_tokens_map: dict[str, Any] | None = None,
    ):
        self._model = model = model if isinstance(model, bytes) else _read(Path(model))
        self._config = dict(config or {})
        self.padding_side = self._config.get("padding_side", self.padding_side)
        self.truncation_side = self._config.get("truncation_side", self.truncation_side)
        self.model_max_length = int(self._config.get("model_max_length") or self.model_max_length)
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise GLMError(f"not a sentencepiece model ({len(model)} bytes)") from error
        self.special_tokens = SpecialTokens.read(DEFAULT_SPECIAL_TOKENS, self._config, special_tokens_map or {})
        self.piece_count = self._pieces.GetPieceSize()
        self.added_tokens = complete_added_tokens(added_tokens or {}, self.special_tokens, self.piece_count)
        self.special_tokens.keep_whole(self.added_tokens)
        self._added_by_id = {index: token for token, index in self.added_tokens.items()}
        self.all_special_ids = [self.convert_tokens_to_ids(token) for token in self.special_tokens.in_order]
        self._special_ids = frozenset(self.all_special_ids)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> GLMChineseTokenizer:
        """Read cog-pretrain.model and, where they exist, the JSON files beside it.

        Args:
            directory: of a model, or a preset's name.

        Raises GLMError, one line, for a missing or damaged file.
        """
        directory = tokenizer_directory(directory)
        path = directory / cls.vocabulary_file
        require_real(path)
        config = json_files.read_json(directory / json_files.CONFIG_FILE, missing={})
        try:
            return cls(
                _read(path),
                read_added_tokens(directory),
                config,
                json_files.read_json(directory / json_files.SPECIAL_TOKENS_FILE, missing={}),
            )
        except GLMError as error:
            raise GLMError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """How many pieces there are; tokens behind them do not count, as in PaddleNLP."""
        return self.piece_count

    def __len__(self) -> int:
        """Largest id + 1, special tokens included."""
        return max(self._added_by_id) + 1

    def text_ids(self, text: str, split_special_tokens: bool = False) -> list[int]:
        """See `TokenizerCalls.text_ids`; the white space beside a special token goes, as in PaddleNLP."""
        if split_special_tokens:
            return self._encode_text(text)
        ids: list[int] = []
        for part, is_special in self.special_tokens.split(text):
            ids += [self.convert_tokens_to_ids(part)] if is_special else self._encode_text(part)
        return ids

    def _encode_text(self, text: str) -> list[int]:
        return self._pieces.EncodeAsIds(_whole_characters(text))

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of a text; what the vocabulary lacks stands as it is written, as in PaddleNLP."""
        tokens: list[str] = []
        for part, is_special in self.special_tokens.split(text):
            tokens += [part] if is_special else self._pieces.EncodeAsPieces(_whole_characters(part))
        if add_special_tokens:
            return [self.cls_token, *tokens, self.eos_token]
        return tokens if pair is None else [*tokens, *self.tokenize(pair)]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens as `tokenize` gives them."""
        return self._pieces.DecodePieces(list(tokens))

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None) -> list[int]:
        """[CLS] text <|endoftext|>; a second text is left out, as in PaddleNLP, with a warning."""
        if token_ids_1:
            logger.warning("GLM (2021) reads one text: the second one of the pair is left out")
        return [self.cls_token_id, *token_ids_0, self.eos_token_id]

    def build_inputs_for_generation(
        self, model_input: BatchEncoding, max_gen_length: int = 512, targets=None, padding: bool = False
    ) -> BatchEncoding:
        """What a call gave, with the blank that the model fills: PaddleNLP's method of that name.

        Args:
            model_input: input_ids and attention_mask [B, S], arrays; each row with a mask token.
            max_gen_length: G, columns that are added.
            targets: text to write, a list of them for a batch; G is then the longest's, unless `padding` is set.

        Returns:
            numpy int64: input_ids [B, S+1], or [B, S+G] with targets; position_ids [B, 2, S+G]; attention_mask [B, 1,
            S+G, S+G], 1 = visible; with targets loss_mask and label_ids [B, S+G].

        Raises:
            UsageError: a row without mask token.
        """
        return generation_inputs(self, model_input, max_gen_length, targets, padding)

    def text_of(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`.

        Skipping drops every special token, the unknown token among them; without it they stand in the text with a
        space around. Ids the vocabulary lacks are dropped: a model's embedding is often padded beyond it. English
        punctuation is left as it is: PaddleNLP's `clean_up_tokenization_spaces=False`.
        """
        texts: list[str] = []
        run: list[int] = []
        for index in map(int, ids):
            if skip_special_tokens and index in self._special_ids:
                continue
            if index in self._added_by_id:
                texts += [*self._flush(run), self._added_by_id[index]]
            elif 0 <= index < self.piece_count:
                run.append(index)
        return " ".join([*texts, *self._flush(run)])

    def _flush(self, run: list[int]) -> list[str]:
        """The text of `run` as a list of one, none of an empty run; empties `run`."""
        text = [self._pieces.DecodeIds(run)] if run else []
        run.clear()
        return text

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """Id of one token, or ids of several. A token the vocabulary lacks gives the unknown token's id."""
        if isinstance(tokens, str):
            return self.added_tokens.get(tokens, self._pieces.PieceToId(tokens))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int], skip_special_tokens: bool = False) -> str | list[str]:
        """The token of one id, or tokens of several. Raises GLMError for an id outside the vocabulary."""
        if not isinstance(ids, Integral):
            kept = (i for i in as_lists(ids) if not (skip_special_tokens and i in self._special_ids))
            return [self.convert_ids_to_tokens(index) for index in kept]
        if ids in self._added_by_id:
            return self._added_by_id[ids]
        if not 0 <= ids < self.piece_count:
            raise GLMError(f"token id {ids} is outside the vocabulary of {len(self)}; use the model's tokenizer.")
        return self._pieces.IdToPiece(int(ids))

    def _piece_bytes(self, index: int) -> bytes:
        return sentencepiece_bytes(self._pieces, index)

    def _unfaithful_ids(self) -> Iterable[int]:
        """Added tokens: text has blanks around them."""
        return self._added_by_id

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the four files PaddleNLP writes; each appears whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_bytes(directory / self.vocabulary_file, self._model)
        special = self.special_tokens.json()
        _write_compact(directory / json_files.SPECIAL_TOKENS_FILE, special)
        _write_compact(directory / json_files.ADDED_TOKENS_FILE, self.added_tokens)
        details = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
        decoder = {str(index): {"content": token, **details} for token, index in self.added_tokens.items()}
        own = {**special, "added_tokens_decoder": decoder, "tokenizer_class": type(self).__name__}
        _write_compact(directory / json_files.CONFIG_FILE, {**self._config, **own})

    def _role_text(self, role: str) -> str | None:
        return self.special_tokens.roles.get(role)

    def _role_id(self, role: str) -> int | None:
        token = self._role_text(role)
        return None if token is None else self.convert_tokens_to_ids(token)

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a role."""
        return self.special_tokens.additional

    @property
    def all_special_tokens(self) -> list[str]:
        return self.special_tokens.in_order

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return {self._pieces.IdToPiece(i): i for i in range(self.piece_count)} | self.added_tokens

    def apply_chat_template(self, conversation, *args, **options):
        """Raises UsageError: GLM (2021) was trained on no conversations."""
        raise UsageError("a GLM (2021) model holds no conversations: pass texts, with [gMASK] where the answer goes")

    @property
    def smask_token_id(self) -> int:
        return self.convert_tokens_to_ids("[sMASK]")

    @property
    def gmask_token_id(self) -> int:
        return self.convert_tokens_to_ids("[gMASK]")

    @property
    def sop_token_id(self) -> int:
        """Start of piece: the first input token of a target."""
        return self.convert_tokens_to_ids("<|startofpiece|>")

    @property
    def eop_token_id(self) -> int:
        """End of piece: where a generated answer stops."""
        return self.convert_tokens_to_ids("<|endofpiece|>")

    @property
    def stop_token_ids(self) -> list[int]:
        """Every id that ends an output."""
        return [self.eop_token_id, self.eos_token_id]

    @property
    def mask_token_ids(self) -> list[int]:
        """[MASK], [sMASK], [gMASK]: the first of them in a source marks the position a target answers for."""
        return [self.mask_token_id, self.smask_token_id, self.gmask_token_id]


def _whole_characters(text: str) -> str:
    """Surrogates (JSON's "\\ud83d") have no UTF-8 form: pairs become their character, a lone one becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error.strerror}); copy the vocabulary file there.") from error


def _write_compact(path: Path, content: dict) -> None:
    """The bytes that PaddleNLP writes."""
    write_bytes(path, json.dumps(content, ensure_ascii=False).encode())
