"""The order in which a run sees its encoded rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from paddle.io import DistributedBatchSampler

from glm.encoding.batches import Batch
from glm.encoding.dataset import SharedExample
from glm.encoding.processor import Processor
from glm.errors import UsageError


@dataclass(frozen=True)
class Place:
    """Where in its data a run stands: behind `row` rows of an epoch, whose order is drawn from `seed`."""

    epoch: int
    row: int
    seed: int


class EpochSampler(DistributedBatchSampler):
    """Batches in an order that depends on seed and epoch alone, so a resumed run sees what an unbroken one sees.

    However the rows of a step are cut into replicas and accumulated micro-batches, they are the same rows, and every
    target token among them weighs the same. Only the end of an epoch depends on the cut: micro-batches that do not fill
    a step are left for another epoch, and replicas that would have a row less take one again.

    A run that resumes with other rows per step, or other rows, resumes after as many rows of its epoch. The Trainer
    counts its epochs in steps and passes over those of the epoch that are done; they are empty batches here.

    Args:
        args, kwargs: of Paddle's DistributedBatchSampler.
        seed: of the order.
        accumulation: micro-batches of a step.
        step: the one that the run resumes after.
        place: where it stands then; unless given, where a run with these settings stands.
    """

    def __init__(self, *args, seed: int, accumulation: int = 1, step: int = 0, place: Place | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed, self.step = seed, step
        if super().__len__() == 0:
            raise UsageError(
                f"{len(self.dataset)} rows fill no batch of {self.batch_size} on {self.nranks} replicas, and "
                "--dataloader_drop_last leaves smaller ones out: choose a smaller batch"
            )
        self.accumulation = min(accumulation, super().__len__())
        self.rows_per_step = self.batch_size * self.nranks * self.accumulation
        self.start = Place(step // self._steps(), step % self._steps() * self.rows_per_step, seed)
        if place:
            self.start = place if self._steps(place.row) else Place(place.epoch + 1, 0, seed)

    def __len__(self) -> int:
        return self._steps() * self.accumulation

    @property
    def added_steps(self) -> int:
        """Steps to the end of an epoch beyond those of a run that has had these settings all the time."""
        return self.step + self._steps(self.start.row) - self._steps() * (self.start.epoch + 1)

    def epochs_until(self, step: int) -> int:
        """Epochs as the Trainer counts them that hold a step."""
        rest = step - self.step - self._steps(self.start.row)
        return self.step // self._steps() + 1 + max(0, -(-rest // self._steps()))

    def place_after(self, step: int) -> Place:
        """Where the run stands when it has trained a step."""
        new, rest = step - self.step, self._steps(self.start.row)
        if new < rest:
            return Place(self.start.epoch, self.start.row + new * self.rows_per_step, self.start.seed)
        epochs, steps = divmod(new - rest, self._steps())
        return Place(self.start.epoch + 1 + epochs, steps * self.rows_per_step, self.seed)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """Micro-batches of (row, share): the share of a token in the mean over its step, times the micro-batches of the
        step, over which the Trainer takes the mean of its losses."""
        later = self.epoch - self.step // self._steps()
        if later:
            yield from self._batches(Place(self.start.epoch + later, 0, self.seed))
            return
        yield from [[(0, 0.0)]] * (self.step % self._steps() * self.accumulation)
        yield from self._batches(self.start)

    def _rows(self, first: int = 0) -> int:
        """Those of an epoch from its row `first` on, on all replicas, which have equally many."""
        return -(-max(0, len(self.dataset) - first) // self.nranks) * self.nranks

    def _steps(self, first: int = 0) -> int:
        """Whole steps of an epoch from its row `first` on."""
        rows = self._rows(first) // self.nranks
        batches = rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)
        return batches // self.accumulation

    def _batches(self, place: Place) -> Iterator[list[tuple[int, float]]]:
        order = np.random.default_rng([place.seed, place.epoch]).permutation(len(self.dataset))
        order = np.resize(order, place.row + self._rows(place.row))[place.row :]
        for number in range(self._steps(place.row) * self.accumulation):
            start = number // self.accumulation * self.rows_per_step
            step = order[start : start + self.rows_per_step]
            tokens = sum(self.dataset.rows[row].trained_tokens for row in step)
            share = self.accumulation * self.nranks / tokens
            own = step[self.local_rank :: self.nranks]
            first = number % self.accumulation * self.batch_size
            yield [(int(row), share) for row in own[first : first + self.batch_size]]


def training_batch(processor: Processor, shared: Sequence[SharedExample]) -> Batch:
    """Inputs of `GLMForCausalLM.forward`, and `token_weight` []: what each trained token counts in its step's loss."""
    rows, shares = zip(*shared, strict=True)
    return processor.training_batch(rows) | {"token_weight": np.float32(shares[0])}
