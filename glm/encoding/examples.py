"""Examples, and the sequences to train on that processors make of them, and batches are made of. Needs no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glm.encoding.messages import Message, last_answer

IGNORED = -100  # label of a token that is not trained
# What is counted while examples become rows, and said at the end.
EMPTY_ANSWERS = "empty answers, not trained"
NO_PLACE_FOR_THOUGHTS = "answers without their thoughts, for which the model has no place"
OPEN_THOUGHTS = "answers whose <think> has no </think>, trained as they are"
CUT_BY_TEMPLATE = "answers of which the chat template writes only a part"
NO_THOUGHTS = "answers without thoughts behind a prompt that begins some, trained with empty ones"


@dataclass(frozen=True)
class Example:
    """One row to train on.

    Attributes:
        source, target: what a GLM (2021) reads and what it has to write.
        messages: the same for a chat model; the last one is the assistant's and answers the others.
        tools: JSON schemas of the functions the assistant may call.
    """

    source: str
    target: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def has_thoughts(self) -> bool:
        """Whether its last answer has thoughts in a field of their own, for which a text has no place."""
        return "reasoning_content" in self.messages[last_answer(self.messages)]

    @classmethod
    def of_pair(cls, source: str, target: str) -> Example:
        """One question and its answer."""
        return cls(source, target, tuple(dialogue(source, target)))


def dialogue(question: str, answer: str) -> list[Message]:
    """A question and its answer as messages."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@dataclass(frozen=True)
class TrainingExample:
    """One sequence to train on.

    Attributes:
        ids: T token ids.
        trained: T flags; the model learns to write ids[i] where trained[i].
        prefix_length: ids at the start that all see each other (GLM, ChatGLM-6B: up to the mask); 0 if attention is
            causal.
        cut: whether the lengths left something out.
    """

    ids: list[int]
    trained: list[bool]
    prefix_length: int = 0
    cut: bool = False

    @property
    def labels(self) -> list[int]:
        """T labels beside `ids`, not shifted: IGNORED where nothing is trained."""
        return [index if trained else IGNORED for index, trained in zip(self.ids, self.trained, strict=True)]

    @property
    def trained_tokens(self) -> int:
        """How many tokens are trained; the first of a row never is."""
        return sum(self.trained[1:])
