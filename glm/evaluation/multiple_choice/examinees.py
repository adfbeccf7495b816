"""Who answers a benchmark's questions: by the likelihoods of the four letters, or in words.

A record of a question is `subject`, `id`, `answer` (the right letter, "" where it is hidden), `letter` (the one given,
"" for none), `shots` (how many it was asked with, null where it did not fit with none), and `scores`, the
log-likelihoods of the letters, or `text`, what was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from glm.datasets.multiple_choice.benchmarks import LETTERS, Benchmark, Question, Subject
from glm.encoding.chat_roles import THINK_END
from glm.encoding.processor import ChatProcessor
from glm.errors import UsageError
from glm.evaluation.likelihood import ContextTooLong, Row, Scorer
from glm.evaluation.multiple_choice.answers import answered_letter
from glm.evaluation.multiple_choice.journal import Record
from glm.evaluation.multiple_choice.prompts import Form, conversation
from glm.generation.options import GenerationConfig

Found = TypeVar("Found")
_DIGITS = 6  # of a log-likelihood behind the point


class Examinee(Protocol):
    """Answers questions."""

    def answers(self, subject: Subject, questions: Sequence[Question]) -> Iterator[Record]:
        """A record for each of some questions of a subject, in their order."""


class ByLikelihood:
    """Answers with the likeliest letter, the first of equal ones.

    Args:
        scorer: of the model or export.
        benchmark, form: what the prompts look like. A prompt that is too long for the model loses its last shots, as in
            hendrycks/test.
    """

    def __init__(self, scorer: Scorer, benchmark: Benchmark, form: Form):
        self.scorer, self.benchmark, self.form = scorer, benchmark, form
        self.targets = tuple(map(form.target, LETTERS))

    def answers(self, subject: Subject, questions: Sequence[Question]) -> Iterator[Record]:
        asked = [self._row(subject, question) for question in questions]
        places = [place for place, (row, _) in enumerate(asked) if row]
        grouped = sorted(places, key=lambda place: len(asked[place][0].shared))  # what rows share is read once
        scored = in_order(places, zip(grouped, self.scorer([asked[place][0] for place in grouped]), strict=True))
        for question, (row, shots) in zip(questions, asked, strict=True):
            scores = [round(each.log_likelihood, _DIGITS) for each in next(scored)] if row else []
            letter = LETTERS[scores.index(max(scores))] if scores else ""
            yield _record(subject, question, letter, shots) | {"scores": scores}

    def _row(self, subject: Subject, question: Question) -> tuple[Row | None, int | None]:
        """A question behind as many shots as fit, and how many they are."""
        asked = self.form.question(question)
        for shots in range(len(subject.shots), -1, -1):
            shared = self.form.shared(self.benchmark.title(subject.name), subject.shots[:shots])
            with suppress(ContextTooLong):
                self.scorer.check(Row(shared + asked, self.targets[:1], shared, self.form.alone))
                return Row(shared + asked, self.targets, shared, self.form.alone), shots
        return None, None


class Writer(Protocol):
    """What `glm.inference.generator.TextGenerator` has of this."""

    processor: Any

    def results(
        self, prompts: Sequence[Sequence[int]], config: GenerationConfig, batch_size: int
    ) -> Iterator[tuple[int, Sequence[int]]]: ...

    def answer(self, ids: Sequence[int]) -> str: ...


class ByText:
    """Answers in words, by greedy search behind the model's chat template; the letter is what `answers.py` finds.

    Args:
        writer: a model or export of one that converses.
        benchmark: what the questions look like.
        batch_size: questions that are answered together.

    Raises:
        UsageError: the model holds no conversations.
    """

    def __init__(self, writer: Writer, benchmark: Benchmark, batch_size: int):
        if not isinstance(writer.processor, ChatProcessor):
            raise UsageError(
                "a GLM (2021) model holds no conversations, so it answers no questions: leave out --generate"
            )
        self.writer, self.benchmark, self.batch_size = writer, benchmark, batch_size
        self.config = writer.processor.generation_config(do_sample=False, num_beams=1)

    def answers(self, subject: Subject, questions: Sequence[Question]) -> Iterator[Record]:
        prompts = [self._prompt(subject, question) for question in questions]
        asked = [ids for ids, _ in prompts if ids]
        results = self.writer.results(asked, self.config, self.batch_size)
        texts = map(self.writer.answer, in_order(range(len(asked)), results))
        for question, (ids, shots) in zip(questions, prompts, strict=True):
            text = next(texts) if ids else ""
            letter = answered_letter(text.rpartition(THINK_END)[2])  # thoughts name other letters
            yield _record(subject, question, letter, shots) | {"text": text}

    def _prompt(self, subject: Subject, question: Question) -> tuple[list[int], int | None]:
        """Ids of the conversation with as many shots as fit, and how many they are."""
        processor = self.writer.processor
        for shots in range(len(subject.shots), -1, -1):
            messages = conversation(self.benchmark, subject, question, shots)
            ids = processor.chat.prompt_ids(processor.tokenizer, messages)
            if len(ids) <= processor.src_length:
                return ids, shots
        return [], None


def in_order(places: Iterable[int], found: Iterator[tuple[int, Found]]) -> Iterator[Found]:
    """What belongs to each place, in the order of `places`, as soon as it is there."""
    waiting: dict[int, Found] = {}
    for place in places:
        while place not in waiting:
            other, value = next(found)
            waiting[other] = value
        yield waiting.pop(place)


def _record(subject: Subject, question: Question, letter: str, shots: int | None) -> Record:
    return {
        "subject": subject.name,
        "id": question.id,
        "answer": question.answer,
        "letter": letter,
        "shots": shots,
    }
