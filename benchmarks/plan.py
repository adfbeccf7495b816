"""What is run for a choice of rows, and the running: sides that are compared take turns. Imports no framework."""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from benchmarks.cpp import cpp_first_token, is_cpp, missing
from benchmarks.processes import Environment, Result, Worker, first_token, run_once
from benchmarks.rows import ROWS
from benchmarks.serving import ready, serve
from benchmarks.settings import ENOUGH_SECONDS, MOST_RUNS, SETTLE, SIDES, TASKS

Key = tuple[str, str, str]  # shape, task, side
Tell = Callable[[str, int], None]  # what happens now, and how many steps were finished
Start = Callable[[Environment, str, str], Result]  # of a side, with a shape, in a fresh process
QUANTIZED_FROM_HF = ("llama", "llama_server")
PREPARED = "prepared.json"  # what was prepared, beside it


@dataclass(frozen=True)
class Act:
    """Tasks whose sides are open at the same time.

    Attributes:
        shape: key of `SHAPES`.
        tasks: key of `TASKS` → sides, in the order of their turns.
    """

    shape: str
    tasks: dict[str, tuple[str, ...]]

    @property
    def sides(self) -> list[str]:
        return unique(side for sides in self.tasks.values() for side in sides)

    @property
    def kind(self) -> str:
        return TASKS[next(iter(self.tasks))].kind


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        rows: keys of `ROWS`.
        runs: fewest counted runs.
        quick: whether shapes are tiny, and no run is repeated.
        processor: whose aims count, key of `PROCESSORS`; None = those that all have.
    """

    rows: tuple[str, ...]
    runs: int
    quick: bool = False
    processor: str | None = None

    @property
    def acts(self) -> list[Act]:
        """Training tasks one by one, because what is trained stays changed; the others of a shape together."""
        acts: dict[tuple, dict[str, list[str]]] = {}
        for row in (ROWS[name] for name in self.rows):
            kind = TASKS[row.task].kind
            name = (row.shape, kind, row.task if kind == "train" else None)
            tasks = acts.setdefault(name, {})
            tasks[row.task] = unique([*tasks.get(row.task, []), *row.sides])
        return [Act(name[0], {task: tuple(sides) for task, sides in tasks.items()}) for name, tasks in acts.items()]

    @property
    def shapes(self) -> dict[str, list[str]]:
        """Shape → the sides that open it."""
        return {
            shape: unique(side for act in self.acts if act.shape == shape for side in act.sides)
            for shape in unique(act.shape for act in self.acts)
        }

    @property
    def steps(self) -> int:
        """For a progress bar."""
        return len(self.shapes) + sum(len(act.tasks) for act in self.acts)


@dataclass
class Measured:
    """All results.

    Attributes:
        prepared: shape → numbers of its parameters.
        opened: (shape, side) → versions and settings.
        runs: results of counted runs; a run that failed is the last one of its side.
        profiles: key of `ROWS` → what the time goes to.
    """

    prepared: dict[str, Result] = field(default_factory=dict)
    opened: dict[tuple[str, str], Result] = field(default_factory=dict)
    runs: dict[Key, list[Result]] = field(default_factory=dict)
    profiles: dict[str, Result] = field(default_factory=dict)


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def buildable(rows: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """The rows whose programs are there, and in a line each why the others are skipped."""
    reason = missing()
    skipped = [name for name in rows if reason and is_cpp(ROWS[name].ours)]
    return tuple(name for name in rows if name not in skipped), [f"{ROWS[name].title}: {reason}" for name in skipped]


def execute(plan: Plan, environment: Environment, tell: Tell) -> Measured:
    """Prepares every shape, then runs all acts."""
    measured = Measured(prepared=prepare_all(plan, environment, tell))
    for act in plan.acts:
        if "error" in measured.prepared[act.shape]:
            tell("", len(act.tasks))
        elif act.kind in OTHERS:
            OTHERS[act.kind](plan, act, environment, measured, tell)
        else:
            take_turns(plan, act, environment, measured, tell)
    return measured


def prepare_all(plan: Plan, environment: Environment, tell: Tell) -> dict[str, Result]:
    """Shape → numbers of its parameters, or why there is none; what an earlier call left there is not made again."""
    found = {}
    for shape, sides in plan.shapes.items():
        tell(f"weights and exports of {shape}", 0)
        found[shape] = earlier(environment, shape, sides) or prepare(environment, shape, sides)
        tell("", 1)
    return found


def earlier(environment: Environment, shape: str, sides: list[str]) -> Result | None:
    """What `prepare` gave for the same shape and at least these sides."""
    file = environment.directory / shape / PREPARED
    note = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return (
        note["result"] if note and note["of"] == _of(environment, shape) and set(sides) <= set(note["sides"]) else None
    )


def _of(environment: Environment, shape: str) -> Result:
    """What prepared files depend on beside their sides, in JSON's types."""
    return json.loads(json.dumps(vars(environment.shape(shape)), default=dict))


