"""The known tasks, and one call that gives a script the examples of a split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from glm.datasets.hub import hub_rows, is_hub_name
from glm.datasets.preferences import PREFERENCE, PreferenceFormat
from glm.datasets.prompts import (
    ADVERTISEMENT,
    ALPACA,
    CONVERSATION,
    HISTORY,
    INSTRUCTION,
    MESSAGES,
    QUESTION_GENERATION,
    Example,
    TaskFormat,
)
from glm.datasets.readers import Row, check_rows, read_rows
from glm.datasets.splits import Chosen, Split, choose_files
from glm.datasets.unread import UnreadFields
from glm.encoding.preference import PreferenceExample
from glm.errors import GLMError

SAMPLES = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Task:
    """One kind of data set.

    Attributes:
        format: of its rows.
        collection: it comes from; "" for none.
        home: where the real data is.
        metrics: how predictions are scored, a key of `glm.evaluation.metrics.METRICS`.
    """

    format: TaskFormat | PreferenceFormat
    collection: str
    home: str
    metrics: str = "characters"


def _belle(name: str, task_format: TaskFormat) -> Task:
    return Task(task_format, "bellegroup", f"https://huggingface.co/datasets/BelleGroup/{name}")


TASKS: dict[str, Task] = {
    "dureader_qg": Task(QUESTION_GENERATION, "", "https://www.luge.ai (DuReader-QG)"),
    **{
        name: _belle(name, INSTRUCTION)
        for name in ("generated_chat_0.4M", "school_math_0.25M", "train_2M_CN", "train_1M_CN", "train_0.5M_CN")
    },
    "multiturn_chat_0.8M": _belle("multiturn_chat_0.8M", CONVERSATION),
    "adgen": Task(
        ADVERTISEMENT, "", "https://cloud.tsinghua.edu.cn/f/b3f119a008264b1cabd1/?dl=1 (AdvertiseGen)", metrics="words"
    ),
    "alpaca": Task(
        ALPACA, "", "https://github.com/tatsu-lab/stanford_alpaca/blob/main/alpaca_data.json", metrics="words"
    ),
    "messages": Task(MESSAGES, "", "your own conversations", metrics="words"),
}
# Those whose rows have two answers to compare; how predictions are scored says nothing of them.
PREFERENCE_TASKS: dict[str, Task] = {"preference": Task(PREFERENCE, "", "your own comparisons")}


@dataclass(frozen=True)
class LoadedExamples:
    """Examples, where they came from in words for the log, and how many bad or empty rows were left out.

    `notes` name, a line for each file, the fields of rows that nothing reads.
    """

    examples: list[Example] | list[PreferenceExample]
    source_description: str
    skipped: int = 0
    notes: tuple[str, ...] = ()


def load_examples(
    task_name: str,
    split: Split,
    data_path: str | None = None,
    data_name: str | None = None,
    skip_bad_rows: bool = False,
    history_column: str | None = None,
) -> LoadedExamples | None:
    """The examples of one split.

    Args:
        task_name: a key of TASKS.
        split: "train", "dev" or "test".
        data_path: a file, a folder or a Hub name; without it the bundled sample is read. Which file holds which split
            `glm.datasets.splits` says.
        data_name: the collection the task belongs to ("bellegroup"), checked where the bundled sample is read.
        skip_bad_rows: leave bad rows out and count them.
        history_column: of the earlier turns, where it is not "history".

    Returns:
        None for a "dev" or "test" split the data does not have: hold a part of train out, or evaluate on "dev".

    Raises:
        GLMError: one line; an unknown task, no data, or a bad row.
    """
    task = _known(task_name, TASKS)
    if history_column is not None:
        task = replace(task, format=task.format.with_history_column(history_column))
    return _load(task_name, task, split, data_path, data_name, skip_bad_rows)


def load_preferences(
    task_name: str, split: Split, data_path: str | None = None, skip_bad_rows: bool = False
) -> LoadedExamples | None:
    """The same of rows with two answers, as `PreferenceExample`s.

    Args:
        task_name: a key of PREFERENCE_TASKS.
    """
    return _load(task_name, _known(task_name, PREFERENCE_TASKS), split, data_path, None, skip_bad_rows)


def _known(task_name: str, tasks: dict[str, Task]) -> Task:
    if task_name not in tasks:
        raise GLMError(f"task_name {task_name!r} is unknown; known tasks: {', '.join(tasks)}.")
    return tasks[task_name]


def _load(
    task_name: str, task: Task, split: Split, data_path: str | None, data_name: str | None, skip_bad_rows: bool
) -> LoadedExamples | None:
    if data_path is None:
        if split == "test":
            return None  # the bundled samples have none
        sample = Chosen([_sample_file(task_name, task, split, data_name)])
        return _load_files(sample, task, skip_bad_rows, bundled=True)
    path = Path(data_path)
    if not path.exists() and is_hub_name(data_path):
        return _load_hub(data_path, task, split, skip_bad_rows)
    chosen = choose_files(path, split)
    return _load_files(chosen, task, skip_bad_rows) if chosen.files else None


def _sample_file(task_name: str, task: Task, split: Split, data_name: str | None) -> Path:
    if data_name and task.collection and data_name.lower() != task.collection:
        raise GLMError(
            f"data_name {data_name!r} is unknown for task {task_name}; leave it at {task.collection!r} or pass "
            "your data with --data_path FILE."
        )
    path = SAMPLES / task.collection / task_name / f"{split}.json"
    if not path.is_file():
        raise GLMError(
            f"task {task_name} has no bundled sample at {path.parent}; get its JSON file from {task.home} "
            "and pass --data_path FILE."
        )
    return path


def _load_files(chosen: Chosen, task: Task, skip_bad_rows: bool, bundled: bool = False) -> LoadedExamples:
    rows: list[Row] = []
    notes: list[str] = []
    bad = 0
    for file in chosen.files:
        unread = UnreadFields(task.format)
        more, left_out = read_rows(file, task.format.fields, skip_bad_rows, unread.see, task.format.complete)
        rows += more
        bad += left_out
        notes += [f"{file}: {line}" for line in [unread.line(len(more))] if line]
    if bundled:
        extra = f" of invented text); for real data get the JSON file from {task.home} and pass --data_path FILE"
        return _loaded(f"the bundled sample {chosen.where}", rows, bad, task, notes, extra)
    return _loaded(chosen.where, rows, bad, task, notes, "; ".join((")", *chosen.notes)))


def _load_hub(name: str, task: Task, split: Split, skip_bad_rows: bool) -> LoadedExamples | None:
    parsed = hub_rows(name, split)
    if parsed is None and split == "train":
        raise GLMError(f"data set {name} has no split 'train'; download its JSON file and pass --data_path FILE.")
    if parsed is None:
        return None
    unread = UnreadFields(task.format)
    rows, bad = check_rows(parsed, task.format.fields, skip_bad_rows, unread.see, task.format.complete)
    notes = [f"{name}: {line}" for line in [unread.line(len(rows))] if line]
    return _loaded(f"{name} on the Hugging Face Hub", rows, bad, task, notes)


def _loaded(where: str, rows: list[Row], bad: int, task: Task, notes: list[str], extra: str = ")") -> LoadedExamples:
    """The usable rows as examples, described by `where` and their number, which `extra` follows."""
    _require_history(where, rows, task)
    usable = [row for row in rows if task.format.is_usable(row)]
    empty = len(rows) - len(usable)
    if empty and not usable:
        names = " or ".join(f"'{field.key}'" for field in task.format.fields if field.required)
        raise GLMError(f"nothing to read from {where}: field {names} is empty in all {empty} rows.")
    left_out = "".join(f", {count} {why} ones left out" for why, count in (("bad", bad), ("empty", empty)) if count)
    description = f"{where} ({len(usable)} rows{left_out}{extra}"
    return LoadedExamples([task.format.example(row) for row in usable], description, bad + empty, tuple(notes))


def _require_history(where: str, rows: list[Row], task: Task) -> None:
    """A column that was named and is in no row was mistyped."""
    (named,) = [field.names[0] for field in task.format.fields if field.key == HISTORY] or [HISTORY]
    if named != HISTORY and not any(named in row for row in rows):
        raise GLMError(f"history_column is {named}, and no row of {where} has it; the first has {', '.join(rows[0])}")
