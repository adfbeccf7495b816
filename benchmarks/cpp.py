"""The programs of `make cpp`: where they are, and fresh processes of glm_infer. Imports no framework."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.processes import ROOT, Environment, Result, start
from benchmarks.settings import ANSWER_LIMIT, SIDES, TASKS

MODULE = "cpp"
LIBRARY, PROGRAM = "libglm.so", "glm_infer"
ARROW = "  → ".encode()


def build_directory() -> Path:
    """Of `make cpp`, or what GLM_CPP_BUILD names."""
    return Path(os.environ.get("GLM_CPP_BUILD") or ROOT / "output" / "cpp")


def missing() -> str:
    """What is not built, and how to build it."""
    gone = [name for name in (PROGRAM, LIBRARY) if not (build_directory() / name).is_file()]
    return f"{build_directory() / gone[0]} is not built: make cpp" if gone else ""


def is_cpp(side: str) -> bool:
    return side in SIDES and SIDES[side].module == MODULE


def cpp_first_token(environment: Environment, side: str, shape: str) -> Result:
    """Two fresh processes: `seconds` until the first token of one is shown, and `peak_memory` of one with all tokens.

    `weights` are the bytes of the file that both read.
    """
    export = environment.directory / shape / f"onnx-{SIDES[side].weights}"
    count = TASKS["memory"].new_tokens(environment.shape(shape))
    try:
        prompt = np.load(export.parent / "inputs.npz")["prompts"][0]
        found = {"seconds": _seconds(_command(export, prompt, 1), environment, side)}
        found["peak_memory"] = _peak(_command(export, prompt, count), environment, side)
        return found | {"weights": (export / "glm.onnx.data").stat().st_size}
    except (OSError, RuntimeError) as error:
        return {"error": str(error)}


def _command(export: Path, prompt: np.ndarray, count: int) -> list[str]:
    words = ["--model_path", str(export), "--tgt_length", str(count), "--min_tgt_length", str(count), "--ids"]
    return [str(build_directory() / PROGRAM), *words, " ".join(map(str, prompt.tolist()))]


def _seconds(command: list[str], environment: Environment, side: str) -> float:
    """From the start of the process until something stands behind the arrow."""
    begin, shown, found = time.perf_counter(), b"", None
    with _started(command, environment, side) as process:
        while piece := os.read(process.stdout.fileno(), 1 << 16):
            shown += piece
            if found is None and shown.partition(ARROW)[2]:
                found = time.perf_counter() - begin
    if process.returncode or found is None:
        raise RuntimeError(f"{PROGRAM} ended with code {process.returncode} and no token; see {environment.log}")
    return found


def _peak(command: list[str], environment: Environment, side: str) -> int:
    """Most bytes that a program held, mapped files included."""
    with _started([sys.executable, "-S", "-E", "-c", _LAUNCHER, *command], environment, side) as process:
        shown = process.stdout.read().split()
    if process.returncode or not shown:
        raise RuntimeError(f"{PROGRAM} ended with code {process.returncode}; see {environment.log}")
    return int(shown[-1]) * 1024


# The system counts what stood in a process before exec as well: a bare Python, and not this one, starts the program.
_LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print("", usage.ru_maxrss, flush=True)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@contextmanager
def _started(command: list[str], environment: Environment, side: str) -> Iterator[subprocess.Popen]:
    """A process that has ended behind the block, with all that it started; one that hangs is killed."""
    process = start(command, environment, side, start_new_session=True)
    alarm = threading.Timer(ANSWER_LIMIT, _kill, [process])
    alarm.start()
    try:
        yield process
        process.wait()
    finally:
        alarm.cancel()
        _kill(process)
        process.wait()
        process.stdout.close()


def _kill(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
