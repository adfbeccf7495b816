"""The known tasks, and one call that gives a script the examples of a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glm.datasets.hub import hub_rows, is_hub_name
from glm.datasets.prompts import CONVERSATION, INSTRUCTION, QUESTION_GENERATION, Example, TaskFormat
from glm.datasets.readers import Row, check_rows, data_files, read_rows
from glm.errors import GLMError

Split = Literal["train", "dev"]
SAMPLES = Path(__file__).resolve().parents[2] / "data"
# What a file or a Hub split is called, the best name first.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "dev": ("dev", "validation", "valid", "test")}


@dataclass(frozen=True)
class Task:
    """What a task's rows look like, the collection it comes from ("" for none), and where the real data is."""

    format: TaskFormat
    collection: str
    home: str


def _belle(name: str, task_format: TaskFormat) -> Task:
    return Task(task_format, "bellegroup", f"https://huggingface.co/datasets/BelleGroup/{name}")


TASKS: dict[str, Task] = {
    "dureader_qg": Task(QUESTION_GENERATION, "", "https://www.luge.ai (DuReader-QG)"),
    **{
        name: _belle(name, INSTRUCTION)
        for name in ("generated_chat_0.4M", "school_math_0.25M", "train_2M_CN", "train_1M_CN", "train_0.5M_CN")
    },
    "multiturn_chat_0.8M": _belle("multiturn_chat_0.8M", CONVERSATION),
}


@dataclass(frozen=True)
class LoadedExamples:
    """Examples, where they came from in words for the log, and how many bad rows were left out."""

    examples: list[Example]
    source_description: str
    skipped: int = 0


def load_examples(
    task_name: str,
    split: Split,
    data_path: str | None = None,
    data_name: str | None = None,
    skip_bad_rows: bool = False,
) -> LoadedExamples | None:
    """The examples of one split.

    Args:
        task_name: a key of TASKS.
        split: "train" or "dev".
        data_path: a file, a folder or a Hub name; without it the bundled sample is read. For "dev", a file train.*
            stands for the dev.*, validation.*, valid.* or test.* beside it.
        data_name: the collection the task belongs to ("bellegroup"), checked where the bundled sample is read.
        skip_bad_rows: leave bad rows out and count them.

    Returns:
        None for a "dev" split the data does not have: hold a part of train out.

    Raises:
        GLMError: one line; an unknown task, no data, or a bad row.
    """
    task = TASKS.get(task_name)
    if task is None:
        raise GLMError(f"task_name {task_name!r} is unknown; known tasks: {', '.join(TASKS)}.")
    if data_path is None:
        return _load_files([_sample_file(task_name, task, split, data_name)], task, skip_bad_rows, bundled=True)
    path = Path(data_path)
    if not path.exists() and is_hub_name(data_path):
        return _load_hub(data_path, task, split, skip_bad_rows)
    files = split_files(path, split)
    return _load_files(files, task, skip_bad_rows) if files else None


def split_files(path: Path, split: Split) -> list[Path]:
    """The files that hold `split`, [] for a missing dev split. Raises GLMError where there is nothing to train on."""
    files = data_files(path)
    if path.is_file():
        if split == "train":
            return files
        beside = data_files(path.parent) if path.stem in SPLIT_NAMES["train"] else []
        return _named(beside, split)
    if split == "dev" or _named(files, split):
        return _named(files, split)
    dev = [file for name in SPLIT_NAMES["dev"] for file in files if file.stem == name]
    rest = [file for file in files if file not in dev]
    if not rest:
        names = ", ".join(file.name for file in dev)
        raise GLMError(f"{path} holds nothing to train on, only {names}; name the training file train.json.")
    return rest


def _named(files: list[Path], split: Split) -> list[Path]:
    """The files of the first name of the split that occurs."""
    for name in SPLIT_NAMES[split]:
        if found := [file for file in files if file.stem == name]:
            return found
    return []


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


def _load_files(files: list[Path], task: Task, skip_bad_rows: bool, bundled: bool = False) -> LoadedExamples:
    required, optional = task.format.required_fields, task.format.optional_fields
    rows: list[Row] = []
    skipped = 0
    for file in files:
        more, bad = read_rows(file, required, skip_bad_rows, optional)
        rows += more
        skipped += bad
    where = ", ".join(map(str, files))
    description = f"{where} ({_count(rows, skipped)})"
    if bundled:
        description = (
            f"the bundled sample {where} ({_count(rows, skipped)} of invented text); for real data get the JSON file "
            f"from {task.home} and pass --data_path FILE"
        )
    return LoadedExamples([task.format.example(row) for row in rows], description, skipped)


def _load_hub(name: str, task: Task, split: Split, skip_bad_rows: bool) -> LoadedExamples | None:
    parsed = hub_rows(name, SPLIT_NAMES[split])
    if parsed is None and split == "train":
        raise GLMError(f"data set {name} has no split 'train'; download its JSON file and pass --data_path FILE.")
    if parsed is None:
        return None
    rows, skipped = check_rows(parsed, task.format.required_fields, task.format.optional_fields, skip_bad_rows)
    examples = [task.format.example(row) for row in rows]
    return LoadedExamples(examples, f"{name} on the Hugging Face Hub ({_count(rows, skipped)})", skipped)


def _count(rows: list[Row], skipped: int) -> str:
    return f"{len(rows)} rows, {skipped} bad ones left out" if skipped else f"{len(rows)} rows"
