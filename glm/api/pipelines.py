"""A model as a function from texts or conversations to generated texts; `glm.pipeline` makes one."""

from collections.abc import Mapping, Sequence
from typing import Any

from glm.encoding.chat_formats import Message
from glm.encoding.processor import ChatProcessor
from glm.errors import UsageError
from glm.inference.call_options import call_config, check_options
from glm.inference.generator import TextGenerator

Prompts = str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]


class TextGenerationPipeline:
    """Generates for texts, or for conversations with a chat model.

    Args:
        predictor: a model with its processor.
        batch_size: prompts that are generated together.
        options: defaults of `__call__`'s.

    Raises:
        UsageError: a batch size below 1, an unknown option, or a value of another type.
    """

    def __init__(self, predictor: TextGenerator, batch_size: int = 8, **options):
        check_defaults(batch_size, options)
        self.predictor, self.batch_size, self.options = predictor, batch_size, options

    def __call__(self, prompts: Prompts, **options) -> list[dict[str, str]]:
        """Generates for a text, several texts, a conversation (a list of messages) or several.

        Args:
            options: of `glm.inference.call_options.call_config`. max_length counts the longest prompt of a batch.

        Returns:
            {"generated_text": …} for each, without the prompt.

        Raises:
            UsageError: no prompts, an unknown option or a value of another type, or a max_length that leaves no room.
        """
        return [{"generated_text": self.predictor.answer(row)} for _, row in self.rows(prompts, options)]

    def rows(self, prompts: Prompts, options: Mapping[str, Any]) -> list[tuple[list[int], list[int]]]:
        """Ids of each prompt and of what follows it."""
        processor, results = self.predictor.processor, []
        ids = [self._ids(prompt) for prompt in _listed(prompts)]
        for start in range(0, len(ids), self.batch_size):
            batch = ids[start : start + self.batch_size]
            config = call_config(processor, {**self.options, **options}, max(map(len, batch)))
            results += zip(batch, self.predictor.generate(batch, config), strict=True)
        return results

    def _ids(self, prompt: str | Sequence[Message]) -> list[int]:
        processor = self.predictor.processor
        if isinstance(prompt, str):
            return processor.text_prompt(prompt)
        if not isinstance(processor, ChatProcessor):
            raise UsageError("a GLM (2021) model holds no conversations: pass a text")
        return processor.messages_prompt(prompt)


def check_defaults(batch_size: int, options: Mapping[str, Any]) -> None:
    """Raises UsageError for what a pipeline cannot be made with; a model need not be loaded for it."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size!r}, and must be at least 1")
    check_options(options)


def _listed(prompts: Prompts) -> list[str | Sequence[Message]]:
    """One prompt as a list of one. Raises UsageError where there is something else than prompts."""
    if _is_prompt(prompts):
        return [prompts]
    for each in prompts if isinstance(prompts, Sequence) else [prompts]:
        if not _is_prompt(each):
            raise UsageError(f"a prompt is {each!r:.80}: give a text, a list of messages, or a list of such prompts")
    return list(prompts)


def _is_prompt(value: object) -> bool:
    """Whether it is a text, or a conversation of at least one message."""
    if isinstance(value, str):
        return True
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(each, Mapping) for each in value)
