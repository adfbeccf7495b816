"""What this machine can do, measured between the others' runs: a memory's speed changes with its neighbours."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle

from benchmarks.side import Place
from glm.device.tuning import usable_cores

MATMUL_SIZE, READ_BYTES = 2048, 1 << 30
SMALLER = tuple(1 << power for power in range(26, 30))  # bytes; what fits a processor's cache is read faster
ROWS = 4096


class Side:
    """See `benchmarks.side`; opens nothing."""

    def __init__(self, place: Place):
        self.numbers, self.vector = paddle.ones([READ_BYTES // 4]), paddle.ones([1, ROWS])
        self.array = self.numbers.numpy()
        self.cores = ThreadPoolExecutor(usable_cores())
        self.factors = [paddle.randn([MATMUL_SIZE, MATMUL_SIZE]) for _ in range(2)]

    def rate(self) -> dict:
        """Bytes per second that all cores read together, of 1 GiB and of less, by the bytes that are read again and
        again; and float32 operations per second of a 2048³ matmul.

        The faster of two ways counts, for neither is the faster one everywhere: of 1 GiB a vector times a matrix reads
        24 GB/s on either of two EPYCs, and numpy's dot product on two threads 14 on one (family and model 26 2) and 35
        on the other (25 17). Decoding was above its own limit with the slower way.
        """
        multiply = best(lambda: paddle.matmul(*self.factors), 3)
        smaller = {str(size): self._read(size) for size in SMALLER}
        return {"read": self._read(READ_BYTES), "read_of": smaller, "matmul": 2 * MATMUL_SIZE**3 / multiply}

    def _read(self, size: int) -> float:
        matrix = self.numbers[: size // 4].reshape([ROWS, -1])
        parts = np.array_split(self.array[: size // 4], usable_cores())

        def dots() -> None:
            list(self.cores.map(np.dot, parts, parts))

        return size / min(best(lambda: paddle.matmul(self.vector, matrix), 3), best(dots, 3))


def best(function: Callable[[], object], runs: int) -> float:
    """The shortest time in seconds; a limit is what the machine can do, not what it does on average."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
