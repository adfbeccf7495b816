"""A server in this process, on a port of its own: real sockets, no other process."""

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from simulated_core import CONTEXT, SimulatedEngine

from glm.encoding.processor import open_processor
from glm.inference.exported import ExportOptions
from glm.serving.engine_client import EngineClient
from glm.serving.export_service import ServeOptions, open_service
from glm.serving.served_model import ServedModel
from glm.serving.server import Address, server_of
from glm.serving.service import Service, Settings

DATA = Path(__file__).resolve().parents[2] / "data"
MODEL = "tiny"


class Live:
    """A server in a thread.

    Attributes:
        port: where it listens. service: what it serves. said: lines for the one who started it.
    """

    def __init__(self, service: Service, drain_seconds: float = 5):
        self.service, self.said = service, []
        self._socket = Address(port=0).bind()
        self.port = self._socket.getsockname()[1]
        self.server = server_of(service, f"http://127.0.0.1:{self.port}", drain_seconds, self.said.append)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self._socket])), daemon=True)

    def __enter__(self):
        self._thread.start()
        wait_until(
            lambda: self.service.engine.state != "loading" and self.said, 120
        )  # a process is slow to start beside others
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self._thread.join(30)
        self._socket.close()
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, method: str, path: str, body=None, headers=None, timeout: float = 60):
        """(status, headers, body) of a request; a body that is no bytes is sent as JSON."""
        raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} | (headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, raw, {name: value for name, value in given.items() if value is not None})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body, **options):
        """(status, JSON)."""
        status, _, raw = self.send("POST", path, body, **options)
        return status, json.loads(raw)

    def get(self, path: str, **options):
        status, _, raw = self.send("GET", path, **options)
        return status, json.loads(raw)

    def events(self, path: str, body, **options) -> list[str]:
        """What stands behind `data: ` in a stream."""
        status, headers, raw = self.send("POST", path, body | {"stream": True}, **options)
        assert status == 200, raw
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = raw.decode().split("\n\n")
        assert lines.pop() == ""
        return [line.removeprefix("data: ") for line in lines if not line.startswith(":")]

    def chunks(self, path: str, body, **options) -> list[dict]:
        events = self.events(path, body, **options)
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    def open_stream(self, path: str, body, window: int | None = None) -> socket.socket:
        """A socket on which a request was sent, and nothing was read yet.

        Args:
            window: bytes that may wait on this side.
        """
        raw = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        found = socket.socket()
        if window:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        found.settimeout(60)
        found.connect(("127.0.0.1", self.port))
        found.sendall(head.encode() + raw)
        return found

    @property
    def running(self) -> float:
        stats = self.service.engine.stats
        return stats.get("running", 0) + stats.get("waiting", 0)


def service_of(
    kind: str = "glm4-0414-tiny", max_queue: int = 256, settings: Settings | None = None, **engine
) -> Service:
    """A service around a simulated engine."""
    directory = DATA / kind
    processor = open_processor(directory)
    columns = engine.setdefault("columns", CONTEXT)
    processor.max_position = columns - 1
    model = ServedModel(processor, len(processor.tokenizer), (MODEL, "alias"), columns, "fp_test")
    return Service(model, EngineClient(SimulatedEngine(str(directory), **engine), max_queue, in_thread=True), settings)


@contextmanager
def live(**options):
    drain_seconds = options.pop("drain_seconds", 5)
    with Live(service_of(**options), drain_seconds) as server:
        yield server


@contextmanager
def live_export(folder: Path, **options):
    """A server of an export; the engine shares this process."""
    served = ServeOptions(ExportOptions(path=folder, cpu_threads=1), **options)
    with Live(open_service(served, Settings(), in_thread=True)) as server:
        yield server


def read_some(stream: socket.socket) -> bytes:
    """What has come, once a token is there."""
    found = b""
    while found.count(b"data: ") < 3:
        found += stream.recv(4096)
    return found


def wait_until(condition, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def chat(content: str = "hi", **more) -> dict:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}
