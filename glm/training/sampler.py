"""The order in which a run sees its encoded rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from paddle.io import DistributedBatchSampler

from glm.encoding.batches import Batch
from glm.encoding.dataset import SharedExample
from glm.encoding.packing import SharedPack
from glm.errors import UsageError


@dataclass(frozen=True)
class Place:
    """Where in its data a run stands: behind `row` rows of an epoch, whose order is drawn from `seed`.

    Rows of the data, which a run keeps count of when it resumes with other packs of them.
    """

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

    Of packed rows a row is a pack everywhere, but in a `Place`.

    Args:
        args, kwargs: of Paddle's DistributedBatchSampler; its dataset is an EncodedDataset or a PackedDataset.
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
                f"{len(self.dataset)} {self.dataset.unit} fill no batch of {self.batch_size} on {self.nranks} "
                "replicas, and --dataloader_drop_last leaves smaller ones out: choose a smaller batch"
            )
        self.accumulation = min(accumulation, super().__len__())
        self.rows_per_step = self.batch_size * self.nranks * self.accumulation
        self._first = step % self._steps() * self.rows_per_step  # of its epoch's order, when the run resumes
        self.start = self._place(step // self._steps(), self._first, seed)
        if place:
            self._first = self._row(place)
            if not self._steps(self._first):
                place, self._first = Place(place.epoch + 1, 0, seed), 0
            self.start = place

    def __len__(self) -> int:
        return self._steps() * self.accumulation

    @property
    def left_over(self) -> int:
        """Rows of an epoch that fill no step: other ones in every epoch."""
        return max(0, len(self.dataset) - self._steps() * self.rows_per_step)

    @property
    def added_steps(self) -> int:
        """Steps to the end of an epoch beyond those of a run that has had these settings all the time."""
        return self.step + self._steps(self._first) - self._steps() * (self.start.epoch + 1)

    def epochs_until(self, step: int) -> int:
        """Epochs as the Trainer counts them that hold a step."""
        rest = step - self.step - self._steps(self._first)
        return self.step // self._steps() + 1 + max(0, -(-rest // self._steps()))

    def place_after(self, step: int) -> Place:
        """Where the run stands when it has trained a step."""
        new, rest = step - self.step, self._steps(self._first)
        if new < rest:
            return self._place(self.start.epoch, self._first + new * self.rows_per_step, self.start.seed)
        epochs, steps = divmod(new - rest, self._steps())
        return self._place(self.start.epoch + 1 + epochs, steps * self.rows_per_step, self.seed)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """Micro-batches of (row, share): the share of a token in the mean over its step, times the micro-batches of the
        step, over which the Trainer takes the mean of its losses."""
        later = self.epoch - self.step // self._steps()
        if later:
            yield from self._batches(self._order(self.start.epoch + later, self.seed), 0)
            return
        yield from [[(0, 0.0)]] * (self.step % self._steps() * self.accumulation)
        yield from self._batches(self._order(self.start.epoch, self.start.seed), self._first)

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(self.dataset))

    def _place(self, epoch: int, first: int, seed: int) -> Place:
        """Behind the first rows of an epoch's order, which are packs where rows are packed."""
        return Place(epoch, int(self.dataset.sizes[self._order(epoch, seed)[:first]].sum()), seed)

    def _row(self, place: Place) -> int:
        """The inverse; in the midst of a pack, behind it."""
        ends = np.cumsum(self.dataset.sizes[self._order(place.epoch, place.seed)])
        return int(np.searchsorted(ends, place.row)) + 1 if place.row else 0

    def _rows(self, first: int = 0) -> int:
        """Those of an epoch from its row `first` on, on all replicas, which have equally many."""
        return -(-max(0, len(self.dataset) - first) // self.nranks) * self.nranks

    def _steps(self, first: int = 0) -> int:
        """Whole steps of an epoch from its row `first` on."""
        rows = self._rows(first) // self.nranks
        batches = rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)
        return batches // self.accumulation

    def _batches(self, order: np.ndarray, first_row: int) -> Iterator[list[tuple[int, float]]]:
        order = np.resize(order, first_row + self._rows(first_row))[first_row:]
        for number in range(self._steps(first_row)):
            step = order[number * self.rows_per_step : (number + 1) * self.rows_per_step]
            share = self.accumulation * self.nranks / sum(map(self.dataset.trained_tokens, step.tolist()))
            own = step[self.local_rank :: self.nranks].tolist()
            for first in range(0, self.accumulation * self.batch_size, self.batch_size):
                yield [(row, share) for row in own[first : first + self.batch_size]]


def training_batch(collate: Callable[[Sequence], Batch], shared: Sequence[SharedExample | SharedPack]) -> Batch:
    """Inputs of `GLMForCausalLM.forward`, and `token_weight` []: what each trained token counts in its step's loss.

    Args:
        collate: makes the inputs of rows, or of packs.
    """
    rows, shares = zip(*shared, strict=True)
    return collate(rows) | {"token_weight": np.float32(shares[0])}
