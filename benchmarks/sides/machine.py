"""What this machine can do, measured between the others' runs: a memory's speed changes with its neighbours."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle

from benchmarks.memory_rate import best, read_together
from benchmarks.side import Place
from glm.device.tuning import usable_cores

MATMUL_SIZE, READ_BYTES = 2048, 1 << 30
SMALLER = tuple(1 << power for power in range(26, 30))  # bytes; what fits a processor's cache is read faster
ROWS = 4096


class Side:
    """See `benchmarks.side`; opens nothing."""

    def __init__(self, place: Place):
        self.numbers, self.vector = paddle.ones([READ_BYTES // 4]), paddle.ones([1, ROWS])
        self.array, self.threads = np.from_dlpack(self.numbers), ThreadPoolExecutor(usable_cores())
        self.factors = [paddle.randn([MATMUL_SIZE, MATMUL_SIZE]) for _ in range(2)]

    def rate(self) -> dict:
        """Bytes per second that all cores read together, of 1 GiB and of less, by the bytes that are read again and
        again; and float32 operations per second of a 2048³ matmul.

        Read by a vector times a matrix, and by dot products in a thread each; the faster counts. Dot products got 14
        GB/s where a matrix got 24, and 34 where it got 23: with either alone decoding was above its own limit.
        """
        multiply = best(lambda: paddle.matmul(*self.factors), 3)
        smaller = {str(size): self._read(size) for size in SMALLER}
        return {"read": self._read(READ_BYTES), "read_of": smaller, "matmul": 2 * MATMUL_SIZE**3 / multiply}

    def _read(self, size: int) -> float:
        matrix = self.numbers[: size // 4].reshape([ROWS, -1])
        parts = np.array_split(self.array[: size // 4], usable_cores())
        ways = (lambda: paddle.matmul(self.vector, matrix), lambda: read_together(parts, self.threads))
        return size / min(best(way, 3) for way in ways)
