"""Rows of data files as prompts: read as training reads them, but for the answer. Imports no framework.

A prompt is plain JSON, so that the processes of a launch can hand it on: a text, or an object with `text`, what is
shown for it, `source`, what a GLM (2021) reads, `messages`, what a chat model reads, and `tools`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glm.datasets.conversations import read_history, unpacked_turns
from glm.datasets.readers import Parsed, RowProblem, check_row, parse_file, parse_text, read_text, type_name
from glm.datasets.tasks import TASKS
from glm.encoding.examples import Example
from glm.encoding.messages import role_of
from glm.encoding.processor import ChatProcessor, Processor
from glm.errors import GLMError, UsageError

Prompt = str | dict[str, Any]

# Fields that hold a whole prompt, the best name first.
TEXT_FIELDS = ("text", "prompt", "query", "question", "content", "source", "input")
_MESSAGES = ("messages", "conversations", "conversation")
_ANSWER = "…"  # stands where training needs an answer; no prompt holds it
# Task → the fields that it is known by, and those that hold its answer.
_ANSWERS = {
    "dureader_qg": ("question", "target"),
    "multiturn_chat_0.8M": ("output",),
    "alpaca": ("output",),
    "school_math_0.25M": ("output",),
    "adgen": ("summary",),
}


def file_prompts(path: Path, task_name: str | None = None) -> tuple[list[Prompt], list[str]]:
    """The prompts of a JSON file, packed or not, or of a table; and lines that say how its rows were read.

    Args:
        task_name: a key of TASKS; without it each row's fields say what it is.

    Raises:
        GLMError: one line with the first row that is no prompt.
    """
    return _prompts(parse_file(path), str(path), task_name)


def text_prompts(content: str, where: str, task_name: str | None = None) -> tuple[list[Prompt], list[str]] | None:
    """The same for a text that holds JSON objects and nothing else, None for any other."""
    if not content.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return None
    parsed = list(parse_text(content, where))
    if any(item.problem or not isinstance(item.value, dict) for item in parsed):
        return None
    prompts, notes = _prompts(parsed, where, task_name)
    return prompts, [f"{where} holds JSON, so its rows are read, and the lines not asked as they are", *notes]


def _prompts(parsed: Iterable[Parsed], where: str, task_name: str | None) -> tuple[list[Prompt], list[str]]:
    prompts: list[Prompt] = []
    ways: Counter[str] = Counter()
    unread: dict[str, None] = {}
    for item in parsed:
        try:
            prompt, way, read = _prompt(item, task_name)
        except RowProblem as problem:
            raise GLMError(f"{item.place}: {problem}") from problem
        blank = not prompt_text(prompt).strip()
        ways["blank, left out" if blank else way] += 1
        prompts += [] if blank else [prompt]
        unread |= dict.fromkeys(name for name in _names(item.value) if name not in read)
    if not prompts:
        raise UsageError(f"{where} holds no text")
    said = "; ".join(f"{count} row{'s' * (count > 1)} {way}" for way, count in ways.items())
    rest = f"; not read: {', '.join(list(unread)[:8])}" if unread else ""
    return prompts, [f"{where}: {said}{rest}"]


def _names(row: Any) -> Iterable[str]:
    return row if isinstance(row, dict) else ()


def _prompt(item: Parsed, task_name: str | None) -> tuple[Prompt, str, Sequence[str]]:
    """A row's prompt, how it was read, and the names of the fields that were."""
    if item.problem:
        raise RowProblem(f"{item.problem}; a file with one text per line is called .txt")
    if isinstance(item.value, str) and task_name is None:
        return item.value, "of text", ()
    if not isinstance(item.value, dict):
        raise RowProblem(f"a prompt is an object {{…}} or a text, this is {type_name(item.value)}")
    row = _with_messages(item.value)
    name = task_name or _task_of(row)
    if name is None:
        return _plain(row)
    row = _without_answer(row, name)
    task_format = TASKS[name].format
    example = task_format.example(check_row(Parsed(item.place, row), task_format.fields))
    read = [name for field in task_format.fields for name in (*field.names, *field.aliases)]
    return _of_example(example), f"as {name}", read


