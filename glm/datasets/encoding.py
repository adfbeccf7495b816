"""Texts and conversations as token ids: one encoder a kind of model. Imports neither paddle nor paddlenlp.

GLM's layout of a generation task (arXiv:2103.10360, 2.1; the numbers of PaddleNLP's example suite):

    column   0      1 … n     n+1        n+2              n+3         …
    input  [CLS]    text    [gMASK]  <|endoftext|>  <|startofpiece|>  target …
    row 0    0      1 … n     n+1        n+2        position of [gMASK], repeated
    row 1    0      0 …                             1, 2, 3 …
    label   none                                    target … <|endofpiece|>

The layouts of conversations are in glm/chat.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from glm.chat import CHAT_FORMATS, Message, Tools, chat_format
from glm.datasets.batches import Batch, BlockPositions, Positions, TextPositions, prompt_batch, training_batch
from glm.datasets.prompts import Example
from glm.errors import GLMError, UsageError
from glm.generation_file import GenerationFile
from glm.rows import TrainingRow
from glm.tokenizers import GLMTokenizer

NO_FILE = GenerationFile()


class Encoder(ABC):
    """The text side of a model: what training and generation need of texts.

    Args:
        tokenizer: of the model.
        src_length, tgt_length: most tokens of what is read and of what is written; see the subclasses.
        generation: how the model's authors want it to generate.

    Attributes:
        truncated: how many sources and targets were cut so far.
        answer_lengths: `src_length` and `tgt_length` of prediction, unless the user gives others.
        gnmt_length: of `GenerationConfig`, as the model's reference implementation has it.
        lost: what a source that is too long is without.
        evaluation, label_smoothing: options of `GenerationConfig` in evaluation, and share of the target probability
            that is spread over the vocabulary in training, unless the user gives others.
    """

    answer_lengths: ClassVar[tuple[int, int]]
    gnmt_length: ClassVar[bool]
    lost: ClassVar[str]
    evaluation: ClassVar[dict[str, float]]
    label_smoothing: ClassVar[float]
    positions: Positions

    def __init__(self, tokenizer, src_length: int, tgt_length: int, generation: GenerationFile):
        self.tokenizer, self.src_length, self.tgt_length = tokenizer, src_length, tgt_length
        self.generation = generation
        self.truncated = {"source": 0, "target": 0}

    @abstractmethod
    def rows(self, example: Example) -> list[TrainingRow]:
        """What is trained of an example."""

    @abstractmethod
    def prompt(self, example: Example) -> list[int]:
        """Ids after which the model writes the example's answer."""

    @abstractmethod
    def text_prompt(self, text: str) -> list[int]:
        """Ids after which the model writes what follows from a text that a user gave."""

    @abstractmethod
    def reference(self, example: Example) -> str:
        """The answer as the tokenizer can write it: nothing else is asked of the model."""

    @abstractmethod
    def answer(self, ids: Sequence[int]) -> str:
        """The text a user sees of generated ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, as it was written."""
        return self.tokenizer.decode(ids).strip()

    @property
    def stop_token_ids(self) -> list[int]:
        """What ends a text: the tokenizer's, and those that generation_config.json names besides."""
        return list(dict.fromkeys([*self.tokenizer.stop_token_ids, *self.generation.eos_token_ids]))

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the tokenizer's files, and generation_config.json where the model had one."""
        self.tokenizer.save_pretrained(directory)
        self.generation.save(directory)

    def check_fits(self, vocab_size: int, max_position: int) -> None:
        """Raises GLMError where the vocabulary or the lengths do not fit a model."""
        if len(self.tokenizer) > vocab_size:
            raise GLMError(
                f"the tokenizer has {len(self.tokenizer):,} tokens and the model's vocabulary {vocab_size:,} rows: "
                "take both from the same directory"
            )
        longest = self.positions.longest(self.src_length, self.tgt_length)
        if longest > max_position:
            raise UsageError(
                f"src_length {self.src_length} and tgt_length {self.tgt_length} need position {longest}, and the model "
                f"ends at {max_position}: choose shorter ones"
            )

    def training_batch(self, rows: Sequence[TrainingRow]) -> Batch:
        """Inputs of `GLMForCausalLM.forward`, labels included."""
        return training_batch(rows, self.positions, self.tokenizer.pad_token_id)

    def prompt_batch(self, prompts: Sequence[Sequence[int]]) -> Batch:
        """Encoded prompts as the fields of `glm.generation.Prompt`."""
        return prompt_batch(prompts, self.positions, self.tokenizer.pad_token_id)


