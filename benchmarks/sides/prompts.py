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
