"""Evaluation of a model on running text: the mean loss of a token, and perplexity."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import paddle
from tqdm import tqdm

from glm.distributed.processes import gather
from glm.encoding.batches import Batch
from glm.evaluation.replica import Replica

Item = TypeVar("Item")


def summed_loss(model, batches: Iterable[Batch]) -> tuple[float, int]:
    """Sum over the trained tokens, and how many they are."""
    total, tokens = 0.0, 0
    for batch in batches:
        losses_M = model(**{name: paddle.to_tensor(array) for name, array in batch.items()}, reduction="none")
        total += float(losses_M.sum())
        tokens += len(losses_M)
    return total, tokens


def in_batches(items: Sequence[Item], size: int, what: str, show_progress: bool) -> Iterator[Sequence[Item]]:
    """So many items at a time, behind a bar that says what they are evaluated for."""
    starts = range(0, len(items), size)
    for start in tqdm(starts, desc=f"evaluate: {what}", leave=False, disable=not show_progress):
        yield items[start : start + size]


@dataclass
class LossEvaluation:
    """How running text is evaluated.

    Attributes:
        processor: makes batches of rows: `training_batch(rows)`.
        batch_size: rows that are evaluated together.
        show_progress: whether this process draws bars.
    """

    processor: Any
    batch_size: int = 8
    show_progress: bool = True

    @paddle.no_grad()
    def run(self, model, dataset: Sequence, replica: Replica) -> tuple[float, list[tuple[str, str]]]:
        """Mean loss of a trained token, 0 where none is trained, and no texts.

        Each replica evaluates its part of the rows.
        """
        found = gather(json.dumps([replica.rank, *summed_loss(model, self._batches(dataset, replica))]))
        by_replica = {rank: rest for rank, *rest in map(json.loads, found)}
        totals, counts = zip(*by_replica.values(), strict=True)
        return sum(totals) / max(1, sum(counts)), []

    def _batches(self, dataset: Sequence, replica: Replica) -> Iterator[Batch]:
        own = range(replica.rank, len(dataset), replica.count)
        for some in in_batches(own, self.batch_size, "loss", self.show_progress):
            yield self.processor.training_batch([dataset[row] for row in some])
