"""Conversations: turns that remember the earlier ones, and text that appears while it is generated.

Imports no framework.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from glm.encoding.chat_formats import Message, Tools
from glm.encoding.tool_calls import CONTENT, Piece, openai_message, stream_pieces
from glm.errors import UsageError
from glm.generation.options import GenerationConfig

if TYPE_CHECKING:
    from glm.encoding.processor import ChatProcessor
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
        """The texts of `pieces`, without those of thoughts and of calls that are told apart."""
        return (piece.text for piece in self.pieces(query, role) if piece.field == CONTENT)

    def pieces(self, query: str, role: str = "user") -> Iterator[Piece]:
        """Pieces of the answer, as soon as they are certain; the answer is remembered when all are taken.

        Thoughts and calls have pieces of their own where the model's format tells them apart. The chat template decides
        which thoughts a later prompt shows.

        Args:
            role: `observation` hands in a tool's result.

        Raises:
            GLMError: a role that this model has no place for, or a turn that does not fit src_length.
        """
        asked = [*self.messages, {"role": role, "content": query}]
        processor = self.generator.processor
        ids = processor.messages_prompt(asked, self.tools)
        written: list[int] = []
        pieces: list[Piece] = []
        for piece in self._read(processor, ids, self._tokens(ids, written)):
            pieces.append(piece)
            yield piece
        self.tokens = len(written)
        if processor.chat.thinks:
            message = openai_message(pieces)
            message["content"] = message["content"] or ""
        else:
            message = self._message(written, "".join(piece.text for piece in pieces))
        self.messages = [*asked, message]

    def _read(self, processor: "ChatProcessor", ids: list[int], tokens: Iterator[int]) -> Iterator[Piece]:
        strings = self.generator.stop_strings
        if not processor.chat.thinks:
            return (Piece(CONTENT, text) for text in processor.stream(tokens, strings))
        reader = processor.reader(self.tools or (), ids)
        return stream_pieces(processor.tokenizer, tokens, reader, strings)

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