def prepare(environment: Environment, shape: str, sides: list[str]) -> Result:
    """Weights, prompts and batches; then the GGUF files, which llama.cpp's own quantizer writes."""
    directory = environment.directory / shape
    shutil.rmtree(directory, ignore_errors=True)  # of other sides, or of a call that was stopped
    command = environment.module("worker", "prepare", shape, "--for_sides", *sides)
    result = run_once(command, environment, "prepare")
    kinds = unique(SIDES[side].weights for side in sides if SIDES[side].module in QUANTIZED_FROM_HF)
    if kinds and "error" not in result:
        command = [str(environment.peers_python), "-m", "benchmarks.gguf_file", str(directory), *kinds]
        command += ["--remove"] if environment.shape(shape).large else []
        result["gguf"] = run_once(command, environment, "gguf")
    if "error" not in result and "error" not in result.get("gguf", {}):
        note = {"of": _of(environment, shape), "sides": sides, "result": result}
        (directory / PREPARED).write_text(json.dumps(note), encoding="utf-8")
    return result


def take_turns(plan: Plan, act: Act, environment: Environment, measured: Measured, tell: Tell) -> None:
    """Runs an act: every side is opened once, and in each round each side of the task has one run."""
    workers: dict[str, Worker] = {}
    try:
        for side in act.sides:
            tell(f"opening {SIDES[side].title}", 0)
            workers[side] = Worker(environment, side, act.shape)
            measured.opened[act.shape, side] = workers[side].opened
        for task, sides in act.tasks.items():
            rounds(plan, (act.shape, task), {side: workers[side] for side in sides}, measured, tell)
            tell("", 1)
    finally:
        for worker in workers.values():
            worker.close()


def rounds(plan: Plan, key: tuple[str, str], workers: dict[str, Worker], measured: Measured, tell: Tell) -> None:
    """A warm-up of each side, then rounds; short runs get more rounds than `plan.runs`."""
    shape, task = key
    alive = dict(workers)
    start = time.perf_counter()
    for number in range(MOST_RUNS + 1):
        if number > plan.runs and (plan.quick or time.perf_counter() - start > ENOUGH_SECONDS):
            break
        for side, worker in list(alive.items()):
            tell(f"{shape} {task}, run {number}, {SIDES[side].title}", 0)
            time.sleep(0.0 if plan.quick else SETTLE)
            result = worker.ask(task="rate" if side == "machine" else task)
            if "error" in result:
                del alive[side]
            if number or "error" in result:
                measured.runs.setdefault((shape, task, side), []).append(result)
        if number == 0:
            start = time.perf_counter()


def fresh_start(environment: Environment, side: str, shape: str) -> Result:
    return (cpp_first_token if is_cpp(side) else first_token)(environment, side, shape)


def start_processes(
    plan: Plan, act: Act, environment: Environment, measured: Measured, tell: Tell, start: Start = fresh_start
) -> None:
    """Fresh processes in turns: each gives a start-up time, programs a memory peak too. The first one warms the page
    cache.
    """
    for number in range(plan.runs + 1):
        for side in act.sides:
            tell(f"start-up, run {number}, {SIDES[side].title}", 0)
            result = start(environment, side, act.shape)
            if number or "error" in result:
                for task in act.tasks:
                    measured.runs.setdefault((act.shape, task, side), []).append(result)
    tell("", len(act.tasks))


# Kinds of tasks that are not asked of workers.
OTHERS = {"start": start_processes, "serve": serve, "ready": partial(start_processes, start=ready)}


def profile_rows(names: list[str], environment: Environment, measured: Measured, tell: Tell) -> None:
    """What the time of this project's side of some rows goes to, each in a process of its own."""
    for name in names:
        row = ROWS[name]
        if TASKS[row.task].kind in OTHERS or is_cpp(row.ours):
            continue  # a start's stages were measured in every run, servers are no workers, and C++ shows no kernels
        tell(f"profile of {row.title}", 0)
        worker = Worker(environment, row.ours, row.shape)
        try:
            if TASKS[row.task].kind == "train":
                worker.ask(task=row.task)
            measured.profiles[name] = worker.ask(task=row.task, profile=True)
        finally:
            worker.close()
