"""What this machine allows: how fast the weights of a row can be read from memory and multiplied."""

from statistics import median

import numpy as np

from benchmarks.rows import Row
from benchmarks.settings import SIDES, TASKS, Shape, Task

# Bytes of a stored weight of the blocks and of the head, with the scales of its block.
_INT8, _INT4 = 1 + 4 / 128, 0.5 + 4 / 128
WEIGHT_BYTES = {
    "fp32": (4.0, 4.0),
    "int8": (_INT8, _INT8),
    "int4": (_INT4, _INT8),
    "int4-head4": (_INT4, _INT4),
}
# Matmuls of a trained layer: forward, and for the gradients of its input and of its weights, which adapters leave out.
TRAINED_MATMULS = {False: 3, True: 2}


def summary(values: list[float]) -> dict:
    """Median, tenth and ninetieth percentile, and the values."""
    low, high = np.percentile(values, [10, 90])
    return {"median": median(values), "p10": float(low), "p90": float(high), "values": values}


def limit(row: Row, shape: Shape, work: dict[str, int], rates: list[dict]) -> dict:
    """Tokens/s that this machine's memory and matmuls allow in a row.

    Caches, attention, norms and activations come on top: this is what no implementation can exceed.

    Args:
        work: `benchmarks.prepare.work`.
        rates: what was read and multiplied between the runs of the other sides (benchmarks/sides/machine.py).
    """
    task, of_block, of_head = TASKS[row.task], *WEIGHT_BYTES[SIDES[row.ours].weights]
    size = of_block * work["block_parameters"] + of_head * work["head_parameters"]
    rates = [rate | {"read": read_rate(rate, size)} for rate in rates]
    found = summary([_tokens_per_second(task, shape, work, size, rate) for rate in rates])
    read, multiply = (summary([rate[name] for rate in rates]) for name in ("read", "matmul"))
    return found | {"read": read, "matmul": multiply, "weight_bytes": size}


def read_rate(rate: dict, size: float) -> float:
    """Bytes a second of reading the next larger number of bytes again and again: a part of them may stay in a cache."""
    larger = [int(of) for of in rate.get("read_of", {}) if int(of) >= size]
    return rate["read_of"][str(min(larger))] if larger else rate["read"]


def _tokens_per_second(task: Task, shape: Shape, work: dict[str, int], weight_bytes: float, rate: dict) -> float:
    blocks, head = work["block_parameters"], work["head_parameters"]

    def multiplied(block_rows: int, head_rows: int) -> float:
        return 2 * (blocks * block_rows + head * head_rows) / rate["matmul"]

    if task.kind == "train":
        targets = shape.train_batch * shape.train_target
        tokens = targets + shape.train_batch * shape.train_source
        return tokens / (TRAINED_MATMULS[task.lora] * multiplied(tokens, targets))
    prompts = multiplied(task.batch * task.prompt(shape), task.batch)
    if task.unit == "prefill":
        return task.batch * task.prompt(shape) / prompts
    rows = task.batch * task.beams
    # Weights are read once for all rows, while others are multiplied: the longer of the two counts.
    step = max(weight_bytes / rate["read"], multiplied(rows, rows))
    if task.unit == "decode":
        return task.batch / step
    tokens = task.new_tokens(shape)
    return task.batch * tokens / (prompts + (tokens - 1) * step)