class GLMEncoder(Encoder):
    """Encodes pairs of texts for GLM (2021).

    Args:
        tokenizer: a `GLMChineseTokenizer`.
        src_length: S, most source tokens, [CLS], [gMASK] and the end token included.
        tgt_length: T, most target tokens, the end-of-piece included, plus one as in the reference: a text keeps T - 2.
        no_block_position: target tokens go on counting positions in the text instead of inside the blank.
    """

    answer_lengths = (200, 20)
    gnmt_length = True
    lost = "their beginning"
    evaluation = {"min_length": 55, "num_beams": 5, "length_penalty": 0.7, "no_repeat_ngram_size": 3}  # noqa: RUF012
    label_smoothing = 0.1

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

    def rows(self, example: Example) -> list[TrainingRow]:
        return [self.row(self.source(example.source), self.target(example.target))]

    def prompt(self, example: Example) -> list[int]:
        return self.text_prompt(example.source)

    def text_prompt(self, text: str) -> list[int]:
        return [*self.source(text), self.tokenizer.sop_token_id]

    def reference(self, example: Example) -> str:
        return self.decode(self.tokenizer.encode(example.target))

    def answer(self, ids: Sequence[int]) -> str:
        return self.decode(ids)

    def source(self, text: str) -> list[int]:
        """[CLS] text [gMASK] <|endoftext|>; a long text loses its beginning, as the reference truncates left."""
        ids = self.tokenizer.encode(text)
        room = self.src_length - 3
        self.truncated["source"] += len(ids) > room
        ids = ids[-room:]
        return [self.tokenizer.cls_token_id, *ids, self.tokenizer.gmask_token_id, self.tokenizer.eos_token_id]

    def target(self, text: str) -> list[int]:
        """text <|endofpiece|>; a long text loses its end."""
        ids = self.tokenizer.encode(text)
        room = self.tgt_length - 2
        self.truncated["target"] += len(ids) > room
        return [*ids[:room], self.tokenizer.eop_token_id]

    def row(self, source: list[int], target: list[int]) -> TrainingRow:
        """An encoded source, the start-of-piece, and an encoded target, which is trained."""
        before = [*source, self.tokenizer.sop_token_id]
        trained = [False] * len(before) + [True] * len(target)
        return TrainingRow([*before, *target], trained, prefix_length=len(source))


class ChatEncoder(Encoder):
    """Encodes conversations for ChatGLM-6B and GLM-4, as their chat formats say (glm/chat.py).

    Args:
        tokenizer: of a model with a chat format.
        src_length, tgt_length: most tokens of a question and of its answer. GLM-4 keeps them together: their sum is the
            most of a training row, and a prompt gives up its oldest turns.
        plain: prompts are the text with the tokens that every prompt has, and no turns: for base models.
    """

    answer_lengths = (7168, 1024)
    gnmt_length = False
    lost = "their oldest turns, or their end,"
    evaluation = {"min_length": 0}  # noqa: RUF012
    label_smoothing = 0.0

    def __init__(
        self,
        tokenizer,
        src_length: int = 608,
        tgt_length: int = 160,
        no_block_position: bool = False,
        plain: bool = False,
        generation: GenerationFile = NO_FILE,
    ):
        if no_block_position:
            raise UsageError(
                f"no_block_position is an option of GLM (2021), this is a {tokenizer.kind} model: leave it out"
            )
        super().__init__(tokenizer, src_length, tgt_length, generation)
        self.chat, self.plain = chat_format(tokenizer), plain
        self.positions = BlockPositions(tokenizer.mask_token_ids) if self.chat.fills_blank else TextPositions()

    def rows(self, example: Example) -> list[TrainingRow]:
        lengths = self.src_length, self.tgt_length
        rows = self.chat.training_rows(self.tokenizer, example.messages, example.tools or None, *lengths)
        self.truncated["target"] += sum(row.cut for row in rows)
        return rows

    def prompt(self, example: Example) -> list[int]:
        return self.messages_prompt(example.messages[:-1], example.tools or None)

    def text_prompt(self, text: str) -> list[int]:
        if not self.plain:
            return self.messages_prompt([{"role": "user", "content": text}])
        ids = self.tokenizer.encode(text, split_special_tokens=True)
        room = self.src_length - len(self.tokenizer.build_inputs([]))
        self.truncated["source"] += len(ids) > room
        return self.tokenizer.build_inputs(ids[-room:])

    def messages_prompt(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Ids after which the model answers the last message."""
        ids = self.chat.prompt_ids(self.tokenizer, messages, tools)
        if len(ids) <= self.src_length:
            return ids
        self.truncated["source"] += 1
        return self.chat.prompt_ids(self.tokenizer, messages, tools, self.src_length)

    def reference(self, example: Example) -> str:
        answer = example.messages[-1]
        called = f"{answer['metadata']}\n" if answer.get("metadata") else ""
        return self.decode(self.tokenizer.encode(called + answer["content"], split_special_tokens=True))

    def answer(self, ids: Sequence[int]) -> str:
        return self.chat.answer(self.tokenizer.decode(ids))["content"]


# Tokenizer kind → its encoder.
ENCODERS: dict[str, type[Encoder]] = {"glm-chinese": GLMEncoder, **dict.fromkeys(CHAT_FORMATS, ChatEncoder)}


def open_encoder(directory: str | Path, lengths: Sequence[int | None] = (None, None), **options) -> Encoder:
    """The text side of a model directory.

    Args:
        lengths: src_length and tgt_length; the kind of model says what None is.
        options: of the class, `no_block_position` or `plain`.

    Raises:
        GLMError: missing or damaged tokenizer files, or an option that this kind of model does not have.
    """
    tokenizer = GLMTokenizer.from_pretrained(directory)
    cls = ENCODERS[tokenizer.kind]
    chosen = (default if given is None else given for given, default in zip(lengths, cls.answer_lengths, strict=True))
    return cls(tokenizer, *chosen, generation=GenerationFile.read(directory), **options)
