"""The HTTP side of the engine: starts it, hands it texts to write, and says whether it is alive."""

import asyncio
import atexit
import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import c_double
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from time import monotonic

from glm.errors import GLMError, UsageError
from glm.serving.engine_process import serve, serve_process
from glm.serving.errors import RequestError, invalid, queue_full, unavailable
from glm.serving.jobs import Cancel, EngineInfo, Failed, Job, Opened, Opener, Progress, Submit, Update

LOADING, READY, DEAD = "loading", "ready", "dead"


class Mailbox:
    """What is new of the texts of one request; what nobody has taken yet is joined, so it is never more than the texts.

    Args:
        texts: how many there are.
    """

    def __init__(self, texts: int):
        self.unfinished = texts
        self._updates: dict[int, Update] = {}
        self._waiter: asyncio.Future | None = None
        self._error: RequestError | None = None

    @property
    def full(self) -> bool:
        """Whether something waits to be taken."""
        return bool(self._updates)

    def put(self, place: int, update: Update) -> None:
        if place in self._updates:
            self._updates[place].add(update)
        else:
            self._updates[place] = update
        self.unfinished -= update.ended
        self._wake()

    def fail(self, error: RequestError) -> None:
        """Says that nothing more will come."""
        self._error = error
        self._wake()

    async def take(self, timeout: float | None = None) -> dict[int, Update]:
        """Updates by the place of their text; {} where there is nothing new for so many seconds.

        Raises:
            RequestError: nothing more will come.
        """
        if not self._updates and self._error is None:
            await self._news(timeout)
        if self._error is not None and not self._updates:
            raise self._error
        updates, self._updates = self._updates, {}
        return updates

    async def _news(self, timeout: float | None) -> None:
        """Waits for them, at most so long. `asyncio.wait_for` would make a task for every token of every text."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass
class Stamp:
    """The heartbeat of an engine in a thread."""

    value: float = 0.0


class EngineClient:
    """One engine.

    Args:
        opener: what opens it, there; it must be picklable.
        max_queue: most texts that wait for a row.
        in_thread: instead of a process; for tests.

    Attributes:
        state: LOADING, READY or DEAD.
        info: once it is ready.
        reason: why it is dead.
        stats: the engine's counters of the last iteration.
        on_open, on_progress, on_end: called once it is ready, for the tokens of an iteration, and once it is dead.
    """

    def __init__(self, opener: Opener, max_queue: int = 256, in_thread: bool = False):
        self._opener, self._max_queue, self._in_thread = opener, max_queue, in_thread
        self.state, self.reason, self.usage = LOADING, "", False
        self.info: EngineInfo | None = None
        self.stats: dict[str, float] = {}
        self.on_end: Callable[[], None] = lambda: None
        self.on_open: Callable[[EngineInfo], None] = lambda info: None
        self.on_progress: Callable[[int], None] = lambda tokens: None
        self._numbers, self._open = count(), {}  # number → (mailbox, place)
        self._commands: queue.SimpleQueue = queue.SimpleQueue()
        self._settled = asyncio.Event()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._launched = False
        self._ending: RequestError | None = None

    def launch(self) -> None:
        """Begins to open the engine, while this side still opens what is its own."""
        inbox, self._to_engine = multiprocessing.Pipe(duplex=False)
        self._from_engine, outbox = multiprocessing.Pipe(duplex=False)
        self._launched = True
        if self._in_thread:
            self._stamp = Stamp()
            self._thread(serve, self._opener, inbox, outbox, self._stamp)
            return
        context = multiprocessing.get_context("spawn")
        self._stamp = context.RawValue(c_double, 0.0)
        arguments = (self._opener, inbox, outbox, self._stamp)
        self._process = context.Process(target=serve_process, args=arguments, daemon=True, name="engine")
        self._process.start()
        inbox.close(), outbox.close()  # the process has its own: when it ends, so does what it sends
        atexit.register(self._process.kill)  # it ignores the signals of who ends before `start`

    def start(self) -> None:
        """Listens to the engine, and launches it unless it was; to be called in the event loop."""
        self._loop = asyncio.get_running_loop()
        if not self._launched:
            self.launch()
        self._thread(self._receive)
        self._thread(self._send, self._to_engine)

    async def ready(self) -> EngineInfo:
        """Waits until the engine is open.

        Raises:
            GLMError: it could not be opened.
        """
        await self._settled.wait()
        if self.state == DEAD:
            raise self.error
        return self.info

    @property
    def error(self) -> GLMError:
        """Why the engine is dead."""
        kind = UsageError if self.usage else GLMError
        return kind(f"the engine has ended: {self.reason}" if self.info else self.reason)

    @property
    def seconds_silent(self) -> float:
        """Since the engine's last iteration, or the last time it looked for work."""
        return monotonic() - self._stamp.value

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def open_texts(self) -> int:
        return len(self._open)

    @contextmanager
    def writing(self, jobs: Sequence[Job]) -> Iterator[Mailbox]:
        """Has texts written, as long as the context is open; those that have not ended then are cancelled.

        Raises:
            RequestError: the engine cannot take them.
        """
        self._require_room(len(jobs))
        box, numbers = Mailbox(len(jobs)), [next(self._numbers) for _ in jobs]
        for place, (number, job) in enumerate(zip(numbers, jobs, strict=True)):
            self._open[number] = box, place
            self._commands.put(Submit(number, job))
        try:
            yield box
        finally:
            for number in numbers:
                if self._open.pop(number, None) is not None:
                    self._commands.put(Cancel(number))

    def close(self) -> None:
        """Ends the engine."""
        self._commands.put(None)
        if self._process is not None:
            if self.state == LOADING:
                self._process.kill()  # it reads no commands yet
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()

    def _require_room(self, texts: int) -> None:
        if self._ending is not None:
            raise self._ending
        if self.state == LOADING:
            raise unavailable("loading", "the model is being loaded: try again in a few seconds")
        if self.state == DEAD:
            raise self._dead()
        room = self.info.rows + self._max_queue
        if texts > room:
            raise invalid(f"the request asks for {texts} texts, and the server takes {room} at once: ask for fewer")
        if len(self._open) + texts > room:
            raise queue_full(max(len(self._open) - self.info.rows, 0), self._max_queue)

    def _thread(self, target: Callable, *arguments) -> None:
        threading.Thread(target=target, args=arguments, daemon=True, name=target.__name__).start()

    def _send(self, to_engine: Connection) -> None:
        """A thread: writing waits while the engine computes."""
        with suppress(OSError):
            while (command := self._commands.get()) is not None:
                to_engine.send(command)
        to_engine.close()

    def _receive(self) -> None:
        """A thread: hands messages to the event loop, until the engine ends."""
        with suppress(EOFError, OSError), self._from_engine as from_engine:
            while True:
                self._call(self._take, from_engine.recv())
        self._call(self._end)

    def _call(self, function: Callable, *arguments) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _take(self, message: Opened | Failed | Progress) -> None:
        if isinstance(message, Opened):
            self.info, self.state = message.info, READY
            self.on_open(message.info)
            self._settled.set()
        elif isinstance(message, Failed):
            self.reason, self.usage = message.message, message.usage
        else:
            self._deliver(message)

    def _deliver(self, message: Progress) -> None:
        self.stats = message.stats
        self.on_progress(sum(len(update.tokens) for update in message.updates.values()))
        for number, update in message.updates.items():
            if number not in self._open:
                continue  # cancelled meanwhile
            box, place = self._open[number]
            if update.ended:
                del self._open[number]
            box.put(place, update)

    def _end(self) -> None:
        self.state, self.reason = DEAD, self.reason or "its process was killed"
        self._settled.set()
        self.fail_all(self._dead())
        self._commands.put(None)
        self.on_end()

    def fail_all(self, error: RequestError) -> None:
        """Ends every text that is being written, and takes no other: a prompt may still have been encoded meanwhile."""
        self._ending = error
        for number, (box, _) in self._open.items():
            box.fail(error)
            self._commands.put(Cancel(number))
        self._open.clear()

    def _dead(self) -> RequestError:
        return unavailable("engine_dead", f"the engine has ended ({self.reason}): restart the server")
