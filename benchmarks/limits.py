"""How fast this machine is: what it can multiply and what it can read, and the tokens/s that this allows."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.settings import Shape, Task

MATMUL_SIZE, READ_BYTES = 2048, 1 << 29
BYTES_A_WEIGHT = 4  # float32


def measure_machine(runs: int) -> dict[str, float]:
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


def training_limit(task: Task, shape: Shape, work: dict[str, int], machine: dict[str, float]) -> float:
    """Tokens/s that float32 training can reach here: matmul rate / (6 · weights a token is multiplied with).

    Each weight is multiplied three times (forward, gradient of the input, gradient of the weight), at 2 operations a
    time; with LoRA there is no gradient of the weight. The blocks take part in every token, the head in the trained
    ones only. Attention scores, norms and the optimizer come on top.
    """
    trained_share = shape.new_tokens / (shape.source + shape.new_tokens)
    weights = work["block_parameters"] + trained_share * work["head_parameters"]
    return machine["matmul_gflops"] * 1e9 / ((4 if task.lora else 6) * weights)


def decoding_limit(task: Task, shape: Shape, work: dict[str, int], machine: dict[str, float]) -> float:
    """Tokens/s that float32 decoding can reach here: batch · memory rate / bytes of the blocks and the head.

    With many beams the matmuls may be the narrower gate. Caches, which are read too, come on top.
    """
    weights = work["block_parameters"] + work["head_parameters"]
    read = BYTES_A_WEIGHT * weights / (machine["read_gigabytes_per_second"] * 1e9)
    multiply = 2 * shape.batch * task.beams * weights / (machine["matmul_gflops"] * 1e9)
    return shape.batch / max(read, multiply)


def generation_limit(task: Task, shape: Shape, work: dict[str, int], machine: dict[str, float]) -> float:
    """Tokens/s of a whole generation: the prompts go through the blocks once, at the matmul rate, then decoding."""
    prompt = 2 * shape.batch * shape.source * work["block_parameters"] / (machine["matmul_gflops"] * 1e9)
    tokens = shape.batch * shape.new_tokens
    return tokens / (prompt + tokens / decoding_limit(task, shape, work, machine))
