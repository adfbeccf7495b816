"""Everything that goes into bench.json, and the tables on the screen."""

import os
import platform
import subprocess
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.checks import build_checks
from benchmarks.plan import Measured, Plan
from benchmarks.processes import ROOT
from benchmarks.rows import ROWS
from benchmarks.settings import LIMITS, SHAPE_TITLES, SIDES, TASKS
from benchmarks.values import build_row, shape_of

FORMAT_VERSION = 2
SHOWN = 12  # rows of a profile


def build_report(plan: Plan, measured: Measured) -> dict:
    """All but time and command; `failures` says what went wrong, in lines."""
    rows = [build_row(name, plan, measured) for name in plan.rows]
    checks = build_checks(plan, measured)
    return {
        "format_version": FORMAT_VERSION,
        "quick": plan.quick,
        "runs": plan.runs,
        "machine": machine_facts(),
        "versions": versions(measured),
        "shapes": {name: {"title": SHAPE_TITLES[name], **shape_facts(plan, name, measured)} for name in plan.shapes},
        "rows": rows,
        "checks": checks,
        "profiles": {name: profile(name, measured) for name in plan.rows},
        "failures": failures_of(rows, checks),
        "settings": {f"{shape} {side}": opened.get("settings") for (shape, side), opened in measured.opened.items()},
        "measurements": [
            {"shape": shape, "task": task, "side": side, "runs": runs}
            for (shape, task, side), runs in measured.runs.items()
        ],
    }


def failures_of(rows: list[dict], checks: list[dict]) -> list[str]:
    """Sides that failed and sides that disagree, a line each."""
    errors = [
        f"{row['title']}, {SIDES[side].title}: {cell['error']}"
        for row in rows
        for side, cell in row["cells"].items()
        if "error" in cell
    ]
    return errors + [check["line"] for check in checks if not check["agree"]]


def shape_facts(plan: Plan, name: str, measured: Measured) -> dict:
    return vars(shape_of(plan, name)) | {"work": measured.prepared.get(name, {})}


def versions(measured: Measured) -> dict[str, str]:
    """Of Python, this project and every package that a side opened."""
    found = {"python": platform.python_version(), "glm": commit()}
    for opened in measured.opened.values():
        found |= opened.get("versions", {})
    return found


def profile(name: str, measured: Measured) -> dict | None:
    """Rows of what a run's time (seconds) or memory (bytes) goes to, and their sum; None where nothing was profiled."""
    row = ROWS[name]
    if TASKS[row.task].kind == "start":
        return stages(row, measured)
    found = measured.profiles.get(name)
    if not found:
        return None
    if "error" in found:
        return found
    parts = [part for part in found["profile"] if part["seconds"] > 0]
    return {"of": "seconds of one run", "sum": sum(part["seconds"] for part in parts), "parts": parts}


def stages(row, measured: Measured) -> dict | None:
    """Medians of what the stages of a start took, this project's beside the first peer's."""
    unit = "seconds" if TASKS[row.task].unit == "seconds" else "memory"
    sides = [row.ours, next(iter(row.aims))]
    found = {}
    for side in sides:
        good = [run["stages"] for run in measured.runs.get((row.shape, row.task, side), []) if "stages" in run]
        if not good:
            return None
        ends = {part["what"]: median(run[i][unit] for run in good) for i, part in enumerate(good[0])}
        values = list(ends.values())
        found[side] = dict(zip(ends, (b - a for a, b in zip([0, *values], values, strict=False)), strict=True))
    title = "seconds" if unit == "seconds" else "growth of the peak, bytes"
    return {"of": f"{title}, by stage of a fresh process", "stages": found}


def machine_facts() -> dict:
    """Processor, cores, memory, system; the load says whether others were at work."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name") or platform.processor(),
        "family": " ".join(fields.get(name, "") for name in ("cpu family", "model")),
        "instructions": [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
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
    """The table, what was measured beside it, checks and failures."""
    console.print(_aims(report))
    console.print(_all_sides(report))
    for check in report["checks"]:
        colour, word = ("green", "same") if check["agree"] else ("bold red", "DIFFERENT")
        console.print(f"[{colour}]{word}[/{colour}] {check['line']}", highlight=False)
    for skipped in report.get("skipped", []):
        console.print(f"SKIPPED {skipped}", markup=False, highlight=False)
    for failure in report["failures"]:
        console.print("FAILED", style="bold red", end=" ")
        console.print(failure, markup=False, highlight=False)


def _aims(report: dict) -> Table:
    table = Table(title="this project beside its peers", title_justify="left")
    for title in ("what", "unit", "ours", "beside", "theirs", "ratio", "aim", ""):
        table.add_column(title, justify="left" if title in ("what", "beside", "unit", "") else "right")
    for row in report["rows"]:
        for number, aim in enumerate(row["aims"]):
            head = (
                (row["title"], row["unit"], shown(row["cells"][row["ours"]], row["unit"]))
                if not number
                else ("", "", "")
            )
            theirs = shown(row["cells"][aim["side"]], row["unit"])
            table.add_row(*head, side_title(aim["side"]), theirs, ratio(aim), aim_text(row, aim), _coloured(aim["met"]))
    return table


def _coloured(met: bool | None) -> str:
    return {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}[met]


def _all_sides(report: dict) -> Table:
    table = Table(title="every side: median (tenth … ninetieth percentile, runs)", title_justify="left")
    for title in ("what", "side", "median", "p10 … p90", "runs"):
        table.add_column(title, justify="left" if title in ("what", "side") else "right")
    for row in report["rows"]:
        for number, (side, cell) in enumerate(row["cells"].items()):
            table.add_row("" if number else row["title"], side_title(side), *spread(cell, row["unit"]))
    return table


def side_title(side: str) -> str:
    return LIMITS[side] if side in LIMITS else SIDES[side].title


def spread(cell: dict, unit: str) -> tuple[str, str, str]:
    """Median, percentiles and number of runs, in words."""
    if "error" in cell:
        return cell["error"].replace("[", "("), "", ""
    return shown(cell, unit), f"{number(cell['p10'], unit)} … {number(cell['p90'], unit)}", str(len(cell["values"]))


def shown(cell: dict, unit: str) -> str:
    return "failed" if "error" in cell else number(cell["median"], unit)


def number(value: float, unit: str) -> str:
    if unit == "MB":
        return f"{value / 1e6:,.0f}"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def ratio(aim: dict) -> str:
    if aim["ratio"] is None:
        return ""
    return f"{aim['ratio']:.0%}" if aim["side"] == "machine" else f"{aim['ratio']:.2f}×"


def aim_text(row: dict, aim: dict) -> str:
    if aim["aim"] is None:
        return ""
    value = f"{aim['aim']:.0%}" if aim["side"] == "machine" else f"{aim['aim']:g}×"
    return f"{'at most' if row['small_is_better'] else 'at least'} {value}"
