"""The answers of OpenAI's interface as JSON: whole ones and the chunks of streams."""

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from glm.encoding.tool_calls import ARGUMENTS, CONTENT, THOUGHTS, new_call_id, openai_message
from glm.encoding.tool_calls import Piece as Part
from glm.engine import TokenLogprobs
from glm.errors import GLMError
from glm.serving.choices import Piece, Token
from glm.serving.jobs import Finish
from glm.serving.protocol import Request
from glm.serving.served_model import ServedModel

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)  # made once, not at every chunk
LEAST_LOGPROB = -9999.0  # JSON has no infinity; vLLM's figure


def encoded(value: Any) -> bytes:
    """JSON in UTF-8. A lone surrogate, which has no UTF-8 form, is escaped as JSON does."""
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")


@dataclass
class Usage:
    """Tokens of a request: of its prompts, those that were in the cache already, and those that were written.

    Attributes:
        reasoning: those of them that are thoughts; None for a model without them.
    """

    prompt: int
    completion: int = 0
    cached: int = 0
    reasoning: int | None = None

    def to_json(self) -> dict[str, Any]:
        told = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        if self.reasoning is None:
            return told
        return told | {"completion_tokens_details": {"reasoning_tokens": self.reasoning}}


@dataclass
class Written:
    """A whole text: its pieces joined."""

    text: str = ""
    parts: list[Part] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.parts += piece.parts
        self.tokens += piece.tokens
        self.ids += piece.ids
        self.finish = piece.finish or self.finish


class Answer(ABC):
    """How an answer to a request is written.

    Args:
        model: that answers.
        request: it answers.
        name: of the model, as the request has it.

    Attributes:
        id: of the answer.
    """

    prefix: str
    object: str
    chunk_object: str

    def __init__(self, model: ServedModel, request: Request, name: str):
        self.model, self.request, self.name = model, request, name
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    def whole(self, choices: Sequence[Written], prompts: Sequence[Sequence[int]], usage: Usage) -> dict[str, Any]:
        """The answer of a request that does not stream.

        Args:
            prompts: ids of each choice's prompt.
        """
        found = [
            self._choice(place, choice, ids) for place, (choice, ids) in enumerate(zip(choices, prompts, strict=True))
        ]
        return self._head(self.object) | {"choices": found, "usage": usage.to_json()}

    def first_chunks(self, choices: int) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return []

    def chunk(self, place: int, piece: Piece, usage: Usage) -> dict[str, Any]:
        """A piece of the text of a choice."""
        return self._chunk([self._delta(place, piece)], usage)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """What a stream that tells its usage ends with."""
        return self._head(self.chunk_object) | {"choices": [], "usage": usage.to_json()}

    def shows(self, piece: Piece) -> bool:
        """Whether a piece is worth a chunk."""
        told = piece.text or piece.parts or piece.tokens or piece.finish
        return bool(told or (self.request.return_token_ids and piece.ids))

    def _chunk(self, choices: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        told = {"usage": usage.to_json() if self.request.running_usage and usage else None}
        return self._head(self.chunk_object) | {"choices": choices} | (told if self.request.usage else {})

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.name}
        return head | {"system_fingerprint": self.model.fingerprint}

    def _end(self, finish: Finish | None) -> dict[str, Any]:
        reason = finish and finish.reason
        return {"finish_reason": reason, "stop_reason": finish and finish.stop_reason}

    def _ids(self, ids: Sequence[int], prompt: Sequence[int] | None = None) -> dict[str, Any]:
        if not self.request.return_token_ids:
            return {}
        return {"token_ids": list(ids)} | ({} if prompt is None else {"prompt_token_ids": list(prompt)})

    @abstractmethod
    def _choice(self, place: int, written: Written, prompt: Sequence[int]) -> dict[str, Any]:
        """A whole text as one of `choices`."""

    @abstractmethod
    def _delta(self, place: int, piece: Piece) -> dict[str, Any]:
        """A piece as one of `choices`."""

    def _text(self, index: int) -> str:
        return self.model.tokenizer.text_of([index], skip_special_tokens=False)


