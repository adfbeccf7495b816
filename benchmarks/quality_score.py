"""Texts as several runtimes of one model see them: how likely, and how near to the first runtime.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from glm.encoding.batches import Positions
from glm.encoding.examples import TrainingExample
from glm.runtime.step import StepRuntime

BATCH = 32  # rows that are read together


@dataclass(frozen=True)
class Quality:
    """How one runtime reads the trained tokens of some rows.

    Attributes:
        rows, tokens: how many.
        perplexity: exp of the mean negative log-likelihood of a token.
        agreement: share of places whose most likely token is the first runtime's.
        divergence: mean Kullback-Leibler divergence of the distribution from the first runtime's, in nats.
    """

    rows: int
    tokens: int
    perplexity: float
    agreement: float
    divergence: float


def score(
    runtimes: dict[str, StepRuntime], rows: Sequence[TrainingExample], positions: Positions, title: str
) -> dict[str, Quality]:
    """The quality of every runtime; the first one is what the others are compared with."""
    sums, tokens = {kind: np.zeros(3) for kind in runtimes}, 0
    ordered = sorted(rows, key=lambda row: len(row.ids))
    batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    for batch in tqdm(batches, desc=title, unit=" batches", leave=False):
        for wanted_B, logits in _places(list(runtimes.values()), batch, positions):
            exact_BV = _log_softmax(logits[0])
            tokens += len(wanted_B)
            for kind, logits_BV in zip(runtimes, logits, strict=True):
                sums[kind] += _compare(_log_softmax(logits_BV), exact_BV, wanted_B)
    means = {kind: total / tokens for kind, total in sums.items()}
    return {kind: Quality(len(rows), tokens, float(np.exp(m[0])), *map(float, m[1:])) for kind, m in means.items()}


def _compare(found_BV: np.ndarray, exact_BV: np.ndarray, wanted_B: np.ndarray) -> np.ndarray:
    """Sums [3]: negative log-likelihood, equal top tokens, divergence."""
    likelihood = found_BV[np.arange(len(wanted_B)), wanted_B].sum()
    equal = (found_BV.argmax(axis=-1) == exact_BV.argmax(axis=-1)).sum()
    return np.array([-likelihood, equal, (np.exp(exact_BV) * (exact_BV - found_BV)).sum()])


def _places(
    runtimes: Sequence[StepRuntime], batch: Sequence[TrainingExample], positions: Positions
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """The trained tokens [B] of each step, and every runtime's logits [B, V] of what comes there."""
    starts = [row.trained.index(True) for row in batch]
    steps = np.array([len(row.ids) - start for row, start in zip(batch, starts, strict=True)])
    order = np.argsort(-steps, kind="stable")  # rows that end leave behind, so that the others are the first ones
    batch, starts, steps = [batch[i] for i in order], np.array(starts)[order], steps[order]
    placed = [positions.of(row.ids, row.prefix_length) for row in batch]
    caches = [runtime.new_cache(len(batch), max(len(row.ids) for row in batch)) for runtime in runtimes]
    logits = [_prompts(r, cache, batch, starts, placed) for r, cache in zip(runtimes, caches, strict=True)]
    for step in range(steps[0]):
        active = int((steps > step).sum())
        columns = starts[:active] + step
        ids = np.array([row.ids[column] for row, column in zip(batch, columns, strict=False)])
        trained = np.array([row.trained[column] for row, column in zip(batch, columns, strict=False)])
        if trained.any():
            yield ids[trained], [each[:active][trained] for each in logits]
        unfinished = int((steps > step + 1).sum())
        if unfinished:
            ids, columns = ids[:unfinished], columns[:unfinished]
            at = np.stack([place[:, column] for place, column in zip(placed, columns, strict=False)])
            logits = [r.decode(cache, ids, at, columns) for r, cache in zip(runtimes, caches, strict=True)]


def _prompts(runtime, cache, batch: Sequence[TrainingExample], starts: np.ndarray, placed: list) -> np.ndarray:
    """Reads what stands before the first trained tokens; logits [B, V] of those."""
    logits = []
    for index, (row, start) in enumerate(zip(batch, starts.tolist(), strict=True)):
        prompt = row.ids[:start]
        read = runtime.prefill(cache, index, prompt, placed[index][:, :start], 0, row.prefix_length)
        logits.append(read.copy())
    return np.stack(logits)


def _log_softmax(logits_BV: np.ndarray) -> np.ndarray:
    """In float64, so that divergences of 1e-6 are not rounding."""
    shifted = logits_BV.astype("float64") - logits_BV.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
