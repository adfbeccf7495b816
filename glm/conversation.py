"""Conversations with a model: turns that remember the earlier ones, and text that appears while it is generated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from glm.chat import Message, Tools
from glm.datasets.encoding import ChatEncoder
from glm.generation import Prompt, StopTokens
from glm.generation_config import GenerationConfig
from glm.tokenizers import StreamDecoder

History = Sequence[Message] | Sequence[tuple[str, str]]  # messages, or ChatGLM-6B's (question, answer) pairs


class Conversation:
    """A conversation with a chat model.

    Args:
        model: a `GLMForCausalLM`.
        encoder: its text side; `src_length` bounds what is remembered, the oldest turns go first.
        config: decoding options; one beam.
        messages: what was said so far, a system message first if there is one.
        tools: JSON schemas of functions that the model may call.

    Attributes:
        messages: all that was said.
        tokens: how many tokens the last answer took, its end included.
    """

    def __init__(
        self,
        model,
        encoder: ChatEncoder,
        config: GenerationConfig,
        messages: Sequence[Message] = (),
        tools: Tools | None = None,
    ):
        self.model, self.encoder, self.config, self.tools = model, encoder, config, tools
        self.messages, self.tokens = list(messages), 0

    def ask(self, query: str, role: str = "user") -> Iterator[str]:
        """Pieces of the answer, as soon as they are certain; the answer is remembered when all are taken.

        Args:
            role: `observation` hands in a tool's result.

        Raises:
            GLMError: a role that this model has no place for, or a turn that does not fit src_length.
        """
        asked = [*self.messages, {"role": role, "content": query}]
        ids = self.encoder.messages_prompt(asked, self.tools)
        written: list[int] = []
        yield from self._settled(self._pieces(ids, written))
        self.tokens = len(written)
        self.messages = [*asked, self.encoder.chat.answer(self.encoder.tokenizer.decode(written), self.tools)]

    def _pieces(self, ids: list[int], written: list[int]) -> Iterator[str]:
        decoder = StreamDecoder(self.encoder.tokenizer)
        prompt = Prompt.of(self.encoder.prompt_batch([ids]))
        for token in self.model.stream(prompt, self.config, StopTokens.of(self.encoder)):
            written.append(int(token))
            yield decoder.put(written[-1])
        yield decoder.end()

    def _settled(self, pieces: Iterator[str]) -> Iterator[str]:
        """The cleaned text in pieces; what cleaning may still change waits for more."""
        chat, text, shown = self.encoder.chat, "", 0
        for piece in pieces:
            text += piece
            clean = chat.clean(text[: chat.settled_length(text)])
            yield clean[shown:]
            shown = max(shown, len(clean))
        yield chat.clean(text)[shown:]


class ChatMixin:
    """`chat` and `stream_chat`, as the published chat models have them."""

    def chat(self, tokenizer, query: str, history: History | None = None, **options) -> tuple[str, History]:
        """The answer to a question, and the conversation with it.

        Args:
            tokenizer: of the model, or its `ChatEncoder`.
            query: what the user says.
            history: messages, or (question, answer) pairs; it comes back in the same form.
            options: fields of `GenerationConfig`; `role` (of the query), `tools`, and `src_length`.

        Example:
            >>> answer, history = model.chat(tokenizer, "你好")
            >>> answer, history = model.chat(tokenizer, "再说一遍", history)
        """
        for answer in self.stream_chat(tokenizer, query, history, **options):
            final = answer
        return final

    def stream_chat(
        self, tokenizer, query: str, history: History | None = None, *, role: str = "user", tools=None, **options
    ) -> Iterator[tuple[str, History]]:
        """The answer so far and the conversation with it, each time there is more of it; arguments as in `chat`."""
        pairs = bool(history) and not isinstance(history[0], dict)
        encoder = _encoder(tokenizer, options.pop("src_length", None))
        conversation = Conversation(self, encoder, _options(encoder, options), _messages(history or [], pairs), tools)
        asked, text = [*conversation.messages, {"role": role, "content": query}], ""
        for piece in conversation.ask(query, role):
            text += piece
            if piece:
                yield text, _history([*asked, {"role": "assistant", "content": text}], pairs)
        yield conversation.messages[-1]["content"], _history(conversation.messages, pairs)


def _encoder(tokenizer, src_length: int | None) -> ChatEncoder:
    if isinstance(tokenizer, ChatEncoder):
        return tokenizer
    longest, newest = ChatEncoder.answer_lengths
    return ChatEncoder(tokenizer, src_length or longest, newest)


def _options(encoder: ChatEncoder, options: dict) -> GenerationConfig:
    chosen = {"max_length": encoder.tgt_length, "gnmt_length": encoder.gnmt_length} | encoder.generation.options
    return replace(GenerationConfig(), **chosen | options)


def _messages(history: History, pairs: bool) -> list[Message]:
    if not pairs:
        return list(history)
    turns = (({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in history)
    return [message for turn in turns for message in turn]


def _history(messages: list[Message], pairs: bool) -> History:
    if not pairs:
        return messages
    return [(q["content"], a["content"]) for q, a in zip(messages[::2], messages[1::2], strict=True)]
