"""`model.chat` and `model.stream_chat`, as the published chat models have them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from glm.encoding.chat_formats import Message, Tools
from glm.encoding.processor import ChatProcessor, processor_of
from glm.errors import UsageError
from glm.generation.config_json import NO_FILE, GenerationFile
from glm.inference.call_options import call_config
from glm.inference.conversation import Conversation
from glm.inference.model_generator import ModelGenerator

History = Sequence[Message] | Sequence[tuple[str, str]]  # messages, or ChatGLM-6B's (question, answer) pairs


class ChatMixin:
    """`chat` and `stream_chat`, as the published chat models have them.

    Attributes:
        source_directory: where the weights come from; its generation_config.json is obeyed.
    """

    source_directory: Path | None = None

    def chat(self, tokenizer, query: str, history: History | None = None, **options) -> tuple[str, History]:
        """The answer to a question, and the conversation with it.

        Args:
            tokenizer: of the model, or its `ChatProcessor`.
            query: what the user says.
            history: messages, or (question, answer) pairs; it comes back in the same form, a new list.
            options: `role` (of the query), `tools`, `src_length`, and those of
                `glm.inference.call_options.call_config`: max_length counts the prompt, as in the published models.

        Raises:
            GLMError: a history or query that this model has no place for, or an unknown option.

        Example:
            >>> answer, history = model.chat(tokenizer, "你好")
            >>> answer, history = model.chat(tokenizer, "再说一遍", history)
        """
        for answer in self.stream_chat(tokenizer, query, history, **options):
            final = answer
        return final

    def stream_chat(
        self,
        tokenizer,
        query: str,
        history: History | None = None,
        *,
        role: str = "user",
        tools: Tools | None = None,
        src_length: int | None = None,
        **options,
    ) -> Iterator[tuple[str, History]]:
        """The answer so far and the conversation with it, each time there is more of it; arguments as in `chat`."""
        processor = self._chat_processor(tokenizer, src_length)
        pairs = bool(history) and not isinstance(history[0], Mapping)
        messages = _messages(history or [], pairs)
        asked, text = [*messages, {"role": role, "content": query}], ""
        prompt = processor.chat.prompt_ids(processor.tokenizer, asked, tools)
        config = call_config(processor, options, min(len(prompt), processor.src_length))
        conversation = Conversation(ModelGenerator(self, processor), config, messages, tools)
        for piece in conversation.ask(query, role):
            text += piece
            if piece:
                yield text, _history([*asked, {"role": "assistant", "content": text}], pairs)
        yield conversation.messages[-1]["content"], _history(conversation.messages, pairs)

    def _chat_processor(self, tokenizer, src_length: int | None) -> ChatProcessor:
        if isinstance(tokenizer, ChatProcessor):
            return tokenizer
        file = GenerationFile.read(self.source_directory) if self.source_directory else NO_FILE
        processor = processor_of(tokenizer, file, (src_length, None))
        if not isinstance(processor, ChatProcessor):
            raise UsageError("a GLM (2021) model holds no conversations: use glm.pipeline")
        processor.check_fits(self.config.vocab_size, self.config.max_position)
        return processor


def _messages(history: History, pairs: bool) -> list[Message]:
    if not pairs:
        return list(history)
    messages = []
    for number, pair in enumerate(history, 1):
        if isinstance(pair, str) or len(pair) != 2:
            raise UsageError(f"turn {number} of the history is no (question, answer) pair: {str(pair)[:80]}")
        question, answer = pair
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _history(messages: list[Message], pairs: bool) -> History:
    if not pairs:
        return messages
    return [(q["content"], a["content"]) for q, a in zip(messages[::2], messages[1::2], strict=True)]
