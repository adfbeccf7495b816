"""From runs to numbers: medians, and rows with ratios and whether an aim is met."""

from benchmarks.limits import limit, summary
from benchmarks.plan import Measured, Plan
from benchmarks.rows import ROWS, Row
from benchmarks.settings import (
    LONGEST_FIRST,
    LONGEST_PAUSE,
    LONGEST_START,
    QUICK_SHAPES,
    SHAPES,
    SIDES,
    TASKS,
    UNITS,
    USUAL_GAPS,
    Shape,
    Task,
)
from benchmarks.side import pace, projected_seconds


def value_of(task: Task, shape: Shape, run: dict) -> float:
    """A run's number, in the unit of its task."""
    if task.kind in ("start", "ready"):
        return run[task.unit]
    if task.kind == "serve":
        return served(task.unit, run)
    if task.kind == "train":
        return shape.train_batch * (shape.train_source + shape.train_target) / run["seconds"]
    if task.kind == "score":
        return shape.questions / run["seconds"]
    marks = run["marks"]
    if task.unit == "prefill":
        return task.batch * task.prompt(shape) / marks[0][1]
    if task.unit == "decode":
        return task.batch / pace(marks)
    tokens = task.new_tokens(shape)
    return task.batch * tokens / projected_seconds(marks, tokens)


def served(unit: str, run: dict) -> float:
    """Tokens a second, or milliseconds."""
    if unit == "served":
        return run["output_throughput"]
    return 1e3 * (run["pause"]["longest"] if unit == "pause" else run["ttft"]["p50"])


def set_limit(name: str, runs: list[dict]) -> dict:
    """What our value should not exceed, in the unit of its row."""
    if name in (seconds := {"start": LONGEST_START, "first-token": LONGEST_FIRST}):
        return summary([seconds[name]])
    if name == "weights":
        sizes = [run["weights"] for run in runs if "weights" in run]
        return summary(sizes) if sizes else {"error": "was not run"}
    pauses = [run["pause"]["usual"] for run in runs if "pause" in run]
    if not pauses:
        return {"error": "was not run"}
    return summary([1e3 * max(LONGEST_PAUSE, USUAL_GAPS * usual) for usual in pauses])


def cell(row: Row, side: str, plan: Plan, measured: Measured) -> dict:
    """A side's numbers in a row, or the reason why there are none."""
    runs = measured.runs.get((row.shape, row.task, side), [])
    good = [run for run in runs if "error" not in run]
    if not good:
        prepared = measured.prepared.get(row.shape, {})
        return {"error": (runs or [prepared])[-1].get("error", "was not run")}
    shape, task = shape_of(plan, row.shape), TASKS[row.task]
    if side == "machine":
        return limit(row, shape, measured.prepared[row.shape], good)
    return summary([value_of(task, shape, run) for run in good])


def shape_of(plan: Plan, name: str) -> Shape:
    return (QUICK_SHAPES if plan.quick else SHAPES)[name]


def build_row(name: str, plan: Plan, measured: Measured) -> dict:
    """A line of the table, as JSON's types."""
    row = ROWS[name]
    cells = {side: cell(row, side, plan, measured) for side in row.sides}
    runs = measured.runs.get((row.shape, row.task, row.ours), [])
    cells |= {name: set_limit(name, runs) for name in row.aims if name not in SIDES}
    wanted = row.aims_of(plan.processor)
    small, unit = UNITS[TASKS[row.task].unit]
    ours = cells[row.ours].get("median")
    found = {"row": name, "title": row.title, "shape": row.shape, "task": row.task, "ours": row.ours, "unit": unit}
    aims = [aimed(side, aim, ours, cells[side].get("median"), small) for side, aim in wanted.items()]
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
