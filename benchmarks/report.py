"""From measurements to rows, checks, notes, the JSON file and the table."""

import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.limits import decoding_limit, generation_limit, training_limit
from benchmarks.plan import ROOT, Measurement, Plan, Result
from benchmarks.settings import COLUMNS, SHAPES, TASKS, Task
from benchmarks.worker import MACHINE, PREPARE

LOSS_TOLERANCE = 1e-4  # relative; one side alone differs by 3e-5 between the tuned and the installed MKL path
RATE, DECODE = "tokens_per_second", "decode_tokens_per_second"


def build_report(plan: Plan, results: dict[Measurement, Result]) -> dict:
    """Everything that goes into bench.json, but time and command; `failures` says what went wrong, in lines."""
    machine = {m.column: r for m, r in results.items() if m.task == MACHINE}
    checks = [*check_losses(plan, results), *check_tokens(plan, results)]
    errors = [f"{m.title}: {r['error']}" for m, r in results.items() if "error" in r]
    return {
        "shape": {"name": plan.shape, **asdict(SHAPES[plan.shape])},
        "runs": plan.runs,
        "machine": machine_facts() | {"rates": machine},
        "versions": {name: version(name) for name in ("paddlepaddle", "paddlenlp", "numpy")}
        | {"python": platform.python_version(), "glm": commit()},
        "rows": build_rows(plan, results),
        "checks": checks,
        "notes": build_notes(plan, results),
        "failures": errors + [check["line"] for check in checks if not check["agree"]],
        "measurements": [asdict(m) | {"title": m.title} | r for m, r in results.items()],
    }


# Rows of a task: title (None = the task's own), field of the result, what the machine allows.
TRAINING_ROWS = ((None, RATE, training_limit),)
GENERATION_ROWS = ((None, RATE, generation_limit), ("   of that, decoding alone", DECODE, decoding_limit))


def build_rows(plan: Plan, results: dict[Measurement, Result]) -> list[dict]:
    """A row a task, and one more for the decoding alone where it generates."""
    rows = []
    for name in plan.tasks:
        task = TASKS[name]
        found = {column: results.get(Measurement(column, name), {"error": "was not run"}) for column in plan.columns}
        for title, field, allowed in TRAINING_ROWS if task.training else GENERATION_ROWS:
            columns = {
                column: {"error": r["error"]} if "error" in r else {"rate": r[field], "memory": r["peak_memory_bytes"]}
                for column, r in found.items()
            }
            row = {"task": name, "title": title or task.title, "field": field, "columns": columns}
            row |= {"ratios": ratios(columns), "aim": task.aim if field == RATE else None}
            rows.append(row | {"limit": limit_of(task, allowed, plan, results)})
    return rows


def ratios(columns: dict[str, dict]) -> dict[str, float]:
    """How many times as fast this project is as every other column that has a number."""
    rates = {name: cell["rate"] for name, cell in columns.items() if "rate" in cell}
    ours = rates.pop("project", None)
    return {name: ours / rate for name, rate in rates.items()} if ours else {}


def limit_of(task: Task, allowed: Callable, plan: Plan, results: dict[Measurement, Result]) -> float | None:
    """The tokens/s that the machine allows, None where its measurement failed."""
    work = results.get(Measurement("project", PREPARE), {"error": ""})
    machine = results.get(Measurement("project", MACHINE), {"error": ""})
    if "error" in work or "error" in machine:
        return None
    return allowed(task, SHAPES[plan.shape], work, machine)


def check_losses(plan: Plan, results: dict[Measurement, Result]) -> list[dict]:
    """Whether the columns' losses of the same batch, dropout off, agree."""
    checks = []
    for task in (name for name in plan.tasks if TASKS[name].training):
        losses = _values(plan, results, task, "loss")
        if len(losses) > 1:
            # numpy's, because Python's max and min overlook a NaN; and a NaN is not below the tolerance.
            spread = float(np.ptp(list(losses.values())) / np.max(np.abs(list(losses.values()))))
            agree = spread <= LOSS_TOLERANCE
            title = TASKS[task].title
            line = f"{title}: losses of the same batch differ by {spread:.1e}, allowed {LOSS_TOLERANCE:.0e} (relative)"
            checks.append({"task": task, "what": "loss", "values": losses, "agree": agree, "line": line})
    return checks


def check_tokens(plan: Plan, results: dict[Measurement, Result]) -> list[dict]:
    """Whether the columns generate the same tokens greedily, as far as each went.

    Beams are not compared: PaddleNLP forbids n-grams of the prompt too, this project those of the new text only.
    """
    checks = []
    for task in (name for name in plan.tasks if not TASKS[name].training and TASKS[name].beams == 1):
        tokens = _values(plan, results, task, "generated")
        if len(tokens) > 1:
            length = min(len(row) for rows in tokens.values() for row in rows)
            cut = {column: [row[:length] for row in rows] for column, rows in tokens.items()}
            agree = length > 0 and len({json.dumps(rows) for rows in cut.values()}) == 1
            line = f"{TASKS[task].title}: the first {length} tokens are {'equal' if agree else f'not equal: {cut}'}"
            checks.append({"task": task, "what": "tokens", "values": cut, "agree": agree, "line": line})
    return checks


def _values(plan: Plan, results: dict[Measurement, Result], task: str, field: str) -> dict:
    found = {column: results.get(Measurement(column, task), {}) for column in plan.columns}
    return {column: result[field] for column, result in found.items() if field in result}


