"""A TCP connection from each process of a launch to the first one, over the hosts' network.

Texts go over it before any device is set up. Its end tells at once that a process has ended, on whatever node: a
collective waits for an ended process longer than anyone wants to (HCCL: HCCL_EXEC_TIMEOUT, half an hour), and Paddle's
launcher knows the processes of its own node only.

The first process listens at its own entry of PADDLE_TRAINER_ENDPOINTS, a port that the launcher has chosen for it and
that Paddle's collectives leave free. Messages are lines of JSON: [kind, content].
"""

import atexit
import faulthandler
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

from glm.errors import GLMError

VARIABLE = "GLM_START_TIMEOUT"
START_SECONDS = 300.0  # the first import of Paddle from a shared disk takes minutes when many nodes begin together
GREETING_SECONDS = 5.0
# A node that loses power sends nothing any more: it is found missing after IDLE + COUNT · INTERVAL seconds.
IDLE, INTERVAL, COUNT = 10, 5, 4
HELLO, WELCOME, TEXT, LEFT, FAILED = "hello", "welcome", "text", "left", "failed"


class Links:
    """The connections of one process: of the first one to all others, of each other one to the first.

    When a process ends without `leave`, every other one ends as well, with a line that names it: as a GLMError where
    the main thread is in one of the methods here or in `attending`, else by ending the process from a thread.

    Args:
        rank, count: of this process, and of all.
        endpoint: host:port at which the first process listens.

    Raises:
        GLMError: not all have come within GLM_START_TIMEOUT seconds (300); it says who is missing.
    """

    def __init__(self, rank: int, count: int, endpoint: str):
        self.rank, self.count, self.endpoint = rank, count, endpoint
        self.lost: str | None = None
        self.advice: Callable[[], str] = lambda: "see its log, and start again"
        self._attended, self._closed = 0, False
        self._state, self._sending = threading.RLock(), threading.Lock()
        self._loss = threading.Event()
        self._where = describe_process()
        self._sockets = self._call() if rank else self._listen()
        self._inboxes: dict[int, SimpleQueue] = {peer: SimpleQueue() for peer in self._sockets}
        for peer in self._sockets:
            threading.Thread(target=self._read, args=(peer,), daemon=True).start()
        # A forked data loader would keep the connections open beyond the end of its parent.
        os.register_at_fork(after_in_child=self._close)
        atexit.register(self._at_exit)

    # meeting

    def _listen(self) -> dict[int, socket.socket]:
        """Connections by rank, when all have come."""
        self._streams, found, seconds = {}, {}, start_seconds()
        end = time.monotonic() + seconds
        with _server(self.endpoint, self.count) as server:
            while len(found) < self.count - 1:
                server.settimeout(max(0.01, end - time.monotonic()))
                try:
                    connection = server.accept()[0]
                except TimeoutError:
                    self._sockets = found
                    missing = sorted(set(range(1, self.count)) - set(found))
                    error = _nobody(missing, self.count, seconds)
                    self.fail(str(error))
                    raise error from None
                self._greet(connection, found)
        for connection in found.values():
            connection.sendall(_message(WELCOME, self._where))
        return found

    def _greet(self, connection: socket.socket, found: dict[int, socket.socket]) -> None:
        """Takes a rank of this launch in; whoever else has found the port is sent away."""
        connection.settimeout(GREETING_SECONDS)
        stream = connection.makefile("r", encoding="utf-8")
        try:
            kind, (rank, job, where) = json.loads(stream.readline(10_000))
            if kind != HELLO or job != _job(self.count) or rank in found or not 0 < rank < self.count:
                raise ValueError(rank)
        except (OSError, ValueError, TypeError):
            connection.close()
            return
        _keep_alive(connection)
        self._streams[rank], found[rank] = (stream, where), connection

    def _call(self) -> dict[int, socket.socket]:
        """The connection to the first process, when all have come."""
        seconds = start_seconds()
        connection = _connect(self.endpoint, time.monotonic() + seconds)
        if connection is None:
            raise GLMError(
                f"rank 0 did not answer rank {self.rank} at {self.endpoint} within {seconds:g} s ({VARIABLE}): see the "
                "log of rank 0, and whether the nodes reach each other"
            )
        connection.settimeout(seconds + 2 * GREETING_SECONDS)
        stream = connection.makefile("r", encoding="utf-8")
        try:
            connection.sendall(_message(HELLO, (self.rank, _job(self.count), self._where)))
            kind, where = json.loads(stream.readline())
        except (OSError, ValueError):
            raise GLMError(
                f"rank 0 at {self.endpoint} ended, or is of another launch, before all {self.count} ranks had come: "
                "see its log, and start again"
            ) from None
        if kind == FAILED:
            raise GLMError(where)
        _keep_alive(connection)
        self._streams = {0: (stream, where)}
        return {0: connection}

    # talking

    def gather(self, text: str) -> list[str]:
        """The texts of all processes, in their order; all must call it."""
        with self.attending():
            if self.rank:
                self._send([0], TEXT, text)
                return self._receive(0)
            texts = [text, *(self._receive(peer) for peer in range(1, self.count))]
            self._send(self._sockets, TEXT, texts)
            return texts

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Within it, and when an exception has left it, another process's end is the main thread's to report."""
        with self._state:
            self._attended += 1
        yield
        with self._state:
            self._attended -= 1
            # Inside another one, what was received comes first: it may say why the other process has ended.
            if self.lost is not None and not self._attended:
                raise GLMError(self.loss_message())

    def leave(self) -> None:
        """Tells the others that this process ends as it should."""
        self._part(LEFT, None)

    def fail(self, message: str) -> None:
        """Tells the others why this process ends; they end as well."""
        self._part(FAILED, f"rank {self.rank} ({self._where}) has ended: {message}")

    def wait_for_loss(self, seconds: float) -> str | None:
        """The line about an ended process, None if none is known after so many seconds."""
        with self._state:
            self._attended += 1  # from now on the main thread reports
        return self.loss_message() if self._loss.wait(seconds) else None

    def loss_message(self) -> str:
        return f"{self.lost}; {self.advice()}"

    def _part(self, kind: str, content) -> None:
        with self._state:
            self._attended += 1
            if self._closed:
                return
            self._closed = True
        self._send(self._sockets, kind, content)

    def _at_exit(self) -> None:
        # Set where an exception went through to the interpreter, which has printed it.
        error = getattr(sys, "last_value", None)
        self.leave() if error is None else self.fail(f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _send(self, peers, kind: str, content) -> None:
        data = _message(kind, content)
        with self._sending:
            for peer in peers:
                with suppress(OSError):  # the thread that reads from this peer notices its end
                    self._sockets[peer].sendall(data)

    def _receive(self, peer: int):
        content = self._inboxes[peer].get()
        if content is None:
            raise GLMError(self.loss_message() if self.lost else f"rank {peer} has ended, and was still waited for")
        return content

    # watching

    def _read(self, peer: int) -> None:
        """Puts texts into the peer's inbox until its end, and sees to it that all learn of one that is no leaving."""
        stream, where = self._streams[peer]
        line = f"rank {peer} ({where}) has ended"
        self._sockets[peer].settimeout(None)
        with suppress(OSError, ValueError):
            while message := stream.readline():
                kind, content = json.loads(message)
                if kind == TEXT:
                    self._inboxes[peer].put(content)
                    continue
                line = content
                break
        if line is not None:
            self._end(peer, line)
        for inbox in self._inboxes.values() if line else [self._inboxes[peer]]:
            inbox.put(None)

    def _end(self, peer: int, line: str) -> None:
        with self._state:
            if self.lost is not None or self._closed:
                return
            self.lost = line
            if self.rank == 0:
                self._send([other for other in self._sockets if other != peer], FAILED, line)
            self._loss.set()
            if not self._attended:
                self._end_process()

    def _end_process(self) -> None:
        """The main thread may be inside a collective that never returns; --debug shows where it is."""
        if "--debug" in sys.argv:
            faulthandler.dump_traceback()
        print(f"\nerror: {self.loss_message()}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)

    def _close(self) -> None:
        self._closed = True
        for connection in self._sockets.values():
            os.close(connection.detach())  # close() would leave it to the stream, whose lock a lost thread may hold


def start_seconds() -> float:
    """How long the processes of a launch wait for each other to start.

    Raises:
        GLMError: GLM_START_TIMEOUT is no positive number.
    """
    text = os.environ.get(VARIABLE) or str(START_SECONDS)
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise GLMError(f"{VARIABLE} is '{text}', and must be a number of seconds above 0")


def describe_process() -> str:
    """Where to look for a process: its node, number and log."""
    host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "").partition(":")[0] or socket.gethostname()
    output = Path("/proc/self/fd/2")
    log = f", log {output.readlink()}" if output.is_file() else ""
    return f"node {host}, process {os.getpid()}{log}"


