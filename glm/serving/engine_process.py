"""The engine in a process of its own: commands in, one message of events an iteration out.

Paddle holds Python's lock while it computes, so HTTP in the same process would stand still for every step.
"""

import multiprocessing
import os
import signal
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

import glm
from glm.engine import EngineStats, Request, Result, StopStrings
from glm.errors import GLMError, UsageError
from glm.serving.jobs import (
    Cancel,
    Failed,
    Finish,
    Job,
    Opened,
    OpenedEngine,
    Opener,
    Progress,
    Submit,
    Update,
)
from glm.tokenizers.stream import WithSpecialTokens

MOST_FAILED_CALLS = 3  # of the runtime, one after another, until the engine is given up
_COUNTED = ("prompt_tokens", "reused_tokens", "drafts", "draft_tokens", "accepted_tokens")
IDLE_SECONDS = 0.25  # between two stamps while nobody asks for anything


def serve_process(opener: Opener, inbox: Connection, outbox: Connection, stamp: Any) -> None:
    """`serve`, as the target of a process. Who sends signals means the HTTP side, which lets this one end."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True, name="parent").start()
    glm.tune()
    serve(opener, inbox, outbox, stamp)


def _end_with_parent() -> None:
    """A thread: who was killed closes nothing in words, and while the engine opens nobody reads the commands."""
    multiprocessing.parent_process().join()
    os._exit(1)


def serve(opener: Opener, inbox: Connection, outbox: Connection, stamp: Any) -> None:
    """Opens an engine and runs it until the other side closes its ends.

    Args:
        stamp: its `value` is set to the time of each iteration, `time.monotonic`.
    """
    try:
        engine = opener()
        stamp.value = monotonic()  # who hears that it is open may ask at once whether it is alive
        outbox.send(Opened(engine.info))
        Worker(engine, inbox, outbox, stamp).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is there any more
    except Exception as error:
        outbox.send(Failed(_one_line(error), isinstance(error, UsageError)))
    finally:
        outbox.close()


class Worker:
    """The loop around an engine: commands, a step, what it brought.

    Args:
        engine, inbox, outbox, stamp: see `serve`.
    """

    def __init__(self, engine: OpenedEngine, inbox: Connection, outbox: Connection, stamp: Any):
        self._engine, self._core = engine, engine.core
        self._inbox, self._outbox, self._stamp = inbox, outbox, stamp
        self._commands: SimpleQueue[Submit | Cancel | None] = SimpleQueue()
        self._numbers: dict[int, int] = {}  # the core's id → ours
        self._ids: dict[int, int] = {}
        self._stops: dict[int, tuple[int, ...]] = {}
        self._updates: dict[int, Update] = {}
        self._told: dict[str, float] = {}

    def run(self) -> None:
        """Ends by EOFError where the other side closes."""
        Thread(target=self._listen, daemon=True, name="listen").start()
        while True:
            self._stamp.value = monotonic()
            self._take_commands()
            if not self._core.idle:
                for event in self._core.step():
                    self._note(event)
            stats = self._core.stats()
            if stats.failed_calls >= MOST_FAILED_CALLS:
                raise GLMError(f"the graph failed {stats.failed_calls} times one after another")
            counters = counters_of(stats)
            if self._updates or counters != self._told:
                self._outbox.send(Progress(self._updates, counters))
                self._updates, self._told = {}, counters

    def _listen(self) -> None:
        """A thread: who leaves while a long prompt of theirs is being read ends that, where the runtime can."""
        with suppress(EOFError, OSError), self._inbox:
            while True:
                command = self._inbox.recv()
                self._commands.put(command)
                if isinstance(command, Cancel) and (identity := self._ids.get(command.number)) is not None:
                    self._core.interrupt(identity)
        self._commands.put(None)  # there is nobody any more

    def _take_commands(self) -> None:
        """All commands that are there; waits for one where there is nothing to do."""
        busy = not self._core.idle or bool(self._updates)
        with suppress(Empty):
            while True:
                command = self._commands.get(timeout=0 if busy else IDLE_SECONDS)
                busy = True
                if isinstance(command, Submit):
                    self._submit(command.number, command.job)
                elif isinstance(command, Cancel):
                    self._cancel(command.number)
                else:
                    raise EOFError

    def _submit(self, number: int, job: Job) -> None:
        if not (job.writes or job.scores_prompt):  # nothing that the model knows
            self._update(number).finish = Finish("length")
            return
        try:
            identity = self._core.submit(request_of(job, self._engine))
        except Exception as error:  # whatever it is, it is this request's alone
            update = self._update(number)
            update.error, update.refused = _one_line(error), isinstance(error, UsageError)
            return
        self._numbers[identity], self._ids[number] = number, identity
        self._stops[number] = job.stop_token_ids

    def _cancel(self, number: int) -> None:
        """Of a text that may have ended meanwhile."""
        if (identity := self._ids.pop(number, None)) is not None:
            self._core.cancel(identity)
            del self._numbers[identity], self._stops[number]

    def _note(self, event: Any) -> None:
        number = self._numbers.get(event.id)
        if number is None:
            return  # it was cancelled
        update = self._update(number)
        update.prompt_scores += event.prompt_logprobs
        if event.token is not None:
            update.tokens.append(event.token)
        if event.logprob is not None:
            update.scores.append(event.logprob)
        if event.error is not None:
            update.error = event.error
        elif event.result is not None:
            result = event.result
            update.finish = self._finish(number, result)
            if event.token is None:
                update.tokens += result.tokens
        if update.ended:
            del self._numbers[event.id], self._ids[number], self._stops[number]

    def _finish(self, number: int, result: Result) -> Finish:
        """The model's own end is no reason that clients know, as in vLLM."""
        own = isinstance(result.stop_reason, int) and result.stop_reason not in self._stops[number]
        stop_reason = None if own else result.stop_reason
        return Finish(result.finish_reason, stop_reason, result.reused, result.queued, result.read)

    def _update(self, number: int) -> Update:
        return self._updates.setdefault(number, Update())


def request_of(job: Job, engine: OpenedEngine) -> Request:
    """The engine's request for a job."""
    own, tokenizer = engine.core.stop, engine.tokenizer
    watches = job.stop_strings and job.config.num_beams == 1  # of beams the one that wins is cut at its end
    decoder = tokenizer if job.skip_special_tokens else WithSpecialTokens(tokenizer)
    return Request(
        job.ids,
        job.config,
        stop_strings=StopStrings(decoder, job.stop_strings) if watches else None,
        choice=job.choice,
        stop=replace(own, eos_token_ids=(*(() if job.ignore_eos else own.eos_token_ids), *job.stop_token_ids)),
        logit_bias=dict(job.logit_bias),
        logprobs=job.logprobs,
        prompt_logprobs=(job.logprobs or 0) if job.scores_prompt else None,
        streamed=job.streamed,
        writes=job.writes,
        constraint=None if job.grammar is None else engine.constrain(job.grammar),
    )


def counters_of(stats: EngineStats) -> dict[str, float]:
    """The engine's counters by the names that glm/serving/metrics.py has."""
    columns = stats.slots * stats.max_length
    return {
        "running": stats.reading + stats.decoding,
        "waiting": stats.waiting,
        "cache_usage": stats.used_positions / columns if columns else 0.0,
        **{name: getattr(stats, name) for name in _COUNTED},
    }


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GLMError) else f"{type(error).__name__}: {text}"
