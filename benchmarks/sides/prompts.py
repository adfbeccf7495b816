"""The prompts that every side reads."""

from pathlib import Path

import numpy as np

from benchmarks.settings import Task


def prompts_of(directory: Path, task: Task) -> np.ndarray:
    """Token ids [B, T] int64 of a task."""
    arrays = np.load(directory / "inputs.npz")
    return arrays["long_prompts" if task.long else "prompts"][: task.batch]


def end_token(directory: Path) -> int:
    return int(np.load(directory / "inputs.npz")["eos_token_id"])


def questions_of(directory: Path) -> tuple[list[int], list[list[int]], list[int]]:
    """Ids of a test's shots, of its questions, and of the four letters, of which one follows a question."""
    arrays = np.load(directory / "inputs.npz")
    return tuple(arrays[name].tolist() for name in ("shots", "questions", "letters"))
