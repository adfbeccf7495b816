"""What crosses the border of the engine's process: plain data that can be pickled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from glm.engine import Constraint, TokenLogprobs
from glm.generation.options import GenerationConfig


@dataclass(frozen=True)
class Job:
    """One text to write.

    Attributes:
        ids: the prompt.
        config: decoding options; `max_length` 0 is not among them: see `writes`.
        choice: number of the text among those of one prompt, which its random numbers depend on.
        stop_strings, stop_token_ids: what ends the text besides the model's stop tokens.
        ignore_eos: the model's stop tokens end nothing.
        skip_special_tokens: stop strings are looked for in the text without special tokens.
        logit_bias: token ids, and what is added to their logits.
        logprobs: how many likeliest tokens are told beside each chosen one; None tells nothing.
        scores_prompt: whether the prompt's own tokens are told likewise; of several texts the first one's job does it.
        writes: whether anything follows the prompt; a prompt may be scored alone.
        streamed: whether the text is sent while it is written.
        grammar: what the text is held to (glm/engine/guided.py), known to compile.
    """

    ids: tuple[int, ...]
    config: GenerationConfig
    choice: int = 0
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    scores_prompt: bool = False
    writes: bool = True
    streamed: bool = False
    grammar: str | None = None


@dataclass(frozen=True)
class Finish:
    """How a text ended.

    Attributes:
        reason: stop, length or cancelled.
        stop_reason: the string or the id that ended it; None for the model's own end, and for length.
        reused: leading tokens of the prompt that were in the cache already.
        queued, read: seconds that the prompt waited, and that reading it took.
    """

    reason: str
    stop_reason: str | int | None = None
    reused: int = 0
    queued: float = 0.0
    read: float = 0.0


@dataclass
class Update:
    """What is new of one text.

    Attributes:
        tokens: ids, as they were chosen; of beams all at once.
        scores: of each token, where the job asks for them.
        prompt_scores: of each token of the prompt; None for the first, which nothing stands before.
        finish, error: at its end, one of them; `refused`: the request is at fault.
    """

    tokens: list[int] = field(default_factory=list)
    scores: list[TokenLogprobs] = field(default_factory=list)
    prompt_scores: list[TokenLogprobs | None] = field(default_factory=list)
    finish: Finish | None = None
    error: str | None = None
    refused: bool = False

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    def add(self, later: Update) -> None:
        """Joins what came later, so that who reads slowly reads once."""
        self.tokens += later.tokens
        self.scores += later.scores
        self.prompt_scores += later.prompt_scores
        self.finish, self.error = later.finish or self.finish, later.error or self.error
        self.refused = self.refused or later.refused


@dataclass(frozen=True)
class EngineInfo:
    """What was opened.

    Attributes:
        runs_on: backend and device, in words.
        rows, columns: texts that decode together, and most tokens of a prompt and its text.
        cache_bytes: of the key/value cache.
    """

    runs_on: str
    rows: int
    columns: int
    cache_bytes: int


@dataclass
class OpenedEngine:
    """An engine, in its process.

    Attributes:
        core: an `EngineCore`, or what is like one.
        tokenizer: decodes ids, to find stop strings.
        constrain: a grammar → what holds one text to it; None where no text is.
    """

    core: Any
    tokenizer: Any
    info: EngineInfo
    constrain: Callable[[str], Constraint] | None = None


Opener = Callable[[], OpenedEngine]


# From the HTTP side.
@dataclass(frozen=True)
class Submit:
    number: int
    job: Job


@dataclass(frozen=True)
class Cancel:
    number: int


# From the engine's side.
@dataclass(frozen=True)
class Opened:
    info: EngineInfo


@dataclass(frozen=True)
class Failed:
    """The engine ends; `usage`: because of how it was to be opened."""

    message: str
    usage: bool = False


@dataclass(frozen=True)
class Progress:
    """What an iteration brought: updates by number, and the engine's counters."""

    updates: dict[int, Update]
    stats: dict[str, float]
