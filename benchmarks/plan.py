"""Runs the measurements, each in its own process, and gathers what they print. Imports no Paddle."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.settings import COLUMNS, SHAPES, TASKS, TUNING_VARIABLES, WORKER_LIMIT
from benchmarks.worker import MACHINE, PREPARE

ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, object]  # what a worker prints; with "error" where it failed


@dataclass(frozen=True)
class Measurement:
    """A column and a task, or one of the two other jobs of a worker."""

    column: str
    task: str

    @property
    def title(self) -> str:
        return f"{COLUMNS[self.column].title}: {TASKS[self.task].title if self.task in TASKS else self.task}"


Watch = Callable[[Measurement], AbstractContextManager[None]]


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        shape: key of `SHAPES`.
        columns, tasks: keys of `COLUMNS` and `TASKS`.
        runs: most counted runs a measurement.
    """

    shape: str
    columns: tuple[str, ...]
    tasks: tuple[str, ...]
    runs: int

    @property
    def machine(self) -> list[Measurement]:
        """The matmul rate in both environments: MKL's settings change it."""
        seen: dict[bool, str] = {}
        for column in ("project", *self.columns):
            seen.setdefault(COLUMNS[column].tuned, column)
        return [Measurement(column, MACHINE) for column in seen.values()]

    @property
    def measurements(self) -> list[Measurement]:
        """Task by task, so that what is compared runs at nearly the same time."""
        return [Measurement(column, task) for task in self.tasks for column in self.columns]

    def command(self, measurement: Measurement, directory: Path) -> list[str]:
        words = [measurement.column, measurement.task, str(directory), "--shape", self.shape, "--runs", str(self.runs)]
        return [sys.executable, "-m", "benchmarks.worker", *words]


def execute(plan: Plan, directory: Path, log: Path, watch: Watch) -> dict[Measurement, Result]:
    """Prepares weights and batches in a directory, then measures.

    Args:
        plan: what to run.
        directory: an empty one.
        log: where the workers' standard error goes.
        watch: surrounds each measurement.

    Returns:
        Every measurement's result, `prepare` first; when that fails, it is the only one.
    """
    log.write_text("", encoding="utf-8")
    environment = clean_environment(os.environ)
    prepare = Measurement("project", PREPARE)

    def run(measurement: Measurement) -> Result:
        with watch(measurement):
            return run_worker(plan.command(measurement, directory), environment, log)

    results = {prepare: run(prepare)}
    if "error" in results[prepare]:
        return results
    work = [*plan.machine, *plan.measurements]
    with ThreadPoolExecutor(SHAPES[plan.shape].processes) as pool:
        results |= dict(zip(work, pool.map(run, work), strict=True))
    return results


def run_worker(command: list[str], environment: Mapping[str, str], log: Path) -> Result:
    """One worker's result; a process that died or hung is a result with an error too."""
    with log.open("a", encoding="utf-8") as errors:
        errors.write(f"$ {' '.join(command)}\n")
        errors.flush()
        try:
            process = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, timeout=WORKER_LIMIT
            )
        except subprocess.TimeoutExpired:
            return {"error": f"gave no result within {WORKER_LIMIT} s"}
    try:
        return json.loads(process.stdout.decode().splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"the process ended with code {process.returncode} and no result; see {log}"}


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what tunes Paddle, so that a column has only its own settings."""
    return {name: value for name, value in environ.items() if not name.startswith(TUNING_VARIABLES)}
