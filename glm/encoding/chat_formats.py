"""Conversations: messages to prompt ids, to training rows that say what is trained, and generated text to answers.

Messages come in any form that `glm.encoding.messages` reads. `CHAT_FORMATS` has one entry per tokenizer kind; rounds
are in glm/encoding/chat_rounds.py, turns in glm/encoding/chat_roles.py. Imports neither paddle nor paddlenlp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from glm.encoding.call_messages import with_tool_calls
from glm.encoding.chat_roles import encode_role_prompt, encode_role_rows, last_role_answer, last_turn, shuts_thoughts
from glm.encoding.chat_rounds import CHATGLM2_ROUNDS, CHATGLM_ROUNDS
from glm.encoding.examples import TrainingExample
from glm.encoding.messages import ROLES, Message, Tools, is_trained, normal_messages
from glm.encoding.python_calls import json_arguments, with_python_calls
from glm.encoding.tagged_calls import TaggedCallReader
from glm.encoding.tagged_grammar import tagged_grammar
from glm.encoding.tool_calls import Clean, ToolCallReader, last_call
from glm.encoding.tool_choice import ToolChoice, tool_name
from glm.errors import GLMError
from glm.tokenizers.base import Tokenizer


def _line_reader(
    tools: Tools,
    clean: Clean,
    thinks: bool = False,
    one_call: bool = False,
    read_arguments: Callable[[str], str] | None = None,
) -> ToolCallReader:
    return ToolCallReader(list(map(tool_name, tools)), clean, thinks, one_call, read_arguments)


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
        thinks: whether answers begin with thoughts, which the prompt may open or shut.
        arrange: messages of the one form as the template has them.
        open_reader: (tools, how the text is cleaned, whether the prompt opened thoughts, whether one call is enough) →
            what reads an answer while it is written.
        tool_grammar: (a `ToolChoice`, thinks, may_think) → the grammar of the answer, None where any text will do.
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
    thinks: bool = False
    arrange: Callable[[list[Message]], list[Message]] = list
    open_reader: Callable[[Tools, Clean, bool, bool], ToolCallReader] = _line_reader
    tool_grammar: Callable[..., str | None] = ToolChoice.grammar

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
        return self.read_answer(text, frozenset(map(tool_name, tools or ())))

    def may_think(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
        """Whether the answer to a prompt may begin with thoughts that the prompt has not opened."""
        return self.thinks and not shuts_thoughts(tokenizer, prompt)

    def stable_length(self, text: str) -> int:
        """How many characters of an unfinished text stand for certain."""
        return len(text.rstrip(self.unstable))

    def _checked(self, messages: Sequence[Message]) -> list[Message]:
        if not messages:
            raise GLMError("the conversation is empty; give at least one message")
        return self.arrange(normal_messages(messages, self.roles))


def chat_format(tokenizer: object) -> ChatFormat:
    """The entry for a tokenizer. Raises GLMError for a model that holds no conversations."""
    kind = getattr(tokenizer, "kind", type(tokenizer).__name__)
    if kind not in CHAT_FORMATS:
        raise GLMError(f"a {kind} model has no chat format; these have: {', '.join(CHAT_FORMATS)}")
    return CHAT_FORMATS[kind]


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


def _read_chatglm2_answer(text: str, tools: frozenset[str]) -> dict[str, str]:
    return {"role": "assistant", "content": _without_placeholder(text)}


def _read_turns(text: str, tools: frozenset[str]) -> dict[str, str]:
    return last_call(text, tools) or {"role": "assistant", "content": _without_placeholder(last_turn(text))}


def _read_chatglm3_turns(text: str, tools: frozenset[str]) -> dict[str, str]:
    call = last_call(text, tools, json_arguments)
    return call or {"role": "assistant", "content": _without_placeholder(last_turn(text))}


_ROUNDS = ChatFormat(
    ("user", "assistant"),
    CHATGLM_ROUNDS.encode_prompt,
    CHATGLM_ROUNDS.encode_rows,
    CHATGLM_ROUNDS.last_answer,
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
_CHATGLM2 = replace(
    _ROUNDS,
    encode_prompt=CHATGLM2_ROUNDS.encode_prompt,
    encode_rows=CHATGLM2_ROUNDS.encode_rows,
    last_answer=CHATGLM2_ROUNDS.last_answer,
    read_answer=_read_chatglm2_answer,
    postprocess=_without_placeholder,
    unstable=_UNSTABLE,
    fills_blank=False,
)
_CHATGLM3 = replace(
    _ROLE_TOKENS,
    read_answer=_read_chatglm3_turns,
    arrange=with_python_calls,
    open_reader=partial(_line_reader, read_arguments=json_arguments),
)
_TAGS = replace(
    _ROLE_TOKENS, thinks=True, arrange=with_tool_calls, open_reader=TaggedCallReader, tool_grammar=tagged_grammar
)
CHAT_FORMATS = {
    "chatglm": _ROUNDS,
    "chatglm2": _CHATGLM2,
    "chatglm3": _CHATGLM3,
    "glm4": _ROLE_TOKENS,
    "glm4-0414": _ROLE_TOKENS,
    "glm45": _TAGS,
}
