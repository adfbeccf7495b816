"""GLM-4's conversations: [gMASK] <sop>, then a role token, a line end and the content for each message.

A chat template writes them. A row to train on begins as the prompt does after which the model writes that answer, and
what is trained as the end of an answer ends it in generation, too. Imports neither paddle nor paddlenlp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from glm.encoding.call_messages import RESULT, calls_tools
from glm.encoding.examples import (
    CUT_BY_TEMPLATE,
    EMPTY_ANSWERS,
    NO_PLACE_FOR_THOUGHTS,
    NO_THOUGHTS,
    OPEN_THOUGHTS,
    TrainingExample,
)
from glm.encoding.messages import Message, Tools, is_trained, without_oldest
from glm.errors import GLMError, UsageError
from glm.tokenizers.base import Tokenizer

ASSISTANT, USER, OBSERVATION = "<|assistant|>", "<|user|>", "<|observation|>"
# The token that begins a message behind an answer, by its role.
_NEXT = {"user": USER, "observation": OBSERVATION, RESULT: OBSERVATION}
STOP_TEXTS = ("<|endoftext|>", USER, OBSERVATION)
THINK, THINK_END = "<think>", "</think>"
# GLM-4's turns where a directory has no template of its own: role token, tool name, line end, content.
ROLE_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>{{ message.metadata or '' }}\n{{ message.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_THOUGHT = re.compile(rf"(?:\s*{THINK})?(.*?){THINK_END}(.*)", re.DOTALL)


@dataclass(frozen=True)
class _Turn:
    """An answer as text: up to and with <|assistant|>, the rest of the prompt, and what the model writes.

    `lost` says what of the message is not there, or there and not in the message: a key of what is counted, or "".
    """

    start: str
    opening: str
    answer: str
    lost: str = ""

    @property
    def prompt(self) -> str:
        return self.start + self.opening

    @property
    def text(self) -> str:
        return self.prompt + self.answer


def encode_role_prompt(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: Tools | None,
    longest: int | None,
    cuts_question: bool = False,
) -> list[int]:
    """Ids of the prompt, at most `longest`; the oldest turns go first.

    Args:
        cuts_question: then the last turn loses its end. Otherwise it is an error where that is too long.
    """
    while True:
        text = _render(tokenizer, messages, tools, add_generation_prompt=True)
        ids = tokenizer.text_ids(text)
        if longest is None or len(ids) <= longest:
            return ids
        if shorter := without_oldest(messages):
            messages = shorter
            continue
        opening = tokenizer.text_ids(text[text.rfind(ASSISTANT) :])
        if cuts_question and longest > len(opening):
            return [*ids[: longest - len(opening)], *opening]
        raise UsageError(f"the last turn has {len(ids)} tokens, and the prompt's limit is {longest}: raise src_length")


def encode_role_rows(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: Tools | None,
    src_length: int | None,
    tgt_length: int | None,
    counts: Counter[str],
) -> list[TrainingExample]:
    """The whole conversation in one row, cut at S+T ids.

    What the model writes is trained: all that follows the token <|assistant|>, and the stop token that ends the turn.
    Where the conversation does not continue with that token (two answers in a row, a system message in between), or a
    template rewrites earlier answers (GLM-Z1 drops their thoughts), the next answer begins a row of its own.
    """
    rows: list[_Row] = []
    for number, message in enumerate(messages):
        if not is_trained(message):
            continue
        turn = _turn(tokenizer, messages, number, tools)
        if turn.lost:
            counts[turn.lost] += 1
        if not turn.answer.strip():
            counts[EMPTY_ANSWERS] += 1
            continue
        if not rows or not rows[-1].continues(turn.start, calls_tools(message)):
            rows.append(_Row(tokenizer))
        rows[-1].add_turn(turn, _end_token(messages, number))
    if rows and not is_trained(messages[-1]):
        rows[-1].add_context(_render(tokenizer, messages, tools))
    limit = None if src_length is None or tgt_length is None else src_length + tgt_length
    return [row.encode(limit) for row in rows]


def last_role_answer(
    tokenizer: Tokenizer, messages: list[Message], tools: Tools | None
) -> tuple[list[Message], list[int]]:
    """What stands before the last answer that is trained, and that answer's ids as the model writes it.

    Words and the calls of tools behind them are one answer.
    """
    for number in reversed(range(len(messages))):
        if is_trained(messages[number]) and (turn := _turn(tokenizer, messages, number, tools)).answer.strip():
            break
    else:
        raise GLMError("the conversation has no answer that is trained")
    first = number
    while first and messages[first].get("metadata") and is_trained(messages[first - 1]):
        first -= 1
    prompt = _turn(tokenizer, messages, first, tools).prompt
    if not turn.text.startswith(prompt):
        first, prompt = number, turn.prompt
    return messages[:first], tokenizer.text_ids(turn.text[len(prompt) :])


def opens_thoughts(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether the model begins inside <think>, as GLM-Z1's and GLM-4.7's templates have it."""
    return _end_of(tokenizer, prompt).endswith(THINK)


