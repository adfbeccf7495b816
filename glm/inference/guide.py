"""Every text of a generator held to one response format. Imports no framework."""

from collections.abc import Mapping, Sequence
from typing import Any

from glm.encoding.json_schema import response_grammar
from glm.encoding.processor import ChatProcessor, Processor
from glm.engine import Constraint
from glm.engine.guided import Grammars


class Guide:
    """Makes constraints, and counts texts that ended before they were complete.

    Args:
        processor: of the model; it shows texts as they are written from now on.
        vocab_size: columns of the model's logits.
        response_format: OpenAI's (glm/encoding/json_schema.py); one that asks for something.

    Raises:
        UsageError: a schema that texts cannot be held to, or without the package that does.
    """

    def __init__(self, processor: Processor, vocab_size: int, response_format: Mapping[str, Any]):
        self._processor, self._response_format, self._cut = processor, response_format, 0
        self._grammars = Grammars(processor.tokenizer, processor.stop_token_ids, vocab_size)
        self.constraint([])  # what is wrong is found before anything is generated
        processor.verbatim = True

    def constraint(self, prompt: Sequence[int]) -> Constraint:
        """Of the text that follows a prompt; thoughts before it are free."""
        thinking = self._processor.thinking(prompt) if isinstance(self._processor, ChatProcessor) else {}
        return self._grammars.constraint(response_grammar(self._response_format, **thinking))

    def ended(self, constraint: Constraint) -> None:
        """Takes note of the end of a text."""
        self._cut += not constraint.finished

    def notes(self) -> str:
        """How many texts ended too early; "" where none did."""
        return f"{self._cut} text(s) ended before their JSON was complete: raise --tgt_length" if self._cut else ""
