"""A loaded model with its processor, wherever it runs: what scripts, pipelines and conversations generate with.

Imports no framework, so that an exported graph needs none but its runtime.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from glm.encoding.processor import ChatProcessor, Processor
from glm.errors import GLMError, UsageError
from glm.evaluation.likelihood import Scorer
from glm.generation.options import NOT_FINITE, GenerationConfig
from glm.inference.conversation import Conversation
from glm.tokenizers.stop_strings import StopStrings

Ids = Sequence[int]


class TextGenerator(ABC):
    """Writes what follows prompts.

    Args:
        processor: turns texts into prompts, and tokens into texts.
        stop_strings: what ends a text besides the stop tokens and generation_config.json's strings, and is not part
            of it.
    """

    def __init__(self, processor: Processor, stop_strings: Sequence[str] = ()):
        strings = [*stop_strings, *processor.generation.stop_strings]
        self.processor, self.stop_strings = processor, StopStrings(processor.tokenizer, strings).strings

    @abstractmethod
    def results(self, prompts: Sequence[Ids], config: GenerationConfig, batch_size: int) -> Iterator[tuple[int, Ids]]:
        """Yields the place of a prompt and the tokens that follow it, the end included, when they are finished.

        Args:
            prompts: ids, the token to decode from last.
            batch_size: most texts that are written together.
        """

    @abstractmethod
    def stream_tokens(self, ids: Ids, config: GenerationConfig) -> Iterator[int]:
        """Yields the tokens that follow a prompt as they are chosen; one beam."""

    def scorer(self, batch_size: int = 8, *, reuse: bool = True) -> Scorer:
        """What says how likely texts are behind a context.

        Args:
            batch_size: rows that are read together, where several are.
            reuse: False reads again what rows share.

        Raises:
            UsageError: this kind of generator gives no log-likelihoods.
        """
        raise UsageError(f"a {type(self).__name__} gives no log-likelihoods")

    def with_stop_strings(self, strings: Sequence[str]) -> "TextGenerator":
        """The same generator for texts that other strings end, and generation_config.json's."""
        other = copy.copy(self)
        strings = [*strings, *self.processor.generation.stop_strings]
        other.stop_strings = StopStrings(self.processor.tokenizer, strings).strings
        return other

    def notes(self) -> str:
        """What there is to say of the memory it used; "" for nothing."""
        return ""

    def generate(self, prompts: Sequence[Ids], config: GenerationConfig) -> list[list[int]]:
        """The tokens that follow each prompt, the end included, all prompts in one batch."""
        found = dict(self.results(prompts, config, len(prompts)))
        return [list(found[place]) for place in range(len(prompts))]

    def answer(self, ids: Ids) -> str:
        """The text a user sees of generated tokens."""
        return (
            "".join(self.processor.stream(ids, self.stop_strings)) if self.stop_strings else self.processor.answer(ids)
        )

    def stream(self, text: str, config: GenerationConfig) -> Iterator[str]:
        """Pieces of the text that follows a user's, as soon as they are certain."""
        tokens = self.stream_tokens(self.processor.text_prompt(text), config)
        return self.processor.stream(tokens, self.stop_strings)

    def conversation(self, config: GenerationConfig, system: str | None = None) -> Conversation:
        """A new conversation.

        Args:
            system: instructions before the first question.

        Raises:
            UsageError: the model holds no conversations, or the options choose beams.
        """
        if not isinstance(self.processor, ChatProcessor):
            raise UsageError("a GLM (2021) model holds no conversations: leave out --chat")
        if system and "system" not in self.processor.chat.roles:
            raise UsageError("this model's conversations have no system message: leave out --system")
        messages = [{"role": "system", "content": system}] if system else []
        return Conversation(self, config, messages)


def require_finite(scores: np.ndarray) -> None:
    """Raises GLMError if a score is NaN or infinite."""
    if not np.isfinite(scores).all():
        raise GLMError(NOT_FINITE)


def in_batches(
    prompts: Sequence[Ids], size: int, write: Callable[[Sequence[Ids]], Sequence[Ids]], ends: Sequence[int]
) -> Iterator[tuple[int, Ids]]:
    """`TextGenerator.results` by a function that writes a whole batch, padded behind the ends.

    Args:
        ends: ids that end a text.
    """
    for start in range(0, len(prompts), size):
        for place, row in enumerate(write(prompts[start : start + size]), start):
            yield place, row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]
