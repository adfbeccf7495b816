"""What every processor has: prompts, rows to train on, what generated ids say, and lengths. Imports no framework."""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from glm.encoding.batches import Batch, Positions, packed_batch, prompt_batch, training_batch
from glm.encoding.defaults import ModelDefaults
from glm.encoding.examples import Example, TrainingExample
from glm.errors import GLMError, UsageError
from glm.generation.config_json import GenerationFile
from glm.generation.options import GenerationConfig
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
        verbatim: whether a user sees generated text as it was written, as where that is JSON.
        defaults: of this kind of model.
        cuts: what may be cut, and what it is without then.
    """

    defaults: ClassVar[ModelDefaults]
    cuts: Mapping[str, str]
    positions: Positions
    verbatim = False

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
        return text if self.verbatim else text.strip()

    def stable_length(self, text: str) -> int:
        """Length of the prefix that `postprocess` leaves unchanged whatever text follows."""
        return len(text) if self.verbatim else len(text.rstrip())

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

    @property
    def can_switch_thinking(self) -> bool:
        """Whether prompts can be written with thinking and without."""
        return False

    def set_thinking(self, enabled: bool | None) -> None:
        """Writes prompts with thinking or without from now on; None leaves it to the model.

        Raises:
            UsageError: the model's chat template has no such switch.
        """
        if enabled is not None:
            raise UsageError("enable_thinking is for chat models whose template has it: leave it out")

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
                "take it from the model's own directory"
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
