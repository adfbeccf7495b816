"""Runs the project's scripts as a user does, and keeps what they print."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.npu_simulator.launching import environment

ROOT = Path(__file__).resolve().parents[2]
TINY = "glm-tiny-chinese"
SAMPLE = ROOT / "data" / "dureader_qg"
SHORT = ["--src_length", "64", "--tgt_length", "32"]
GREEDY = ["--num_beams", "1", "--min_tgt_length", "0", "--no_repeat_ngram_size", "0"]
# No network and no GPU, whatever the machine has: these tests are about the scripts.
SURROUNDINGS = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "CUDA_VISIBLE_DEVICES": ""}
SECONDS = 240  # no script of these tests takes a tenth of it; what does hangs


@dataclass(frozen=True)
class Result:
    """How a script ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line on standard error; a progress bar that stands before it on that line is taken off."""
        return self.err.rstrip("\n").rsplit("\n", 1)[-1].rsplit("\r", 1)[-1]

    @property
    def texts(self) -> list[str]:
        """What predict and infer generated, read off their standard output."""
        return [line.removeprefix("  → ") for line in self.out.splitlines() if line.startswith("  → ")]


class WarmRunner:
    """Scripts in forked processes (see warm.py): own memory, exit code and streams, but no import time."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("warm.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | SURROUNDINGS,
            text=True,
        )

    def __call__(
        self, script: str, *arguments, cwd=ROOT, stdin: str | bytes = "", environ: Mapping[str, str] | None = None
    ) -> Result:
        """Runs `script` with `arguments` and waits for its end."""
        return self._run_together([[script, *arguments]], [environ or {}], cwd, stdin)[0]

    def ranks(
        self, count: int, script: str, *arguments, own: Sequence[Sequence] = (), cwd=ROOT, stdin: str = ""
    ) -> list[Result]:
        """Runs `script` in `count` processes with the variables that Paddle's launcher would set.

        Args:
            own: more arguments, for each of them.
            stdin: what the first one, and no other, has to read.
        """
        commands = [[script, *arguments, *more] for more in own or [()] * count]
        return self._run_together(commands, rank_variables(count), cwd, stdin)

    def _run_together(self, commands: Sequence[list], environs: Sequence[Mapping], cwd, stdin) -> list[Result]:
        with tempfile.TemporaryDirectory() as name:
            folders = [Path(name, str(number)) for number in range(len(commands))]
            together = zip(folders, commands, environs, strict=True)
            requests = [_request(folder, command, environ, cwd) for folder, command, environ in together]
            (folders[0] / "stdin").write_bytes(stdin if isinstance(stdin, bytes) else stdin.encode())
            print(json.dumps(requests), file=self._server.stdin, flush=True)
            codes = json.loads(self._server.stdout.readline())
            return [_result(folder, code) for folder, code in zip(folders, codes, strict=True)]

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def _request(folder: Path, command: list, environ: Mapping[str, str], cwd) -> dict:
    folder.mkdir()
    files = {name: folder / name for name in ("stdin", "stdout", "stderr")}
    for file in files.values():
        file.touch()
    argv = [str(ROOT / command[0]), *map(str, command[1:])]
    request = {"argv": argv, "cwd": str(cwd), "environ": dict(environ), "seconds": SECONDS}
    return request | {name: str(file) for name, file in files.items()}


def _result(folder: Path, code: int) -> Result:
    return Result(code, *((folder / name).read_bytes().decode() for name in ("stdout", "stderr")))


def rank_variables(count: int) -> list[dict[str, str]]:
    """The environment variables by which the processes of a launch on one node know each other."""
    master, *own = (f"127.0.0.1:{port}" for port in free_ports(count + 1))
    common = {"PADDLE_TRAINERS_NUM": str(count), "PADDLE_TRAINER_ENDPOINTS": ",".join(own), "PADDLE_MASTER": master}
    common |= {"PADDLE_DISTRI_BACKEND": "xccl", "PADDLE_XCCL_BACKEND": "npu"}
    return [
        common
        | {"PADDLE_TRAINER_ID": str(rank), "PADDLE_RANK_IN_NODE": str(rank)}
        | {"PADDLE_CURRENT_ENDPOINT": address, "FLAGS_selected_npus": str(rank)}
        for rank, address in enumerate(own)
    ]


def free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


@dataclass(frozen=True)
class LaunchResult(Result):
    """How a launch ended: the launcher's exit code and streams, and what each rank wrote into its log."""

    logs: list[str]


def run_launched(launcher: Sequence[str], script: str, *arguments, cwd: Path, stdin: str = "") -> LaunchResult:
    """Runs `python -m paddle.distributed.launch` on the simulated NPU in `cwd`, where it writes its logs.

    Args:
        launcher: its options.
    """
    words = ["-m", "paddle.distributed.launch", *launcher, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment() | SURROUNDINGS,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    logs = [file.read_text(errors="replace") for file in sorted((cwd / "log").glob("workerlog.*"))]
    return LaunchResult(done.returncode, done.stdout, done.stderr, logs)


def run_cold(script: str, *arguments, interpreter: Sequence[str] = ()) -> Result:
    """Runs `python script arguments` as it is."""
    command = [sys.executable, *interpreter, str(ROOT / script), *map(str, arguments)]
    environ = os.environ | SURROUNDINGS
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=SECONDS)
    return Result(done.returncode, done.stdout, done.stderr)


def commands_of(text: str) -> list[list[str]]:
    """The commands that a page shows, as words without the interpreter."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    return [shlex.split(line)[1:] for line in blocks.replace("\\\n", " ").splitlines()]


def run_guide(run: WarmRunner, commands: Sequence[Sequence[str]], folder: Path) -> tuple[Path, list[Result]]:
    """Runs a page's commands one after another in a folder that has `data`; where they write, and how each ended."""
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "output").mkdir()
    results = []
    for script, *words in commands:
        results.append(run(script, *words, cwd=folder))
        assert results[-1].code == 0, f"{script} {words}: {results[-1].err}"
    return folder / "output", results


def predictions(directory: Path, prefix: str = "eval") -> list[str]:
    """What a run's evaluation generated."""
    lines = (directory / f"{prefix}_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]
