"""Conversations as numbered rounds of one text: ChatGLM-6B's and ChatGLM2-6B's. Imports neither paddle nor paddlenlp.

    [Round 1]

    问：how it was asked

    答：how it was answered

So ChatGLM2 has it, and an empty line before the next round. ChatGLM-6B counts from 0, has single line ends, and a first
question alone without any of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from glm.encoding.examples import EMPTY_ANSWERS, NO_PLACE_FOR_THOUGHTS, TrainingExample
from glm.encoding.messages import Message, Tools, is_trained, without_oldest
from glm.errors import GLMError, UsageError
from glm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Rounds:
    """How a model's rounds are written and trained.

    Attributes:
        first: number of the first round.
        gap: between the parts of a round, and between rounds.
        bare: whether a first question stands alone.
        fills_blank: whether the answer fills a blank of the prompt: [gMASK] <sop> behind it, read in both directions.
        frame: tokens of src_length and of tgt_length that the published scripts leave unused.
    """

    first: int
    gap: str
    bare: bool
    fills_blank: bool
    frame: tuple[int, int]

    def text(self, messages: Sequence[Message]) -> str:
        """What the model reads, up to where it answers the last message.

        Raises GLMError unless user and assistant take turns, the user first and last.
        """
        _check_turns(messages)
        query = messages[-1]["content"]
        if self.bare and len(messages) == 1:
            return query
        gap, answered = self.gap, messages[1::2]
        rounds = [
            f"{self._asked(i, asked['content'])}{said['content']}{gap}"
            for i, (asked, said) in enumerate(zip(messages[0:-1:2], answered, strict=True), self.first)
        ]
        return "".join(rounds) + self._asked(self.first + len(answered), query)

    def _asked(self, number: int, query: str) -> str:
        return f"[Round {number}]{self.gap}问：{query}{self.gap}答："

    def _ids(self, tokenizer: Tokenizer, messages: list[Message], longest: int | None) -> tuple[list[int], bool]:
        """Ids of the text, at most `longest`, and whether some are left out.

        The oldest rounds go first, then the end of the text.
        """
        ids = tokenizer.text_ids(self.text(messages), split_special_tokens=True)
        cut = longest is not None and len(ids) > longest
        while cut and len(ids) > longest and (messages := without_oldest(messages)):
            ids = tokenizer.text_ids(self.text(messages), split_special_tokens=True)
        return ids[:longest], cut

    def encode_prompt(self, tokenizer, messages, tools, longest, cuts_question) -> list[int]:
        """As of `ChatFormat`; what is too long is cut, whoever asks."""
        _refuse_tools(tools)
        frame = len(tokenizer.build_inputs([]))
        if longest is not None and longest <= frame:
            raise UsageError(f"a prompt of {longest} tokens has no room for text beside {frame} special ones")
        ids, _ = self._ids(tokenizer, messages, None if longest is None else longest - frame)
        return tokenizer.build_inputs(ids)

    def encode_rows(
        self,
        tokenizer: Tokenizer,
        messages: list[Message],
        tools: Tools | None,
        src_length: int | None,
        tgt_length: int | None,
        counts: Counter[str],
    ) -> list[TrainingExample]:
        """One row per answer, the rounds before it in its prompt, and the token that ends it.

        ChatGLM-6B: at most S-1 ids of text, [gMASK] <sop>, at most T-2 ids of the answer, <eop>; trained from <sop> on,
        as in its ADGEN example. ChatGLM2: S and T hold the frame; the answer and </s> are trained (ptuning/main.py).
        """
        _refuse_tools(tools)
        _check_turns(messages)
        source_room, target_room = (
            None if length is None else max(length - frame, 0)
            for length, frame in zip((src_length, tgt_length), self.frame, strict=True)
        )
        rows = []
        for turn in range(1, len(messages), 2):
            if not is_trained(messages[turn]):
                continue
            if "reasoning_content" in messages[turn]:
                counts[NO_PLACE_FOR_THOUGHTS] += 1
            if not messages[turn]["content"].strip():
                counts[EMPTY_ANSWERS] += 1
                continue
            text, cut = self._ids(tokenizer, messages[:turn], source_room)
            whole = tokenizer.text_ids(messages[turn]["content"], split_special_tokens=True)
            prompt, answer = tokenizer.build_inputs(text), whole[:target_room]
            ids = [*prompt, *answer, tokenizer.stop_token_ids[0]]
            begins = len(prompt) - self.fills_blank
            prefix = begins if self.fills_blank else 0
            rows.append(TrainingExample(ids, [i >= begins for i in range(len(ids))], prefix, cut or answer != whole))
        return rows

    def last_answer(self, tokenizer, messages, tools) -> tuple[list[Message], list[int]]:
        """What stands before the last answer that is trained, and its ids."""
        _refuse_tools(tools)
        _check_turns(messages)
        answers = [n for n, message in enumerate(messages) if is_trained(message) and message["content"].strip()]
        if not answers:
            raise GLMError("the conversation has no answer that is trained")
        answer = messages[answers[-1]]["content"]
        return messages[: answers[-1]], tokenizer.text_ids(answer, split_special_tokens=True)


CHATGLM_ROUNDS = Rounds(first=0, gap="\n", bare=True, fills_blank=True, frame=(1, 2))
CHATGLM2_ROUNDS = Rounds(first=1, gap="\n\n", bare=False, fills_blank=False, frame=(2, 1))


def _check_turns(messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages):
        if message["role"] != ("user", "assistant")[number % 2]:
            cure = f"join it with message {number}" if number else "put the user's question before it"
            raise GLMError(
                f"message {number + 1} is the {message['role']}'s; user and assistant take turns in this model: {cure}"
            )


def _refuse_tools(tools: Tools | None) -> None:
    if tools:
        raise GLMError("this model calls no tools; leave tools out")
