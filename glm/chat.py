"""Conversations: messages to prompt ids, to training rows that say what is trained, and generated text to answers.

A message is {"role": "user", "content": "…"}; roles are system, user, assistant and observation (a tool's result). An
assistant message that calls a tool has the tool's name under "metadata". `CHAT_FORMATS` has one entry a tokenizer kind;
imports neither paddle nor paddlenlp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm.errors import GLMError, UsageError
from glm.rows import TrainingRow
from glm.tokenizers.base import Tokenizer

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]

ASSISTANT, USER = "<|assistant|>", "<|user|>"
STOP_TEXTS = ("<|endoftext|>", USER, "<|observation|>")
# GLM-4's turns where a directory has no template of its own: role token, tool name, line end, content.
ROLE_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>{{ message.metadata or '' }}\n{{ message.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class ChatFormat:
    """How one kind of model is talked to.

    Attributes:
        roles: roles a message may have.
        encode_prompt: (tokenizer, messages, tools, longest) → prompt ids, `longest` None for no limit.
        encode_rows: (tokenizer, messages, tools, src_length, tgt_length) → training rows.
        read_answer: (generated text, names of the tools that were offered) → assistant message.
        clean: what a user sees of generated text.
        cuts: what a source, and a row to train on, are without when they were cut.
        unsettled: characters that `clean` may still change when a text that ends with them goes on.
        fills_blank: whether the answer fills a blank of the prompt, which then is read in both directions.
    """

    roles: tuple[str, ...]
    encode_prompt: Callable[[Tokenizer, list[Message], Tools | None, int | None], list[int]]
    encode_rows: Callable[[Tokenizer, list[Message], Tools | None, int | None, int | None], list[TrainingRow]]
    read_answer: Callable[[str, frozenset[str]], dict[str, str]]
    clean: Callable[[str], str]
    unsettled: str
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
        return self.encode_prompt(tokenizer, messages, tools, max_length)

    def training_rows(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Tools | None = None,
        src_length: int | None = None,
        tgt_length: int | None = None,
    ) -> list[TrainingRow]:
        """Every assistant turn and the token that ends it is trained once, in one row or in several.

        Args:
            src_length, tgt_length: most ids of a question and its answer where a model keeps them apart; their sum is
                the most of a whole conversation where it does not. None is no limit.

        Raises GLMError for a message this model has no place for, or a conversation in which nothing is trained.
        """
        messages = self._checked(messages)
        if all(message["role"] != "assistant" for message in messages):
            raise GLMError("the conversation has no assistant message, so there is nothing to train")
        return self.encode_rows(tokenizer, messages, tools, src_length, tgt_length)

    def answer(self, text: str, tools: Tools | None = None) -> dict[str, str]:
        """The assistant message that generated `text` stands for; calls a tool only if `tools` has one of that name."""
        return self.read_answer(text, frozenset(map(_tool_name, tools or ())))

    def settled_length(self, text: str) -> int:
        """How many characters of an unfinished text stand for certain."""
        return len(text.rstrip(self.unsettled))

    def _checked(self, messages: Sequence[Message]) -> list[Message]:
        if not messages:
            raise GLMError("the conversation is empty; give at least one message")
        for number, message in enumerate(messages, 1):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise GLMError(f"message {number} is not a {{role, content}} object: {str(message)[:80]}")
            if message["role"] not in self.roles:
                raise GLMError(
                    f"message {number} has the role '{message['role']}'; this model knows {', '.join(self.roles)}"
                )
            if not isinstance(message["content"], str):
                raise GLMError(f"message {number}: content is a {type(message['content']).__name__}, and must be text")
        # A template prints a null as "None": to it, absent and null are the same.
        return [{key: value for key, value in message.items() if value is not None} for message in messages]


def chat_format(tokenizer: object) -> ChatFormat:
    """The entry for a tokenizer. Raises GLMError for a model that holds no conversations."""
    kind = getattr(tokenizer, "kind", type(tokenizer).__name__)
    if kind not in CHAT_FORMATS:
        raise GLMError(f"a {kind} model has no chat format; these have: {', '.join(CHAT_FORMATS)}")
    return CHAT_FORMATS[kind]


def _tool_name(tool: Mapping[str, Any]) -> str:
    """Of {"type": "function", "function": {"name": …}}, of {"name": …}, or of a built-in {"type": "python"}."""
    return (tool.get("function") or tool).get("name") or tool.get("type", "")


def _without_oldest(messages: list[Message]) -> list[Message]:
    """Without what comes before the second question, but for system messages; [] where there is no second one."""
    questions = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if len(questions) < 2:
        return []
    system = [message for message in messages[: questions[1]] if message["role"] == "system"]
    return [*system, *messages[questions[1] :]]


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
            raise GLMError(
                f"message {number + 1} is the {message['role']}'s; user and assistant take turns in this model"
            )


def _round_ids(tokenizer: Tokenizer, messages: list[Message], longest: int | None) -> tuple[list[int], bool]:
    """Ids of the text, at most `longest`, and whether some are left out.

    The oldest rounds go first, then the end of the text.
    """
    ids = tokenizer.text_ids(round_prompt(messages), split_special_tokens=True)
    cut = longest is not None and len(ids) > longest
    while cut and len(ids) > longest and (messages := _without_oldest(messages)):
        ids = tokenizer.text_ids(round_prompt(messages), split_special_tokens=True)
    return ids[:longest], cut


def _encode_round_prompt(tokenizer, messages, tools, longest) -> list[int]:
    _refuse_tools(tools)
    frame = len(tokenizer.build_inputs([]))
    if longest is not None and longest <= frame:
        raise UsageError(f"a prompt of {longest} tokens has no room for text beside {frame} special ones")
    ids, _ = _round_ids(tokenizer, messages, None if longest is None else longest - frame)
    return tokenizer.build_inputs(ids)


def _encode_round_rows(tokenizer, messages, tools, src_length, tgt_length) -> list[TrainingRow]:
    """A row an answer, the rounds before it in its prompt.

    At most S-1 ids of text, [gMASK] <sop>, at most T-2 ids of the answer, <eop>; trained from <sop> on, as in
    ChatGLM-6B's ADGEN example.
    """
    _refuse_tools(tools)
    _check_turns(messages)
    source_room = None if src_length is None else max(src_length - 1, 0)
    target_room = None if tgt_length is None else max(tgt_length - 2, 0)
    rows = []
    for turn in range(1, len(messages), 2):
        text, cut = _round_ids(tokenizer, messages[:turn], source_room)
        whole = tokenizer.text_ids(messages[turn]["content"], split_special_tokens=True)
        prompt, answer = tokenizer.build_inputs(text), whole[:target_room]
        ids = [*prompt, *answer, tokenizer.eop_token_id]
        prefix = len(prompt) - 1
        rows.append(TrainingRow(ids, [i >= prefix for i in range(len(ids))], prefix, cut or answer != whole))
    return rows


def _refuse_tools(tools: Tools | None) -> None:
    if tools:
        raise GLMError("this model calls no tools; leave tools out")


_CHINESE = "[\u4e00-\u9fff]"
_FULL_WIDTH = dict(zip(",!:;?", "，！：；？", strict=True))
_HALF_WIDTH = re.compile(f"(?<={_CHINESE})[,!:;?]|[,!:;?](?={_CHINESE})")
_UNSETTLED = " \t\r\n\u3000[[训练时间]]"


def process_response(text: str) -> str:
    """ChatGLM-6B's clean-up: [[训练时间]] becomes 2023年, and ,!:;? beside a Chinese character full-width."""
    return _HALF_WIDTH.sub(lambda match: _FULL_WIDTH[match[0]], _without_placeholder(text))


