"""Conversations: turns that remember the earlier ones, and text that appears while it is generated.

Imports no framework.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from glm.encoding.chat_formats import Message, Tools
from glm.errors import UsageError
from glm.generation.options import GenerationConfig

if TYPE_CHECKING:
    from glm.inference.generator import TextGenerator


class Conversation:
    """A conversation with a chat model.

    Args:
        generator: of a chat model; its processor's `src_length` bounds what is remembered, the oldest turns go first.
        config: decoding options; one beam.
        messages: what was said so far, a system message first if there is one.
        tools: JSON schemas of functions that the model may call.

    Attributes:
        messages: all that was said.
        tokens: how many tokens the last answer took, its end included.

    Raises:
        UsageError: more than one beam.
    """

    def __init__(
        self,
        generator: "TextGenerator",
        config: GenerationConfig,
        messages: Sequence[Message] = (),
        tools: Tools | None = None,
    ):
        require_streaming(config)
        self.generator, self.config, self.tools = generator, config, tools
        self.messages, self.tokens = list(messages), 0

    def ask(self, query: str, role: str = "user") -> Iterator[str]:
        """Pieces of the answer, as soon as they are certain; the answer is remembered when all are taken.

        Args:
            role: `observation` hands in a tool's result.

        Raises:
            GLMError: a role that this model has no place for, or a turn that does not fit src_length.
        """
        asked = [*self.messages, {"role": role, "content": query}]
        ids = self.generator.processor.messages_prompt(asked, self.tools)
        written: list[int] = []
        pieces: list[str] = []
        for piece in self.generator.processor.stream(self._tokens(ids, written), self.generator.stop_strings):
            pieces.append(piece)
            yield piece
        self.tokens = len(written)
        self.messages = [*asked, self._message(written, "".join(pieces))]

    def _tokens(self, ids: list[int], written: list[int]) -> Iterator[int]:
        """What the model writes after `ids`; `written` grows by it."""
        for token in self.generator.stream_tokens(ids, self.config):
            written.append(token)
            yield token

    def _message(self, written: list[int], text: str) -> Message:
        if self.generator.stop_strings:
            return {"role": "assistant", "content": text}
        return self.generator.processor.message(written, self.tools)


def require_streaming(config: GenerationConfig) -> None:
    """Raises UsageError where tokens are not certain when they come."""
    if config.num_beams > 1:
        raise UsageError(
            f"a conversation or a stream shows tokens as they come, and num_beams {config.num_beams} chooses them at "
            "the end: use 1"
        )
