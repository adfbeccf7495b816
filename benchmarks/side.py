"""What a side of the comparison can do, and what it tells of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.settings import Shape, Side, Task

Mark = tuple[int, float]  # tokens per row so far, seconds since the start


@dataclass(frozen=True)
class Generation:
    """One run of a search.

    Attributes:
        tokens: the new tokens of every row.
        marks: when so many tokens were there; the first one contains the reading of the prompt.
    """

    tokens: list[list[int]]
    marks: list[Mark]


@dataclass(frozen=True)
class Scores:
    """One run over the questions of a test.

    Attributes:
        log_likelihoods: of the four letters behind each question.
        seconds: that it took.
    """

    log_likelihoods: list[list[float]]
    seconds: float


@dataclass(frozen=True)
class Place:
    """What a side opens.

    Attributes:
        directory: that `benchmarks.prepare` filled.
        shape, side: the tables' entries.
    """

    directory: Path
    shape: Shape
    side: Side


class SideProtocol(Protocol):
    """A model with its prompts and batches. A side has the methods for the tasks it appears in."""

    def __init__(self, place: Place): ...

    def generate(self, task: Task, patience: float) -> Generation:
        """Generates; may stop early where all tokens would take more than twice `patience` seconds."""

    def score(self, task: Task) -> Scores:
        """Scores all questions, and keeps nothing for the next run."""

    def start_training(self, task: Task) -> float:
        """The loss of the batch with dropout off; then dropout is on, and there is an optimizer."""

    def train_step(self) -> None:
        """Forward, backward, AdamW."""

    def rate(self) -> dict[str, float]:
        """What the machine can do now; of the side `machine`."""

    def profile(self, task: Task) -> list[dict]:
        """What the time of one more run goes to: rows with `what`, `seconds` and `calls`, the longest first."""


def pace(marks: list[Mark]) -> float:
    """Seconds per token of the decoding alone.

    Raises:
        ValueError: there is one mark only.
    """
    (first, start), (last, end) = marks[0], marks[-1]
    if last == first:
        raise ValueError("one mark gives no pace")
    return (end - start) / (last - first)


def projected_seconds(marks: list[Mark], tokens: int) -> float:
    """What `tokens` tokens take, where those that were not generated continue at the pace of those that were."""
    done, seconds = marks[-1]
    return seconds + (tokens - done) * pace(marks) if tokens > done else seconds
