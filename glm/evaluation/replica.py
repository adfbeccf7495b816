"""Which part of an evaluation a process has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Replica:
    """Which of the copies of a model this process belongs to; rank of `count` equal ones."""

    rank: int = 0
    count: int = 1