def build_notes(plan: Plan, results: dict[Measurement, Result]) -> list[str]:
    """What a reader must know about the numbers."""
    shape = SHAPES[plan.shape]
    notes = [
        f"{shape.preset}, float32, batch {shape.batch}, source {shape.source}, {shape.new_tokens} new tokens; medians "
        f"of up to {plan.runs} runs after a warm-up, none begun after {shape.patience:.0f} s. Training "
        "counts source and target tokens, generation new tokens; reading the prompt belongs to the first.",
        "limit: training, matmul rate / (6 · weights a token is multiplied with), with LoRA 4 instead of 6; decoding, "
        "batch · memory rate / bytes of the weights, or with many beams the matmul rate; a whole generation, the "
        "prompt at the matmul rate and then decoding.",
    ]
    cut = {m.title: r["steps"] for m, r in results.items() if "steps" in r and min(r["steps"]) < shape.new_tokens}
    for title, steps in cut.items():
        notes.append(
            f"{title}: {min(steps)} of {shape.new_tokens} tokens were generated, the others are counted at the pace of "
            "the steps behind the first."
        )
    for measurement, result in results.items():
        prediction = result.get("prediction")
        if cut and prediction and COLUMNS[measurement.column].module == COLUMNS["tuned"].module:
            notes.append(
                f"How good that is: {measurement.title} gives {prediction['predicted']:.2f} tokens/s counted from its "
                f"first {prediction['from_tokens']} tokens, and {prediction['measured']:.2f} measured over all."
            )
    for measurement, result in results.items():
        strides_off = result.get("settings", {}).get("FLAGS_use_stride_kernel") == "0"
        if strides_off and measurement.task == "beam" and measurement.column == "tuned":
            notes.append(
                "In glm's environment PaddleNLP's rule against repeated n-grams takes its time and has no effect: with "
                "FLAGS_use_stride_kernel=0 Paddle drops `x[i, list] = value`."
            )
    if any(TASKS[task].training for task in plan.tasks):
        notes.append(
            "PaddleNLP's own label smoothing fails for more than one row; it is added outside its model, on the "
            "trained tokens only."
        )
    return notes


def machine_facts() -> dict:
    """Processor, cores, memory, system; the load says whether others were at work."""
    import os

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": pages,
        "system": platform.platform(),
        "load_average": os.getloadavg(),
    }


def commit() -> str:
    """The commit of this checkout, with a plus where files differ from it; empty without git."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def print_report(report: dict, console: Console) -> None:
    """The tables, checks, notes and failures."""
    console.print(_rates(report))
    console.print(_machine(report))
    for check in report["checks"]:
        colour, word = ("green", "same") if check["agree"] else ("bold red", "DIFFERENT")
        console.print(f"[{colour}]{word}[/{colour}] {check['line']}", highlight=False)
    for note in report["notes"]:
        console.print(f"[dim]{note}[/dim]", highlight=False)
    for failure in report["failures"]:
        console.print("FAILED", style="bold red", end=" ")
        console.print(failure, markup=False, highlight=False)


def _rates(report: dict) -> Table:
    table = Table(title="tokens/s (peak memory in GiB)", title_justify="left", show_lines=False)
    table.add_column("", no_wrap=True)
    names = list(report["rows"][0]["columns"]) if report["rows"] else []
    others = [name for name in names if name != "project"]
    for name in names:
        table.add_column(COLUMNS[name].title, justify="right", overflow="fold")
    for name in others:
        table.add_column(f"vs {name}", justify="right")
    for title in ("aim", "limit", "of limit"):
        table.add_column(title, justify="right")
    for row in report["rows"]:
        ours = row["columns"].get("project", {}).get("rate")
        table.add_row(
            row["title"],
            *(_cell(row["columns"][name], row["field"] == RATE) for name in names),
            *(_ratio(row, name) for name in others),
            f"{row['aim']:g}x" if row["aim"] else "",
            f"{row['limit']:,.1f}" if row["limit"] else "",
            f"{ours / row['limit']:.0%}" if ours and row["limit"] else "",
        )
    return table


def _cell(cell: dict, with_memory: bool) -> str:
    if "error" in cell:
        return f"[red]{cell['error'].replace('[', chr(92) + '[')}[/red]"
    memory = f" ({cell['memory'] / 2**30:.1f})" if with_memory else ""
    return f"{cell['rate']:,.2f}{memory}"


def _ratio(row: dict, name: str) -> str:
    if name not in row["ratios"]:
        return ""
    text = f"{row['ratios'][name]:.1f}x"
    if name != "tuned" or not row["aim"]:
        return text
    colour = "green" if row["ratios"][name] >= row["aim"] else "red"
    return f"[{colour}]{text}[/{colour}]"


def _machine(report: dict) -> Table:
    facts = report["machine"]
    table = Table(
        title=f"this machine: {facts['processor']}, {facts['cores']} cores", title_justify="left", show_header=True
    )
    for title in ("environment", "matmul 2048³, GFLOP/s", "memory read, GB/s"):
        table.add_column(title, justify="left" if title == "environment" else "right")
    for column, rates in facts["rates"].items():
        title = "tuned by glm" if COLUMNS[column].tuned else "as installed"
        numbers = [_number(rates, name) for name in ("matmul_gflops", "read_gigabytes_per_second")]
        table.add_row(title, *numbers)
    return table


def _number(result: Result, field: str) -> str:
    return f"{result[field]:,.1f}" if field in result else "failed"
