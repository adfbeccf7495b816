"""What this machine can do, measured between the others' runs: a memory's speed changes with its neighbours."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle

from benchmarks.side import Place

MATMUL_SIZE, READ_BYTES = 2048, 1 << 30


class Side:
    """See `benchmarks.side`; opens nothing."""

    def __init__(self, place: Place):
        # BLAS's own threads would read beside ours (`benchmarks.processes` starts this process with one).
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.parts = np.split(np.ones(READ_BYTES // 4 // self.cores * self.cores, dtype="float32"), self.cores)
        self.factors = [paddle.randn([MATMUL_SIZE, MATMUL_SIZE]) for _ in range(2)]
        self.pool = ThreadPoolExecutor(self.cores)

    def rate(self) -> dict[str, float]:
        """Bytes per second that all cores read together, and float32 operations per second of a 2048³ matmul."""
        read = best(lambda: list(self.pool.map(lambda part: np.dot(part, part), self.parts)), 3)
        multiply = best(lambda: paddle.matmul(*self.factors), 3)
        return {"read": READ_BYTES / read, "matmul": 2 * MATMUL_SIZE**3 / multiply}


def best(function: Callable[[], object], runs: int) -> float:
    """The shortest time in seconds; a limit is what the machine can do, not what it does on average."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
