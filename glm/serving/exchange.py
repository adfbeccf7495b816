"""A request while it is answered: texts are written, joined or streamed, and counted."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from glm.serving.answers import Answer, Usage, Written
from glm.serving.choices import ChoiceText, Piece
from glm.serving.engine_client import EngineClient, Mailbox
from glm.serving.errors import failed, invalid
from glm.serving.jobs import Finish, Job, Update


@dataclass
class Record:
    """What is known of a request for logs and metrics; times are seconds.

    Attributes:
        taken: whether the engine took it.
        first: from the request's arrival to its first token.
        gaps: between messages of one text's tokens.
        finishes: how its texts ended; `gone`: whether the client left before.
    """

    id: str = ""
    usage: Usage = field(default_factory=lambda: Usage(0))
    taken: bool = False
    started: float = field(default_factory=monotonic)
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    gone: bool = False
    seconds: float = 0.0

    @property
    def reasons(self) -> list[str]:
        """How its texts ended, the ends that came."""
        return [*(finish.reason for finish in self.finishes), *(["cancelled"] if self.gone else [])]

    @property
    def per_token(self) -> float | None:
        """Seconds a token, the first left out."""
        if self.first is None or self.usage.completion < 2:
            return None
        return (self.seconds - self.first) / (self.usage.completion - 1)


class PromptScores:
    """Gives the scores of a prompt's tokens, which one job tells, to all texts of the prompt.

    Args:
        jobs: a text each. per_prompt: how many of them stand together.
    """

    def __init__(self, jobs: Sequence[Job], per_prompt: int):
        self._per_prompt = per_prompt
        self._left = {place: len(job.ids) for place, job in enumerate(jobs) if job.scores_prompt}
        self._held: dict[int, Update] = {}

    def given_to_all(self, updates: dict[int, Update]) -> dict[int, Update]:
        """The same with these scores; what else there is of the other texts waits until their prompt's are complete."""
        ready: dict[int, Update] = {}
        for place, update in updates.items():
            first = place - place % self._per_prompt
            if place != first and first in self._left:
                self._held.setdefault(place, Update()).add(update)
                continue
            ready[place] = update
            if place in self._left:
                self._left[place] -= len(update.prompt_scores)
                for other in range(first + 1, first + self._per_prompt):
                    self._held.setdefault(other, Update()).prompt_scores += update.prompt_scores
        complete = [place for place in self._held if not self._left[place - place % self._per_prompt]]
        return ready | {place: self._held.pop(place) for place in complete}


class Exchange:
    """A request and its answer.

    Args:
        engine: writes the texts.
        answer: says how they are written as JSON.
        jobs: a text each; the texts of one prompt stand together.
        texts: of the same length, what is shown of them.
    """

    def __init__(self, engine: EngineClient, answer: Answer, jobs: Sequence[Job], texts: Sequence[ChoiceText]):
        self.engine, self.answer, self.jobs, self.texts = engine, answer, jobs, texts
        per_prompt = answer.request.sampling.n
        self.usage = Usage(sum(len(job.ids) for job in jobs[::per_prompt]))
        self.record = Record(answer.id, self.usage)
        self._last: dict[int, float] = {}
        self._scores = PromptScores(jobs, per_prompt)

    async def whole(self) -> dict[str, Any]:
        """The answer at once.

        Raises:
            RequestError: the engine cannot take the request, or fails.
        """
        written = [Written() for _ in self.jobs]
        with self._writing() as box:
            while box.unfinished or box.full:
                for place, piece in self._pieces(await box.take()):
                    written[place].add(piece)
        return self.answer.whole(written, [job.ids for job in self.jobs], self.usage)

    async def chunks(self, silence: float | None = None) -> AsyncIterator[dict[str, Any] | None]:
        """The answer in chunks; None where there was nothing to say for `silence` seconds.

        Raises:
            RequestError: as `whole`; before the first chunk where the engine does not take the request.
        """
        with self._writing() as box:
            for chunk in self.answer.first_chunks(len(self.jobs)):
                yield chunk
            while box.unfinished or box.full:
                updates = await box.take(silence)
                if not updates:
                    yield None
                for place, whole in self._pieces(updates):
                    for piece in filter(self.answer.shows, whole.split()):
                        yield self.answer.chunk(place, piece, self.usage)
        if self.answer.request.usage:
            yield self.answer.usage_chunk(self.usage)

    @contextmanager
    def _writing(self) -> Iterator[Mailbox]:
        try:
            with self.engine.writing(self.jobs) as box:
                self.record.taken = True
                yield box
        finally:
            self.record.seconds = monotonic() - self.record.started

    def _pieces(self, updates: dict[int, Update]) -> Iterator[tuple[int, Piece]]:
        now = monotonic()
        for place, update in sorted(self._scores.given_to_all(updates).items()):
            if update.error is not None:
                raise invalid(update.error) if update.refused else failed(update.error)
            self._count(place, update, now)
            piece = self.texts[place].take(update)
            self.usage.reasoning = self._reasoning()
            yield place, piece

    def _reasoning(self) -> int | None:
        """Tokens of thoughts, of all texts that tell them."""
        counts = [text.reasoning for text in self.texts if text.reasoning is not None]
        return sum(counts) if counts else None

    def _count(self, place: int, update: Update, now: float) -> None:
        if update.tokens:
            self.usage.completion += len(update.tokens)
            if place in self._last:
                self.record.gaps.append(now - self._last[place])
            elif self.record.first is None:
                self.record.first = now - self.record.started
            self._last[place] = now
        if update.finish is not None:
            self.record.finishes.append(update.finish)
            if place % self.answer.request.sampling.n == 0:
                self.usage.cached += update.finish.reused
