"""What a row of each task becomes: the text a GLM reads and has to write, and the same as a conversation.

Prompts as in PaddleNLP's GLM example (DuReader-QG) and its BELLE instruction tuning, and as in MindFormers' ADGEN and
alpaca examples for ChatGLM-6B and GLM-4; data/README.md shows the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from glm.datasets.conversations import read_history, read_messages, read_tools
from glm.datasets.readers import Field
from glm.encoding.examples import Example, dialogue
from glm.encoding.messages import Message, Tools, is_trained, last_answer, said
from glm.errors import UsageError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TaskFormat:
    """How the rows of one kind of data set are read.

    Attributes:
        fields: of a row.
        source, target, messages, tools: row → what `Example` has under that name.
        idle: row → names of fields that were read and that this row has no use for.
        needs_text: rows whose required texts are not all there are left out, as the reference does, and are no error.
    """

    fields: tuple[Field, ...]
    source: Callable[[Row], str]
    target: Callable[[Row], str]
    messages: Callable[[Row], list[Message]]
    tools: Callable[[Row], Tools] = lambda row: ()
    idle: Callable[[Row], Sequence[str]] = lambda row: ()
    needs_text: bool = False

    def example(self, row: Row) -> Example:
        return Example(self.source(row), self.target(row), tuple(self.messages(row)), tuple(self.tools(row)))

    def with_history_column(self, name: str) -> TaskFormat:
        """The same rows with their earlier turns in column `name`. Raises UsageError where there are none."""
        fields = tuple(replace(field, names=(name,)) if field.key == HISTORY else field for field in self.fields)
        if fields == self.fields and name != HISTORY:
            raise UsageError(f"history_column is {name}, and rows of this task have no column of earlier turns")
        return replace(self, fields=fields)

    def complete(self, row: Row, place: str) -> Row:
        """A checked row; its place is of no use here."""
        return row

    def is_usable(self, row: Row) -> bool:
        """False for a row to leave out."""
        return not self.needs_text or all(row[field.key].strip() for field in self.fields if field.required)


_SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant", "observation": "Observation"}
_SPEAKER = re.compile(r"(?:^|\n|(?=Assistant[ \t]*[:：]\s*\Z))[ \t]*(Human|Assistant)[ \t]*[:：]")


def plain_text(messages: Sequence[Message]) -> str:
    """A conversation as BELLE frames it, for a model without role tokens, up to where the assistant speaks next.

    A call is written as GLM-4 does, the tool's name on a line of its own; there is no place for tools' schemas.
    """
    return _turns(messages) + "Assistant: "


def _turns(messages: Sequence[Message]) -> str:
    return "".join(f"{_SPEAKERS[message['role']]}: {said(message)}\n " for message in messages)


def before_question(row: Row) -> list[Message]:
    """What the columns of system message and earlier turns say before a row's question."""
    system = [{"role": "system", "content": row["system"]}] if row.get("system", "").strip() else []
    return [*system, *row.get(HISTORY, ())]


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
    return f"{_turns(before_question(row))}{opening}{text}{closing}"


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
    roles = {"Human": "user", "Assistant": "assistant"}
    return [*before_question(row), *({"role": roles[speaker], "content": text} for speaker, text in turns)]


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(filter(None, map(str.strip, texts)))


def alpaca_prompt(row: Row) -> str:
    """As MindFormers' alpaca_converter.py: "instruction: input", one full stop between them dropped."""
    instruction, text = row["instruction"], row.get("input", "")
    return f"{instruction.removesuffix('.')}: {text}" if text else instruction


def _advertisement_source(row: Row) -> str:
    """The content as it is; behind earlier turns it is a turn as well."""
    before = before_question(row)
    return plain_text([*before, {"role": "user", "content": row["content"]}]) if before else row["content"]


def _advertisement_messages(row: Row) -> list[Message]:
    """As in ChatGLM-6B's own training script: earlier turns are context, and not trained."""
    return [*as_context(before_question(row)), *dialogue(row["content"], row["summary"])]


def as_context(messages: Sequence[Message]) -> list[Message]:
    """The same, none of them trained."""
    return [{**message, "weight": 0} if is_trained(message) else message for message in messages]


def _chat_source(row: Row) -> str:
    messages = _chat_messages(row)
    return plain_text(messages[: last_answer(messages)])


def _chat_target(row: Row) -> str:
    return said(row["messages"][last_answer(row["messages"])])


def _chat_messages(row: Row) -> list[Message]:
    """A row's "system" text counts where the messages have none."""
    if not row.get("system", "").strip() or row["messages"][0]["role"] == "system":
        return row["messages"]
    return [{"role": "system", "content": row["system"]}, *row["messages"]]


def _second_system(row: Row) -> Sequence[str]:
    first = row["messages"][0]
    return ("system",) if row.get("system") and first["role"] == "system" and first["content"] != row["system"] else ()


QUESTION_GENERATION = TaskFormat(
    fields=(Field(("context", "source")), Field(("answer", "title")), Field(("question", "target"))),
    source=_question_source,
    target=_question_target,
    # The words before the question stay, so that the metrics of all models measure the same text.
    messages=lambda row: dialogue(_question_source(row), _question_target(row).strip()),
)
HISTORY = "history"
BEFORE_QUESTION = (
    Field(("system", "system_prompt"), required=False),
    Field((HISTORY,), required=False, read=read_history, empty=()),
)
_INSTRUCTION_FIELDS = (
    Field(("instruction",), aliases=("prompt",)),
    Field(("output",), aliases=("response",)),
    Field(("input",), required=False, aliases=("query",)),
    *BEFORE_QUESTION,
)


def _instructions(prompt: Callable[[Row], str]) -> TaskFormat:
    """Rows of an instruction and its output; `prompt` puts instruction and input together."""
    return TaskFormat(
        fields=_INSTRUCTION_FIELDS,
        source=lambda row: plain_text([*before_question(row), {"role": "user", "content": prompt(row)}]),
        target=lambda row: row["output"],
        messages=lambda row: [*before_question(row), *dialogue(prompt(row), row["output"])],
    )


INSTRUCTION = _instructions(_belle_text)
ALPACA = _instructions(alpaca_prompt)
CONVERSATION = TaskFormat(
    fields=_INSTRUCTION_FIELDS,
    source=_conversation_source,
    target=lambda row: row["output"],
    messages=_conversation_messages,
)
ADVERTISEMENT = TaskFormat(
    fields=(Field(("content",), aliases=("prompt",)), Field(("summary",), aliases=("response",)), *BEFORE_QUESTION),
    source=_advertisement_source,
    target=lambda row: row["summary"],
    messages=_advertisement_messages,
    needs_text=True,
)
MESSAGES = TaskFormat(
    fields=(
        Field(("messages", "conversations"), read=read_messages, aliases=("conversation",)),
        Field(("tools", "functions"), required=False, read=read_tools, empty=()),
        Field(("system", "system_prompt"), required=False),
    ),
    source=_chat_source,
    target=_chat_target,
    messages=_chat_messages,
    tools=lambda row: row.get("tools", ()),
    idle=_second_system,
)
