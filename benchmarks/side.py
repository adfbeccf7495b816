"""What a side of the comparison can do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.settings import Task


@dataclass(frozen=True)
class Generation:
    """One run of a search.

    Attributes:
        tokens: the new tokens of every row.
        ends: seconds from the start to the end of each step; the first step contains the reading of the prompt.
    """

    tokens: list[list[int]]
    ends: list[float]


def projected_seconds(ends: list[float], steps: int) -> float:
    """What `steps` steps take, where those that were not run go on at the pace of those that were."""
    pace = (ends[-1] - ends[0]) / max(1, len(ends) - 1)
    return ends[-1] + (steps - len(ends)) * pace


class SideProtocol(Protocol):
    """A model with its batches, opened from the directory that `prepare` wrote."""

    def __init__(self, directory: Path): ...

    def add_lora(self, rank: int) -> None:
        """Freezes the model and adds adapters to query, key and value."""

    def first_loss(self) -> float:
        """The training loss of the batch, label smoothing included, dropout off."""

    def start_training(self) -> None:
        """Turns dropout on and makes the optimizer."""

    def train_step(self) -> None:
        """Forward, backward, AdamW."""

    def trained_parameters(self) -> int:
        """Number of weights that the optimizer changes."""

    def generate(self, task: Task, new_tokens: int, patience: float | None = None) -> Generation:
        """Generates; may stop after three steps and `patience` seconds if all would take more than twice as long."""
