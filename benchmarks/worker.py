"""A side in a process of its own: `python -m benchmarks.worker SIDE SHAPE DIRECTORY`.

Answers each line of standard input, a JSON object, with one line of JSON. Everything else that is printed goes to
standard error. The first line says that the side is open. Imports frameworks late: peers must not meet glm.

    {"task": "decode", "patience": 10}                  one run
    {"task": "decode", "profile": true}                 what a run's time goes to
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.settings import QUICK_SHAPES, SHAPES, SIDES, TASKS, TUNING_VARIABLES, Task
from benchmarks.side import Place

PREPARE = "prepare"
PACKAGES = ("paddlepaddle", "paddlenlp", "onnxruntime", "torch", "transformers", "peft", "lm_eval")
PACKAGES += ("llama-cpp-python", "numpy")


def main(arguments: list[str]) -> int:
    """Runs until standard input ends."""
    options = parse(arguments)
    line = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # PaddleNLP logs to standard output

    def say(work: Callable[[], dict]) -> bool:
        result = guarded(work)
        print(json.dumps(result), file=line, flush=True)
        return "error" not in result

    if options.side == PREPARE:
        return int(not say(lambda: prepare(options)))
    opened: list = []
    if not say(lambda: open_side(options, opened)):
        return 1
    for command in map(json.loads, sys.stdin):
        say(lambda command=command: opened[0].answer(command))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("side", choices=[*SIDES, PREPARE])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--for_sides", nargs="*", choices=SIDES, default=[], help="what is prepared")
    return parser.parse_args(arguments)


def guarded(work: Callable[[], dict]) -> dict:
    """What the work gives; a failure with its reason in one line."""
    start = time.perf_counter()
    try:
        result = work()
    except Exception as error:
        import traceback

        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
    return result | {"process_seconds": time.perf_counter() - start}


def shape_of(options: argparse.Namespace):
    return (QUICK_SHAPES if options.quick else SHAPES)[options.shape]


def prepare(options: argparse.Namespace) -> dict:
    importlib.import_module("glm")
    return importlib.import_module("benchmarks.prepare").prepare(
        options.directory, shape_of(options), options.for_sides
    )


def open_side(options: argparse.Namespace, opened: list) -> dict:
    side = SIDES[options.side]
    if not side.own_environment:
        importlib.import_module("glm").tune()  # as the scripts, before Paddle starts
    module = importlib.import_module(f"benchmarks.sides.{side.module}")
    opened.append(Measured(module.Side(Place(options.directory, shape_of(options), side)), shape_of(options)))
    return {"settings": settings(), "versions": versions()}


class Measured:
    """A side that is asked for runs.

    Args:
        side: see `benchmarks.side.SideProtocol`.
        shape: of the work.
    """

    def __init__(self, side, shape):
        self.side, self.shape, self.losses = side, shape, {}

    def answer(self, command: dict) -> dict:
        """One run, as JSON's types."""
        if command["task"] == "rate":
            return self.side.rate()
        task = TASKS[command["task"]]
        if command.get("profile"):
            return {"profile": self.side.profile(task)}
        if task.kind == "train":
            return self._train(task)
        if task.kind == "score":
            return vars(self.side.score(task))
        found = self.side.generate(task, command.get("patience", self.shape.patience))
        return {"tokens": found.tokens, "marks": found.marks}

    def _train(self, task: Task) -> dict:
        """A step; before the first one, the loss."""
        if not self.losses:
            self.losses[task] = self.side.start_training(task)
        start = time.perf_counter()
        self.side.train_step()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": self.losses[task], "trained_parameters": self.side.trained_parameters()}


def settings() -> dict[str, str]:
    """The environment variables that decide how fast a framework is here, and what glm chose beside them."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(TUNING_VARIABLES)}
    glm = sys.modules.get("glm")
    chosen = glm.CPU_SETTINGS if glm else []
    return found | {setting.name: setting.value for setting in chosen if setting.value is not None}


def versions() -> dict[str, str]:
    """Of the packages that are measured, as far as they are in this environment."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
