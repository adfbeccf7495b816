"""Texts and conversations as token ids: one processor per kind of model. Imports neither paddle nor paddlenlp.

GLM's layout of a generation task (arXiv:2103.10360, 2.1; the numbers of PaddleNLP's example suite):

    column   0      1 … n     n+1        n+2              n+3         …
    input  [CLS]    text    [gMASK]  <|endoftext|>  <|startofpiece|>  target …
    row 0    0      1 … n     n+1        n+2        position of [gMASK], repeated
    row 1    0      0 …                             1, 2, 3 …
    label   none                                    target … <|endofpiece|>

The layouts of conversations are in glm/encoding/chat_formats.py.
"""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from glm.encoding.batches import (
    Batch,
    BlockPositions,
    Positions,
    TextPositions,
    packed_batch,
    prompt_batch,
    training_batch,
)
from glm.encoding.chat_formats import CHAT_FORMATS, chat_format
from glm.encoding.chat_roles import ASSISTANT
from glm.encoding.defaults import CHAT, GLM_2021, ModelDefaults
from glm.encoding.examples import EMPTY_ANSWERS, NO_PLACE_FOR_THOUGHTS, Example, TrainingExample
from glm.encoding.messages import Message, Tools
from glm.errors import GLMError, UsageError
from glm.generation.config_json import NO_FILE, GenerationFile
from glm.generation.options import GenerationConfig
from glm.tokenizers import GLMTokenizer
from glm.tokenizers.stop_strings import StopStrings, stream_text


