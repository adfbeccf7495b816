"""Server processes of the sides, from their start to their end. Imports no framework."""

import os
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.processes import ROOT, Environment
from benchmarks.settings import SERVED_ROWS, SIDES, Shape, Side

START_LIMIT, END_LIMIT = 300.0, 10.0  # seconds
LOOK = 0.005  # seconds between two looks at whether a server is ready
LLAMA_BLOCK = 256  # tokens: a slot's part of llama.cpp's context is a multiple of it
READY = {"serving": "/ready", "llama_server": "/health", "transformers_server": "/health"}


class Server:
    """A side's server. `ready_seconds` from the start of its process to its first "ready".

    Args:
        command: what to run; it listens on `port` of the loopback.
        port: where.
        path: answered with 200 once requests are taken.
        log: where its output goes.
        variables: its environment.

    Raises:
        RuntimeError: it cannot be started, or ends or hangs before it is ready.
    """

    def __init__(self, command: list[str], port: int, path: str, log: Path, variables: dict[str, str]):
        self.url, self.log = f"http://127.0.0.1:{port}", log
        begin = time.perf_counter()
        with log.open("a", encoding="utf-8") as output:
            output.write(f"$ {' '.join(command)}\n")
            output.flush()
            try:
                self.process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
            except OSError as error:
                raise RuntimeError(f"{command[0]} cannot be started ({error.strerror}): run make bench") from None
        try:
            self._wait(port, path, begin)
        except BaseException:
            self.close()
            raise
        self.ready_seconds = time.perf_counter() - begin

    def close(self) -> None:
        """SIGTERM; what does not end by itself is killed."""
        self.process.terminate()
        try:
            self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait(self, port: int, path: str, begin: float) -> None:
        while not answers(port, path):
            if (code := self.process.poll()) is not None:
                raise RuntimeError(f"the server ended with code {code} before it was ready; see {self.log}")
            if time.perf_counter() - begin > START_LIMIT:
                raise RuntimeError(f"the server was not ready within {START_LIMIT:g} s; see {self.log}")
            time.sleep(LOOK)


def answers(port: int, path: str) -> bool:
    """Whether a GET of a path has 200. Without a library for HTTP, which would take longer than a look may."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return b" 200" in connection.recv(64).split(b"\r\n")[0]
    except OSError:
        return False


def open_server(environment: Environment, side: str, shape: str) -> Server:
    """Raises RuntimeError: see `Server`."""
    port = free_port()
    command = command_of(environment, SIDES[side], environment.directory / shape, shape, port)
    return Server(command, port, READY[SIDES[side].module], environment.log, environment.variables(side))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def command_of(environment: Environment, side: Side, directory: Path, shape: str, port: int) -> list[str]:
    """As a user would type it; every server has the same rows and columns."""
    columns = columns_of(environment.shape(shape))
    key = next(name for name, found in SIDES.items() if found is side)
    if side.module == "serving":
        words = ["--model_path", directory / f"onnx-{side.weights}", "--max_num_seqs", SERVED_ROWS]
        return [str(w) for w in (environment.python(key), "serve_generation.py", *words, *_limits(columns, port))]
    if side.module == "llama_server":
        return llama_command(environment, directory / "gguf" / f"{side.weights}.gguf", columns, port)
    program = [environment.python(key), "-m", "benchmarks.sides.transformers_server"]
    return [str(word) for word in (*program, directory / "hf", "--port", port)]


def _limits(columns: int, port: int) -> list:
    return ["--max_model_len", columns, "--port", port]


def llama_command(environment: Environment, file: Path, columns: int, port: int) -> list[str]:
    """llama-server with a slot for every row; beside float32 weights a float32 cache and no flash attention, as in
    benchmarks/sides/llama.py.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = ["--model", file, "--host", "127.0.0.1", "--port", port, "--threads", threads, "--no-webui"]
    words += ["--parallel", SERVED_ROWS, "--ctx-size", SERVED_ROWS * columns]
    if file.stem == "f32":
        words += ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
    return [str(word) for word in (environment.llama_server, *words)]


def columns_of(shape: Shape) -> int:
    """Tokens of the longest prompt and its text, in llama.cpp's blocks; no more than the model has."""
    wanted = max(shape.prompt, shape.long_prompt) + shape.new_tokens
    return -(-wanted // LLAMA_BLOCK) * LLAMA_BLOCK
