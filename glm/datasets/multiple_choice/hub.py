"""A benchmark on the Hugging Face Hub, through the `datasets` library: a configuration a subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from glm.datasets.hub import TIMEOUT_SECONDS
from glm.datasets.multiple_choice.benchmarks import DEV, LETTERS, Benchmark
from glm.datasets.multiple_choice.rows import COLUMNS, Read, questions_of
from glm.datasets.readers import RowProblem
from glm.errors import GLMError

_SPLITS = {"val": "validation"}  # as cais/mmlu has them
_NO_SUBJECTS = ("all", "default", "auxiliary_train")  # configurations of cais/mmlu


class HubSource:
    """A data set on the Hub; with HF_HUB_OFFLINE=1 only the local cache is read. Code of a data set is never run.

    Args:
        benchmark: whose rows it has: `question`, `choices` and the number of the answer, or a column a letter.
        name: organisation/data set.
    """

    def __init__(self, benchmark: Benchmark, name: str):
        self.benchmark, self.name = benchmark, name

    def subjects(self, split: str) -> list[str]:
        return [name for name in self._configurations if name not in _NO_SUBJECTS]

    def read(self, subject: str, split: str, skip_bad_rows: bool) -> Read:
        hidden = split in self.benchmark.hidden
        return questions_of(self._rows(subject, split, hidden), hidden, skip_bad_rows)

    def where(self, subject: str, split: str) -> str:
        return f"{self.name}, {subject}, {split}"

    @cached_property
    def _configurations(self) -> list[str]:
        import datasets

        try:
            self._probe()
            return sorted(datasets.get_dataset_config_names(self.name))
        except Exception as error:  # of either library, of requests, or plain OSError and ValueError
            raise self._lacking(error) from error

    def _probe(self) -> None:
        """Asks the Hub once: the library alone repeats a failing request for half a minute."""
        from huggingface_hub import HfApi, constants

        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(self.name, timeout=TIMEOUT_SECONDS)

    def _rows(self, subject: str, split: str, hidden: bool) -> Iterator[tuple[str, Mapping[str, str] | RowProblem]]:
        import datasets

        try:
            splits = datasets.load_dataset(self.name, subject)
        except Exception as error:
            raise self._lacking(error) from error
        name = split if split in splits else _SPLITS.get(split, split)
        for number, row in enumerate(splits.get(name, ()), 1):
            yield f"{self.where(subject, split)}, row {number}", fields_of(row, hidden)

    def _lacking(self, error: Exception) -> GLMError:
        return GLMError(
            f"data set {self.name} is no folder here and cannot be had from the Hugging Face Hub "
            f"({type(error).__name__}): download the csv files and pass --data_path DIR, the folder of {DEV}/"
        )


def fields_of(row: Mapping[str, Any], hidden: bool) -> Mapping[str, str] | RowProblem:
    """A row's fields by the names of `COLUMNS`."""
    found = {name.lower(): value for name, value in row.items()}
    if isinstance(choices := found.get("choices"), (list, tuple)):
        if len(choices) != len(LETTERS):
            return RowProblem(f"the row has {len(choices)} choices, and {len(LETTERS)} are needed")
        found |= {letter.lower(): choice for letter, choice in zip(LETTERS, choices, strict=True)}
    if isinstance(answer := found.get("answer"), int) and 0 <= answer < len(LETTERS):
        found["answer"] = LETTERS[answer]
    needed = COLUMNS[:-1] if hidden else COLUMNS
    if missing := [name for name in needed if found.get(name.lower()) is None]:
        return RowProblem(f"{', '.join(missing)} is missing, the row has {', '.join(row)}")
    number = {"id": str(found["id"])} if found.get("id") is not None else {}
    return {name: str(found[name.lower()]) for name in needed} | number