def _server(endpoint: str, count: int) -> socket.socket:
    host, port = endpoint.rsplit(":", 1)
    try:
        return socket.create_server((host, int(port)), backlog=count)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise GLMError(
            f"rank 0 cannot listen at {endpoint} ({reason}): start again, or name this node's address with the "
            "launcher's --host"
        ) from None


def _connect(endpoint: str, end: float) -> socket.socket | None:
    """Tries again until `end` (of time.monotonic): the first process may start later than this one."""
    host, port = endpoint.rsplit(":", 1)
    while time.monotonic() < end:
        with suppress(OSError):
            connection = socket.create_connection((host, int(port)), timeout=GREETING_SECONDS)
            # On its own host a caller can be given the very port that it calls, and then reaches itself.
            if connection.getsockname() != connection.getpeername():
                return connection
            _reset(connection)
        time.sleep(0.1)
    return None


def _reset(connection: socket.socket) -> None:
    """Closes a connection at once: an orderly end would keep its port from the first process for a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", INTERVAL), ("TCP_KEEPCNT", COUNT)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _job(count: int) -> str:
    """What the processes of one launch have in common, and those of another one beside it have not."""
    return f"{count} {os.environ.get('PADDLE_MASTER', '')}"


def _message(kind: str, content) -> bytes:
    return (json.dumps([kind, content]) + "\n").encode()


def _nobody(missing: list[int], count: int, seconds: float) -> GLMError:
    names = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
    return GLMError(
        f"{names} of {count} did not start within {seconds:g} s ({VARIABLE}): see the workerlog files on their nodes, "
        "and start again"
    )
