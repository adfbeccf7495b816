"""A chat template as texts between messages, for programs without Jinja: where it writes plain conversations so.

Plain is a conversation of questions and answers in turn, with one system message before them or none. What a template
does with tools or other orders is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glm.encoding.chat_formats import CHAT_FORMATS
from glm.encoding.chat_roles import ROLE_TEMPLATE, THINK_END
from glm.encoding.messages import Message
from glm.errors import GLMError
from glm.tokenizers.base import Tokenizer

# What stands before, between and behind messages, by the roles beside the place; "" is an end of the conversation.
Joints = dict[tuple[str, str], str]
NOTHING = "nothing"  # the role of an answer with nothing in it

_ROLES = ("system", "user", "assistant")
_NO_THINK = "/nothink"
_PROBES = ("A\ufdd3", "B\ufdd3", "C\ufdd3", "D\ufdd3")  # Unicode noncharacters: no template looks for them
_NASTY = (
    (" \n a \n ", "你好，<b>{{ x }}", "\t<think>x</think>\n", "0"),
    ("a/nothink", "<think>\n x</think>\n\n y \n", "b /nothink\n", "c"),
    ("a", "x</think>y</think>\n\n z", "<think>y</think>z", "/nothink"),
    ("a", "", "c", "d"),
    ("a", "b", "", "d"),
)
_THOUGHTS = " t\n"


@dataclass(frozen=True)
class PlainChat:
    """What a template writes around messages.

    Attributes:
        joints: the texts beside them.
        strips: whether an answer is written without its thoughts and without white space around it.
        question_end: what ends each question that does not end so already.
    """

    joints: Joints
    strips: bool = False
    question_end: str = ""

    def text(self, messages: Sequence[Message]) -> str:
        """A conversation that asks for an answer. Raises KeyError for one that is not plain."""
        written, before = "", ""
        for message in messages:
            role, text = message["role"], self._said(message)
            written += self.joints[before, role if text or role != "assistant" else NOTHING] + text
            before = role
        return written + self.joints[before, ""]

    def _said(self, message: Message) -> str:
        text = message["content"]
        if message["role"] == "user":
            return text if text.endswith(self.question_end) else text + self.question_end
        if message["role"] != "assistant" or not self.strips:
            return text
        return (text if "reasoning_content" in message else text.rpartition(THINK_END)[2]).strip()


def plain_chat(tokenizer: Tokenizer) -> PlainChat | None:
    """What the tokenizer's template writes, None where it does more to plain conversations than that."""
    for strips in (False, True):
        try:
            found = _read(tokenizer, strips)
            if all(found.text(messages) == _render(tokenizer, messages) for messages in _talks(tokenizer, found)):
                return found
        except GLMError:  # the template refuses such messages
            continue
    return None


def without_content(tokenizer: Tokenizer) -> str | None:
    """The prompt of one question that is empty, None where the template refuses it."""
    try:
        return _render(tokenizer, [{"role": "user", "content": ""}])
    except GLMError:
        return None


def _read(tokenizer: Tokenizer, strips: bool) -> PlainChat:
    joints: Joints = {}
    for roles in (["user", "assistant", "user"], ["system", "user"]):
        rest = _render(tokenizer, _messages(roles, _PROBES))
        for before, role, probe in zip(["", *roles], roles, _PROBES, strict=False):
            joints[before, role], found, rest = rest.partition(probe)
            if not found:
                raise GLMError("the template leaves a message out")
        joints[roles[-1], ""] = rest
    joints |= _nothing(tokenizer, joints, needed=strips)
    questions = [pair for pair in joints if pair[0] == "user"]
    end = _NO_THINK if all(joints[pair].startswith(_NO_THINK) for pair in questions) else ""
    joints |= {pair: joints[pair].removeprefix(end) for pair in questions}
    return PlainChat(joints, strips, end)


def _nothing(tokenizer: Tokenizer, joints: Joints, needed: bool) -> Joints:
    """What stands before an answer with nothing in it; where that is not `needed`, a template may refuse it."""
    question, _, after = _PROBES[:3]
    try:
        text = _render(tokenizer, _messages(["user", "assistant", "user"], (question, "", after)))
    except GLMError:
        if needed:
            raise
        return {}
    return {("user", NOTHING): text.partition(question)[2].partition(joints["assistant", "user"] + after)[0]}


def _talks(tokenizer: Tokenizer, chat: PlainChat) -> Iterator[list[Message]]:
    """Conversations that show whether a chat is what the template writes."""
    thinks = (False, True) if CHAT_FORMATS[tokenizer.kind].thinks else (False,)
    for texts in (_PROBES, *_NASTY):
        for start in ([], ["system"]):
            for count in (1, 3):
                roles = [*start, *(_ROLES[1 + i % 2] for i in range(count))]
                silent = {role for role, text in zip(roles, texts, strict=False) if not text}
                if not silent or (silent == {"assistant"} and ("user", NOTHING) in chat.joints):
                    yield from (_messages(roles, texts, thoughts) for thoughts in thinks)


def _messages(roles: Sequence[str], texts: Sequence[str], thoughts: bool = False) -> list[Message]:
    """A conversation; with `thoughts` its answers have some."""
    more = {"assistant": {"reasoning_content": _THOUGHTS}} if thoughts else {}
    return [{"role": role, "content": text, **more.get(role, {})} for role, text in zip(roles, texts, strict=False)]


def _render(tokenizer: Tokenizer, messages: list[Message]) -> str:
    template = tokenizer.template_for(default=tokenizer.default_template or ROLE_TEMPLATE)
    return tokenizer.marked_chat(template, messages, None, True)
