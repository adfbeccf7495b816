"""serve_generation.py as a process, and an export of a tiny model to serve."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120  # in which a server must be ready, also on a machine with other work


class Served:
    """A server process.

    Attributes:
        url: where it listens. lines: what it said until now; who does not read them would stop it one day.
    """

    def __init__(self, *arguments, python: str | Path = sys.executable, environ: dict[str, str] | None = None):
        command = [str(python), "serve_generation.py", *map(str, arguments), "--port", "0"]
        variables = {**os.environ, **(environ or {}), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=ROOT, env=variables, text=True, **pipes)
        self.lines, self.url, self._settled = [], "", threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._settled.wait(SECONDS)
        if not self.url:
            self.process.kill()
            raise AssertionError(f"it ended: {self.lines}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.ended()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Sends a signal. Exit code and what it said from now on."""
        before = len(self.lines)
        self.process.send_signal(number)
        return self.ended(before)

    def ended(self, before: int = 0) -> tuple[int, str]:
        """Waits for its end. Exit code and what it said behind so many lines."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code, "\n".join(self.lines[before:])

    def ask(self, path: str, body: dict | None = None, key: str = "") -> tuple[int, str]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        raw = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, raw, headers), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @property
    def engine(self) -> int:
        """The process id of its engine."""
        [found] = engines_of(self.process.pid)
        return found

    def _read(self) -> None:
        with self.process.stderr as said:
            for line in said:
                self.lines.append(line.rstrip("\n"))
                if not self.url and (found := re.search(r"^serving .*: (http://\S+) \(a page\)", line)):
                    self.url = found[1]
                    self._settled.set()
        self._settled.set()


def engines_of(parent: int) -> list[int]:
    """Process ids of engines: of a server's processes those that were spawned and track no resources."""
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def write_export(model: Path, folder: Path, opset: int | None = None) -> None:
    """An ONNX export, as export_generation_model.py writes it."""
    from glm.api.loading import load_processor, model_source, stream_weights
    from glm.export.onnx.weights import weights_of
    from glm.export.onnx.write import export_step_graph
    from glm.export.writing import write_side_files

    config, weights = stream_weights(str(model), None)
    processor = load_processor(str(model))

    def text(directory: Path) -> None:
        write_side_files(config, processor, directory)

    stored, source = weights_of("fp32", opset=opset), model_source(str(model), None)
    export_step_graph(config, weights, stored, folder / "glm", source=source, text=text)
