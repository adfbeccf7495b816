"""The tokenizers of GLM-4-9B (`tokenizer.model`, tiktoken ranks), GLM-4-0414 and GLM-4.5 (`tokenizer.json`).

All are byte-pair encodings of UTF-8 bytes: 151,329 pieces, or 154,820 from GLM-4.7-Flash on, then the special tokens
from <|endoftext|> on. What an id means, the files say. Every text decodes to itself.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import tokenizers

from glm.errors import GLMError
from glm.files.json_files import CONFIG_FILE
from glm.tokenizers.added_tokens import AddedToken, check_added_tokens, read_added_tokens
from glm.tokenizers.base import Tokenizer
from glm.tokenizers.byte_pairs import BytePairs, no_panic
from glm.tokenizers.character_classes import Found, tiktoken_found, tokenizers_found
from glm.tokenizers.glm45_templates import GLM45_TEMPLATE, GLM47_TEMPLATE
from glm.tokenizers.kept_files import KeptFiles
from glm.tokenizers.token_bytes import byte_level_bytes

# In the order of their ids.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
# Behind them in GLM-4.5's vocabulary and those after it, in the order of their ids.
GLM45_TOKENS = (
    "<|begin_of_audio|>",
    "<|end_of_audio|>",
    "<|begin_of_transcription|>",
    "<|end_of_transcription|>",
    "<|code_prefix|>",
    "<|code_middle|>",
    "<|code_suffix|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "/nothink",
    "<|begin_of_box|>",
    "<|end_of_box|>",
    "<|image|>",
    "<|video|>",
)
# Those of them that stand in texts: answers hold them, and questions may.
MARKUP = GLM45_TOKENS[7:18]
_PIECES_OF_GLM45 = 151_329  # of its vocabulary; those after it have more

_CONFIG = {
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "padding_side": "left",
    "model_max_length": 128000,
    "clean_up_tokenization_spaces": False,
}


class BytePairTokenizer(Tokenizer):
    """What both files have in common.

    Attributes:
        characters_found: what its library takes for letters, numbers and white space (character_classes.py).
        json_content: what tokenizer.json says, None for ranks.
        takes_whole_words: whether a word that is a piece is taken whole, whatever its merges are.
    """

    characters_found: ClassVar[Found]
    json_content: Mapping[str, Any] | None = None
    takes_whole_words = True

    prefix = ("[gMASK]", "<sop>")
    # The model ends its turn by naming whose turn it is.
    stop_tokens = ("<|endoftext|>", "<|user|>", "<|observation|>")


class GLM4Tokenizer(BytePairTokenizer):
    """GLM-4-9B, -chat and -chat-1m: one base64 token and its rank per line.

    Raises GLMError where the vocabulary file is no such list, or its ids collide with those of tokenizer_config.json.
    """

    kind = "glm4"
    characters_found = staticmethod(tiktoken_found)
    vocabulary_file = "tokenizer.model"
    default_config = {"tokenizer_class": "ChatGLM4Tokenizer", **_CONFIG}  # noqa: RUF012
    model_input_names = ("input_ids", "attention_mask", "position_ids")

    def __init__(self, files: KeptFiles | str | Path, **config):
        super().__init__(files, **config)
        self._ranks = read_ranks(self._files.contents[self.vocabulary_file])
        added = read_added_tokens(self.config)
        if not added:
            added = [AddedToken(text, self.vocab_size + i) for i, text in enumerate(SPECIAL_TOKENS)]
            decoder = {str(token.id): _json(token) for token in added}
            self.config |= {"added_tokens_decoder": decoder, "additional_special_tokens": list(SPECIAL_TOKENS)}
        check_added_tokens(added, self.vocab_size)
        self._encoding = BytePairs(self._ranks)
        self._finish(added)

    @property
    def vocab_size(self) -> int:
        return len(self._ranks)

    def _encode_text(self, text: str) -> list[int]:
        return self._encoding.encode(text)

    def _decode_run(self, ids: list[int]) -> str:
        return self._encoding.decode_bytes(ids).decode("utf-8", "replace")

    def _piece_id(self, piece: str) -> int | None:
        return self._ranks.get(piece.encode("utf-8", "surrogatepass"))

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The tokens as one text; they are texts already."""
        return "".join(tokens)

    def _piece(self, index: int) -> str:
        """The piece's text; U+FFFD where it is a part of a character."""
        return self._decode_run([index])

    def _piece_bytes(self, index: int) -> bytes:
        return self._encoding.decode_bytes([index])


