"""One scheduler over a step runtime, for scripts and servers: requests go in, events come out. numpy only, no threads.

    waiting ─ there are slots ─▶ reading ─ the prompt is read ─▶ decoding ─▶ finished, cancelled or failed

A call of `EngineCore.step` admits what there are slots for, reads a part of one prompt, and decodes one token more of
every text. What happens to one request changes no other.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count

import numpy as np

from glm.encoding.batches import Positions
from glm.engine.logits import adjusted, rows_of, token_logprobs
from glm.engine.lookup import PromptLookup
from glm.engine.pace import Pace
from glm.engine.reading import PromptReader
from glm.engine.requests import EngineOptions, EngineStats, Event, Request, check
from glm.engine.search import search_of
from glm.engine.sequence import SequenceState
from glm.engine.slots import Moved, Slots
from glm.errors import GLMError, UsageError
from glm.generation.options import StopTokens
from glm.runtime.step import InterruptedReadError, StepRuntime, reorder


class EngineCore:
    """Completes requests that come and go.

    Args:
        runtime: a loaded graph.
        positions: where tokens stand, and how a prompt is read (`Processor.positions`).
        stop: ids that end a sequence, where its request does not say.
        options: memory, parts of prompts, reuse.
        clock: seconds, rising.

    Example:
        >>> core = EngineCore(runtime, processor.positions, StopTokens.of(processor), EngineOptions(interleave=True))
        >>> core.reserve(slots=8, max_length=4096)
        >>> number = core.submit(Request(ids, config))
        >>> while not core.idle:
        ...     for event in core.step():
        ...         print(event.id, event.token, event.result)
    """

    def __init__(
        self,
        runtime: StepRuntime,
        positions: Positions,
        stop: StopTokens,
        options: EngineOptions | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.runtime, self.positions, self.stop, self.clock = runtime, positions, stop, clock
        self.options = options or EngineOptions()
        if self.options.prompt_lookup and not runtime.any_columns:
            raise UsageError(
                "this export gives logits of one column at a time, and prompt lookup needs several: export the model "
                "again, or leave prompt lookup out"
            )
        self.slots = Slots(runtime, self.options.memory_limit, self.options.reuse_prefix)
        self._ids, self._most_texts = count(), 0
        self._waiting: deque[SequenceState] = deque()
        self._reading: list[SequenceState] = []
        self._decoding: list[SequenceState] = []
        self._there: dict[int, SequenceState] = {}
        self._events: list[Event] = []
        self._counts: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._pace = Pace(self.options.chunk, self.options.pause)
        self._reader = PromptReader(self.slots, positions, self.options, self._pace, self._counts, clock)

    @property
    def idle(self) -> bool:
        """Whether `step` has nothing to do and nothing to say."""
        return not (self._there or self._events)

    def reserve(self, slots: int, max_length: int, least_slots: int = 1, most_texts: int | None = None) -> None:
        """Makes room for requests; what was read for earlier ones is kept as far as memory allows.

        Args:
            slots: texts (of beams: each of them) at a time; fewer where the memory limit allows no more.
            max_length: positions of each, of prompt and text together.
            least_slots: that must fit.
            most_texts: most texts at a time, however many beams they have; None = as the slots allow.

        Raises:
            UsageError: more positions or memory than there are. GLMError: there are requests.
        """
        if not self.idle:
            raise GLMError("this engine is completing requests: finish or cancel them before it gets another cache")
        self.slots.reserve(slots, max_length, least_slots)
        self._most_texts = most_texts or self.slots.cache.slots

    def submit(self, request: Request) -> int:
        """Takes a request, and returns the number by which events and `cancel` name it.

        Raises:
            UsageError: it needs more positions or slots than there are, or asks for what there is not.
        """
        slots = self.slots
        check(request, len(slots.in_use), slots.cache.max_length if slots.cache else 0, self.runtime.vocab_size)
        prefix_length = self.positions.prompt_prefix(request.ids)
        if request.prompt_logprobs is not None and prefix_length:
            raise UsageError(
                "this model reads prompts in both directions, so their tokens have no log-probabilities of their own: "
                "leave out prompt_logprobs"
            )
        stop = request.stop or self.stop
        search = search_of(request.config, stop, request.choice, request.ids, self.options.scores)
        sequence = SequenceState(next(self._ids), request, search, self.clock(), prefix_length)
        self._waiting.append(sequence)
        self._there[sequence.id] = sequence
        return sequence.id

    def cancel(self, number: int) -> None:
        """Ends a request, at once; the next `step` says so. One that has ended, or that there never was, is let be."""
        if (sequence := self._there.get(number)) is None:
            return
        result = sequence.cancelled(self.clock())
        self._leave([sequence], ["cancelled"])
        self._events.append(Event(number, result=result))

    def interrupt(self, number: int) -> None:
        """From another thread: ends the call in which this request's prompt is being read, for it is about to be
        cancelled. Otherwise the next `step` reads that part again.
        """
        if self._reader.under_way == number:
            self.runtime.interrupt()

    def clear(self) -> None:
        """Drops all requests without a word."""
        self._leave([*self._there.values()], ["cancelled"] * len(self._there))
        self._events = []

    def step(self) -> list[Event]:
        """Goes on with all requests by one token, or with one prompt by one part, and says what came of it.

        No request's failure raises. The order of events is that in which tokens were chosen.
        """
        if self.idle:
            return []
        self._counts["steps"] += 1
        events, self._events = self._events, []
        self._admit()
        was_reading = bool(self._reading)
        events += self._read()
        if self.options.interleave or not was_reading:
            events += self._decode()
        return events

    def stats(self) -> EngineStats:
        """Where it stands, and what it did so far."""
        slots, counts = self.slots, self._counts
        names = ("steps", "prompt_tokens", "reused_tokens", "new_tokens", "drafts", "draft_tokens", "accepted_tokens")
        return EngineStats(
            waiting=len(self._waiting),
            reading=len(self._reading),
            decoding=len(self._decoding),
            slots=len(slots.in_use),
            max_length=slots.cache.max_length if slots.cache else 0,
            cache_bytes=slots.bytes,
            used_positions=int(slots.lengths[slots.in_use].sum()),
            finished=dict(self._finished),
            failed_calls=slots.failed_calls,
            **{name: counts[name] for name in names},
        )

    def _admit(self) -> None:
        """Gives slots to those that wait, the oldest first: where one must go on waiting, the others do, too."""
        while self._waiting and (self.options.interleave or not self._reading):
            sequence = self._waiting[0]
            beams, full = sequence.search.beams, len(self._reading) + len(self._decoding) >= self._most_texts
            if beams > self.slots.free or full or self._would_hold_up(sequence):
                return
            self._waiting.popleft()
            sequence.slots = self.slots.open(sequence.request.ids, beams)
            self._reading.append(sequence)

    def _would_hold_up(self, sequence: SequenceState) -> bool:
        """Whether a text that somebody watches would stand still for a long prompt, which cannot be read in parts: this
        one's, or one that is about to be read.
        """
        if any(map(self._reader.holds_up, self._reading)):
            return True
        watched = any(each.request.streamed for each in (*self._reading, *self._decoding))
        return watched and self._reader.holds_up(sequence)

    def _read(self) -> list[Event]:
        """Reads a part of one prompt, all of it if texts need not go on; behind its end chooses what follows first."""
        if not self._reading:
            return []
        sequence, events = self._reader.next_of(self._reading), []
        try:
            while True:
                logits_V, scores = self._reader.read(sequence, bool(self._decoding))
                events += [Event(sequence.id, prompt_logprobs=scores)] if scores else []
                if self.options.interleave or not sequence.left:
                    break
            if sequence.left:
                return events
            if not sequence.request.writes:
                return self._settled([*events, Event(sequence.id, result=sequence.result(self.clock()))])
            self._start(sequence)
        except InterruptedReadError:
            return events
        except Exception as error:  # whatever it is, it is this request's alone
            return self._settled([*events, self._failure(sequence, error)])
        logits_GV = np.broadcast_to(logits_V, [sequence.search.beams, len(logits_V)])
        return self._settled([*events, self._advance(sequence, logits_GV)])

    def _start(self, sequence: SequenceState) -> None:
        """Lets a sequence whose prompt is read decode with the others."""
        for beam in range(len(sequence.slots)):
            self._move(self.slots.start(int(sequence.slots[beam])))
        self.slots.share(sequence.slots, sequence.request.ids, keep=not sequence.prefix_length)
        self._reading.remove(sequence)
        self._decoding.append(sequence)

    def _decode(self) -> list[Event]:
        """One token more of every text."""
        if not self._decoding:
            return []
        if events := self._verify():
            return self._settled(events)
        begun = self.clock()
        try:
            logits_BV = self._step(self._decoding)
        except Exception as error:
            return self._settled(self._each_alone(error))
        self._pace.was_stepped(self.clock() - begun, len(self._decoding))
        return self._settled(
            [self._advance(sequence, rows_of(logits_BV, sequence.slots)) for sequence in self._decoding]
        )

    def _verify(self) -> list[Event]:
        """Several tokens of a text that is alone, if a guess of them is right; [] without a guess."""
        sequence, most = self._decoding[0], self.options.prompt_lookup
        if not most or sequence.search.beams > 1 or len(self._decoding) > 1 or self._reading:
            return []
        if sequence.lookup is None:
            sequence.lookup = PromptLookup([*sequence.request.ids, *sequence.search.tokens[0].tolist()], most)
        search, step, slots = sequence.search, self._pace.step_alone, self.slots
        guess = sequence.lookup.guess(search.config.max_length - search.step - 1, step)
        if not guess:
            return []
        start, ids = int(slots.lengths[0]), [int(search.tokens[0, -1]), *guess]
        steps_T, begun = search.step + np.arange(len(ids)), self.clock()
        positions_PT = sequence.positions_PS[:, -1:] + steps_T * self.positions.step[:, None]
        try:
            logits_TV = slots.call("read", 0, ids, positions_PT, start, 0, range(len(ids)))
        except Exception:  # it may be a guess that the model cannot read: a plain step will tell
            sequence.lookup.stop()
            return []
        seconds, events = self.clock() - begun, []
        for logits_V, guessed in zip(logits_TV, [*guess, None], strict=True):
            slots.lengths[0] += 1
            events.append(self._advance(sequence, logits_V[None]))
            if events[-1].over or events[-1].token != guessed:
                break
        right = sum(event.token == token for event, token in zip(events, guess, strict=False))
        sequence.lookup.was_verified(len(events), seconds, step)
        self._counts.update(drafts=1, draft_tokens=len(guess), accepted_tokens=right)
        return events

    def _step(self, sequences: Sequence[SequenceState]) -> np.ndarray:
        """Logits [B, V] of what follows sequences that have the first B slots."""
        slots, beams = self.slots, sum(len(sequence.slots) for sequence in sequences)
        ids_B = np.empty([beams], dtype="int64")
        positions_BP = np.empty([beams, len(self.positions.step)], dtype="int64")
        for sequence in sequences:
            search = sequence.search
            if search.sources is not None:
                span = len(sequence.request.ids), int(slots.lengths[sequence.slots[0]])
                reorder(self.runtime, slots.cache, sequence.slots, search.sources, span)
                search.sources = None
            ids_B[sequence.slots] = search.tokens[:, -1]
            positions_BP[sequence.slots] = sequence.positions_PS[:, -1] + search.step * self.positions.step
        logits_BV = slots.call("decode", ids_B, positions_BP, slots.lengths[:beams])
        slots.lengths[:beams] += 1
        return logits_BV

    def _each_alone(self, error: Exception) -> list[Event]:
        """The same after a step that failed: it does not say whose fault it was, so each is decoded by itself."""
        if len(self._decoding) == 1:
            return [self._failure(self._decoding[0], error)]
        events = []
        for sequence in self._decoding:
            for place in range(len(sequence.slots)):
                if sequence.slots[place] != place:
                    self._move(self.slots.exchange(place, int(sequence.slots[place])))
            try:
                logits_GV = self._step([sequence])
            except Exception as own:
                events.append(self._failure(sequence, own))
            else:
                events.append(self._advance(sequence, logits_GV[sequence.slots]))
        return events

    def _advance(self, sequence: SequenceState, logits_GV: np.ndarray) -> Event:
        """Chooses what follows a sequence."""
        request, search = sequence.request, sequence.search
        try:
            allowed_V = request.constraint.allowed() if request.constraint else None
            search.advance(adjusted(logits_GV, request.logit_bias, allowed_V))
            token, logprob = int(search.tokens[0, -1]) if search.beams == 1 else None, None
            if request.logprobs is not None:
                logprob = token_logprobs(logits_GV[0], token, request.logprobs)
            self._watch(sequence, token)
        except Exception as error:
            return self._failure(sequence, error)
        if sequence.lookup:
            sequence.lookup.put(token)
        self._counts["new_tokens"] += 1
        return Event(sequence.id, token, logprob, sequence.result(self.clock()) if search.finished else None)

    def _watch(self, sequence: SequenceState, token: int | None) -> None:
        """Ends a sequence where its stop strings or its constraint do."""
        request, search = sequence.request, sequence.search
        if request.stop_strings and request.stop_strings.put(token):
            search.ended = search.finished = True
        if request.constraint:
            request.constraint.advance(token)
            if request.constraint.finished and not search.stop.eos_token_ids:
                search.ended = search.finished = True

    def _failure(self, sequence: SequenceState, error: Exception) -> Event:
        sequence.failed = True
        known = isinstance(error, GLMError)
        return Event(sequence.id, error=str(error) if known else f"{type(error).__name__}: {error}", cause=error)

    def _settled(self, events: list[Event]) -> list[Event]:
        """The same events; whom they end leaves."""
        last = [event for event in events if event.result is not None or event.error is not None]
        over = {event.id: event.result.finish_reason if event.result else "error" for event in last}
        self._leave([self._there[number] for number in over], over.values())
        return events

    def _leave(self, sequences: Sequence[SequenceState], reasons: Iterable[str]) -> None:
        """Frees the slots of sequences; what was read into them stays for prompts that begin so."""
        if not sequences:
            return
        self._finished.update(reasons)
        for sequence in sequences:
            del self._there[sequence.id]
            for slot in sequence.slots:
                # A slot that has noted nothing holds what means something in its own sequence alone.
                keep = self.slots.prefixes[slot] and not sequence.failed
                self.slots.prefixes[slot] = sequence.ids if keep else []
        moved = self.slots.close(np.concatenate([sequence.slots for sequence in sequences]))
        if not all(len(sequence.slots) for sequence in sequences):
            self._waiting = deque(each for each in self._waiting if each.id in self._there)
        self._reading = [each for each in self._reading if each.id in self._there]
        self._decoding = [each for each in self._decoding if each.id in self._there]
        self._move(moved)

    def _move(self, moved: Moved) -> None:
        for sequence in (*self._reading, *self._decoding) if moved else ():
            sequence.slots = np.array([moved.get(slot, slot) for slot in sequence.slots.tolist()])
