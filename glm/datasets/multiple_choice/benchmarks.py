"""What tells one benchmark from another: folders and names of its files, its columns, its subjects.

MMLU: hendrycks/test; C-Eval: hkust-nlp/ceval; CMMLU: haonan-li/CMMLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from glm.datasets.multiple_choice.subjects import CEVAL, CHINA_SPECIFIC, CMMLU, MMLU

LETTERS = ("A", "B", "C", "D")
DEV = "dev"  # the split of the shots
UNLISTED = "not listed"  # the category of a subject that the benchmark does not know


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        id: what its row says, or the row's number from 0 on.
        text: as in the file, line ends and all.
        choices: the texts of A, B, C and D.
        answer: the right letter, "" where it is hidden.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Subject:
    """A subject.

    Attributes:
        name: as in the names of its files.
        shots: questions that stand before each of `questions`, with their answers.
        questions: those that are scored.
    """

    name: str
    shots: tuple[Question, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it was published.

    Attributes:
        name: of the task.
        split: which is scored where nobody says.
        splits: that there are besides dev.
        file: name of a subject's file in the folder of a split.
        header: whether the first row has the names of the columns.
        hidden: splits whose answers nobody published.
        repository: on the Hugging Face Hub.
        categories: category → its subjects; a subject may be in two.
        titles: what a prompt calls a subject, where that is not its name.
    """

    name: str
    split: str
    splits: tuple[str, ...]
    file: str
    header: bool
    repository: str
    categories: Mapping[str, tuple[str, ...]]
    titles: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()

    def categories_of(self, subject: str) -> tuple[str, ...]:
        """Those of a subject, its own first."""
        found = (category for category, subjects in self.categories.items() if subject in subjects)
        return tuple(found) or (UNLISTED,)

    def title(self, subject: str) -> str:
        """What a prompt calls a subject."""
        return self.titles.get(subject, subject.replace("_", " "))


def _subjects(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {category: tuple(word.partition("=")[0] for word in words.split()) for category, words in table.items()}


def _titles(table: Mapping[str, str]) -> dict[str, str]:
    return dict(word.split("=") for words in table.values() for word in words.split())


BENCHMARKS = {
    "mmlu": Benchmark(
        name="mmlu",
        split="test",
        splits=("test", "val"),
        file="{subject}_{split}.csv",
        header=False,
        repository="cais/mmlu",
        categories=_subjects(MMLU),
    ),
    "ceval": Benchmark(
        name="ceval",
        split="val",
        splits=("val", "test"),
        file="{subject}_{split}.csv",
        header=True,
        repository="ceval/ceval-exam",
        categories=_subjects(CEVAL),
        titles=_titles(CEVAL),
        hidden=("test",),
    ),
    "cmmlu": Benchmark(
        name="cmmlu",
        split="test",
        splits=("test",),
        file="{subject}.csv",
        header=True,
        repository="haonan-li/cmmlu",
        categories=_subjects(CMMLU) | {"China specific": tuple(CHINA_SPECIFIC.split())},
        titles=_titles(CMMLU),
    ),
}
