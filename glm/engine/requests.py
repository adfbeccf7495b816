"""What goes into an engine and what comes out of it. Plain data but for what watches a text. numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from glm.errors import UsageError
from glm.generation.options import GenerationConfig, StopTokens
from glm.tokenizers.stop_strings import StopStrings


@dataclass(frozen=True)
class EngineOptions:
    """How an engine uses its machine.

    Attributes:
        memory_limit: most bytes of key/value cache; requests wait for slots, and one that never fits is refused. None =
            no bound.
        chunk: most tokens of a prompt that are read at once, where it can be read in parts.
        reuse_prefix: keeps what was read for prompts that begin alike, such as the next turn of a conversation.
        interleave: reads one chunk of a prompt between two steps, so that texts go on meanwhile. False reads a prompt
            to its end first, which has all of them finished sooner.
        pause: seconds that a chunk may take while texts go on, or two steps if these are longer; None = `chunk` tokens
            whatever they take, so that the same requests are read in the same parts on every run.
        prompt_lookup: most tokens that are guessed at once from what prompt and text had before, while one text alone
            is written (glm/engine/lookup.py); 0 = none. It changes when tokens come, not which.
        scores: whether `Result.score` of texts of one beam is computed; 0 without it. Greedy search then needs no
            softmax of the vocabulary.
    """

    memory_limit: int | None = None
    chunk: int = 256
    reuse_prefix: bool = True
    interleave: bool = False
    pause: float | None = None
    prompt_lookup: int = 0
    scores: bool = True

    def __post_init__(self):
        if self.chunk < 1:
            raise UsageError(f"chunk is {self.chunk}, and must be at least 1")
        if self.pause is not None and not self.pause > 0:
            raise UsageError(f"pause is {self.pause}, and must be a number of seconds above 0, or None")
        if self.prompt_lookup < 0:
            raise UsageError(f"prompt_lookup is {self.prompt_lookup}, and must be at least 0, which is off")


class Constraint(Protocol):
    """What tokens may come next in one text, such as those of valid JSON.

    Attributes:
        finished: nothing but an end token may follow.
    """

    finished: bool

    def allowed(self) -> np.ndarray:
        """[V] bool, V as wide as the logits: what may come next."""

    def advance(self, token: int) -> None:
        """Takes the token that was chosen, an end token too."""


@dataclass(frozen=True)
class Request:
    """A prompt to complete.

    Attributes:
        ids: the prompt, the token to decode from last.
        config: decoding options.
        stop_strings: what ends the completion besides stop tokens (glm/tokenizers/stop_strings.py), of this text alone;
            one beam only.
        choice: which of several completions of one prompt and seed this is, from 0: together with the seed all that
            random numbers depend on.
        stop: ids that end the completion; None = the engine's. No ids: it ends at its length.
        logit_bias: what is added to the logits of some ids, before penalties and all else.
        logprobs: reports log-probabilities of the tokens, and of so many of the likeliest ones; None = of none. One
            beam only.
        prompt_logprobs: the same of the prompt's tokens, in events, where a prompt is read in one direction. It is read
            whole then, in small parts, whatever was read before.
        streamed: whether somebody reads the text while it is written, so that it must not stand still for long.
        writes: whether anything follows the prompt. One beam only, where nothing does.
        constraint: what may come next, of this text alone; one beam only. It has the last word: what it forbids is
            not written even where all else is forbidden, too.
    """

    ids: Sequence[int]
    config: GenerationConfig
    stop_strings: StopStrings | None = None
    choice: int = 0
    stop: StopTokens | None = None
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    streamed: bool = False
    writes: bool = True
    constraint: Constraint | None = None


def check(request: Request, slots: int, max_length: int, vocab_size: int) -> None:
    """Whether an engine can complete a request.

    Args:
        slots, max_length: of its cache. vocab_size: of its model.

    Raises:
        UsageError: the request needs more than that, or asks for what there is not.
    """
    prompt, config, beams = len(request.ids), request.config, request.config.num_beams
    if not prompt:
        raise UsageError("the prompt is empty: give it at least one token")
    for what, asked in (
        ("stop strings end", request.stop_strings),
        ("log-probabilities are of", request.logprobs is not None),
        ("a constraint is for", request.constraint),
        ("a request that writes nothing has", not request.writes),
    ):
        if asked and beams > 1:
            raise UsageError(f"{what} a sequence of one beam, and num_beams is {beams}")
    if outside := [token for token in request.logit_bias or () if not 0 <= token < vocab_size]:
        raise UsageError(f"logit_bias names token {outside[0]}, and the model has {vocab_size:,}")
    for name in ("logprobs", "prompt_logprobs"):
        if (most := getattr(request, name)) is not None and not 0 <= most <= vocab_size:
            raise UsageError(f"{name} is {most}, and must be between 0 and {vocab_size:,}")
    needed = prompt + config.max_length - 1
    if needed > max_length:
        raise UsageError(
            f"a prompt of {prompt} tokens and {config.max_length} new ones need {needed} positions of the cache, and "
            f"each text has {max_length}: shorten the prompt or choose a smaller max_length"
        )
    if beams > slots:
        raise UsageError(f"num_beams is {beams}, and the cache has {slots} slot(s): choose fewer beams")


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural log-probabilities of one place, of the model itself: before temperature, penalties, biases, constraints.

    Attributes:
        logprob: of the token that was chosen. Where it is among `ids`, the same float is in `logprobs`.
        ids, logprobs: the likeliest tokens, the best one first.
    """

    logprob: float
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """A finished sequence.

    Attributes:
        tokens: without the prompt and without padding, the end token included.
        score: see `glm.generation.search.GenerationMixin.generate`; 0 where `EngineOptions.scores` is off.
        reused: leading tokens of the prompt that did not have to be read again.
        finish_reason: stop (an end token, a stop string, the constraint), length, or cancelled.
        stop_reason: the end token or the stop string; None if there was none.
        queued: seconds until the prompt's first chunk. read: from then until all of it was read.
    """

    tokens: list[int]
    score: float
    reused: int
    finish_reason: str = "stop"
    stop_reason: int | str | None = None
    queued: float = field(default=0.0, compare=False)
    read: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Event:
    """Progress of one request.

    Attributes:
        id: which request: what `submit` returned, in `Engine.run` its place among the others.
        token: the newest token of a sequence of one beam, else None.
        logprob: of that token, if the request asks for it.
        result: the whole sequence, when it is finished; no further event of it follows.
        error: why it failed, in one line; no further event follows. cause: the exception.
        prompt_logprobs: of the next tokens of the prompt, if the request asks for them; None for the first, which
            nothing stands before. They come as they are read, before the first token.
    """

    id: int
    token: int | None = None
    logprob: TokenLogprobs | None = None
    result: Result | None = None
    error: str | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    cause: Exception | None = field(default=None, compare=False)

    @property
    def over(self) -> bool:
        """Whether it is the last one of its request."""
        return self.result is not None or self.error is not None


@dataclass(frozen=True)
class EngineStats:
    """An engine at one moment, and what it did so far.

    Attributes:
        waiting, reading, decoding: requests: without slots, with a prompt that is being read, with a text.
        slots, max_length, cache_bytes: of the key/value cache. used_positions: of the slots in use, what is read.
        steps: calls of `step` that had something to do.
        prompt_tokens, reused_tokens: of the prompts whose reading began, and how many had been read before.
        new_tokens: chosen so far, of all beams' texts one.
        drafts, draft_tokens, accepted_tokens: of prompt lookup: calls that verified a guess, tokens guessed, and right.
        finished: requests by the reason of their end: stop, length, cancelled, error.
        failed_calls: of the runtime, one after another until now; a call that succeeds makes it 0.
    """

    waiting: int
    reading: int
    decoding: int
    slots: int
    max_length: int
    cache_bytes: int
    used_positions: int
    steps: int
    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    drafts: int
    draft_tokens: int
    accepted_tokens: int
    finished: Mapping[str, int]
    failed_calls: int
