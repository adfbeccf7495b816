"""Conversations: messages to prompt ids, to training rows that say what is trained, and generated text to answers.

Messages come in any form that `glm.encoding.messages` reads. `CHAT_FORMATS` has one entry per tokenizer kind:
ChatGLM-6B's rounds are here, GLM-4's turns in glm/encoding/chat_roles.py. Imports neither paddle nor paddlenlp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm.encoding.chat_roles import encode_role_prompt, encode_role_rows, last_role_answer, last_turn, read_role_answer
from glm.encoding.examples import EMPTY_ANSWERS, NO_PLACE_FOR_THOUGHTS, TrainingExample
from glm.encoding.messages import ROLES, Message, Tools, is_trained, normal_messages, without_oldest
from glm.errors import GLMError, UsageError
from glm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class ChatFormat:
    """How one kind of model is talked to.

    Attributes:
        roles: roles a message may have.
        encode_prompt: (tokenizer, messages, tools, longest, whether the question may be cut) → prompt ids, `longest`
            None for no limit.
        encode_rows: (tokenizer, messages, tools, src_length, tgt_length, counts) → training rows; `counts` grows by
            what is left out (glm/encoding/examples.py).
        last_answer: (tokenizer, messages, tools) → what stands before the last answer that is trained, and its ids.
        read_answer: (generated text, names of the tools that were offered) → assistant message.
        postprocess: what a user sees of generated text.
        cuts: what a source, and a row to train on, are without when they were cut.
        unstable: characters that `postprocess` may still change when a text that ends with them continues.
        fills_blank: whether the answer fills a blank of the prompt, which then is read in both directions.
    """

    roles: tuple[str, ...]
    encode_prompt: Callable[[Tokenizer, list[Message], Tools | None, int | None, bool], list[int]]
    encode_rows: Callable[
        [Tokenizer, list[Message], Tools | None, int | None, int | None, Counter[str]], list[TrainingExample]
    ]
    last_answer: Callable[[Tokenizer, list[Message], Tools | None], tuple[list[Message], list[int]]]
    read_answer: Callable[[str, frozenset[str]], dict[str, str]]
    postprocess: Callable[[str], str]
    unstable: str
    cuts: Mapping[str, str]
    fills_blank: bool = False

    def prompt_ids(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Tools | None = None,
        max_length: int | None = None,
    ) -> list[int]:
        """Ids after which the model writes its answer to the last message.

        Args:
            tools: JSON schemas of functions the model may call.
            max_length: most ids; the oldest turns go first, system messages stay.

        Raises:
            GLMError: a message this model has no place for.
            UsageError: not even the last turn fits.
        """
        messages = self._checked(messages)
        if messages[-1]["role"] == "assistant":
            raise GLMError("the last message is the assistant's; end with the user's question or a tool's result")
        return self.encode_prompt(tokenizer, messages, tools, max_length, False)

    def training_examples(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Tools | None = None,
        src_length: int | None = None,
        tgt_length: int | None = None,
        counts: Counter[str] | None = None,
    ) -> list[TrainingExample]:
        """Every assistant turn and the token that ends it is trained once, in one row or in several.

        Answers with nothing in them are context; there are no rows where all are of that kind.

        Args:
            src_length, tgt_length: most ids of a question and its answer where a model keeps them apart; their sum is
                the most of a whole conversation where it does not. None is no limit.
            counts: grows by what is left out of the messages (glm/encoding/examples.py).

        Raises GLMError for a message this model has no place for, or where no message is an answer to train.
        """
        messages = self._checked(messages)
        if all(message["role"] != "assistant" for message in messages):
            raise GLMError("the conversation has no assistant message, so there is nothing to train")
        if not any(map(is_trained, messages)):
            raise GLMError("every answer of the conversation is marked as context, so there is nothing to train")
        return self.encode_rows(
            tokenizer, messages, tools, src_length, tgt_length, Counter() if counts is None else counts
        )

    def evaluated(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Tools | None = None,
        max_length: int | None = None,
    ) -> tuple[list[int], list[int], bool]:
        """Ids of the prompt of the last answer that is trained, of that answer, and whether the prompt is cut.

        Args:
            max_length: most ids of the prompt; the oldest turns go first, then the end of the question.

        Raises GLMError as `training_examples`.
        """
        before, answer = self.last_answer(tokenizer, self._checked(messages), tools)
        ids = self.encode_prompt(tokenizer, before, tools, None, True)
        cut = max_length is not None and len(ids) > max_length
        return self.encode_prompt(tokenizer, before, tools, max_length, True) if cut else ids, answer, cut

    def answer(self, text: str, tools: Tools | None = None) -> dict[str, str]:
        """The assistant message that generated `text` stands for; calls a tool only if `tools` has one of that name."""
        return self.read_answer(text, frozenset(map(_tool_name, tools or ())))

    def stable_length(self, text: str) -> int:
        """How many characters of an unfinished text stand for certain."""
        return len(text.rstrip(self.unstable))

    def _checked(self, messages: Sequence[Message]) -> list[Message]:
        if not messages:
            raise GLMError("the conversation is empty; give at least one message")
        return normal_messages(messages, self.roles)


def chat_format(tokenizer: object) -> ChatFormat:
    """The entry for a tokenizer. Raises GLMError for a model that holds no conversations."""
    kind = getattr(tokenizer, "kind", type(tokenizer).__name__)
    if kind not in CHAT_FORMATS:
        raise GLMError(f"a {kind} model has no chat format; these have: {', '.join(CHAT_FORMATS)}")
    return CHAT_FORMATS[kind]


def _tool_name(tool: Mapping[str, Any]) -> str:
    """Of {"type": "function", "function": {"name": …}}, of {"name": …}, or of a built-in {"type": "python"}."""
    return (tool.get("function") or tool).get("name") or tool.get("type", "")


# ChatGLM-6B: text [gMASK] <sop> answer <eop>, earlier turns as numbered rounds in the text.


def round_prompt(messages: Sequence[Message]) -> str:
    """The text ChatGLM-6B reads: a first question as it is, later ones with the rounds before them.

    Raises GLMError unless user and assistant take turns, the user first and last.
    """
    _check_turns(messages)
    query = messages[-1]["content"]
    if len(messages) == 1:
        return query
    pairs = zip(messages[0:-1:2], messages[1::2], strict=True)
    rounds = [f"[Round {i}]\n问：{asked['content']}\n答：{said['content']}\n" for i, (asked, said) in enumerate(pairs)]
    return "".join(rounds) + f"[Round {len(rounds)}]\n问：{query}\n答："


def _check_turns(messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages):
        if message["role"] != ("user", "assistant")[number % 2]:
            cure = f"join it with message {number}" if number else "put the user's question before it"
            raise GLMError(
                f"message {number + 1} is the {message['role']}'s; user and assistant take turns in this model: {cure}"
            )


def _round_ids(tokenizer: Tokenizer, messages: list[Message], longest: int | None) -> tuple[list[int], bool]:
    """Ids of the text, at most `longest`, and whether some are left out.

    The oldest rounds go first, then the end of the text.
    """
    ids = tokenizer.text_ids(round_prompt(messages), split_special_tokens=True)
    cut = longest is not None and len(ids) > longest
    while cut and len(ids) > longest and (messages := without_oldest(messages)):
        ids = tokenizer.text_ids(round_prompt(messages), split_special_tokens=True)
    return ids[:longest], cut


def _encode_round_prompt(tokenizer, messages, tools, longest, cuts_question) -> list[int]:
    _refuse_tools(tools)
    frame = len(tokenizer.build_inputs([]))
    if longest is not None and longest <= frame:
        raise UsageError(f"a prompt of {longest} tokens has no room for text beside {frame} special ones")
    ids, _ = _round_ids(tokenizer, messages, None if longest is None else longest - frame)
    return tokenizer.build_inputs(ids)


def _encode_round_rows(tokenizer, messages, tools, src_length, tgt_length, counts) -> list[TrainingExample]:
    """One row per answer, the rounds before it in its prompt.

    At most S-1 ids of text, [gMASK] <sop>, at most T-2 ids of the answer, <eop>; trained from <sop> on, as in
    ChatGLM-6B's ADGEN example.
    """
    _refuse_tools(tools)
    _check_turns(messages)
    source_room = None if src_length is None else max(src_length - 1, 0)
    target_room = None if tgt_length is None else max(tgt_length - 2, 0)
    rows = []
    for turn in range(1, len(messages), 2):
        if not is_trained(messages[turn]):
            continue
        if "reasoning_content" in messages[turn]:
            counts[NO_PLACE_FOR_THOUGHTS] += 1
        if not messages[turn]["content"].strip():
            counts[EMPTY_ANSWERS] += 1
            continue
        text, cut = _round_ids(tokenizer, messages[:turn], source_room)
        whole = tokenizer.text_ids(messages[turn]["content"], split_special_tokens=True)
        prompt, answer = tokenizer.build_inputs(text), whole[:target_room]
        ids = [*prompt, *answer, tokenizer.eop_token_id]
        prefix = len(prompt) - 1
        rows.append(TrainingExample(ids, [i >= prefix for i in range(len(ids))], prefix, cut or answer != whole))
    return rows


def _refuse_tools(tools: Tools | None) -> None:
    if tools:
        raise GLMError("this model calls no tools; leave tools out")


_CHINESE = "[\u4e00-\u9fff]"
_FULL_WIDTH = dict(zip(",!:;?", "，！：；？", strict=True))
_HALF_WIDTH = re.compile(f"(?<={_CHINESE})[,!:;?]|[,!:;?](?={_CHINESE})")
_UNSTABLE = " \t\r\n\u3000[[训练时间]]"


def process_response(text: str) -> str:
    """ChatGLM-6B's clean-up: [[训练时间]] becomes 2023年, and ,!:;? beside a Chinese character full-width."""
    return _HALF_WIDTH.sub(lambda match: _FULL_WIDTH[match[0]], _without_placeholder(text))


