"""Starts the sides' processes and talks to them. Imports no framework."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.settings import ANSWER_LIMIT, QUICK_SHAPES, SHAPES, SIDES, TUNING_VARIABLES, Shape
from benchmarks.start import FIRST

ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, object]  # what a process prints; with "error" where it failed


@dataclass(frozen=True)
class Environment:
    """Where processes run.

    Attributes:
        directory: with a folder for each shape.
        peers_python: of the environment of requirements-bench.txt.
        log: where standard error goes.
        quick: whether shapes are tiny.
        llama_server: the program that `make bench` builds beside that Python.
    """

    directory: Path
    peers_python: Path
    log: Path
    quick: bool

    @property
    def llama_server(self) -> Path:
        return self.peers_python.with_name("llama-server")

    def shape(self, name: str) -> Shape:
        return (QUICK_SHAPES if self.quick else SHAPES)[name]

    def python(self, side: str) -> str:
        return str(self.peers_python) if side in SIDES and SIDES[side].own_environment else sys.executable

    def module(self, name: str, side: str, shape: str, *words: str) -> list[str]:
        command = [self.python(side), "-m", f"benchmarks.{name}", side, shape, str(self.directory / shape)]
        return [*command, *(["--quick"] if self.quick else []), *words]

    def variables(self, side: str) -> dict[str, str]:
        return clean_environment(os.environ)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what tunes frameworks, so that every side has only its own settings."""
    return {name: value for name, value in environ.items() if not name.startswith(TUNING_VARIABLES)}


class Worker:
    """A side's process, ready for tasks. `opened` is its first answer."""

    def __init__(self, environment: Environment, side: str, shape: str):
        self.log = environment.log
        command = environment.module("worker", side, shape)
        self.process, self.answers = None, queue.Queue()
        try:
            self.process = start(command, environment, side, stdin=subprocess.PIPE)
        except OSError as error:
            self.opened: Result = {"error": f"{command[0]} cannot be started ({error.strerror}): run make bench"}
            return
        threading.Thread(target=self._listen, daemon=True).start()
        self.opened = self._answer(ANSWER_LIMIT)

    def ask(self, **command) -> Result:
        """Its answer; a process that died or hung gives an error."""
        if "error" in self.opened:
            return {"error": self.opened["error"]}
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it died: `_answer` says so
        return self._answer(ANSWER_LIMIT)

    def close(self) -> None:
        if self.process is None:
            return
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def _answer(self, limit: float) -> Result:
        try:
            line = self.answers.get(timeout=limit)
        except queue.Empty:
            self.process.kill()
            self.opened = {"error": f"gave no result within {limit:g} s"}
            return self.opened
        if line is None:
            self.opened = {"error": f"ended with code {self.process.wait()} and no result; see {self.log}"}
            return self.opened
        return parsed(line, self.process, self.log)


def start(command: list[str], environment: Environment, side: str, **options) -> subprocess.Popen:
    with environment.log.open("a", encoding="utf-8") as errors:
        errors.write(f"$ {' '.join(command)}\n")
        errors.flush()
        variables = environment.variables(side)
        return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=errors, **options)


def parsed(line: bytes | str, process: subprocess.Popen, log: Path) -> Result:
    try:
        return json.loads(line)
    except ValueError:
        return {"error": f"the process ended with code {process.poll()} and no result; see {log}"}


def run_once(command: list[str], environment: Environment, side: str) -> Result:
    """The last line of a process that does one job."""
    try:
        process = start(command, environment, side)
    except OSError as error:
        return {"error": f"{command[0]} cannot be started ({error.strerror}): run make bench"}
    try:
        output = process.communicate(timeout=ANSWER_LIMIT)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return {"error": f"gave no result within {ANSWER_LIMIT} s"}
    if process.returncode and not output:
        return {"error": f"the process ended with code {process.returncode} and no result; see {environment.log}"}
    return parsed((output.splitlines() or [b""])[-1], process, environment.log)


def first_token(environment: Environment, side: str, shape: str) -> Result:
    """Starts a fresh process; `seconds` until its first token, and its own last line."""
    begin = time.perf_counter()
    command = environment.module("start", side, shape)
    try:
        process = start(command, environment, side)
    except OSError as error:
        return {"error": f"{command[0]} cannot be started ({error.strerror}): run make bench"}
    alarm = threading.Timer(ANSWER_LIMIT, process.kill)
    alarm.start()
    with process:
        line = process.stdout.readline().decode().strip()
        seconds = time.perf_counter() - begin
        rest = process.stdout.read().splitlines()
    alarm.cancel()
    if line != FIRST or not rest:
        return {"error": f"the process ended with code {process.returncode} and no first token; see {environment.log}"}
    return parsed(rest[-1], process, environment.log) | {"seconds": seconds}