class Processor(ABC):
    """What frames a model's prompts and reads its answers: what training and generation need of texts.

    Args:
        tokenizer: of the model.
        src_length, tgt_length: most tokens of what is read and of what is written; see the subclasses.
        generation: how the model's authors want it to generate.

    Attributes:
        truncated: how many sources, targets or rows were cut so far.
        counts: what else `rows` left out of examples so far, by its name in words (glm/encoding/examples.py).
        max_position: the largest position of the model, once `check_fits` knows it.
        unset_lengths: those of `src_length` and `tgt_length` that the user left open; a small model shortens them.
        defaults: of this kind of model.
        cuts: what may be cut, and what it is without then.
    """

    defaults: ClassVar[ModelDefaults]
    cuts: Mapping[str, str]
    positions: Positions

    def __init__(self, tokenizer, src_length: int, tgt_length: int, generation: GenerationFile):
        self.tokenizer, self.src_length, self.tgt_length = tokenizer, src_length, tgt_length
        self.generation = generation
        self.truncated = dict.fromkeys(self.cuts, 0)
        self.counts: Counter[str] = Counter()
        self.unset_lengths: frozenset[str] = frozenset()
        self.max_position = sys.maxsize

    @abstractmethod
    def rows(self, example: Example) -> list[TrainingExample]:
        """What is trained of an example, [] where its answers are empty."""

    @abstractmethod
    def prompt(self, example: Example) -> list[int]:
        """Ids after which the model writes the example's answer."""

    @abstractmethod
    def text_prompt(self, text: str) -> list[int]:
        """Ids after which the model writes what follows from a text that a user gave."""

    @abstractmethod
    def reference(self, example: Example) -> str:
        """The answer as the tokenizer can write it: nothing else is asked of the model."""

    def postprocess(self, text: str) -> str:
        """What a user sees of generated text."""
        return text.strip()

    def stable_length(self, text: str) -> int:
        """Length of the prefix that `postprocess` leaves unchanged whatever text follows."""
        return len(text.rstrip())

    def answer(self, ids: Sequence[int]) -> str:
        """The text a user sees of generated ids."""
        return self.postprocess(self.tokenizer.text_of(ids))

    def stream(self, ids: Iterable[int], stop_strings: Sequence[str] = ()) -> Iterator[str]:
        """`answer` in pieces, while ids arrive; what may still change waits for more.

        Args:
            stop_strings: what ends the text, and is not part of it; no further id is taken then.

        Raises:
            UsageError: an empty stop string.
        """
        return stream_text(StopStrings(self.tokenizer, stop_strings), ids, self.postprocess, self.stable_length)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, as it was written."""
        return self.tokenizer.text_of(ids).strip()

    def generation_config(self, **options) -> GenerationConfig:
        """Decoding options: those given, then generation_config.json's, then the kind of model's.

        A `min_length` that is not given gives way to a shorter `max_length`.

        Raises:
            GLMError: generation_config.json has an option that is not supported, and that would make other texts.
        """
        known = {"max_length": self.tgt_length, "min_length": 0, "gnmt_length": self.defaults.gnmt_length}
        known |= {"length_penalty": self.defaults.evaluation.get("length_penalty", 1.0)} | self.generation.options
        chosen = known | options
        if "min_length" not in options:
            chosen["min_length"] = min(known["min_length"], chosen["max_length"])
        if chosen.get("do_sample") and chosen.get("temperature") != 0:
            chosen.setdefault("top_k", self.defaults.drawn_from)
        config = GenerationConfig(**chosen)
        self.generation.refuse_unsupported(config)
        self.generation.warn_of_unknown()
        return config

    @property
    def truncation(self) -> list[str]:
        """What was cut so far, a phrase for each kind of text."""
        source, target = f"src_length {self.src_length}", f"tgt_length {self.tgt_length}"
        lengths = {"source": source, "target": target, "row": f"{source} and {target}"}
        counts = {what: count for what, count in self.truncated.items() if count}
        return [f"{n} {what}{'s' * (n > 1)} to {lengths[what]} ({self.cuts[what]})" for what, n in counts.items()]

    @property
    def stop_token_ids(self) -> list[int]:
        """What ends a text: the tokenizer's, and those that generation_config.json names besides."""
        return list(dict.fromkeys([*self.tokenizer.stop_token_ids, *self.generation.eos_token_ids]))

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the tokenizer's files, and generation_config.json where the model had one."""
        self.tokenizer.save_pretrained(directory)
        self.generation.save(directory)

    def check_fits(self, vocab_size: int, max_position: int) -> None:
        """Raises GLMError where the vocabulary or the lengths do not fit a model.

        Lengths that were left open become those of a smaller model first: half of its positions for the answer, at
        most, and the rest for what is read.
        """
        self.max_position = max_position
        if "tgt_length" in self.unset_lengths:
            self.tgt_length = max(1, min(self.tgt_length, (max_position + 1) // 2))
        fits = self.positions.longest(self.src_length, self.tgt_length) <= max_position
        if "src_length" in self.unset_lengths and not fits:
            self.src_length = max(1, min(self.src_length, max_position + 1 - self.tgt_length))
        if len(self.tokenizer) > vocab_size:
            raise GLMError(
                f"the tokenizer has {len(self.tokenizer):,} tokens and the model's vocabulary {vocab_size:,} rows: "
                "take both from the same directory"
            )
        if foreign := [index for index in self.stop_token_ids if not 0 <= index < vocab_size]:
            raise GLMError(
                f"generation_config.json: eos_token_id {foreign[0]} is not among the model's {vocab_size:,} tokens: "
                "take "
                "it from the model's own directory"
            )
        longest = self.positions.longest(self.src_length, self.tgt_length)
        if longest > max_position:
            raise UsageError(
                f"src_length {self.src_length} and tgt_length {self.tgt_length} need position {longest}, and the model "
                f"ends at {max_position}: choose shorter ones"
            )

    def training_batch(self, rows: Sequence[TrainingExample]) -> Batch:
        """Inputs of `GLMForCausalLM.forward`, labels included."""
        return training_batch(rows, self.positions, self.tokenizer.pad_token_id)

    def packed_batch(self, packs: Sequence[Sequence[TrainingExample]]) -> Batch:
        """The same of rows in packs (glm/encoding/packing.py)."""
        return packed_batch(packs, self.positions, self.tokenizer.pad_token_id)

    def prompt_batch(self, prompts: Sequence[Sequence[int]]) -> Batch:
        """Encoded prompts as the fields of `glm.generation.search.Prompt`."""
        return prompt_batch(prompts, self.positions, self.tokenizer.pad_token_id)


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
        return [self.row(self.source(example.source), self.target(example.target))]

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


class ChatProcessor(Processor):
    """Encodes conversations for ChatGLM-6B and GLM-4, as their chat formats say (glm/encoding/chat_formats.py).

    Args:
        tokenizer: of a model with a chat format.
        src_length, tgt_length: most tokens of a question and of its answer. GLM-4 keeps them together: their sum is the
            most of a training row, and a prompt gives up its oldest turns.
        plain: prompts are the text with the tokens that every prompt has, and no turns: for base models.
    """

    defaults = CHAT

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
        frame = len(tokenizer.build_inputs([]))
        if src_length <= frame:
            raise UsageError(
                f"src_length is {src_length}; {frame} tokens of frame and some text need at least {frame + 1}"
            )
        if tgt_length < 1:
            raise UsageError(f"tgt_length is {tgt_length}, and must be at least 1")
        self.chat, self.plain = chat_format(tokenizer), plain
        self.cuts = {**self.chat.cuts, **({"source": "their beginning is lost"} if plain else {})}
        super().__init__(tokenizer, src_length, tgt_length, generation)
        self.positions = (
            BlockPositions(tokenizer.mask_token_ids, ranked=True) if self.chat.fills_blank else TextPositions()
        )

    def rows(self, example: Example) -> list[TrainingExample]:
        lengths = self.src_length, self.tgt_length
        rows = self.chat.training_examples(
            self.tokenizer, example.messages, example.tools or None, *lengths, self.counts
        )
        self.truncated["row"] += sum(row.cut for row in rows)
        return rows

    def prompt(self, example: Example) -> list[int]:
        ids, _, cut = self._evaluated(example)
        self.truncated["source"] += cut
        return ids

    def _evaluated(self, example: Example) -> tuple[list[int], list[int], bool]:
        return self.chat.evaluated(self.tokenizer, example.messages, example.tools or None, self.src_length)

    def text_prompt(self, text: str) -> list[int]:
        if not self.plain:
            return self.messages_prompt([{"role": "user", "content": text}])
        ids = self.tokenizer.text_ids(text, split_special_tokens=True)
        room = self.src_length - len(self.tokenizer.build_inputs([]))
        if room < 1:
            raise UsageError(f"src_length {self.src_length} has no room for a text beside the prompt's own tokens")
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
        return self.decode(self._evaluated(example)[1])

    def postprocess(self, text: str) -> str:
        return super().postprocess(text) if self.plain else self.chat.postprocess(text)

    def stable_length(self, text: str) -> int:
        return super().stable_length(text) if self.plain else self.chat.stable_length(text)

    def message(self, ids: Sequence[int], tools: Tools | None = None) -> Message:
        """The assistant's message that generated ids stand for: a call of one of `tools`, or text.

        GLM-4 may say something and continue in a turn of its own with the call.
        """
        turn_starts = [i + 1 for i, index in enumerate(ids) if index == self.tokenizer.added_tokens.get(ASSISTANT)]
        last = ids[max(turn_starts, default=0) :]
        message = self.chat.answer(self.tokenizer.text_of(last), tools)
        return message if "metadata" in message else {"role": "assistant", "content": self.answer(ids)}


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
