"""Accuracies of a run: by subject, by category, and of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from glm.datasets.multiple_choice.benchmarks import Benchmark
from glm.evaluation.multiple_choice.journal import Record


@dataclass(frozen=True)
class Accuracy:
    """How many questions of some were answered rightly."""

    question_n: int
    correct: int

    @property
    def acc(self) -> float:
        return self.correct / self.question_n

    @classmethod
    def of(cls, records: Sequence[Record]) -> Accuracy:
        return cls(len(records), sum(record["letter"] == record["answer"] for record in records))

    def to_json(self) -> dict[str, Any]:
        return {"question_n": self.question_n, "correct": self.correct, "acc": self.acc}


@dataclass(frozen=True)
class Scores:
    """What a run is worth.

    Attributes:
        subjects, categories: by name; a question counts in each category of its subject.
        total: of all questions, the micro average.
        macro: mean of the subjects' accuracies.
        notes: what happened to some questions, by what it is called in words.
    """

    subjects: dict[str, Accuracy]
    categories: dict[str, Accuracy]
    total: Accuracy
    macro: float
    notes: dict[str, int]

    @classmethod
    def of(cls, benchmark: Benchmark, records: Sequence[Record], num_shots: int) -> Scores:
        by_subject = _grouped((record["subject"], record) for record in records)
        by_category = _grouped(
            (category, record) for record in records for category in benchmark.categories_of(record["subject"])
        )
        subjects = {name: Accuracy.of(some) for name, some in by_subject.items()}
        order = [*benchmark.categories, *by_category]
        categories = {name: Accuracy.of(by_category[name]) for name in dict.fromkeys(order) if name in by_category}
        macro = sum(each.acc for each in subjects.values()) / len(subjects)
        return cls(subjects, categories, Accuracy.of(records), macro, notes_of(records, num_shots))

    def to_json(self) -> dict[str, Any]:
        return {
            "total": self.total.to_json(),
            "macro": self.macro,
            "categories": {name: each.to_json() for name, each in self.categories.items()},
            "subjects": {name: each.to_json() for name, each in self.subjects.items()},
            "notes": self.notes,
        }


TOO_LONG, FEWER_SHOTS = "too long for the model", "asked with fewer shots"
NO_LETTER, TIED = "answered without a letter", "answered with the first of equally likely letters"


def notes_of(records: Iterable[Record], num_shots: int) -> dict[str, int]:
    """How many questions did not fit, lost shots, or got no letter or one of several; only what happened."""
    counts = dict.fromkeys((FEWER_SHOTS, TOO_LONG, NO_LETTER, TIED), 0)
    for record in records:
        if record["shots"] is None:
            counts[TOO_LONG] += 1
        else:
            counts[FEWER_SHOTS] += record["shots"] < num_shots
            counts[NO_LETTER] += not record["letter"]
            scores = record.get("scores", ())
            counts[TIED] += scores.count(max(scores, default=0)) > 1
    return {name: count for name, count in counts.items() if count}


def _grouped(pairs: Iterable[tuple[str, Record]]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for name, record in pairs:
        groups.setdefault(name, []).append(record)
    return groups
