"""What a row of each task becomes: the text the model reads and the text it has to write.

Prompts as in PaddleNLP's GLM example (DuReader-QG) and its BELLE instruction tuning; data/README.md shows the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Row = Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """One training pair, as text."""

    source: str
    target: str


@dataclass(frozen=True)
class TaskFormat:
    """How the rows of one kind of data set are read.

    Each entry of `required_fields` and `optional_fields` lists the names of one field; rows come out under the first.
    """

    required_fields: tuple[tuple[str, ...], ...]
    source: Callable[[Row], str]
    target: Callable[[Row], str]
    optional_fields: tuple[tuple[str, ...], ...] = ()

    def example(self, row: Row) -> Example:
        return Example(self.source(row), self.target(row))


def _instruction_source(row: Row) -> str:
    return f"Human: {row['instruction']}{row.get('input', '')}\n Assistant: "


def _conversation_source(row: Row) -> str:
    """The turns are already in the text; only a missing first or last marker is added."""
    text = f"{row['instruction']}{row.get('input', '')}".rstrip()
    opening = "" if text.lstrip().startswith("Human:") else "Human: "
    closing = " " if text.endswith("Assistant:") else "\n Assistant: "
    return f"{opening}{text}{closing}"


QUESTION_GENERATION = TaskFormat(
    required_fields=(("context", "source"), ("answer", "title"), ("question", "target")),
    source=lambda row: f"答案：{row['answer']}，上下文：{row['context']}",
    target=lambda row: f" 在已知答案的前提下，问题：{row['question']}",
)
INSTRUCTION = TaskFormat(
    required_fields=(("instruction",), ("output",)),
    optional_fields=(("input",),),
    source=_instruction_source,
    target=lambda row: row["output"],
)
CONVERSATION = TaskFormat(
    required_fields=(("instruction",), ("output",)),
    optional_fields=(("input",),),
    source=_conversation_source,
    target=lambda row: row["output"],
)
