"""Continuous batching over a step runtime. numpy only.

Each prompt is prefilled in chunks into its own slot; active sequences decode one token per step; a finished one frees
its slot. Outputs do not depend on the batch.
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
        memory_limit: most bytes of key/value cache; requests wait for slots, and one that never fits is refused. None =
            no bound.
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
    """A prompt to complete.

    Attributes:
        ids: the prompt, the token to decode from last.
        config: decoding options.
        stop_strings: what ends the completion besides stop tokens (glm/tokenizers/stop_strings.py); one beam only.
    """

    ids: Sequence[int]
    config: GenerationConfig
    stop_strings: StopStrings | None = None


@dataclass(frozen=True)
class Result:
    """A finished sequence.

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
    """Progress of one request.

    Attributes:
        index: which request.
        token: the newest token of a sequence of one beam, else None.
        result: the whole sequence, when it is finished.
    """

    index: int
    token: int | None
    result: Result | None


@dataclass
class _Sequence:
    """A sequence that is being decoded, and its slots."""

    index: int
    request: Request
    search: Search
    slots: np.ndarray
    reused: int = 0
    positions_P: np.ndarray = field(default_factory=lambda: np.zeros([0], "int64"))

    @property
    def ids(self) -> list[int]:
        """What the slots have read in common, and of one beam all that it has read."""
        return [*self.request.ids, *(self.search.tokens[0, :-1].tolist() if len(self.slots) == 1 else [])]


