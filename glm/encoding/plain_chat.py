"""A chat template as texts between messages, for programs without Jinja: where it writes plain conversations so.

Plain is a conversation of questions and answers in turn, with one system message before them or none. What a template
does with tools, thoughts or other orders is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from glm.encoding.chat_roles import ROLE_TEMPLATE
from glm.encoding.messages import Message
from glm.errors import GLMError
from glm.tokenizers.base import Tokenizer

# What stands before, between and behind messages, by the roles beside the place; "" is an end of the conversation.
Joints = dict[tuple[str, str], str]

_ROLES = ("system", "user", "assistant")
_PROBES = ("A\ufdd3", "B\ufdd3", "C\ufdd3", "D\ufdd3")  # Unicode noncharacters: no template looks for them
_NASTY = (" \n a \n ", "你好，<b>{{ x }}", "\t<think>x</think>\n", "0")


def plain_joints(tokenizer: Tokenizer) -> Joints | None:
    """The texts of the tokenizer's template, None where it does more to plain conversations than to join them."""
    try:
        joints = _read(tokenizer)
        return joints if all(_holds(tokenizer, joints, texts) for texts in (_PROBES, _NASTY)) else None
    except GLMError:  # the template refuses such messages
        return None


def without_content(tokenizer: Tokenizer) -> str | None:
    """The prompt of one question that is empty, None where the template refuses it."""
    try:
        return _render(tokenizer, [{"role": "user", "content": ""}])
    except GLMError:
        return None


def joined(joints: Joints, messages: Sequence[Message]) -> str:
    """A conversation that asks for an answer, as text."""
    roles = ["", *(message["role"] for message in messages), ""]
    texts = [*(message["content"] for message in messages), ""]
    return "".join(joints[pair] + text for pair, text in zip(pairwise(roles), texts, strict=True))


def _read(tokenizer: Tokenizer) -> Joints:
    joints: Joints = {}
    for roles in (["user", "assistant", "user"], ["system", "user"]):
        rest = _render(tokenizer, _messages(roles, _PROBES))
        for before, role, probe in zip(["", *roles], roles, _PROBES, strict=False):
            joints[before, role], found, rest = rest.partition(probe)
            if not found:
                raise GLMError("the template leaves a message out")
        joints[roles[-1], ""] = rest
    return joints


def _holds(tokenizer: Tokenizer, joints: Joints, texts: Sequence[str]) -> bool:
    """Whether the joints say what the template writes."""
    plain = (
        _messages([*start, *(_ROLES[1 + i % 2] for i in range(count))], texts)
        for start in ([], ["system"])
        for count in (1, 3)
    )
    return all(joined(joints, messages) == _render(tokenizer, messages) for messages in plain)


def _messages(roles: Sequence[str], texts: Sequence[str]) -> list[Message]:
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def _render(tokenizer: Tokenizer, messages: list[Message]) -> str:
    template = tokenizer.template_for(default=tokenizer.default_template or ROLE_TEMPLATE)
    return tokenizer.marked_chat(template, messages, None, True)
