"""Rows of a prompt with a better and a worse answer, in the forms that people have; a row's fields say which it is.

PaddleNLP's alignment data (src, tgt, response, sort), LLaMA-Factory's rankings (alpaca's and ShareGPT's columns with
chosen and rejected), and TRL's (prompt, chosen, rejected as texts or as messages; whole conversations without a prompt,
of which the common beginning is one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile, zip_longest
from typing import Any

from glm.datasets.conversations import read_tools, read_turns
from glm.datasets.prompts import (
    BEFORE_QUESTION,
    HISTORY,
    Row,
    alpaca_prompt,
    as_context,
    before_question,
    plain_text,
)
from glm.datasets.readers import Field, RowProblem
from glm.encoding.examples import Example
from glm.encoding.messages import Message, Tools, is_trained, last_answer, role_of, said, type_name
from glm.encoding.preference import PreferenceExample

_SIDES = ("chosen", "rejected")
_PADDLENLP = ("src", "tgt", "response", "sort")
_PAIR = "pair"  # the key of a row's example
Compared = tuple[list[Message], list[Message], list[Message]]  # prompt, chosen and rejected answer


def _answer(name: str, value: Any) -> list[Message]:
    """A text, a message or a list of messages."""
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else read_turns(name, value)


def _prompt(name: str, value: Any) -> list[Message]:
    """A text, which is a question, or a list of messages; a blank text is none."""
    if not isinstance(value, str):
        return read_turns(name, value)
    return [{"role": "user", "content": value}] if value.strip() else []


def _texts(name: str, value: Any) -> list[str]:
    """A list of texts, or a text by itself; "" is none."""
    texts = [value] * bool(value) if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise RowProblem(f"field '{name}' is {type_name(value)}, not a list of texts")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise RowProblem(f"field '{name}': entry {number} is {type_name(text)}, not text")
    return texts


def _numbers(name: str, value: Any) -> list[float]:
    if not isinstance(value, list) or any(type(number) not in (int, float) for number in value):
        raise RowProblem(f"field '{name}' is not a list of numbers")
    return value


_FIELDS = (
    Field(("chosen",), read=_answer),
    Field(("rejected",), read=_answer),
    Field(("prompt",), required=False, read=_prompt, empty=None, aliases=("question",)),
    Field(("messages", "conversations"), read=read_turns, aliases=("conversation",)),
    Field(("instruction",)),
    Field(("input",), required=False, aliases=("query",)),
    Field(("src",), read=_texts),
    Field(("tgt",), required=False, read=_texts, empty=()),
    Field(("response",), read=_texts),
    Field(("sort",), read=_numbers),
    Field(("tools", "functions"), required=False, read=read_tools, empty=()),
    *BEFORE_QUESTION,
)


class _Form:
    """One of the forms.

    Args:
        compared: row → prompt and answers.
        keys: of the fields that it has a use for, beside those of all forms.
    """

    def __init__(self, compared: Callable[[Row], Compared], *keys: str):
        self.compared, self.keys = compared, {*keys, "system", "tools"}
        self.fields = [field for field in _FIELDS if field.key in self.keys]


@dataclass(frozen=True)
class PreferenceFormat:
    """How rows with two answers are read, in the place of a `TaskFormat` (glm/datasets/prompts.py).

    Attributes:
        fields: of all forms; what is in them is read when the form is known, for another form has no use for it.
    """

    fields: tuple[Field, ...] = tuple(
        replace(field, required=False, read=lambda name, value: value, empty=None) for field in _FIELDS
    )

    def complete(self, row: Row, place: str) -> Row:
        """The row, read, and its example. Raises RowProblem for a row that compares nothing."""
        form = _form_of(row)
        read = {**row, **{field.key: field.take(_present(row)) for field in form.fields}}
        prompt, chosen, rejected = form.compared(read)
        _check(prompt, chosen, rejected)
        pair = (_example(prompt, answer, read["tools"]) for answer in (chosen, rejected))
        return {**read, _PAIR: PreferenceExample(*pair, place)}

    def example(self, row: Row) -> PreferenceExample:
        return row[_PAIR]

    def idle(self, row: Row) -> Sequence[str]:
        """Names of fields that the row's form has no use for."""
        used = _form_of(row).keys - ({"system"} if _second_system(row) else set())
        idle = (field for field in self.fields if field.key not in used)
        return [name for field in idle for name in (*field.names, *field.aliases)]

    def is_usable(self, row: Row) -> bool:
        return True


def _present(row: Row) -> Row:
    """Without the fields that are null: those that a form requires are missing then."""
    return {name: value for name, value in row.items() if value is not None}


def _form_of(row: Row) -> _Form:
    """Raises RowProblem where the row has no two answers or no prompt."""
    row = _present(row)
    if not row.keys() & {*_SIDES} and row.keys() & {*_PADDLENLP}:
        return _RANKED
    if missing := [name for name in _SIDES if name not in row]:
        raise RowProblem(
            f"field '{missing[0]}' is missing, the row has {', '.join(row) or 'no fields'}; two answers to compare are "
            "'chosen' and 'rejected', or in PaddleNLP's form 'response' and 'sort'"
        )
    if all(_begins_otherwise(row[name]) for name in _SIDES):
        return _WHOLE
    if form := next((form for key, form in _ASKED.items() if row.get(key)), None):
        return form
    raise RowProblem(f"the prompt is missing or empty, the row has {', '.join(row)}; it is one of {', '.join(_ASKED)}")