def _without_placeholder(text: str) -> str:
    return text.strip().replace("[[训练时间]]", "2023年")


def _read_round_answer(text: str, tools: frozenset[str]) -> dict[str, str]:
    return {"role": "assistant", "content": process_response(text)}


# GLM-4: [gMASK] <sop>, then a role token, a line end and the content for each message.


def _encode_role_prompt(tokenizer, messages, tools, longest) -> list[int]:
    while True:
        ids = tokenizer.text_ids(_render(tokenizer, messages, tools, add_generation_prompt=True))
        if longest is None or len(ids) <= longest:
            return ids
        if not (messages := _without_oldest(messages)):
            raise UsageError(
                f"the last turn has {len(ids)} tokens, and the prompt's limit is {longest}: raise src_length"
            )


def _encode_role_rows(tokenizer, messages, tools, src_length, tgt_length) -> list[TrainingRow]:
    """The whole conversation in one row, cut at S+T ids.

    What the model writes is trained: all that follows the token <|assistant|>, and the token that ends the turn. A
    template that rewrites earlier answers (GLM-Z1 drops their thoughts) makes a row a turn instead.
    """
    rows: list[_Row] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, text = _rendered_turn(tokenizer, messages, turn, tools)
        if not rows or not start.startswith(rows[-1].text):
            rows.append(_Row(tokenizer))
        rows[-1].add(start, trained=False)
        rows[-1].add(text, trained=True)
        rows[-1].end = _end_token(messages, turn)
    whole = _render(tokenizer, messages, tools)
    if whole.startswith(rows[-1].text) and messages[-1]["role"] != "assistant":
        rows[-1].add(whole, trained=False)
        rows[-1].end = USER
    limit = None if src_length is None or tgt_length is None else src_length + tgt_length
    return [row.encode(limit) for row in rows]


