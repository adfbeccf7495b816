"""One measurement in a process of its own: `python -m benchmarks.worker COLUMN TASK DIRECTORY …` → one line of JSON.

Everything else that is printed goes to standard error. Imports Paddle late: an untuned column must not meet glm.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.limits import measure_machine
from benchmarks.settings import COLUMNS, LORA_RANK, SHAPES, TASKS, TUNING_VARIABLES, Column, Shape, Task
from benchmarks.side import Generation, SideProtocol, projected_seconds

PREPARE, MACHINE = "prepare", "machine"
PREDICTED_FROM = 8  # tokens from which a whole run is predicted, to see how good the prediction is


def main(arguments: list[str]) -> int:
    """Runs the measurement; returns 1 if it failed, and then the line holds the error."""
    options = parse(arguments)
    column, shape = COLUMNS[options.column], SHAPES[options.shape]
    line = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # PaddleNLP logs to standard output
    start = time.perf_counter()
    try:
        result = run(column, options.task, options.directory, shape, options.runs)
        result |= {"settings": settings()}
    except Exception as error:
        import traceback

        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
    result["process_seconds"] = time.perf_counter() - start
    result["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result), file=line, flush=True)
    return int("error" in result)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("column", choices=COLUMNS)
    parser.add_argument("task", choices=[*TASKS, PREPARE, MACHINE])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--runs", type=int, required=True)
    return parser.parse_args(arguments)


def run(column: Column, task: str, directory: Path, shape: Shape, runs: int) -> dict:
    """What one task gives on one side, as JSON's types."""
    if column.tuned:
        importlib.import_module("glm")
    if task == PREPARE:
        return importlib.import_module("benchmarks.prepare").prepare(directory, shape)
    if task == MACHINE:
        return measure_machine(3 * runs)
    side = importlib.import_module(column.module).Side(directory)
    measure = measure_training if TASKS[task].training else measure_generation
    return measure(side, TASKS[task], shape, runs)


def measure_training(side: SideProtocol, task: Task, shape: Shape, runs: int) -> dict:
    """Tokens/s of training steps, source and target tokens counted, and the loss before the first."""
    if task.lora:
        side.add_lora(LORA_RANK)
    loss = side.first_loss()
    side.start_training()
    side.train_step()
    seconds = repeat(side.train_step, runs, shape.patience)
    tokens = shape.batch * (shape.source + shape.new_tokens)
    return {
        "loss": loss,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / statistics.median(seconds),
        "trained_parameters": side.trained_parameters(),
    }


def measure_generation(side: SideProtocol, task: Task, shape: Shape, runs: int) -> dict:
    """Tokens/s of whole generations and of their decoding alone; the prompt's reading belongs to the first token."""
    side.generate(TASKS["greedy"], new_tokens=1)
    found: list[Generation] = []
    repeat(lambda: found.append(side.generate(task, shape.new_tokens, shape.patience)), runs, shape.patience)
    return {
        "generated": found[0].tokens,
        "tokens": shape.batch * shape.new_tokens,
        "steps": [len(generation.ends) for generation in found],
        "step_ends": [generation.ends for generation in found],
        "tokens_per_second": statistics.median(rate(g.ends, shape) for g in found),
        "decode_tokens_per_second": statistics.median(decode_rate(g.ends, shape) for g in found),
        "prediction": prediction(found, shape),
    }


def prediction(found: list[Generation], shape: Shape) -> dict | None:
    """How well the first tokens of a whole generation predict its tokens/s; None where no run was whole."""
    whole = next((g.ends for g in found if len(g.ends) == shape.new_tokens > PREDICTED_FROM), None)
    if whole is None:
        return None
    first = whole[:PREDICTED_FROM]
    return {"from_tokens": PREDICTED_FROM, "predicted": rate(first, shape), "measured": rate(whole, shape)}


def rate(ends: list[float], shape: Shape) -> float:
    """Tokens/s of a whole generation."""
    return shape.batch * shape.new_tokens / projected_seconds(ends, shape.new_tokens)


def decode_rate(ends: list[float], shape: Shape) -> float:
    """Tokens/s of the steps behind the first."""
    return shape.batch * (len(ends) - 1) / (ends[-1] - ends[0])


def repeat(function: Callable[[], object], runs: int, patience: float) -> list[float]:
    """Seconds of up to `runs` calls; once they took longer than `patience` together, there is no further one."""
    seconds: list[float] = []
    while len(seconds) < runs and (not seconds or sum(seconds) <= patience):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def settings() -> dict[str, str]:
    """The environment variables that decide how fast Paddle is here, and what glm chose beside them."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(TUNING_VARIABLES)}
    glm = sys.modules.get("glm")
    chosen = glm.CPU_SETTINGS if glm else []
    return found | {setting.name: setting.value for setting in chosen if setting.value is not None}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
