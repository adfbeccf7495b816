"""Texts and conversations as token ids: one processor per kind of model. Imports neither paddle nor paddlenlp.

GLM's layout of a generation task (arXiv:2103.10360, 2.1; the numbers of PaddleNLP's example suite):

    column   0      1 … n     n+1        n+2              n+3         …
    input  [CLS]    text    [gMASK]  <|endoftext|>  <|startofpiece|>  target …
    row 0    0      1 … n     n+1        n+2        position of [gMASK], repeated
    row 1    0      0 …                             1, 2, 3 …
    label   none                                    target … <|endofpiece|>

Conversations are in glm/encoding/chat_processor.py, their layouts in chat_formats.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glm.encoding.base import Processor
from glm.encoding.batches import BlockPositions
from glm.encoding.chat_formats import CHAT_FORMATS
from glm.encoding.chat_processor import ChatProcessor
from glm.encoding.defaults import GLM_2021
from glm.encoding.examples import EMPTY_ANSWERS, NO_PLACE_FOR_THOUGHTS, Example, TrainingExample
from glm.errors import UsageError
from glm.generation.config_json import NO_FILE, GenerationFile
from glm.tokenizers import GLMTokenizer

__all__ = ["PROCESSORS", "ChatProcessor", "GLMProcessor", "Processor", "open_processor", "processor_of"]


class GLMProcessor(Processor):
    """Encodes pairs of texts for GLM (2021).

    Args:
        tokenizer: a `GLMChineseTokenizer`.
        src_length: S, most source tokens, [CLS], [gMASK] and the end token included.
        tgt_length: T, most target tokens, the end-of-piece included, plus one as in the reference: a text keeps T - 2.
        no_block_position: Target tokens continue counting positions in the text instead of inside the blank.
    """

    defaults = GLM_2021
    cuts = {"source": "their beginning is lost", "target": "their end is lost"}  # noqa: RUF012

    def __init__(
        self,
        tokenizer,
        src_length: int = 608,
        tgt_length: int = 160,
        no_block_position: bool = False,
        plain: bool = False,
        generation: GenerationFile = NO_FILE,
    ):
        if src_length < 4:
            raise UsageError(f"src_length is {src_length}; three tokens of frame and some text need at least 4")
        if tgt_length < 3:
            raise UsageError(f"tgt_length is {tgt_length}; some text and the end token need at least 3")
        if plain:
            raise UsageError("GLM (2021) has no chat template, so its prompts are always plain text: leave out --plain")
        super().__init__(tokenizer, src_length, tgt_length, generation)
        self.positions = BlockPositions(tokenizer.mask_token_ids, not no_block_position)

    def rows(self, example: Example) -> list[TrainingExample]:
        if example.has_thoughts:
            self.counts[NO_PLACE_FOR_THOUGHTS] += 1
        if not example.target.strip():
            self.counts[EMPTY_ANSWERS] += 1
            return []
        counted = sum(self.truncated.values())
        row = self.row(self.source(example.source), self.target(example.target))
        return [replace(row, cut=sum(self.truncated.values()) > counted)]

    def prompt(self, example: Example) -> list[int]:
        counted = dict(self.truncated)
        ids = self.text_prompt(example.source)
        self.truncated = counted  # `rows` counts this source
        return ids

    def text_prompt(self, text: str) -> list[int]:
        return [*self.source(text), self.tokenizer.sop_token_id]

    def reference(self, example: Example) -> str:
        return self.decode(self.tokenizer.text_ids(example.target))

    def source(self, text: str) -> list[int]:
        """[CLS] text [gMASK] <|endoftext|>; a long text loses its beginning, as the reference truncates left."""
        ids = self.tokenizer.text_ids(text)
        room = self.src_length - 3
        if room < 1:
            raise UsageError(f"src_length {self.src_length} has no room beside 3 special tokens: use 4 or more")
        self.truncated["source"] += len(ids) > room
        ids = ids[-room:]
        return [self.tokenizer.cls_token_id, *ids, self.tokenizer.gmask_token_id, self.tokenizer.eos_token_id]

    def target(self, text: str) -> list[int]:
        """text <|endofpiece|>; a long text loses its end."""
        ids = self.tokenizer.text_ids(text)
        room = self.tgt_length - 2
        self.truncated["target"] += len(ids) > room
        return [*ids[:room], self.tokenizer.eop_token_id]

    def row(self, source: list[int], target: list[int]) -> TrainingExample:
        """An encoded source, the start-of-piece, and an encoded target, which is trained."""
        before = [*source, self.tokenizer.sop_token_id]
        trained = [False] * len(before) + [True] * len(target)
        return TrainingExample([*before, *target], trained, prefix_length=len(source))


# Tokenizer kind → its processor.
PROCESSORS: dict[str, type[Processor]] = {"glm-chinese": GLMProcessor, **dict.fromkeys(CHAT_FORMATS, ChatProcessor)}


def open_processor(directory: str | Path, lengths: Sequence[int | None] = (None, None), **options) -> Processor:
    """The processor of a model directory.

    Args:
        lengths: src_length and tgt_length. None leaves one open: it is what the kind of model says, or for tgt_length
            generation_config.json's max_new_tokens, as far as the model's positions go (`check_fits`).
        options: of the class, `no_block_position` or `plain`.

    Raises:
        GLMError: missing or damaged tokenizer files, or an option that this kind of model does not have.
    """
    return processor_of(GLMTokenizer.from_pretrained(directory), GenerationFile.read(directory), lengths, **options)


def processor_of(
    tokenizer, generation: GenerationFile = NO_FILE, lengths: Sequence[int | None] = (None, None), **options
) -> Processor:
    """The processor of the model that a tokenizer belongs to; arguments as in `open_processor`."""
    cls = PROCESSORS[tokenizer.kind]
    src_length, tgt_length = cls.defaults.answer_lengths
    defaults = {"src_length": src_length, "tgt_length": generation.max_new_tokens or tgt_length}
    given = {name: length for name, length in zip(defaults, lengths, strict=True) if length is not None}
    processor = cls(tokenizer, **defaults | given, generation=generation, **options)
    processor.unset_lengths = frozenset(defaults) - set(given)
    return processor
