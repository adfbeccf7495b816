"""Likelihoods with a decoder step graph (glm/runtime/step.py), in every runtime that has one. numpy only.

Rows go one by one through one slot of a cache, at whose beginning lies what rows share: it is read once. Behind its
context each target is read over the one before; graphs that give logits of the last column alone read it token by
token.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from glm.encoding.processor import Processor
from glm.errors import GLMError
from glm.evaluation.likelihood.rows import Likelihood, Row
from glm.evaluation.likelihood.tokens import RowEncoder, TokenRow
from glm.generation.options import NOT_FINITE
from glm.runtime.step import Cache, StepRuntime

CHUNK = 256  # tokens of a context that are read at once
LOGITS_CHUNK = 64  # of a target, whose logits all come out: 39 MB of GLM-4's vocabulary
SPARE = 256  # positions of a cache that are more than asked for, so that the next row does not need a larger one


def export_scorer(
    runtime: StepRuntime, processor: Processor, *, reuse: bool = True, require_whole: Callable[[], None] | None = None
) -> "ExportScorer":
    """The scorer of a loaded export.

    Args:
        runtime: of its decoder step graph, with nothing else at work on it meanwhile.
        processor: of the export, which knows the model's positions (`Processor.check_fits`).
        reuse: False reads every context whole.
        require_whole: raises where the export is not what was written; called before the first number is given.
    """
    return ExportScorer(runtime, processor, reuse, require_whole or (lambda: None))


class ExportScorer:
    """See `glm.evaluation.likelihood.rows.Scorer`; arguments as in `export_scorer`."""

    window = 1

    def __init__(self, runtime: StepRuntime, processor: Processor, reuse: bool, require_whole: Callable[[], None]):
        self.runtime, self.reuse, self._require_whole = runtime, reuse, require_whole
        self.encode, self.tokens_read = RowEncoder(processor, processor.max_position), 0
        self._cache: Cache | None = None
        self._held: list[int] = []  # ids that rows share, at the beginning of the cache

    def check(self, row: Row) -> None:
        """Raises as `Scorer.check`."""
        self.encode(row)

    def __call__(self, rows: Sequence[Row]) -> Iterator[tuple[Likelihood, ...]]:
        for row in rows:
            yield self.score([self.encode(row)])[0]

    def score(self, rows: Sequence[TokenRow]) -> list[tuple[Likelihood, ...]]:
        """A likelihood for each target of each row.

        Raises:
            GLMError: the model's numbers are not finite, or the export is damaged.
        """
        try:
            found = [self._row(row) for row in rows]
        except GLMError:
            self._require_whole()
            raise
        self._require_whole()
        return found

    def _row(self, row: TokenRow) -> tuple[Likelihood, ...]:
        self._reserve(len(row.context) + max(map(len, row.targets)) - 1)
        behind = log_softmax(self._context(row))
        return tuple(self._likelihood(row, target, behind) for target in row.targets)

    def _reserve(self, length: int) -> None:
        if self._cache is None or self._cache.max_length < length:
            self._cache, self._held = None, []
            self._cache = self.runtime.new_cache(1, max(length, min(length + SPARE, self.runtime.capacity)))

    def _context(self, row: TokenRow) -> np.ndarray:
        """Logits [1, V] behind a context."""
        shared = row.context[: row.shared] if self.reuse else []
        # As it was read, or the numbers of a run that goes on would differ in their last bits.
        if self._held != shared:
            self._held = []
            if shared:
                self._prefill(row, 0, len(shared))
            self._held = shared
        return self._prefill(row, len(shared), len(row.context))[None]

    def _prefill(self, row: TokenRow, start: int, end: int) -> np.ndarray:
        """Logits [V] behind a part of a context."""
        positions_PT = self.encode.positions.of(row.context, row.prefix_length)
        size = end if row.prefix_length else CHUNK
        self.tokens_read += end - start
        for first in range(start, end, size):
            part = slice(first, min(first + size, end))
            logits_V = self.runtime.prefill(
                self._cache, 0, row.context[part], positions_PT[:, part], first, row.prefix_length
            )
        return logits_V

    def _likelihood(self, row: TokenRow, target: Sequence[int], behind_1V: np.ndarray) -> Likelihood:
        """Of one target, by the log-probabilities of what follows its context."""
        total, greedy = float(behind_1V[0, target[0]]), int(behind_1V[0].argmax()) == target[0]
        for found_MV, wanted in self._read(row, target):
            total += float(found_MV[np.arange(len(wanted)), wanted].sum(dtype="float64"))
            greedy &= found_MV.argmax(axis=1).tolist() == list(wanted)
        return Likelihood(total, len(target), greedy)

    def _read(self, row: TokenRow, target: Sequence[int]) -> Iterator[tuple[np.ndarray, Sequence[int]]]:
        """Log-probabilities [M, V] behind M tokens of a target, and the tokens that follow there."""
        ids, count = target[:-1], len(row.context)
        if not ids:
            return
        positions_PT = self.encode.positions.of([*row.context, *ids], row.prefix_length)[:, count:]
        self.tokens_read += len(ids)
        size = LOGITS_CHUNK if self.runtime.any_columns else 1
        for first in range(0, len(ids), size):
            some, positions = ids[first : first + size], positions_PT[:, first : first + size]
            logits_MV = self.runtime.read(self._cache, 0, some, positions, count + first, 0, range(len(some)))
            yield log_softmax(logits_MV), target[first + 1 : first + 1 + len(some)]


def log_softmax(logits_MV: np.ndarray) -> np.ndarray:
    """Log-probabilities [M, V] float32. Raises GLMError where logits are not finite."""
    shifted = logits_MV - logits_MV.max(axis=1, keepdims=True)
    if not np.isfinite(shifted).all():
        raise GLMError(NOT_FINITE)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
