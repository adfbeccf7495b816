"""Starts the scripts of this folder on the simulated NPU, alone or as ranks of Paddle's launcher."""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.npu_simulator.build import build, compiler

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).resolve().parent / "scripts"
SECONDS = 120  # none takes a tenth of it; what does hangs

needs_compiler = pytest.mark.skipif(compiler() is None, reason="the NPU simulator is built with g++, which is missing")


@dataclass(frozen=True)
class Launch:
    """How a launch ended: the launcher's exit code and standard error, and what each rank printed."""

    code: int
    logs: list[str]
    launcher: str = ""

    def __str__(self) -> str:
        return "\n".join([f"exit code {self.code}", *self.logs, self.launcher])


def environment(**variables: str) -> dict[str, str]:
    """The variables for a process that sees the simulated NPUs; one thread, because the ranks share the processor."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FLAGS_", "PADDLE_"))}
    chosen = {"CUSTOM_DEVICE_ROOT": str(build()), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    chosen |= {"PYTHONFAULTHANDLER": "1"}  # a rank that aborts says where
    return {**inherited, **chosen, "MKL_NUM_THREADS": "1", **variables}


def run_alone(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs a script of scripts/ in one process."""
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True, timeout=SECONDS)


def launch(
    script: str | Path, ranks: int, logs: Path, arguments: Iterable[str] = (), seconds: int = SECONDS, **variables: str
) -> Launch:
    """Runs a script (of scripts/, or by its path) on `ranks` devices with python -m paddle.distributed.launch."""
    devices = ",".join(map(str, range(ranks)))
    command = [sys.executable, "-m", "paddle.distributed.launch", "--devices", devices, "--log_dir", str(logs)]
    command += [str(SCRIPTS / "rank.py"), str(SCRIPTS / script), *arguments]
    result = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, timeout=seconds)
    files = [logs / f"workerlog.{rank}" for rank in range(ranks)]
    texts = [file.read_text(errors="replace") if file.exists() else result.stderr for file in files]
    return Launch(result.returncode, texts, result.stderr)