def _without_placeholder(text: str) -> str:
    return text.strip().replace("[[训练时间]]", "2023年")


def _read_round_answer(text: str, tools: frozenset[str]) -> dict[str, str]:
    return {"role": "assistant", "content": process_response(text)}


def _last_round_answer(tokenizer, messages, tools) -> tuple[list[Message], list[int]]:
    _refuse_tools(tools)
    _check_turns(messages)
    answers = [n for n, message in enumerate(messages) if is_trained(message) and message["content"].strip()]
    if not answers:
        raise GLMError("the conversation has no answer that is trained")
    answer = messages[answers[-1]]["content"]
    return messages[: answers[-1]], tokenizer.text_ids(answer, split_special_tokens=True)


def _read_turns(text: str, tools: frozenset[str]) -> dict[str, str]:
    called = read_role_answer(text, tools)
    return called or {"role": "assistant", "content": _without_placeholder(last_turn(text))}


_ROUNDS = ChatFormat(
    ("user", "assistant"),
    _encode_round_prompt,
    _encode_round_rows,
    _last_round_answer,
    _read_round_answer,
    process_response,
    _UNSTABLE + "".join(_FULL_WIDTH),
    {
        "source": "their oldest rounds are lost, then their end",
        "row": "the oldest rounds of their source, then its end, or the end of their answer are lost",
    },
    fills_blank=True,
)
_ROLE_TOKENS = ChatFormat(
    ROLES,
    encode_role_prompt,
    encode_role_rows,
    last_role_answer,
    _read_turns,
    _without_placeholder,
    _UNSTABLE,
    {"source": "their oldest turns are lost, in evaluation then the end of the question", "row": "their end is lost"},
)
CHAT_FORMATS = {"chatglm": _ROUNDS, "glm4": _ROLE_TOKENS, "glm4-0414": _ROLE_TOKENS}