class Engine:
    """Completes prompts with a runtime.

    Args:
        runtime: a loaded graph.
        positions: where tokens stand, and how a prompt is read (`Processor.positions`).
        stop: ids that end a sequence.
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
        """A completion for each prompt: the tokens of `GLMForCausalLM.generate` for the same batch.

        Raises:
            GLMError: as `run`.
        """
        return self.finish([Request(ids, config) for ids in prompts])

    def finish(self, requests: Sequence[Request], batch_size: int | None = None) -> list[Result]:
        """The results of `run`, in the order of the requests."""
        found = {event.index: event.result for event in self.run(requests, batch_size) if event.result}
        return [found[index] for index in range(len(requests))]

    def stream(self, ids: Sequence[int], config: GenerationConfig, stop_strings: StopStrings | None = None):
        """Yields the tokens of one sequence as they are chosen.

        Raises:
            UsageError: more than one beam, which are chosen at the end. GLMError: as `run`.
        """
        if config.num_beams > 1:
            raise UsageError(f"beams are chosen at the end, so num_beams={config.num_beams} cannot be streamed: use 1")
        for event in self.run([Request(ids, config, stop_strings)]):
            yield event.token

    def run(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterator[Event]:
        """Completes all requests, and yields each token of a sequence of one beam as soon as it is chosen.

        Args:
            batch_size: most sequences that decode together, the others wait; None = all that the memory has room for.

        Random numbers depend on a request's place among the others, or in its batch of `batch_size`.

        Raises:
            UsageError: a request that needs more positions or memory than there are, or stop strings with beams.
            GLMError: the engine is in the middle of another run.
        """
        if self._busy:
            raise GLMError(
                "this engine is completing other requests: finish or close that run first, or open another engine"
            )
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

    def _planned(self, requests: Sequence[Request], batch_size: int) -> list[_Sequence]:
        """The sequences to decode, and a cache for as many of them as the memory allows."""
        sequences, self._batch_size = [], batch_size
        for index, request in enumerate(requests):
            if not request.ids:
                raise UsageError(f"prompt {index + 1} of {len(requests)} is empty: give it at least one token")
            if request.stop_strings and request.config.num_beams > 1:
                raise UsageError(
                    f"stop strings end a sequence of one beam, and num_beams is {request.config.num_beams}"
                )
            search = search_of(request.config, self.stop, index % batch_size, request.ids)
            sequences.append(_Sequence(index, request, search, np.arange(search.beams)))
        if sequences:
            length = max(len(sequence.request.ids) + sequence.request.config.max_length - 1 for sequence in sequences)
            beams = [len(sequence.slots) for sequence in sequences]
            self._slots.reserve(sum(sorted(beams)[-batch_size:]), length, max(beams))
        return sequences

    def _has_room(self, sequence: _Sequence, running: list[_Sequence]) -> bool:
        free = self._slots.active + len(sequence.slots) <= self._slots.cache.slots
        return free and len(running) < self._batch_size

    def _read(self, sequence: _Sequence) -> Event:
        """Reads a prompt, and chooses what follows first."""
        ids, slots = sequence.request.ids, self._slots
        prefix_length = self.positions.prompt_prefix(ids)
        sequence.slots, sequence.reused = slots.open(ids, len(sequence.slots))
        self.prompt_tokens, self.reused_tokens = self.prompt_tokens + len(ids), self.reused_tokens + sequence.reused
        positions_PT = self.positions.of(ids, prefix_length)
        sequence.positions_P = positions_PT[:, -1]
        chunk = len(ids) if prefix_length else self.options.chunk
        for start in range(sequence.reused, len(ids), chunk):
            part = slice(start, start + chunk)
            logits_V = self.runtime.prefill(
                slots.cache, int(sequence.slots[0]), ids[part], positions_PT[:, part], start, prefix_length
            )
        slots.share(sequence.slots, ids, keep=not prefix_length)
        sequence.search.advance(np.broadcast_to(logits_V, [len(sequence.slots), len(logits_V)]))
        return self._event(sequence)

    def _step(self, running: list[_Sequence]) -> None:
        """One token more for every sequence."""
        count, slots = self._slots.active, self._slots
        ids_B = np.empty([count], dtype="int64")
        positions_BP = np.empty([count, len(self.positions.step)], dtype="int64")
        for sequence in running:
            if sequence.search.sources is not None:
                span = len(sequence.request.ids), int(slots.lengths[sequence.slots[0]])
                reorder(self.runtime, slots.cache, sequence.slots, sequence.search.sources, span)
            ids_B[sequence.slots] = sequence.search.tokens[:, -1]
            positions_BP[sequence.slots] = sequence.positions_P + sequence.search.step * self.positions.step
        logits_BV = self.runtime.decode(slots.cache, ids_B, positions_BP, slots.lengths[:count])
        slots.lengths[:count] += 1
        for sequence in running:
            sequence.search.advance(logits_BV[sequence.slots])

    def _event(self, sequence: _Sequence) -> Event:
        """What there is to say of a sequence that has just advanced."""
        search, watch = sequence.search, sequence.request.stop_strings
        token = int(search.tokens[0, -1]) if len(sequence.slots) == 1 else None
        if watch and watch.put(token):
            search.finished = True
        result = Result(*search.result(), sequence.reused) if search.finished else None
        return Event(sequence.index, token, result)

    def _leave(self, running: list[_Sequence]) -> list[_Sequence]:
        """Those that continue; those that ended free their slots."""
        ended = [sequence for sequence in running if sequence.search.finished]
        if not ended:
            return running
        for sequence in ended:
            for slot in sequence.slots:
                if self._slots.prefixes[slot]:
                    self._slots.prefixes[slot] = sequence.ids
        moved = self._slots.close(np.concatenate([sequence.slots for sequence in ended]))
        unfinished = [sequence for sequence in running if not sequence.search.finished]
        for sequence in unfinished:
            sequence.slots = np.array([moved.get(slot, slot) for slot in sequence.slots.tolist()])
        return unfinished


def padded(results: Sequence[Result], pad_token_id: int) -> np.ndarray:
    """Token ids [B, t] int64 of all sequences, padded after their ends."""
    ids = np.full([len(results), max(len(result.tokens) for result in results)], pad_token_id, dtype="int64")
    for row, result in zip(ids, results, strict=True):
        row[: len(result.tokens)] = result.tokens
    return ids
