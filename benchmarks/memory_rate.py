"""How fast memory is read by all cores together. Imports no framework."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np


def read_together(parts: Sequence[np.ndarray], cores: Executor) -> None:
    """Reads all numbers once, each part in a thread of its own: a dot product does little else."""
    list(cores.map(np.dot, parts, parts))


def best(function: Callable[[], object], runs: int) -> float:
    """The shortest time in seconds; a limit is what the machine can do, not what it does on average."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
