"""Texts after a list of prompts: what scripts ask of an engine. The work is glm/engine/core.py's. numpy only."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from glm.encoding.batches import Positions
from glm.engine.core import EngineCore
from glm.engine.requests import Constraint, EngineOptions, Event, Request, Result
from glm.errors import GLMError, UsageError
from glm.generation.options import GenerationConfig, StopTokens
from glm.runtime.step import StepRuntime
from glm.tokenizers.stop_strings import StopStrings


class Engine:
    """Completes prompts with a runtime.

    Args:
        runtime: a loaded graph.
        positions: where tokens stand, and how a prompt is read (`Processor.positions`).
        stop: ids that end a sequence.
        options: memory, parts of prompts, reuse.

    Example:
        >>> engine = Engine(runtime, processor.positions, StopTokens.of(processor))
        >>> results = engine.generate([processor.text_prompt(text) for text in texts], processor.generation_config())
    """

    def __init__(
        self, runtime: StepRuntime, positions: Positions, stop: StopTokens, options: EngineOptions | None = None
    ):
        self.runtime, self.options = runtime, options or EngineOptions()
        self.core = EngineCore(runtime, positions, stop, self.options)
        self._busy = False

    @property
    def cache_bytes(self) -> int:
        """Memory of the key/value cache that the engine holds now."""
        return self.core.slots.bytes

    def release(self) -> None:
        """Frees the key/value cache, and with it what was kept for later prompts."""
        self.core.slots.release()

    def generate(self, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[Result]:
        """A completion for each prompt: the tokens of `GLMForCausalLM.generate` for the same batch.

        Raises:
            GLMError: as `run`.
        """
        return self.finish([Request(ids, config) for ids in prompts])

    def finish(self, requests: Sequence[Request], batch_size: int | None = None) -> list[Result]:
        """The results of `run`, in the order of the requests."""
        found = {event.id: event.result for event in self.run(requests, batch_size) if event.result}
        return [found[place] for place in range(len(requests))]

    def stream(
        self,
        ids: Sequence[int],
        config: GenerationConfig,
        stop_strings: StopStrings | None = None,
        constraint: Constraint | None = None,
    ):
        """Yields the tokens of one sequence as they are chosen.

        Raises:
            UsageError: more than one beam, which are chosen at the end. GLMError: as `run`.
        """
        if config.num_beams > 1:
            raise UsageError(f"beams are chosen at the end, so num_beams={config.num_beams} cannot be streamed: use 1")
        for event in self.run([Request(ids, config, stop_strings, constraint=constraint)]):
            yield event.token

    def run(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterator[Event]:
        """Completes all requests, and yields each token of a sequence of one beam as soon as it is chosen.

        Args:
            batch_size: most sequences that decode together, the others wait; None = all that the memory has room for.

        Yields:
            What happens; `Event.id` is the place of the request. Random numbers depend on that place, or on the place
            in its batch of `batch_size`, as they do in `GLMForCausalLM.generate`: `Request.choice` is not asked.

        Raises:
            UsageError: a request that needs more positions or memory than there are, or stop strings with beams.
            GLMError: the engine is in the middle of another run, or a request failed.
        """
        if self._busy:
            raise GLMError(
                "this engine is completing other requests: finish or close that run first, or open another engine"
            )
        self._busy = True
        try:
            places = self._submit(requests, batch_size or len(requests))
            while not self.core.idle:
                for event in self.core.step():
                    if event.cause is not None:
                        raise event.cause
                    yield replace(event, id=places[event.id])
        finally:
            self.core.clear()
            self._busy = False

    def _submit(self, requests: Sequence[Request], batch_size: int) -> dict[int, int]:
        """Their places by their numbers; there is a cache for as many of them as the memory allows."""
        if not requests:
            return {}
        for place, request in enumerate(requests, 1):
            if not len(request.ids):
                raise UsageError(f"prompt {place} of {len(requests)} is empty: give it at least one token")
        length = max(len(request.ids) + request.config.max_length - 1 for request in requests)
        beams = sorted(request.config.num_beams for request in requests)
        self.core.reserve(sum(beams[-batch_size:]), length, beams[-1], batch_size)
        placed = (replace(request, choice=place % batch_size) for place, request in enumerate(requests))
        return {self.core.submit(request): place for place, request in enumerate(placed)}


def padded(results: Sequence[Result], pad_token_id: int) -> np.ndarray:
    """Token ids [B, t] int64 of all sequences, padded after their ends."""
    ids = np.full([len(results), max(len(result.tokens) for result in results)], pad_token_id, dtype="int64")
    for row, result in zip(ids, results, strict=True):
        row[: len(result.tokens)] = result.tokens
    return ids