class ChatAnswer(Answer):
    """Of /v1/chat/completions."""

    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first_chunks(self, choices: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [
            self._chunk([{"index": place, "delta": delta, "logprobs": None, "finish_reason": None}], None)
            for place in range(choices)
        ]

    def _choice(self, place, written, prompt):
        message = {"role": "assistant", "content": written.text, "refusal": None}
        message |= _with_alias(openai_message(written.parts)) if written.parts else {}
        found = {"index": place, "message": message, "logprobs": self._logprobs(written.tokens)}
        return found | self._end(written.finish) | self._ids(written.ids, prompt)

    def _delta(self, place, piece):
        delta = self._changes(place, piece)
        found = {"index": place, "delta": delta, "logprobs": self._logprobs(piece.tokens)}
        return found | self._end(piece.finish) | self._ids(piece.ids)

    def _changes(self, place: int, piece: Piece) -> dict[str, Any]:
        """What a piece adds to the message."""
        delta = {"content": piece.text} if piece.text else {}
        for part in piece.parts:
            if part.field in (CONTENT, THOUGHTS):
                delta[part.field] = delta.get(part.field, "") + part.text
            else:
                delta.setdefault("tool_calls", []).append(self._call(part))
        return _with_alias(delta)

    def _call(self, part: Part) -> dict[str, Any]:
        """The beginning of a call, or more of its arguments."""
        if part.field == ARGUMENTS:
            return {"index": part.call, "function": {"arguments": part.text}}
        function = {"name": part.text, "arguments": ""}
        return {"index": part.call, "id": new_call_id(), "type": "function", "function": function}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.request.sampling.logprobs is None:
            return None
        content = []
        for token in tokens:
            top = [self._scored(index, logprob) for index, logprob in likeliest(token.score)]
            content.append(self._scored(token.id, token.score.logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}

    def _scored(self, index: int, logprob: float) -> dict[str, Any]:
        return {"token": self._text(index), "logprob": finite(logprob), "bytes": self._bytes(index)}

    def _bytes(self, index: int) -> list[int]:
        """Of a token; none of a column of the logits that the vocabulary is padded with."""
        try:
            return list(self.model.tokenizer.token_bytes(index))
        except GLMError:
            return []


def _with_alias(message: dict[str, Any]) -> dict[str, Any]:
    """Thoughts by both of their names: DeepSeek's, which SGLang and llama.cpp have, and vLLM's and OpenRouter's."""
    return message | ({"reasoning": message[THOUGHTS]} if THOUGHTS in message else {})


class CompletionAnswer(Answer):
    """Of /v1/completions."""

    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _choice(self, place, written, prompt):
        found = {"index": place, "text": written.text, "logprobs": self._logprobs(written.tokens)}
        return found | self._end(written.finish) | self._ids(written.ids, prompt)

    def _delta(self, place, piece):
        found = {"index": place, "text": piece.text, "logprobs": self._logprobs(piece.tokens)}
        return found | self._end(piece.finish) | self._ids(piece.ids)

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.request.sampling.logprobs is None:
            return None
        return {
            "tokens": [self._text(token.id) for token in tokens],
            "token_logprobs": [token.score and finite(token.score.logprob) for token in tokens],
            "top_logprobs": [token.score and self._top(token.id, token.score) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }

    def _top(self, chosen: int, score: TokenLogprobs) -> dict[str, float]:
        """Texts of the likeliest tokens and of the chosen one, with their scores; of two with one text the likelier."""
        top: dict[str, float] = {}
        for index, logprob in (*likeliest(score), (chosen, score.logprob)):
            text = self._text(index)
            top[text] = max(finite(logprob), top.get(text, LEAST_LOGPROB))
        return top


def likeliest(score: TokenLogprobs) -> Iterator[tuple[int, float]]:
    """The likeliest tokens of a place with their scores, the best one first."""
    return zip(score.ids, score.logprobs, strict=True)


def finite(logprob: float) -> float:
    return max(float(logprob), LEAST_LOGPROB)