def _begins_otherwise(answer: Any) -> bool:
    """Whether what is called an answer is a conversation, and no message of the assistant."""
    first = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(first, dict) and role_of(first) != "assistant"


def _ranked(row: Row) -> Compared:
    """PaddleNLP's: the response with the higher number in `sort` is chosen."""
    questions, answers, responses, ranks = (row[name] for name in _PADDLENLP)
    if len(questions) != len(answers) + 1:
        raise RowProblem(f"src has {len(questions)} texts and tgt {len(answers)}: src has one more, the last question")
    if len(responses) != 2 or len(ranks) != 2:
        raise RowProblem(f"response has {len(responses)} texts and sort {len(ranks)} numbers; two of each are compared")
    if ranks[0] == ranks[1]:
        raise RowProblem(f"sort is {ranks}, and equal numbers do not say which response is better")
    turns = [text for pair in zip_longest(questions, answers) for text in pair if text is not None]
    prompt = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
    better = int(ranks[1] > ranks[0])
    chosen, rejected = ([{"role": "assistant", "content": responses[n]}] for n in (better, 1 - better))
    return _behind_system(row, prompt), chosen, rejected


def _whole(row: Row) -> Compared:
    """TRL's conversations without a prompt; a `prompt` beside them repeats what they begin with."""
    chosen, rejected = (row[name] for name in _SIDES)
    if _heard(chosen) == _heard(rejected):
        raise RowProblem("chosen and rejected are equal")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    count = sum(1 for _ in same)
    prompt = chosen[:count]
    for name in _SIDES:
        if count == len(row[name]):
            raise RowProblem(f"'{name}' is the beginning of the other conversation, so one of them has no answer")
        if (role := row[name][count]["role"]) != "assistant":
            raise RowProblem(
                f"chosen and rejected differ from message {count + 1} on, which is the {role}'s in '{name}': it must "
                "be the assistant's, an answer to the same prompt"
            )
    given = row["prompt"] or []
    if given != prompt[max(0, len(prompt) - len(given)) :]:
        raise RowProblem("field 'prompt' is not what chosen and rejected begin with: keep one of the two")
    return _behind_system(row, prompt), chosen[count:], rejected[count:]


def _asked(key: str) -> Callable[[Row], Compared]:
    """The prompt in field `key`, and the answers beside it."""

    def compared(row: Row) -> Compared:
        asked = [{"role": "user", "content": alpaca_prompt(row)}] if key == "instruction" else row[key]
        before = () if key == "messages" else row[HISTORY]
        return _behind_system(row, [*before, *asked]), row["chosen"], row["rejected"]

    return compared


def _behind_system(row: Row, prompt: list[Message]) -> list[Message]:
    """A row's "system" text counts where the messages have none."""
    has_one = bool(prompt) and prompt[0]["role"] == "system"
    return prompt if has_one else [*before_question({"system": row["system"]}), *prompt]


def _second_system(row: Row) -> bool:
    """Whether a row's "system" text is not that of its messages, which have one."""
    return bool(row["system"].strip()) and row[_PAIR].chosen.messages[0]["content"] != row["system"]


_RANKED = _Form(_ranked, *_PADDLENLP)
_WHOLE = _Form(_whole, *_SIDES, "prompt")
# The field that holds the prompt, the best one first → the form.
_ASKED = {
    "prompt": _Form(_asked("prompt"), *_SIDES, "prompt", HISTORY),
    "messages": _Form(_asked("messages"), *_SIDES, "messages"),
    "instruction": _Form(_asked("instruction"), *_SIDES, "instruction", "input", HISTORY),
}


def _check(prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message]) -> None:
    """Raises RowProblem unless two different answers of the assistant follow a question or a tool's result."""
    if not any(said(message).strip() for message in prompt if message["role"] != "system"):
        raise RowProblem("the prompt is empty")
    if (role := prompt[-1]["role"]) in ("system", "assistant"):
        raise RowProblem(f"the prompt ends with the {role}'s message; end with the user's question or a tool's result")
    for name, answer in zip(_SIDES, (chosen, rejected), strict=True):
        _check_answer(name, answer)
    if _heard(chosen) == _heard(rejected):
        raise RowProblem("chosen and rejected are equal")


def _check_answer(name: str, answer: Sequence[Message]) -> None:
    if not any(said(message).strip() or message.get("reasoning_content") for message in answer):
        raise RowProblem(f"the {name} answer is empty")
    for where, message in (("begins", answer[0]), ("ends", answer[-1])):
        if message["role"] != "assistant":
            raise RowProblem(f"the {name} answer {where} with the {message['role']}'s message, not the assistant's")
    if not any(map(is_trained, answer)):
        raise RowProblem(f"the {name} answer is marked as context, so there is nothing to compare")


def _heard(messages: Sequence[Message]) -> list[tuple]:
    """What messages say, without what stands beside it."""
    return [(message["role"], said(message), message.get("reasoning_content")) for message in messages]


def _example(prompt: Sequence[Message], answer: Sequence[Message], tools: Tools) -> Example:
    messages = (*as_context(prompt), *answer)
    at = last_answer(messages)
    return Example(plain_text(messages[:at]), said(messages[at]), messages, tuple(tools))


PREFERENCE = PreferenceFormat()