def _task_of(row: Mapping[str, Any]) -> str | None:
    """The task whose fields a row has, None where a field holds the whole prompt."""
    if "messages" in row:
        return "messages"
    if "instruction" in row:
        if str(row["instruction"]).lstrip().startswith(("Human:", "Human：")):
            return "multiturn_chat_0.8M"
        # Both read a lone instruction alike; those of BELLE have no input.
        return "alpaca" if row.get("input") else "school_math_0.25M"
    if row.keys() & {"context", "source"} and row.keys() & {"answer", "title"}:
        return "dureader_qg"
    return None


def _with_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with a conversation under `messages`, whatever it was called, and LLaMA-Factory's names of alpaca's."""
    row = dict(row)
    name = next((name for name in (*_MESSAGES, *TEXT_FIELDS) if isinstance(row.get(name), list)), None)
    if name:
        row["messages"] = row.pop(name)
    elif isinstance(row.get("prompt"), str) and isinstance(row.get("query"), str):
        row |= {"instruction": row.pop("prompt"), "input": row.pop("query")}
    return row


def _without_answer(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The row with a placeholder for its answer; a conversation's last answer is not asked."""
    if name != "messages":
        return row | dict.fromkeys(_ANSWERS.get(name, ("output",)), _ANSWER)
    messages = unpacked_turns("messages", row.get("messages"))
    if messages is None:
        return row
    if messages and isinstance(messages[-1], dict) and role_of(messages[-1]) == "assistant":
        messages = messages[:-1]
    if not messages:
        raise RowProblem("the conversation asks nothing: it has no message before the answer")
    form = ("from", "value") if isinstance(messages[-1], dict) and "from" in messages[-1] else ("role", "content")
    answer = {form[0]: "assistant" if form[0] == "role" else "gpt", form[1]: _ANSWER}
    return row | {"messages": [*messages, answer]}


def _plain(row: dict[str, Any]) -> tuple[Prompt, str, Sequence[str]]:
    """The prompt of a row that has it in one field, with what was said before under `system` and `history`."""
    if role_of(row) and row.keys() & {"content", "value"}:
        raise RowProblem("this row is a message, not a prompt: put the conversation's messages into a list, 'messages'")
    name = next((name for name in TEXT_FIELDS if row.get(name) is not None), None)
    if name is None:
        fields = ", ".join(row) or "no fields"
        raise RowProblem(
            f"no prompt is in this row, which has {fields}: name it {', '.join(TEXT_FIELDS[:4])} or messages"
        )
    text = read_text(name, row[name])
    system, history = row.get("system"), row.get("history")
    if not system and not history:
        return text, f"by '{name}'", (name, "system", "history")
    before = [{"role": "system", "content": read_text("system", system)}] if system else []
    before += read_history("history", history)
    asked = [*before, {"role": "user", "content": text}]
    task_format = TASKS["messages"].format
    checked = check_row(Parsed("", _without_answer({"messages": asked}, "messages")), task_format.fields)
    return _of_example(task_format.example(checked)), f"by '{name}', system and history", (name, "system", "history")


def _of_example(example: Example) -> Prompt:
    *asked, _ = example.messages
    return {
        "text": asked[-1]["content"],
        "source": example.source,
        "messages": asked,
        "tools": list(example.tools),
    }


def prompt_text(prompt: Prompt) -> str:
    """What is shown of a prompt: the last that was said."""
    return prompt if isinstance(prompt, str) else prompt["text"]


def prompt_ids(processor: Processor, prompt: Prompt) -> list[int]:
    """Ids after which a model writes the answer.

    Raises:
        GLMError: a prompt that does not fit, or a conversation for a model that takes plain texts.
    """
    if isinstance(prompt, str):
        return processor.text_prompt(prompt)
    if not isinstance(processor, ChatProcessor):
        return processor.text_prompt(prompt["source"])
    if not processor.plain:
        return processor.messages_prompt(prompt["messages"], prompt["tools"] or None)
    if len(prompt["messages"]) > 1:
        raise UsageError("--plain asks a text as it is, and this row is a conversation: leave out --plain")
    return processor.text_prompt(prompt["text"])


def encoded(prompt: Prompt) -> str:
    """All texts of a prompt in one, to look whether they can be written."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
