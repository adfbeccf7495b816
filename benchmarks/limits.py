"""How fast this machine is: what it can multiply and what it can read, and the tokens/s that this allows."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.settings import Shape, Task

MATMUL_SIZE, READ_BYTES = 2048, 1 << 29
BYTES_A_WEIGHT = 4  # float32


def measure_machine(runs: int = 9) -> dict[str, float]:
    """`matmul_gflops` of Paddle as this process has it, and `read_gigabytes_per_second`; the best of some runs each."""
    return {"matmul_gflops": matmul_rate(runs) / 1e9, "read_gigabytes_per_second": read_rate(runs) / 1e9}


def matmul_rate(runs: int) -> float:
    """Floating-point operations a second of Paddle's float32 matmul, 2048³."""
    import paddle

    a, b = (paddle.randn([MATMUL_SIZE, MATMUL_SIZE]) for _ in range(2))
    return 2 * MATMUL_SIZE**3 / _best(lambda: paddle.matmul(a, b), runs)


def read_rate(runs: int) -> float:
    """Bytes a second that all cores read together from an array far larger than the caches."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = np.split(np.ones(READ_BYTES // BYTES_A_WEIGHT // cores * cores, dtype="float32"), cores)
    with ThreadPoolExecutor(cores) as pool:
        return READ_BYTES / _best(lambda: list(pool.map(lambda part: np.dot(part, part), parts)), runs)


def _best(function: Callable[[], object], runs: int) -> float:
    """The shortest time in seconds; a limit is what the machine can do, not what it does on average."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def allowed_tokens_per_second(task: Task, shape: Shape, work: dict[str, int], machine: dict[str, float]) -> float:
    """The tokens/s that no implementation in float32 can exceed.

    Training multiplies each weight that takes part three times (forward, gradient of the input, gradient of the
    weight; with LoRA the last one only for adapters), at 2 operations a time. The blocks take part in every token, the
    head in the trained ones only: 6 · parameters, less what need not be computed. A decoding step reads every weight
    of the blocks and of the head once for the whole batch. Attention, norms, caches and the prompt come on top.
    """
    if task.training:
        trained_share = shape.new_tokens / (shape.source + shape.new_tokens)
        weights = work["block_parameters"] + trained_share * work["head_parameters"]
        return machine["matmul_gflops"] * 1e9 / ((4 if task.lora else 6) * weights)
    step_bytes = BYTES_A_WEIGHT * (work["block_parameters"] + work["head_parameters"])
    return shape.batch * machine["read_gigabytes_per_second"] * 1e9 / step_bytes
