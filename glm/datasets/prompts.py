"""What a row of each task becomes: the text a GLM reads and has to write, and the same as a conversation.

Prompts as in PaddleNLP's GLM example (DuReader-QG) and its BELLE instruction tuning, and as in MindFormers' ADGEN and
alpaca examples for ChatGLM-6B and GLM-4; data/README.md shows the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from glm.chat import Message, Tools
from glm.datasets.conversations import read_messages, read_tools
from glm.datasets.readers import Field

Row = Mapping[str, Any]


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

    @classmethod
    def of_texts(cls, source: str, target: str) -> Example:
        """One question and its answer."""
        return cls(source, target, tuple(_dialogue(source, target)))


@dataclass(frozen=True)
class TaskFormat:
    """How the rows of one kind of data set are read.

    Attributes:
        fields: of a row.
        source, target, messages, tools: row → what `Example` has under that name.
        needs_text: rows whose required texts are not all there are left out, as the reference does, and are no error.
    """

    fields: tuple[Field, ...]
    source: Callable[[Row], str]
    target: Callable[[Row], str]
    messages: Callable[[Row], list[Message]]
    tools: Callable[[Row], Tools] = lambda row: ()
    needs_text: bool = False

    def example(self, row: Row) -> Example:
        return Example(self.source(row), self.target(row), tuple(self.messages(row)), tuple(self.tools(row)))

    def is_usable(self, row: Row) -> bool:
        """False for a row to leave out."""
        return not self.needs_text or all(row[field.names[0]].strip() for field in self.fields if field.required)


_SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant", "observation": "Observation"}
_SPEAKER = re.compile(r"(?:^|\n|(?=Assistant[ \t]*[:：]\s*\Z))[ \t]*(Human|Assistant)[ \t]*[:：]")


def plain_text(messages: Sequence[Message]) -> str:
    """A conversation as BELLE frames it, for a model without role tokens, up to where the assistant speaks next.

    A call is written as GLM-4 does, the tool's name on a line of its own; there is no place for tools' schemas.
    """
    return "".join(f"{_SPEAKERS[message['role']]}: {_said(message)}\n " for message in messages) + "Assistant: "


def _said(message: Message) -> str:
    tool = message.get("metadata")
    return f"{tool}\n{message['content']}" if tool else message["content"]


def _dialogue(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _question_source(row: Row) -> str:
    return f"答案：{row['answer']}，上下文：{row['context']}"


def _question_target(row: Row) -> str:
    return f" 在已知答案的前提下，问题：{row['question']}"


def _belle_text(row: Row) -> str:
    return f"{row['instruction']}{row.get('input', '')}"


def _conversation_source(row: Row) -> str:
    """The turns are already in the text; only a missing first or last marker is added."""
    text = _belle_text(row).rstrip()
    opening = "" if text.lstrip().startswith("Human:") else "Human: "
    closing = " " if text.endswith("Assistant:") else "\n Assistant: "
    return f"{opening}{text}{closing}"


def _conversation_messages(row: Row) -> list[Message]:
    """The turns of BELLE's "Human:…\\nAssistant:…" text and the answer, in strict alternation from the user's on.

    A marker stands at the start of a line or at the end of all, its colon half- or full-width. Text before the first
    one is the user's, and neighbours of one speaker are one turn: a missing marker loses no text.
    """
    first, *rest = _SPEAKER.split(_belle_text(row))
    said = [("Human", first), *zip(rest[::2], rest[1::2], strict=True)]
    turns = [(speaker, _joined(text for _, text in texts)) for speaker, texts in groupby(said, itemgetter(0))]
    begun = turns.pop()[1] if turns[-1][0] == "Assistant" else ""
    turns.append(("Assistant", f"{begun}\n{row['output']}" if begun else row["output"]))
    return [{"role": "user" if speaker == "Human" else "assistant", "content": text} for speaker, text in turns]


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(filter(None, map(str.strip, texts)))


def _alpaca_prompt(row: Row) -> str:
    """As MindFormers' alpaca_converter.py: "instruction: input", one full stop between them dropped."""
    instruction, text = row["instruction"], row.get("input", "")
    return f"{instruction.removesuffix('.')}: {text}" if text else instruction


def _chat_messages(row: Row) -> list[Message]:
    """A row's "system" text counts where the messages have none."""
    if not row.get("system") or row["messages"][0]["role"] == "system":
        return row["messages"]
    return [{"role": "system", "content": row["system"]}, *row["messages"]]


QUESTION_GENERATION = TaskFormat(
    fields=(Field(("context", "source")), Field(("answer", "title")), Field(("question", "target"))),
    source=_question_source,
    target=_question_target,
    # The words before the question stay, so that the metrics of all models measure the same text.
    messages=lambda row: _dialogue(_question_source(row), _question_target(row).strip()),
)
_INSTRUCTION_FIELDS = (Field(("instruction",)), Field(("output",)), Field(("input",), required=False))


def _instructions(prompt: Callable[[Row], str]) -> TaskFormat:
    """Rows of an instruction and its output; `prompt` puts instruction and input together."""
    return TaskFormat(
        fields=_INSTRUCTION_FIELDS,
        source=lambda row: plain_text([{"role": "user", "content": prompt(row)}]),
        target=lambda row: row["output"],
        messages=lambda row: _dialogue(prompt(row), row["output"]),
    )


INSTRUCTION = _instructions(_belle_text)
ALPACA = _instructions(_alpaca_prompt)
CONVERSATION = TaskFormat(
    fields=_INSTRUCTION_FIELDS,
    source=_conversation_source,
    target=lambda row: row["output"],
    messages=_conversation_messages,
)
ADVERTISEMENT = TaskFormat(
    fields=(Field(("content",)), Field(("summary",))),
    source=lambda row: row["content"],
    target=lambda row: row["summary"],
    messages=lambda row: _dialogue(row["content"], row["summary"]),
    needs_text=True,
)
MESSAGES = TaskFormat(
    fields=(
        Field(("messages", "conversations"), read=read_messages),
        Field(("tools",), required=False, read=read_tools, empty=()),
        Field(("system",), required=False),
    ),
    source=lambda row: plain_text(_chat_messages(row)[:-1]),
    target=lambda row: _said(row["messages"][-1]),
    messages=_chat_messages,
    tools=lambda row: row.get("tools", ()),
)
