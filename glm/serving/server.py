"""A server process: a socket, signals, and how it ends."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn

from glm.errors import GLMError
from glm.files.sizes import in_words
from glm.serving.app import application
from glm.serving.engine_client import DEAD
from glm.serving.errors import unavailable
from glm.serving.service import Service

_LOOPBACK = ("127.", "::1", "localhost")
_ENDING_SECONDS = 5  # for answers that only have to be sent
_IDLE_SECONDS = 75  # that a connection is kept; more than proxies keep theirs, so that these close first


@dataclass(frozen=True)
class Address:
    """Where a server listens; port 0 is any that is free."""

    host: str = "127.0.0.1"
    port: int = 8000

    def bind(self) -> socket.socket:
        """Raises GLMError: the address is taken, or not of this machine."""
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family, backlog=1024)
        except (OSError, OverflowError) as error:
            reason = os.strerror(error.errno) if getattr(error, "errno", None) else error
            raise GLMError(f"cannot listen on {self.host} port {self.port} ({reason}): choose another --port") from None

    @property
    def is_local(self) -> bool:
        return self.host.startswith(_LOOPBACK)

    def url(self, port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Uvicorn that lets texts be finished: SIGTERM and SIGINT refuse new ones, wait, and then end; twice, at once.

    Args:
        config: of uvicorn.
        service: what is served.
        drain_seconds: that texts have to be finished.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float):
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds
        self._draining: asyncio.Task | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. Uvicorn's own method would close the socket and then wait for streams without end."""
        if self._service.draining:
            self._service.engine.fail_all(_shutting_down())
            self.should_exit = True
            return
        self._service.draining = True
        self._loop.call_soon_threadsafe(self._begin_to_drain)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def _begin_to_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        engine, end = self._service.engine, self._loop.time() + self._drain_seconds
        if engine.open_texts:
            print(f"ending: {engine.open_texts} texts have {self._drain_seconds:g} s to be finished", file=sys.stderr)
        while engine.open_texts and self._loop.time() < end:
            await asyncio.sleep(0.02)
        engine.fail_all(_shutting_down())
        self.should_exit = True


def _shutting_down():
    return unavailable("shutting_down", "the server is shutting down before this text is finished")


def run_server(
    service: Service, address: Address, drain_seconds: float = 30.0, say: Callable[[str], None] = print
) -> None:
    """Serves until a signal comes.

    Args:
        say: takes a line for the one who started the server.

    Raises:
        GLMError: the address cannot be had, the engine cannot be opened, or it ended.
    """
    logging.getLogger("glm.serving").setLevel(logging.INFO)
    with address.bind() as listening:
        server = server_of(service, address.url(listening.getsockname()[1]), drain_seconds, say)
        if not address.is_local and not service.settings.keys:
            say(f"warning: everybody who reaches {address.host} may use it: set a key with --api_key")
        asyncio.run(server.serve([listening]))
    if service.engine.state == DEAD and not service.draining:
        raise service.engine.error


def server_of(service: Service, url: str, drain_seconds: float, say: Callable[[str], None]) -> Server:
    """A server for a socket; arguments as in `run_server`."""
    app = application(service, lambda: _announce(service, server, url, say))
    server = Server(_config(app), service, drain_seconds)
    return server


def _announce(service: Service, server: Server, url: str, say: Callable[[str], None]) -> None:
    """Says when the model can be used, and ends the server with its engine."""
    engine = service.engine

    def end() -> None:
        server.should_exit = True  # once the errors of texts that were being written are sent

    engine.on_end = end

    async def when_ready() -> None:
        info = await engine.ready()
        name, columns = service.model.names[0], service.model.max_length
        say(info.runs_on)
        memory = f"key/value cache {in_words(info.cache_bytes)}"
        say(f"{info.rows} texts at once, each of {columns:,} tokens with its prompt: {memory}")
        say(f"serving {name}: {url} (a page), {url}/v1 (OpenAI's interface)")

    task = asyncio.ensure_future(when_ready())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # `run_server` raises it


def _config(app) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",  # httptools, which uvicorn would prefer, reads a head without end
        log_config=None,
        access_log=False,
        log_level="warning",
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_ENDING_SECONDS,
    )