class _Row:
    """A conversation as it grows: slices of text that each end beside a special token, so that ids do not run over."""

    def __init__(self, tokenizer: Tokenizer):
        self.text, self.end = "", ""
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._trained: list[bool] = []

    def add(self, text: str, trained: bool) -> None:
        """Goes on to `text`, which begins with what is there already."""
        ids = self._tokenizer.text_ids(text[len(self.text) :])
        # The first token after an answer is the role token that ends it.
        ends_answer = not trained and bool(self._trained) and self._trained[-1]
        self._ids += ids
        self._trained += [trained or (ends_answer and i == 0) for i in range(len(ids))]
        self.text = text

    def encode(self, limit: int | None) -> TrainingRow:
        ids = [*self._ids, self._tokenizer.convert_tokens_to_ids(self.end)]
        trained = [*self._trained, self._trained[-1]]
        return TrainingRow(ids[:limit], trained[:limit], cut=limit is not None and len(ids) > limit)


def _rendered_turn(tokenizer, messages, turn: int, tools) -> tuple[str, str]:
    """The text up to and with <|assistant|> of an assistant turn, and up to the end of that turn."""
    prompt = _render(tokenizer, messages[:turn], tools, add_generation_prompt=True)
    start = prompt[: prompt.rfind(ASSISTANT) + len(ASSISTANT)]
    text = _render(tokenizer, messages[: turn + 1], tools)
    if not start.endswith(ASSISTANT) or not text.startswith(start):
        raise GLMError(f"the chat template does not write message {turn + 1} where it asks for it: it cannot train")
    return start, text


def _end_token(messages: list[Message], turn: int) -> str:
    """The token after an assistant turn: the next message's role, else a tool's result if the turn asks for one."""
    after = [message["role"] for message in messages[turn + 1 : turn + 2]]
    role = after[0] if after else ("observation" if messages[turn].get("metadata") else "user")
    return f"<|{role}|>"


def _render(tokenizer, messages, tools, add_generation_prompt: bool = False) -> str:
    """The template's text; special tokens that users spelt are marked, and `encode` takes them for text."""
    template = tokenizer.chat_template(bool(tools), default=ROLE_TEMPLATE)
    messages, tools = _place_tools(template, messages, tools)
    return tokenizer.marked_chat(template, messages, tools, add_generation_prompt)


def _place_tools(template, messages: list[Message], tools: Tools | None) -> tuple[list[Message], Tools | None]:
    """Tools where the template looks for them: in its variable (GLM-4-0414), or in a system message (GLM-4-9B).

    Given the other way, either template would leave them out without a word.
    """
    inside = [message for message in messages if message.get("tools")]
    if not inside and not tools:
        return messages, tools
    probe, some = [{"role": "user", "content": "?"}], tools or inside[0]["tools"]
    as_variable = template.render(probe, some) != template.render(probe)
    if as_variable and inside and not tools:
        bare = [{key: value for key, value in message.items() if key != "tools"} for message in messages]
        return bare, [tool for message in inside for tool in message["tools"]]
    if as_variable or not tools:
        return messages, tools
    first = messages[0] if messages and messages[0]["role"] == "system" else None
    system = {**(first or {"role": "system", "content": ""}), "tools": tools}
    return [system, *messages[bool(first) :]], None


def _read_role_answer(text: str, tools: frozenset[str]) -> dict[str, str]:
    """Of several turns the last: GLM-4 may go on after a tool call. The name before the first line end is a tool's."""
    turn = text.rpartition(ASSISTANT)[2]
    for token in STOP_TEXTS:
        turn = turn.removesuffix(token)
    name, line_end, rest = turn.partition("\n")
    if line_end and name.strip() in tools:
        return {"role": "assistant", "metadata": name.strip(), "content": rest.strip()}
    return {"role": "assistant", "content": _without_placeholder(turn)}


_ROUNDS = ChatFormat(
    ("user", "assistant"),
    _encode_round_prompt,
    _encode_round_rows,
    _read_round_answer,
    process_response,
    _UNSETTLED + "".join(_FULL_WIDTH),
    {
        "source": "their oldest rounds are lost, then their end",
        "row": "the oldest rounds of their source, then its end, or the end of their answer are lost",
    },
    fills_blank=True,
)
_ROLE_TOKENS = ChatFormat(
    ("system", "user", "assistant", "observation"),
    _encode_role_prompt,
    _encode_role_rows,
    _read_role_answer,
    _without_placeholder,
    _UNSETTLED,
    {"source": "their oldest turns are lost", "row": "their end is lost"},
)
CHAT_FORMATS = {"chatglm": _ROUNDS, "glm4": _ROLE_TOKENS, "glm4-0414": _ROLE_TOKENS}