class GLM4JsonTokenizer(BytePairTokenizer):
    """GLM-4-0414, and the -hf directories of GLM-4-9B: everything in tokenizer.json.

    Class attributes:
        markup: tokens that are part of texts, whatever the file calls special.

    Raises GLMError where tokenizer.json cannot be read, or disagrees with tokenizer_config.json on an id.
    """

    kind = "glm4-0414"
    characters_found = staticmethod(tokenizers_found)
    markup: ClassVar[tuple[str, ...]] = ()
    vocabulary_file = "tokenizer.json"
    default_config = {"tokenizer_class": "PreTrainedTokenizerFast", **_CONFIG}  # noqa: RUF012

    def __init__(self, files: KeptFiles | str | Path, **config):
        super().__init__(files, **config)
        content = self._files.contents[self.vocabulary_file]
        try:
            self._library = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())
            raise GLMError(f"not a tokenizer of the library tokenizers ({reason}, {len(content)} bytes)") from error
        # Added tokens are cut out before the library sees a text, so what looks like one inside a part is text.
        self._library.encode_special_tokens = True
        decoder = self._library.get_added_tokens_decoder()
        added = [AddedToken(t.content, i, t.special, t.lstrip, t.rstrip) for i, t in sorted(decoder.items())]
        self._check_config({token.id: token.text for token in added})
        self._finish([replace(token, special=token.special and token.text not in self.markup) for token in added])
        self._frames = [self._frame_of("a"), self._frame_of("a", "a")]

    def _frame_of(self, *texts: str) -> list[list[int]]:
        """What the file's own post-processor puts before, between and after texts; nothing in most files."""
        one, whole = self._library.encode("a", add_special_tokens=False).ids, self._library.encode(*texts).ids
        frames, start = [], 0
        for _ in texts:
            place = next(i for i in range(start, len(whole)) if whole[i : i + len(one)] == one)
            frames.append(whole[start:place])
            start = place + len(one)
        return [*frames, whole[start:]]

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None) -> list[int]:
        """What tokenizer.json's post-processor says; most files leave [gMASK] <sop> to the chat template."""
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        start, *rest = self._frames[len(texts) - 1]
        return [*start, *(index for pair in zip(texts, rest, strict=True) for ids in pair for index in ids)]

    def _cut(self, parts: list[list[int]], room: int, cut: str) -> list[list[int]]:
        """As the library does: two texts that are both too long get half the room each, the longer the odd token."""
        if cut != "longest_first" or len(parts) < 2 or sum(map(len, parts)) <= room:
            return super()._cut(parts, room, cut)
        shorter = min(map(len, parts))
        shorter = shorter if 2 * shorter <= room else room // 2
        sizes = [room - shorter, shorter] if len(parts[0]) > len(parts[1]) else [shorter, room - shorter]
        left = self.truncation_side == "left"
        return [p[len(p) - size :] if left else p[:size] for p, size in zip(parts, sizes, strict=True)]

    def _check_config(self, added: dict[int, str]) -> None:
        for token in read_added_tokens(self._files.config):
            if added.get(token.id) != token.text:
                raise GLMError(
                    f"{CONFIG_FILE} gives the id {token.id} to {token.text}, {self.vocabulary_file} to "
                    f"{added.get(token.id)}; take both files from one checkpoint."
                )

    @property
    def json_content(self) -> Mapping[str, Any]:
        return json.loads(self._files.contents[self.vocabulary_file])

    @property
    def takes_whole_words(self) -> bool:
        return bool(self.json_content["model"].get("ignore_merges"))

    @property
    def vocab_size(self) -> int:
        return self._library.get_vocab_size(with_added_tokens=False)

    def _encode_text(self, text: str) -> list[int]:
        with no_panic(text):
            return self._library.encode(text, add_special_tokens=False).ids

    def _decode_run(self, ids: list[int]) -> str:
        return self._library.decode(ids, skip_special_tokens=False) if ids else ""

    def _piece_id(self, piece: str) -> int | None:
        return self._library.token_to_id(piece)

    def _piece(self, index: int) -> str:
        return self._library.id_to_token(index)

    def _piece_bytes(self, index: int) -> bytes:
        return byte_level_bytes(self._piece(index))


class GLM45Tokenizer(GLM4JsonTokenizer):
    """GLM-4.5, 4.6, 4.7 and 4.7-Flash: a tokenizer.json with tokens for thoughts and for calls of tools."""

    kind = "glm45"
    markup = MARKUP

    def _finish(self, added: Sequence[AddedToken]) -> None:
        super()._finish(added)
        if missing := [token for token in self.markup if token not in self.added_tokens]:
            raise GLMError(
                f"the vocabulary has <arg_key> and lacks {', '.join(missing)}: copy {self.vocabulary_file} again"
            )

    @property
    def default_template(self) -> str:
        """That of GLM-4.5 and 4.6, or of those after them; GLM-4.7, which has the older vocabulary, brings its own."""
        return GLM45_TEMPLATE if self.vocab_size == _PIECES_OF_GLM45 else GLM47_TEMPLATE


def read_ranks(content: bytes) -> dict[bytes, int]:
    """Piece -> rank of a tiktoken vocabulary. Raises GLMError, naming the line, where it is damaged."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        piece, rank = _read_rank(line)
        if rank != number - 1 or piece in ranks:
            raise GLMError(
                f"not a list of tiktoken ranks: line {number} is not a new base64 token and the rank {number - 1} "
                f"({len(content)} bytes); ChatGLM2 and ChatGLM3, whose file has the same name, have other classes: "
                "open the directory with GLMTokenizer."
            )
        ranks[piece] = rank
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        raise GLMError(f"{missing} of the 256 single bytes have no rank ({len(content)} bytes); copy the file again.")
    return ranks


def _read_rank(line: bytes) -> tuple[bytes, int]:
    """(piece, rank) of a line, rank -1 where it has none."""
    fields = line.split()
    try:
        piece, rank = fields
        return base64.b64decode(piece, validate=True), int(rank)
    except (ValueError, binascii.Error):
        return b"", -1


def _json(token: AddedToken) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": token.text} | flags
