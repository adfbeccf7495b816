"""Encoded rows for training, and the order in which a run sees them."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle.io import DistributedBatchSampler
from tqdm import tqdm

from glm.datasets.batches import Batch
from glm.datasets.encoding import Encoder
from glm.datasets.prompts import Example
from glm.errors import GLMError, UsageError
from glm.rows import TrainingRow

SharedRow = tuple[TrainingRow, float]  # a row, and the share of each of its trained tokens in its step's loss


class EncodedDataset(paddle.io.Dataset):
    """Encoded rows, beside the examples they come from; a conversation may give several rows.

    Attributes:
        examples: all that the model has a place for.
        rows: those in which something is trained; others were cut too short by src_length and tgt_length.
        prompts: what the model reads to answer each example; [] if they were not asked for.
        left_out: why examples or rows were left out, in words; empty if none were.
        counts: what else was left out of the examples, by its name in words (glm/rows.py).

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


class EpochSampler(DistributedBatchSampler):
    """Batches in an order that depends on seed and epoch alone, so a resumed run sees what an unbroken one sees.

    However the rows of a step are cut into replicas and accumulated micro-batches, they are the same rows, and every
    target token among them weighs the same. Only the end of an epoch depends on the cut: micro-batches that do not fill
    a step are left for another epoch, and replicas that would have a row less take one again.

    Args:
        args, kwargs: of Paddle's DistributedBatchSampler.
        seed: of the order.
        accumulation: micro-batches of a step.
    """

    def __init__(self, *args, seed: int, accumulation: int = 1, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed
        if super().__len__() == 0:
            raise UsageError(
                f"{len(self.dataset)} rows fill no batch of {self.batch_size} on {self.nranks} replicas, and "
                "--dataloader_drop_last leaves smaller ones out: choose a smaller batch"
            )
        self.accumulation = min(accumulation, super().__len__())

    def __len__(self) -> int:
        return super().__len__() // self.accumulation * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """Micro-batches of (row, share): the share of a token in the mean over its step, times the micro-batches of the
        step, over which the Trainer takes the mean of its losses."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))
        order = np.resize(order, self.total_size)
        rows_a_step = self.batch_size * self.nranks * self.accumulation
        for number in range(len(self)):
            start = number // self.accumulation * rows_a_step
            step = order[start : start + rows_a_step]
            tokens = sum(self.dataset.rows[row].trained_tokens for row in step)
            share = self.accumulation * self.nranks / tokens
            own = step[self.local_rank :: self.nranks]
            first = number % self.accumulation * self.batch_size
            yield [(int(row), share) for row in own[first : first + self.batch_size]]


def training_batch(encoder: Encoder, shared: Sequence[SharedRow]) -> Batch:
    """Inputs of `GLMForCausalLM.forward`, and `loss_weight` []: what the mean loss of the batch counts in its step."""
    rows, shares = zip(*shared, strict=True)
    tokens = sum(row.trained_tokens for row in rows)
    return encoder.training_batch(rows) | {"loss_weight": np.float32(shares[0] * tokens)}
