"""A benchmark's subjects with their shots and questions, from a folder in the published layout or from the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from glm.datasets.hub import is_hub_name
from glm.datasets.multiple_choice.benchmarks import DEV, Benchmark, Question, Subject
from glm.datasets.multiple_choice.hub import HubSource
from glm.datasets.multiple_choice.rows import Read, read_questions
from glm.errors import GLMError, UsageError


@dataclass(frozen=True)
class Wanted:
    """Which part of a benchmark is read.

    Attributes:
        split: that is scored; the benchmark's own choice, where None.
        num_shots: questions of dev that each subject needs.
        subjects: names of subjects or of categories; all, where empty.
        limit: most questions of a subject, the first ones.
        skip_bad_rows: leave bad rows out and count them instead of raising.
    """

    split: str | None = None
    num_shots: int = 5
    subjects: Sequence[str] = ()
    limit: int | None = None
    skip_bad_rows: bool = False


class Source(Protocol):
    """Where a benchmark lies."""

    def subjects(self, split: str) -> list[str]:
        """Names of the subjects that have a split."""

    def read(self, subject: str, split: str, skip_bad_rows: bool) -> Read:
        """The rows of a subject."""

    def where(self, subject: str, split: str) -> str:
        """The place of these rows, in words."""


def read_benchmark(benchmark: Benchmark, data_path: str, wanted: Wanted) -> tuple[list[Subject], list[str]]:
    """The subjects, in the order of their names, and what there is to say of rows that were left out.

    Args:
        data_path: the folder that holds the splits' folders, that of one split, or a name on the Hugging Face Hub.

    Raises:
        UsageError: no such folder, split or subject, or too few rows for the shots.
        GLMError: a bad row, a file that cannot be read, or a data set that cannot be had.
    """
    split = wanted.split or benchmark.split
    if split not in benchmark.splits:
        raise UsageError(f"split is {split!r}, and {benchmark.name} has {' and '.join(benchmark.splits)}")
    source = source_of(benchmark, data_path, split)
    names = chosen_subjects(benchmark, source.subjects(split), wanted.subjects)
    found = [_subject(source, name, split, wanted) for name in names]
    skipped = sum(count for _, count in found)
    notes = [f"{skipped} bad row{'s' * (skipped > 1)} left out"] if skipped else []
    return [subject for subject, _ in found], notes


def source_of(benchmark: Benchmark, data_path: str, split: str) -> Source:
    """The folder or the Hub's data set of this name. Raises UsageError where it is neither."""
    path = Path(data_path)
    if path.is_dir():
        return Folder(benchmark, root_of(benchmark, path, split))
    if is_hub_name(data_path):
        return HubSource(benchmark, data_path)
    kind = "is a file" if path.is_file() else "does not exist"
    raise UsageError(
        f"data_path {data_path} {kind}: give the folder that holds {DEV}/ and {split}/, or a name such as "
        f"{benchmark.repository}"
    )


def root_of(benchmark: Benchmark, path: Path, split: str) -> Path:
    """The folder that holds the split's: the path, its folder data/, or what the path of a split is in.

    Raises:
        UsageError: none of them does.
    """
    inside = path.parent if path.name in (DEV, *benchmark.splits) else path
    for root in (path, path / "data", inside):
        if (root / split).is_dir():
            return root
    held = ", ".join(sorted(each.name for each in path.iterdir())[:6]) or "nothing"
    raise UsageError(
        f"data_path {path} has no folder {split}/ (it holds {held}): give the folder of {DEV}/ and {split}/"
    )


@dataclass(frozen=True)
class Folder:
    """A benchmark's files in the published layout: `root/split/subject_split.csv`, or as `Benchmark.file` says."""

    benchmark: Benchmark
    root: Path

    def subjects(self, split: str) -> list[str]:
        before, after = self.benchmark.file.format(subject="\0", split=split).split("\0")
        names = (path.name for path in (self.root / split).iterdir())
        return sorted(
            name[len(before) : -len(after)] for name in names if name.endswith(after) and not name.startswith(".")
        )

    def read(self, subject: str, split: str, skip_bad_rows: bool) -> Read:
        path = self._path(subject, split)
        if not path.is_file():
            return Read(())
        return read_questions(path, self.benchmark.header, split in self.benchmark.hidden, skip_bad_rows)

    def where(self, subject: str, split: str) -> str:
        return str(self._path(subject, split))

    def _path(self, subject: str, split: str) -> Path:
        return self.root / split / self.benchmark.file.format(subject=subject, split=split)


def chosen_subjects(benchmark: Benchmark, there: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Those that were asked for, all of none; a category stands for its subjects.

    Raises:
        UsageError: no subjects, or a name that is neither a subject that is there nor a category of one.
    """
    if not there:
        raise UsageError(f"no files of {benchmark.name} are there: they are called {benchmark.file}")
    by_category: dict[str, list[str]] = {}
    for subject in there:
        for category in benchmark.categories_of(subject):
            by_category.setdefault(category, []).append(subject)
    chosen = set()
    for name in asked:
        if name not in there and name not in by_category:
            near = get_close_matches(name, [*there, *by_category], n=1, cutoff=0.6)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(there[:8])}"
            raise UsageError(f"subject {name!r} is not in the data: {known}")
        chosen.update([name] if name in there else by_category[name])
    return [subject for subject in there if not asked or subject in chosen]


def _subject(source: Source, name: str, split: str, wanted: Wanted) -> tuple[Subject, int]:
    """A subject, and how many of its rows were left out."""
    rows = source.read(name, split, wanted.skip_bad_rows)
    if not rows.questions:
        detail = f"all {rows.skipped} are bad" if rows.skipped else "there are none"
        raise GLMError(f"{source.where(name, split)}: no rows of {name} to score, {detail}")
    shots = source.read(name, DEV, wanted.skip_bad_rows) if wanted.num_shots else Read(())
    if len(shots.questions) < wanted.num_shots:
        raise GLMError(
            f"{source.where(name, DEV)}: subject {name} has {len(shots.questions)} dev rows, and num_shots is "
            f"{wanted.num_shots}: add rows or pass --num_shots {len(shots.questions)}"
        )
    chosen: tuple[Question, ...] = rows.questions[: wanted.limit]
    return Subject(name, shots.questions[: wanted.num_shots], chosen), rows.skipped + shots.skipped