def shuts_thoughts(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether the model begins behind </think>, as GLM-4.5's and GLM-4.7's templates have it without thinking."""
    return _end_of(tokenizer, prompt).endswith(THINK_END)


def _end_of(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    return tokenizer.text_of(prompt[-16:], skip_special_tokens=False).rstrip()


def last_turn(text: str) -> str:
    """The last of the turns that a generated text holds, without the token that ends it."""
    turn = text.rpartition(ASSISTANT)[2]
    for token in STOP_TEXTS:
        turn = turn.removesuffix(token)
    return turn


class _Row:
    """A conversation as it grows: slices of text that end where prompts and answers do, so that ids do not run over."""

    def __init__(self, tokenizer: Tokenizer):
        self.text, self.end = "", ""
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._trained: list[bool] = []

    def continues(self, start: str, calls: bool) -> bool:
        """Whether `start` holds what is there already, and then the token that ends the last answer.

        An answer that continues with a call of a tool is ended by <|assistant|>, which stops nothing.
        """
        rest = start[len(self.text) :]
        return start.startswith(self.text) and (rest.startswith(self.end) or (calls and rest == ASSISTANT))

    def add_turn(self, turn: _Turn, end: str) -> None:
        self._add(turn.start, trained=False)
        self._add(turn.prompt, trained=True)
        self._add(turn.text, trained=True)
        self.end = end

    def add_context(self, text: str) -> None:
        """What follows the last answer, if it follows it as generation ends it."""
        if self.continues(text, calls=False):
            self._add(text, trained=False)
            self.end = USER

    def _add(self, text: str, trained: bool) -> None:
        """Goes on to `text`, which begins with what is there already."""
        ids = self._tokenizer.text_ids(text[len(self.text) :])
        # The first token after an answer is the role token that ends it.
        ends_answer = not trained and bool(self._trained) and self._trained[-1]
        self._ids += ids
        self._trained += [trained or (ends_answer and i == 0) for i in range(len(ids))]
        self.text = text

    def encode(self, limit: int | None) -> TrainingExample:
        ids = [*self._ids, self._tokenizer.convert_tokens_to_ids(self.end)]
        trained = [*self._trained, self._trained[-1]]
        return TrainingExample(ids[:limit], trained[:limit], cut=limit is not None and len(ids) > limit)


def _turn(tokenizer: Tokenizer, messages: list[Message], number: int, tools: Tools | None) -> _Turn:
    """An answer where the template asks for it; its `answer` is blank if there is nothing in it."""
    message = messages[number]
    prompt = _render(tokenizer, messages[:number], tools, add_generation_prompt=True)
    at = prompt.rfind(ASSISTANT) + len(ASSISTANT)
    start, opening = prompt[:at], prompt[at:]
    thought, said = _parts(message)
    if not (thought.strip() or said.strip() or calls_tools(message)):
        return _Turn(start, opening, "")
    whole = _render(tokenizer, messages[: number + 1], tools)
    bare = _without_thought(tokenizer, messages[: number + 1], tools, said) if thought.strip() else whole
    written = whole[at:] if start.endswith(ASSISTANT) and whole.startswith(start) else None
    kept = not thought.strip() or whole != bare
    if kept and written is not None and written.startswith(opening):
        answer = written[len(opening) :]
        return _Turn(start, opening, answer, _missing(tokenizer, message, answer))
    visible = bare[at:] if bare.startswith(start) else ""
    if opening.rstrip().endswith(THINK):
        answer = _thinking(tokenizer, message, opening, visible)
        return _Turn(start, opening, answer, "" if thought.strip() else NO_THOUGHTS)
    if opening.rstrip().endswith(THINK_END) and visible.strip():
        # The prompt shuts thoughts off; what follows is the answer alone.
        answer = visible.removeprefix(opening)
        answer = answer.removeprefix("\n") if opening.endswith("\n") else answer
        return _Turn(start, opening, answer, NO_PLACE_FOR_THOUGHTS if thought.strip() else "")
    if not said.strip() and not calls_tools(message):
        return _Turn(start, opening, "", NO_PLACE_FOR_THOUGHTS)
    if written is None or not written.startswith(opening):
        raise GLMError(f"the chat template does not write message {number + 1} where it asks for it: it cannot train")
    return _Turn(start, opening, written[len(opening) :], NO_PLACE_FOR_THOUGHTS)


def _missing(tokenizer: Tokenizer, message: Message, answer: str) -> str:
    """What is wrong with an answer as its template writes it: a key of what is counted, or ""."""
    parts = [part.strip() for part in _parts(message)]
    if parts[1].startswith(THINK) and not parts[0]:
        return OPEN_THOUGHTS
    if not calls_tools(message) and any(tokenizer.marked(part) not in answer for part in parts):
        return CUT_BY_TEMPLATE
    return ""


def _parts(message: Message) -> tuple[str, str]:
    """The thoughts of an answer, from their own field or from its text, and what it says besides."""
    if thought := message.get("reasoning_content"):
        return thought, message["content"]
    found = _THOUGHT.fullmatch(message["content"])
    return (found[1], found[2]) if found else ("", message["content"])


def _without_thought(tokenizer: Tokenizer, messages: list[Message], tools: Tools | None, said: str) -> str:
    bare = {key: value for key, value in messages[-1].items() if key != "reasoning_content"}
    return _render(tokenizer, [*messages[:-1], {**bare, "content": said}], tools)


def _thinking(tokenizer: Tokenizer, message: Message, opening: str, written: str) -> str:
    """What the model writes behind an opening <think> for which the template writes the answer alone."""
    thought, said = _parts(message)
    if written.startswith(THINK_END):  # so the template writes an answer without thoughts
        return f"{tokenizer.marked(thought.strip())}{written}"
    line_end = "" if opening.endswith("\n") else "\n"
    if thought.strip() and "reasoning_content" not in message and not calls_tools(message):
        # As the text has it, but for a line end that the prompt brings.
        thought = thought if line_end else thought.removeprefix("\n")
        return f"{tokenizer.marked(thought)}{THINK_END}{tokenizer.marked(said)}"
    thought = thought.strip()
    thought = f"{line_end}{tokenizer.marked(thought)}\n{THINK_END}"
    return thought + (written if written.startswith("\n") or not written else f"\n{written}")


def _end_token(messages: list[Message], number: int) -> str:
    """The stop token after an answer: the next message's role, else a tool's result if the turn asks for one.

    Behind words or a call that another call follows stands <|assistant|>, after which the model continues.
    """
    after = messages[number + 1] if number + 1 < len(messages) else {}
    if after.get("role") in _NEXT:
        return _NEXT[after["role"]]
    if after.get("metadata"):
        return ASSISTANT
    return OBSERVATION if calls_tools(messages[number]) else USER


def _render(
    tokenizer: Tokenizer, messages: list[Message], tools: Tools | None, add_generation_prompt: bool = False
) -> str:
    """The template's text; special tokens that users spelt are marked, and `encode` takes them for text."""
    template = tokenizer.template_for(bool(tools), default=tokenizer.default_template or ROLE_TEMPLATE)
    plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    plain, tools = _place_tools(template, plain, tools)
    return tokenizer.marked_chat(template, plain, tools, add_generation_prompt)


def _place_tools(template, messages: list[Message], tools: Tools | None) -> tuple[list[Message], Tools | None]:
    """Tools where the template looks for them: in its variable (GLM-4-0414), or in a system message (GLM-4-9B).

    Given the other way, either template would leave them out without a word.
    """
    given = list(tools or ())
    found = [*given, *(tool for message in messages for tool in message.get("tools", ()) if tool not in given)]
    if not found:
        return messages, tools
    probe = [{"role": "user", "content": "?"}]
    bare = [{key: value for key, value in message.items() if key != "tools"} for message in messages]
    if template.render(probe, found) != template.render(probe):
        return bare, found
    if not given:
        return messages, None
    first = bare[0] if bare and bare[0]["role"] == "system" else None
    return [{**(first or {"role": "system", "content": ""}), "tools": found}, *bare[bool(first) :]], None
