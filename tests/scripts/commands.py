"""Runs the project's scripts as a user does, and keeps what they print."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder, name) for name in ("stdin", "stdout", "stderr")}
            files["stdin"].write_bytes(stdin if isinstance(stdin, bytes) else stdin.encode())
            for name in ("stdout", "stderr"):
                files[name].touch()
            argv = [str(ROOT / script), *map(str, arguments)]
            request = {"argv": argv, "cwd": str(cwd), "environ": dict(environ or {}), "seconds": SECONDS}
            request |= {name: str(path) for name, path in files.items()}
            print(json.dumps(request), file=self._server.stdin, flush=True)
            code = int(self._server.stdout.readline())
            return Result(code, *(files[name].read_bytes().decode() for name in ("stdout", "stderr")))

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def run_cold(script: str, *arguments, interpreter: Sequence[str] = ()) -> Result:
    """Runs `python script arguments` as it is."""
    command = [sys.executable, *interpreter, str(ROOT / script), *map(str, arguments)]
    environ = os.environ | SURROUNDINGS
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=SECONDS)
    return Result(done.returncode, done.stdout, done.stderr)


def predictions(directory: Path) -> list[str]:
    """What a run's evaluation generated."""
    lines = (directory / "eval_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]
