"""What an engine knows of one request that it is completing. numpy only."""

from dataclasses import dataclass, field

import numpy as np

from glm.engine.logits import token_logprobs
from glm.engine.lookup import PromptLookup
from glm.engine.requests import Request, Result, TokenLogprobs
from glm.engine.search import Search


@dataclass(eq=False)
class SequenceState:
    """A request between `EngineCore.submit` and its last event.

    Attributes:
        slots: [G] int64; none while it waits.
        read: positions of its prompt that are read; `reused` of them did not have to be.
        passed: parts of other prompts that were read since its own last one.
        prefix_length: leading tokens of its prompt that see each other; 0 = it can be read in parts.
        positions_PS: [P, S] int64, of its prompt.
        submitted, begun, ready: when it came, and when its prompt's first and last part was read.
        lookup: guesses what follows its text, since it was alone.
        failed: whether it ended with an error.
    """

    id: int
    request: Request
    search: Search
    submitted: float
    prefix_length: int = 0
    slots: np.ndarray = field(default_factory=lambda: np.zeros([0], "int64"))
    read: int = 0
    reused: int = 0
    passed: int = 0
    positions_PS: np.ndarray = field(default_factory=lambda: np.zeros([0, 0], "int64"))
    begun: float | None = None
    ready: float | None = None
    lookup: PromptLookup | None = None
    failed: bool = False

    @property
    def scored(self) -> bool:
        """Whether log-probabilities of the prompt's tokens are asked for."""
        return self.request.prompt_logprobs is not None

    @property
    def left(self) -> int:
        """Tokens of the prompt that are not read."""
        return len(self.request.ids) - self.read

    @property
    def ids(self) -> list[int]:
        """What the slots have read in common, and of one beam all that it has read."""
        written = self.search.tokens[0, :-1].tolist() if self.search.beams == 1 else []
        return [*self.request.ids[: self.read], *written]

    def scores(self, logits_TV: np.ndarray) -> tuple[TokenLogprobs | None, ...]:
        """Log-probabilities of the prompt's tokens behind the next T that are read; at first None, of the first."""
        following = self.request.ids[self.read + 1 : self.read + 1 + len(logits_TV)]
        found = [
            token_logprobs(logits_V, token, self.request.prompt_logprobs)
            for logits_V, token in zip(logits_TV, following, strict=False)  # behind the last one nothing follows yet
        ]
        return tuple(found) if self.read else (None, *found)

    def result(self, now: float) -> Result:
        """What it became, ended by itself or by its length."""
        search, watch = self.search, self.request.stop_strings
        if not self.request.writes:
            return self._result([], 0.0, "length", None, now)
        tokens, score = search.result()
        reason = watch.found if watch else None
        if reason is None and tokens and tokens[-1] in search.stop.eos_token_ids:
            reason = tokens[-1]
        return self._result(tokens, score, "stop" if search.ended else "length", reason, now)

    def cancelled(self, now: float) -> Result:
        """What it has become so far."""
        tokens = self.search.tokens[0].tolist() if self.search.beams == 1 else []
        return self._result(tokens, 0.0, "cancelled", None, now)

    def _result(
        self, tokens: list[int], score: float, finish_reason: str, reason: int | str | None, now: float
    ) -> Result:
        begun = now if self.begun is None else self.begun
        ready = now if self.ready is None else self.ready
        return Result(tokens, score, self.reused, finish_reason, reason, begun - self.submitted, ready - begun)
