"""A run over a benchmark: questions in units, dealt among the copies of the model, each unit on the disk when it is
done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from glm.datasets.multiple_choice.benchmarks import Question, Subject
from glm.distributed.processes import gather
from glm.evaluation.multiple_choice.examinees import Examinee
from glm.evaluation.multiple_choice.journal import Journal, Record
from glm.evaluation.replica import Replica

# Questions of a unit, at least: those whose answers are lost when a run is killed.
SCORED, WRITTEN = 64, 16


@dataclass(frozen=True)
class Unit:
    """Questions that are answered together."""

    subject: Subject
    questions: tuple[Question, ...]


def units_of(subjects: Sequence[Subject], size: int) -> list[Unit]:
    """All questions, in units of so many, each of one subject."""
    return [
        Unit(subject, subject.questions[start : start + size])
        for subject in subjects
        for start in range(0, len(subject.questions), size)
    ]


def answer_all(
    units: Sequence[Unit], done: int, examinee: Examinee, journal: Journal | None, replica: Replica, show_progress: bool
) -> None:
    """Answers the units behind the first `done`; the first process writes the records down.

    Args:
        journal: of the first process, None in the others.
        replica: which of the copies of the model this process belongs to; as many processes share each.
    """
    records = journal.records if journal else []
    total = sum(len(unit.questions) for unit in units)
    with tqdm(total=total, initial=len(records), unit=" questions", disable=not show_progress) as bar:
        shown = _Shown(bar, records)
        for start in range(done, len(units), replica.count):
            dealt = units[start : start + replica.count]
            for place, written in enumerate(_answered(dealt, examinee, replica, shown)):
                if place != replica.rank:
                    shown.add(written)
                if journal:
                    journal.append(written)


def _answered(dealt: Sequence[Unit], examinee: Examinee, replica: Replica, shown: _Shown) -> Iterator[list[Record]]:
    """The records of each of some units, of which this copy of the model answers one or none."""
    own = dealt[replica.rank : replica.rank + 1]
    records = [list(shown.watch(examinee.answers(unit.subject, unit.questions))) for unit in own]
    found = gather(json.dumps(records))
    processes = len(found) // replica.count  # of a copy
    for place in range(len(dealt)):
        yield from json.loads(found[place * processes])


class _Shown:
    """The bar, with the accuracy so far where answers are known."""

    def __init__(self, bar: tqdm, records: Sequence[Record]):
        self.bar, self.count, self.right = bar, 0, 0
        self._count(records)

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self.add([record])
            yield record

    def add(self, records: Sequence[Record]) -> None:
        self._count(records)
        self.bar.update(len(records))

    def _count(self, records: Sequence[Record]) -> None:
        known = [record for record in records if record["answer"]]
        self.count += len(known)
        self.right += sum(record["letter"] == record["answer"] for record in known)
        if self.count:
            self.bar.set_postfix_str(f"acc {self.right / self.count:.4f}", refresh=False)
