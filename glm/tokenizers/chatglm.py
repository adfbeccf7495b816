"""The tokenizer of ChatGLM-6B: sentencepiece `ice_text.model`, with pieces for line ends, tabs and runs of spaces.

Special tokens are control pieces of the vocabulary itself: [MASK] 130000, [gMASK] 130001, <sop> 130004, <eop> 130005
and <pad> 3 among 130,344 pieces. The model's embedding has 130,528 rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from glm.errors import GLMError
from glm.files.json_files import CONFIG_FILE
from glm.tokenizers.added_tokens import AddedToken
from glm.tokenizers.kept_files import KeptFiles
from glm.tokenizers.sentence_pieces import SentencePieceTokenizer

LINE_END, TAB = "<n>", "<|tab|>"
LONGEST_BLANK = 80
# What a text's own layout is written as before it is cut into pieces. A single space is no blank piece.
LAYOUT = {"\n": LINE_END, "\t": TAB} | {" " * n: f"<|blank_{n}|>" for n in range(2, LONGEST_BLANK + 1)}
# A first question as it is, later ones with the rounds before them; of a conversation that ends with an answer, all.
ROUND_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role != ('user', 'assistant')[loop.index0 % 2] %}"
    "{{ raise_exception('message ' ~ loop.index ~ ' is the ' ~ message.role ~ \"'s; user and assistant take turns in "
    'this model") }}{% endif %}'
    "{% if message.content is not string %}"
    "{{ raise_exception('the content of message ' ~ loop.index ~ ' is not a text: give it as one') }}{% endif %}"
    "{% if message.role == 'assistant' %}{{ message.content }}{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% elif messages | length == 1 %}{{ message.content }}"
    "{% else %}[Round {{ loop.index0 // 2 }}]{{ '\\n' }}问：{{ message.content }}{{ '\\n' }}答：{% endif %}"
    "{% endfor %}"
    "{% if tools %}{{ raise_exception('this model calls no tools; leave tools out') }}{% endif %}"
    "{% if add_generation_prompt and messages[-1].role == 'assistant' %}"
    "{{ raise_exception(\"the last message is the assistant's; end with the user's question\") }}{% endif %}"
)
_LAYOUT = re.compile(f"\n|\t| {{2,{LONGEST_BLANK}}}")


class ChatGLMTokenizer(SentencePieceTokenizer):
    """ChatGLM-6B's vocabulary.

    Raises GLMError where the vocabulary file is no sentencepiece model, lacks a special token, or tokenizer_config.json
    belongs to a revision with other ids.
    """

    kind = "chatglm"
    vocabulary_file = "ice_text.model"
    default_config = {  # noqa: RUF012
        "tokenizer_class": "ChatGLMTokenizer",
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "[MASK]",
        "gmask_token": "[gMASK]",
        "padding_side": "left",
        "do_lower_case": False,
        "remove_space": False,
        "num_image_tokens": 0,
    }
    suffix = ("[gMASK]", "<sop>")
    stop_tokens = ("<eop>",)
    model_input_names = ("input_ids", "attention_mask", "position_ids")
    decode_skips = True
    default_template = ROUND_TEMPLATE
    frames_prompt = True
    # tokenizer_config.json entries of which one value is implemented: the one every current file has.
    _fixed = ("do_lower_case", "remove_space", "num_image_tokens")

    def __init__(self, files: KeptFiles | str | Path, **config):
        super().__init__(files, **config)
        for name in self._fixed:
            if self.config[name] != self.default_config[name]:
                raise GLMError(
                    f"{CONFIG_FILE} sets {name} to {self.config[name]}, and only {self.default_config[name]} is "
                    "supported; take tokenizer and weights from the model's current revision."
                )
        self._layout_ids = {self._pieces.PieceToId(piece): text for text, piece in LAYOUT.items()}
        if self._pieces.unk_id() in self._layout_ids:
            raise GLMError(f"the vocabulary lacks {LINE_END}, {TAB} or a blank piece, so it is not ChatGLM-6B's")
        self._finish(self._control_pieces())

    def _control_pieces(self) -> list[AddedToken]:
        """The control pieces and the unknown one that a text may spell.

        <s> and </s> are HTML tags as well, and no input of the model: in a text they are text.
        """
        pieces = self._pieces
        ids = (i for i in range(self.vocab_size) if pieces.IsControl(i) or pieces.IsUnknown(i))
        return [AddedToken(pieces.IdToPiece(i), i) for i in ids if pieces.IdToPiece(i) not in ("<s>", "</s>")]

    def _written_tokens(self, added: Sequence[AddedToken]) -> Sequence[AddedToken]:
        """<sop>, <eop>, <unk>, <pad> and [MASK], which have a role: only they are tokens in its own code's texts."""
        return [token for token in added if token.text in self.role_tokens.values()]

    def _find_special_ids(self, added: Sequence[AddedToken]) -> frozenset[int]:
        return super()._find_special_ids(added) | {self._pieces.bos_id(), self._pieces.eos_id()}

    def _encode_text(self, text: str) -> list[int]:
        return super()._encode_text(_LAYOUT.sub(lambda match: LAYOUT[match[0]], text))

    def _decode_run(self, ids: list[int]) -> str:
        """Layout pieces become layout again; what a user spelt as `<n>` comes back as a line end."""
        text = super()._decode_run(ids)
        for piece in {index for index in ids if index in self._layout_ids}:
            text = text.replace(self._pieces.IdToPiece(piece), self._layout_ids[piece])
        return text

    def _piece_bytes(self, index: int) -> bytes:
        layout = self._layout_ids.get(index)
        return super()._piece_bytes(index) if layout is None else layout.encode()

    def _unfaithful_ids(self) -> Iterable[int]:
        """Layout pieces: beside one of them, what a text spells like it becomes layout as well."""
        return self._layout_ids

    @property
    def eop_token_id(self) -> int:
        """End of piece: where a generated answer stops."""
        return self.added_tokens["<eop>"]

    @property
    def mask_token_ids(self) -> list[int]:
        """[gMASK], [MASK]: the first that a source has, in this order, marks the position a target answers for."""
        return [self.gmask_token_id, self.mask_token_id]

    def _gives(self, name: str, bounded: bool) -> bool:
        """Its own code makes mask and positions where it pads or cuts."""
        return bounded and super()._gives(name, bounded)

    def _context(self, ids: list[int]) -> int:
        """How many ids all see each other: those before <sop>."""
        return ids.index(self.sop_token_id) if self.sop_token_id in ids else len(ids)

    def _attention_mask(self, ids: list[int]) -> np.ndarray:
        """[1, T, T], 1 = visible, as in PaddleNLP."""
        mask = np.tril(np.ones([1, len(ids), len(ids)], dtype="int64"))
        mask[:, :, : self._context(ids)] = 1
        return mask

    def _position_ids(self, ids: list[int]) -> np.ndarray:
        """[2, T]: the place in the text, and the one inside the blank."""
        context, positions = self._context(ids), np.zeros([2, len(ids)], dtype="int64")
        positions[0] = np.arange(len(ids))
        masks = [ids.index(token) for token in self.mask_token_ids if token in ids]
        positions[0, context:] = masks[0] if masks else positions[0, context:]
        positions[1, context:] = np.arange(1, len(ids) - context + 1)
        return positions
