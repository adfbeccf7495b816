"""One text of an answer while it grows: what of it is certain, and the scores of its tokens. A stream and a whole
answer are made of the same pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from glm.encoding.chat_roles import ASSISTANT, THINK, THINK_END
from glm.encoding.tool_calls import AnswerReading, ToolCallReader
from glm.encoding.tool_calls import Piece as Part
from glm.engine import TokenLogprobs
from glm.serving.jobs import Finish, Update
from glm.serving.protocol import Request
from glm.serving.served_model import ServedModel
from glm.tokenizers.stop_strings import GrowingText, StopStrings
from glm.tokenizers.stream import StreamDecoder, WithSpecialTokens


@dataclass(frozen=True)
class Token:
    """A token that is told with its score.

    Attributes:
        id: of the token.
        score: None for the first of a prompt.
        offset: characters of the answer before it.
    """

    id: int
    score: TokenLogprobs | None
    offset: int


@dataclass
class Piece:
    """What is new and certain of a text.

    Attributes:
        text: "" where more must come first.
        parts: the same of a message: text, thoughts, calls of tools (glm/encoding/tool_calls.py).
        tokens: those that the text is made of, where scores are asked for.
        ids: tokens as they were chosen, the end included.
        finish: at the end.
    """

    text: str = ""
    parts: list[Part] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None

    def split(self) -> Iterator[Piece]:
        """The text, and then the end by itself, as clients have it from other servers."""
        if self.finish is not None and (self.text or self.parts):
            yield replace(self, finish=None)
            yield Piece(finish=self.finish)
        else:
            yield self


@dataclass(frozen=True)
class Echo:
    """The prompt that an answer begins with.

    Attributes:
        text, ids: of the prompt.
        opening: tokens before it that are the model's own, and not told.
    """

    text: str = ""
    ids: Sequence[int] = ()
    opening: int = 0


class ChoiceText:
    """The text of one job.

    Args:
        model: see `ServedModel`.
        request: how the text is to be shown.
        stop_strings: what ends it.
        cleans: whether the text is a chat answer, cleaned as its model's are.
        echo: the prompt, where the answer begins with it.
    """

    def __init__(
        self,
        model: ServedModel,
        request: Request,
        stop_strings: Sequence[str],
        cleans: bool = False,
        echo: Echo | None = None,
    ):
        sampling, processor = request.sampling, model.processor
        self._decoder = model.tokenizer if sampling.skip_special_tokens else WithSpecialTokens(model.tokenizer)
        ways = (processor.postprocess, processor.stable_length) if cleans else (str, len)
        self._text = GrowingText(StopStrings(self._decoder, stop_strings), *ways)
        self._keeps_stop = sampling.include_stop_str_in_output
        self._stops = {*processor.stop_token_ids, *sampling.stop_token_ids}
        self._waiting: list[Token] = []
        echo = echo or Echo()
        self._unsaid, self._echoed, self._opening = echo.text, len(echo.text), echo.opening
        self._prompt = self._with_offsets(echo.ids)

    def take(self, update: Update) -> Piece:
        """What an update makes certain."""
        piece = Piece(self._unsaid, ids=update.tokens, finish=update.finish)
        self._unsaid = ""
        self._echo(update.prompt_scores)
        scores = update.scores or [None] * len(update.tokens)
        for number, (token, score) in enumerate(zip(update.tokens, scores, strict=True), 1):
            if score is not None:
                self._waiting.append(Token(token, score, self._echoed + len(self._watch.text)))
            if not self._is_end(token, update.finish if number == len(update.tokens) else None):
                self._put(piece, token)
        if update.finish is not None:
            self._end(piece)
        if piece.text or piece.parts or piece.finish or update.prompt_scores:
            piece.tokens, self._waiting = self._waiting, []
        return piece

    @property
    def reasoning(self) -> int | None:
        """How many tokens were thoughts so far; None where none are told apart."""
        return None

    @property
    def _watch(self) -> StopStrings:
        return self._text.written

    def _put(self, piece: Piece, token: int) -> None:
        piece.text += self._text.put(token)

    def _end(self, piece: Piece) -> None:
        piece.text += self._text.end(self._suffix())

    def _echo(self, scores: Sequence[TokenLogprobs | None]) -> None:
        """Of the next tokens of what was read."""
        told = scores[self._opening :]
        self._opening = max(0, self._opening - len(scores))
        for score, (token, offset) in zip(told, self._prompt, strict=False):
            self._waiting.append(Token(token, score, offset))

    def _with_offsets(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Ids of the prompt, and how many characters of its text stand before each."""
        decoder, before = StreamDecoder(self._decoder), 0
        for token in ids:
            yield token, min(before, self._echoed)
            before += len(decoder.put(token))

    def _is_end(self, token: int, finish: Finish | None) -> bool:
        """Whether a token ended the text, and is no part of it."""
        return finish is not None and finish.reason == "stop" and token in self._stops and not self._keeps_stop

    def _suffix(self) -> str:
        """The stop string, where it is asked for."""
        return self._watch.found or "" if self._keeps_stop else ""


class ThoughtCounter:
    """Counts the tokens of an answer's thoughts, <think> and </think> left out.

    Args:
        tokens: token → id, of the model; without the two nothing is counted.
        thinks: whether the prompt opened the thoughts.

    Attributes:
        count: how many there are so far; None where none are counted.
    """

    def __init__(self, tokens: Mapping[str, int], thinks: bool):
        self._start, self._end = tokens.get(THINK), tokens.get(THINK_END)
        self.count = None if self._end is None else 0
        self._inside, self._over = thinks, self._end is None

    def put(self, token: int) -> None:
        if self._over:
            return
        if token in (self._start, self._end):
            self._inside, self._over = token == self._start, token == self._end
        elif self._inside:
            self.count += 1


class MessageText(ChoiceText):
    """The text of an answer of a model whose turns hold thoughts and calls of tools besides.

    Args:
        reader: of a new answer; it cleans the text.
        thinks: whether the prompt opened the model's thoughts.
        others: see `ChoiceText`.
    """

    def __init__(
        self,
        model: ServedModel,
        request: Request,
        stop_strings: Sequence[str],
        reader: ToolCallReader,
        thinks: bool = False,
    ):
        super().__init__(model, request, stop_strings)
        self._thoughts = ThoughtCounter(model.tokenizer.added_tokens, thinks)
        self._reading = AnswerReading(reader, model.tokenizer.added_tokens.get(ASSISTANT))

    @property
    def reasoning(self) -> int | None:
        return self._thoughts.count

    def _put(self, piece: Piece, token: int) -> None:
        self._thoughts.put(token)
        self._reading.note(token, self._watch)
        self._watch.put(token)
        piece.parts += self._reading.take(self._watch)

    def _end(self, piece: Piece) -> None:
        self._watch.end()
        piece.parts += [*self._reading.take(self._watch), *self._reading.end(self._suffix())]
        if self._reading.calls and piece.finish.reason == "stop":
            piece.finish = replace(piece.finish, reason="tool_calls")
