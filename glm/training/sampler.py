"""Encoded rows for training, and the order in which a run sees them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.io import DistributedBatchSampler
from tqdm import tqdm

from glm.encoding.batches import Batch
from glm.encoding.encoder import Encoder
from glm.encoding.examples import Example, TrainingRow
from glm.errors import GLMError, UsageError

SharedRow = tuple[TrainingRow, float]  # a row, and the share of each of its trained tokens in its step's loss


class EncodedDataset(paddle.io.Dataset):
    """Encoded rows, beside the examples they come from; a conversation may give several rows.

    Attributes:
        examples: all that the model has a place for.
        rows: those in which something is trained; others were cut too short by src_length and tgt_length.
        prompts: what the model reads to answer each example; [] if they were not asked for.
        left_out: why examples or rows were left out, in words; empty if none were.
        counts: what else was left out of the examples, by its name in words (glm/encoding/examples.py).

    Args:
        skip_bad_rows: leave out examples that the model has no place for, such as those with a role it does not know.

    Raises:
        GLMError: such an example, or nothing is left to train.
    """

    def __init__(
        self, examples: Sequence[Example], encoder: Encoder, with_prompts: bool = False, skip_bad_rows: bool = False
    ):
        self.examples: list[Example] = []
        self.prompts: list[list[int]] = []
        rows: list[TrainingRow] = []
        bad: list[str] = []
        before, without_answer = Counter(encoder.counts), 0
        some = tqdm(examples, desc="encode", unit=" rows", leave=False, disable=len(examples) < 20000)
        for number, example in enumerate(some, 1):
            try:
                encoded = encoder.rows(example)
                prompt = encoder.prompt(example) if with_prompts and encoded else []
            except GLMError as error:
                bad.append(f"row {number} of {len(examples)}: {error}")
                if skip_bad_rows and len(bad) < len(examples):
                    continue
                raise type(error)(bad[0] + ("" if skip_bad_rows else " (or pass --skip_bad_rows)")) from None
            without_answer += not encoded
            if encoded:
                rows += encoded
                self.prompts.append(prompt)
                self.examples.append(example)
        self.rows = [row for row in rows if row.trained_tokens]
        lengths = f"src_length {encoder.src_length} and tgt_length {encoder.tgt_length}"
        if not rows:
            why = f"{len(bad)} bad, {without_answer} whose answers are empty"
            raise GLMError(f"nothing is left to train of {len(examples)} rows: {why}")
        if not self.rows:
            raise GLMError(f"{lengths} leave no trained token in any of {len(rows)} rows: choose longer ones")
        short = len(rows) - len(self.rows)
        self.left_out = [f"{len(bad)} bad, the first is {why}" for why in bad[:1]]
        self.left_out += [f"{without_answer} whose answers are empty"] if without_answer else []
        self.left_out += [f"{short} in which {lengths} leave no trained token"] if short else []
        self.counts = encoder.counts - before

    @property
    def mean_tokens(self) -> float:
        """Tokens of a row, on average."""
        return sum(len(row.ids) for row in self.rows) / len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, float]) -> SharedRow:
        """A row by what `EpochSampler` yields: its number and its tokens' share."""
        index, share = key
        return self.rows[index], share


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

    A run that goes on with other rows a step, or other rows, goes on behind as many rows of its epoch. The Trainer
    counts its epochs in steps and passes over those of the epoch that are done; they are empty batches here.

    Args:
        args, kwargs: of Paddle's DistributedBatchSampler.
        seed: of the order.
        accumulation: micro-batches of a step.
        step: the one that the run goes on behind.
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
        self.rows_a_step = self.batch_size * self.nranks * self.accumulation
        self.start = Place(step // self._steps(), step % self._steps() * self.rows_a_step, seed)
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

    def place_behind(self, step: int) -> Place:
        """Where the run stands when it has trained a step."""
        new, rest = step - self.step, self._steps(self.start.row)
        if new < rest:
            return Place(self.start.epoch, self.start.row + new * self.rows_a_step, self.start.seed)
        epochs, steps = divmod(new - rest, self._steps())
        return Place(self.start.epoch + 1 + epochs, steps * self.rows_a_step, self.seed)

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
            start = number // self.accumulation * self.rows_a_step
            step = order[start : start + self.rows_a_step]
            tokens = sum(self.dataset.rows[row].trained_tokens for row in step)
            share = self.accumulation * self.nranks / tokens
            own = step[self.local_rank :: self.nranks]
            first = number % self.accumulation * self.batch_size
            yield [(int(row), share) for row in own[first : first + self.batch_size]]


def training_batch(encoder: Encoder, shared: Sequence[SharedRow]) -> Batch:
    """Inputs of `GLMForCausalLM.forward`, and `token_weight` []: what each trained token counts in its step's loss."""
    rows, shares = zip(*shared, strict=True)
    return encoder.training_batch(rows) | {"token_weight": np.float32(shares[0])}
