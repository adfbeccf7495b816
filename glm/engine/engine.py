"""Generation over a step runtime: texts of any lengths are read row by row, and decode together. numpy only.

A prompt is read alone, in chunks, into its row of the cache, so no text waits for the padding of a longer one. Then all
rows take a step at a time; a row that ends leaves, and one that waits for memory comes in its place. What a text
becomes does not depend on what decodes beside it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from glm.encoding.batches import Positions
from glm.engine.search import Search, search_of
from glm.engine.slots import Slots
from glm.errors import GLMError, UsageError
from glm.generation.options import GenerationConfig, StopTokens
from glm.runtime.step import StepRuntime, reorder
from glm.tokenizers.stop_strings import StopStrings


@dataclass(frozen=True)
class EngineOptions:
    """How an engine uses its machine.

    Attributes:
        memory_limit: most bytes of key/value cache; texts wait for room, and one that never fits is refused. None = no
            bound.
        chunk: most tokens of a prompt that are read at once, where it can be read in parts.
        reuse_prefix: keeps what was read for prompts that begin alike, such as the next turn of a conversation.
    """

    memory_limit: int | None = None
    chunk: int = 256
    reuse_prefix: bool = True

    def __post_init__(self):
        if self.chunk < 1:
            raise UsageError(f"chunk is {self.chunk}, and must be at least 1")


@dataclass(frozen=True)
class Request:
    """A text to write.

    Attributes:
        ids: the prompt, the token to decode from last.
        config: decoding options.
        stop_strings: what ends the text besides stop tokens (glm/tokenizers/stop_strings.py); one beam only.
    """

    ids: Sequence[int]
    config: GenerationConfig
    stop_strings: StopStrings | None = None


@dataclass(frozen=True)
class Result:
    """A finished text.

    Attributes:
        tokens: without the prompt and without padding, the end token included.
        score: see `glm.generation.search.GenerationMixin.generate`.
        reused: leading tokens of the prompt that did not have to be read again.
    """

    tokens: list[int]
    score: float
    reused: int


@dataclass(frozen=True)
class Event:
    """News of one text.

    Attributes:
        index: which request.
        token: the newest token of a text of one beam, else None.
        result: the whole text, when it is finished.
    """

    index: int
    token: int | None
    result: Result | None


@dataclass
class _Run:
    """A text that is being written, and where."""

    index: int
    request: Request
    search: Search
    slots: np.ndarray
    reused: int = 0
    positions_P: np.ndarray = field(default_factory=lambda: np.zeros([0], "int64"))

    @property
    def text(self) -> list[int]:
        """What the slots have read in common, and of one beam all that it has read."""
        return [*self.request.ids, *(self.search.tokens[0, :-1].tolist() if len(self.slots) == 1 else [])]


class Engine:
    """Writes texts with a runtime.

    Args:
        runtime: a loaded graph.
        positions: where tokens stand, and how a prompt is read (`Processor.positions`).
        stop: ids that end a text.
        options: memory, chunks, reuse.

    Attributes:
        prompt_tokens, reused_tokens: of all prompts so far, and how many of them did not have to be read again.

    Example:
        >>> engine = Engine(runtime, processor.positions, StopTokens.of(processor))
        >>> results = engine.generate([processor.text_prompt(text) for text in texts], processor.generation_config())
    """

    def __init__(
        self, runtime: StepRuntime, positions: Positions, stop: StopTokens, options: EngineOptions | None = None
    ):
        self.runtime, self.positions, self.stop = runtime, positions, stop
        self.options = options or EngineOptions()
        self._slots = Slots(runtime, self.options.memory_limit, self.options.reuse_prefix)
        self._busy, self._batch_size = False, 0
        self.prompt_tokens, self.reused_tokens = 0, 0

    @property
    def cache_bytes(self) -> int:
        """Memory of the key/value cache that the engine holds now."""
        return self._slots.bytes

    def release(self) -> None:
        """Frees the key/value cache, and with it what was kept for later prompts."""
        self._slots.release()

    def generate(self, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[Result]:
        """A text for each prompt: the tokens of `GLMForCausalLM.generate` for the same batch.

        Raises:
            GLMError: as `run`.
        """
        return self.finish([Request(ids, config) for ids in prompts])

    def finish(self, requests: Sequence[Request], batch_size: int | None = None) -> list[Result]:
        """The results of `run`, in the order of the requests."""
        found = {event.index: event.result for event in self.run(requests, batch_size) if event.result}
        return [found[index] for index in range(len(requests))]

    def stream(self, ids: Sequence[int], config: GenerationConfig, stop_strings: StopStrings | None = None):
        """Yields the tokens of one text as they are chosen.

        Raises:
            UsageError: more than one beam, which are chosen at the end. GLMError: as `run`.
        """
        if config.num_beams > 1:
            raise UsageError(f"beams are chosen at the end, so num_beams={config.num_beams} cannot be streamed: use 1")
        for event in self.run([Request(ids, config, stop_strings)]):
            yield event.token

    def run(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterator[Event]:
        """Writes all texts, and yields each token of a text of one beam as soon as it is chosen.

        Args:
            batch_size: most texts that decode together, the others wait; None = all that the memory has room for.

        Random numbers depend on a request's place among the others, or in its batch of `batch_size`.

        Raises:
            UsageError: a text that needs more columns or memory than there are, or stop strings with beams.
            GLMError: the engine is in the middle of another run.
        """
        if self._busy:
            raise GLMError("this engine is writing other texts: finish or close that run first, or open another engine")
        waiting = deque(self._planned(requests, batch_size or len(requests)))
        self._busy, running = True, []
        try:
            while waiting or running:
                while waiting and self._has_room(waiting[0], running):
                    running.append(waiting.popleft())
                    yield self._read(running[-1])
                    running = self._leave(running)
                if running:
                    self._step(running)
                    yield from map(self._event, running)
                    running = self._leave(running)
        finally:
            self._busy, self._slots.active = False, 0

    def _planned(self, requests: Sequence[Request], batch_size: int) -> list[_Run]:
        """The texts to write, and a cache for as many of them as the memory allows."""
        runs, self._batch_size = [], batch_size
        for index, request in enumerate(requests):
            if not request.ids:
                raise UsageError(f"prompt {index + 1} of {len(requests)} is empty: give it at least one token")
            if request.stop_strings and request.config.num_beams > 1:
                raise UsageError(f"stop strings end a text of one beam, and num_beams is {request.config.num_beams}")
            search = search_of(request.config, self.stop, index % batch_size, request.ids)
            runs.append(_Run(index, request, search, np.arange(search.beams)))
        if runs:
            length = max(len(run.request.ids) + run.request.config.max_length - 1 for run in runs)
            beams = [len(run.slots) for run in runs]
            self._slots.reserve(sum(sorted(beams)[-batch_size:]), length, max(beams))
        return runs

    def _has_room(self, run: _Run, running: list[_Run]) -> bool:
        free = self._slots.active + len(run.slots) <= self._slots.cache.slots
        return free and len(running) < self._batch_size

    def _read(self, run: _Run) -> Event:
        """Reads a prompt, and chooses what follows first."""
        ids, slots = run.request.ids, self._slots
        prefix_length = self.positions.prompt_prefix(ids)
        run.slots, run.reused = slots.open(ids, len(run.slots))
        self.prompt_tokens, self.reused_tokens = self.prompt_tokens + len(ids), self.reused_tokens + run.reused
        positions_PT = self.positions.of(ids, prefix_length)
        run.positions_P = positions_PT[:, -1]
        chunk = len(ids) if prefix_length else self.options.chunk
        for start in range(run.reused, len(ids), chunk):
            part = slice(start, start + chunk)
            logits_V = self.runtime.prefill(
                slots.cache, int(run.slots[0]), ids[part], positions_PT[:, part], start, prefix_length
            )
        slots.share(run.slots, ids, keep=not prefix_length)
        run.search.advance(np.broadcast_to(logits_V, [len(run.slots), len(logits_V)]))
        return self._event(run)

    def _step(self, running: list[_Run]) -> None:
        """One token more for every text."""
        count, slots = self._slots.active, self._slots
        ids_B = np.empty([count], dtype="int64")
        positions_BP = np.empty([count, len(self.positions.step)], dtype="int64")
        for run in running:
            if run.search.sources is not None:
                span = len(run.request.ids), int(slots.lengths[run.slots[0]])
                reorder(self.runtime, slots.cache, run.slots, run.search.sources, span)
            ids_B[run.slots] = run.search.tokens[:, -1]
            positions_BP[run.slots] = run.positions_P + run.search.step * self.positions.step
        logits_BV = self.runtime.decode(slots.cache, ids_B, positions_BP, slots.lengths[:count])
        slots.lengths[:count] += 1
        for run in running:
            run.search.advance(logits_BV[run.slots])

    def _event(self, run: _Run) -> Event:
        """What there is to say of a text that has just advanced."""
        search, watch = run.search, run.request.stop_strings
        token = int(search.tokens[0, -1]) if len(run.slots) == 1 else None
        if watch and watch.put(token):
            search.finished = True
        result = Result(*search.result(), run.reused) if search.finished else None
        return Event(run.index, token, result)

    def _leave(self, running: list[_Run]) -> list[_Run]:
        """Those that continue; those that ended free their slots."""
        ended = [run for run in running if run.search.finished]
        if not ended:
            return running
        for run in ended:
            for slot in run.slots:
                if self._slots.texts[slot]:
                    self._slots.texts[slot] = run.text
        moved = self._slots.close(np.concatenate([run.slots for run in ended]))
        unfinished = [run for run in running if not run.search.finished]
        for run in unfinished:
            run.slots = np.array([moved.get(slot, slot) for slot in run.slots.tolist()])
        return unfinished


def padded(results: Sequence[Result], pad_token_id: int) -> np.ndarray:
    """Token ids [B, t] int64 of all texts, filled up behind their ends."""
    ids = np.full([len(results), max(len(result.tokens) for result in results)], pad_token_id, dtype="int64")
    for row, result in zip(ids, results, strict=True):
        row[: len(result.tokens)] = result.tokens
    return ids
