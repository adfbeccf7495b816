"""From runs to numbers: medians and percentiles, limits, and rows with ratios and whether an aim is met."""

from statistics import median

import numpy as np

from benchmarks.plan import Measured, Plan
from benchmarks.settings import QUICK_SHAPES, ROWS, SHAPES, SIDES, TASKS, UNITS, Row, Shape, Task
from benchmarks.side import pace, projected_seconds

# Bytes of a stored weight of the blocks and of the head, with the scales of its block, for the limits.
WEIGHT_BYTES = {"fp32": (4.0, 4.0), "int8": (1 + 4 / 128, 1 + 4 / 128), "int4": (0.5 + 4 / 128, 1 + 4 / 128)}


def value_of(task: Task, shape: Shape, run: dict) -> float:
    """A run's number, in the unit of its task."""
    if task.kind == "start":
        return run[task.unit]
    if task.kind == "train":
        return shape.train_batch * (shape.train_source + shape.train_target) / run["seconds"]
    marks = run["marks"]
    if task.unit == "prefill":
        return task.batch * task.prompt(shape) / marks[0][1]
    if task.unit == "decode":
        return task.batch / pace(marks)
    tokens = task.new_tokens(shape)
    return task.batch * tokens / projected_seconds(marks, tokens)


def summary(values: list[float]) -> dict:
    """Median, tenth and ninetieth percentile, and the values."""
    low, high = np.percentile(values, [10, 90])
    return {"median": median(values), "p10": float(low), "p90": float(high), "values": values}


def cell(row: Row, side: str, plan: Plan, measured: Measured) -> dict:
    """A side's numbers in a row, or the reason why there are none."""
    runs = measured.runs.get((row.shape, row.task, side), [])
    good = [run for run in runs if "error" not in run]
    if not good:
        prepared = measured.prepared.get(row.shape, {})
        return {"error": (runs or [prepared])[-1].get("error", "was not run")}
    shape, task = shape_of(plan, row.shape), TASKS[row.task]
    if side == "machine":
        return limit(row, shape, measured, summary([run["read"] for run in good]), [run["matmul"] for run in good])
    return summary([value_of(task, shape, run) for run in good])


def shape_of(plan: Plan, name: str) -> Shape:
    return (QUICK_SHAPES if plan.quick else SHAPES)[name]


def limit(row: Row, shape: Shape, measured: Measured, read: dict, multiply: list[float]) -> dict:
    """Tokens/s that a decoding step can reach: batch · bytes read a second / bytes of the weights.

    Every step reads the blocks and the head once; caches, norms and activations come on top. The read rate is the
    median of what was read between the runs of the other sides.
    """
    work = measured.prepared[row.shape]
    of_block, of_head = WEIGHT_BYTES[SIDES[row.ours].weights]
    size = of_block * work["block_parameters"] + of_head * work["head_parameters"]
    batch = TASKS[row.task].batch
    found = summary([batch * value / size for value in read["values"]])
    return found | {"read": read, "matmul": summary(multiply), "weight_bytes": size}


def build_row(name: str, plan: Plan, measured: Measured) -> dict:
    """A line of the table, as JSON's types."""
    row = ROWS[name]
    cells = {side: cell(row, side, plan, measured) for side in row.sides}
    small, unit = UNITS[TASKS[row.task].unit]
    ours = cells[row.ours].get("median")
    found = {"row": name, "title": row.title, "shape": row.shape, "task": row.task, "ours": row.ours, "unit": unit}
    aims = [aimed(side, aim, ours, cells[side].get("median"), small) for side, aim in row.aims.items()]
    return found | {"small_is_better": small, "cells": cells, "aims": aims}


def aimed(side: str, aim: float | None, ours: float | None, theirs: float | None, small: bool) -> dict:
    """Our value as a multiple of another side's; `met` is None without an aim, and False without numbers."""
    ratio = ours / theirs if ours and theirs else None
    met = None if aim is None else ratio is not None and (ratio <= aim if small else ratio >= aim)
    return {"side": side, "aim": aim, "ratio": ratio, "met": met}


def missed(rows: list[dict]) -> list[str]:
    """Rows whose time is worth a profile: our side ran, and an aim is missed."""
    ran = (row for row in rows if "median" in row["cells"][row["ours"]])
    return [row["row"] for row in ran if any(aim["met"] is False for aim in row["aims"])]
