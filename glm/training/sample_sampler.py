"""The order in which a run of pretraining sees its samples: that of their index, once."""

from collections.abc import Iterator

from paddlenlp.utils.batch_sampler import DistributedBatchSampler

from glm.errors import UsageError
from glm.training.sampler import Place


class SampleSampler(DistributedBatchSampler):
    """Batches of consecutive samples: a step has the next ones, however it is cut into replicas and micro-batches.

    Micro-batch by micro-batch, the first samples are the first replica's, as in Megatron. Being PaddleNLP's class, it
    begins where a resumed run stands; of other samplers the Trainer reads what is done and passes over it.

    Args:
        dataset: `glm.training.pretrain_rows.TrainingSamples`, with all samples of the run, also those behind it.
        batch_size, num_replicas, rank, seed: as everywhere; the seed is that of the index.
        drop_last: without effect, every step is whole.
        accumulation: micro-batches of a step.
        step: the one that the run resumes after.
        place: where it stands then; unless given, where a run with these settings stands.
    """

    # There are no epochs: no steps beyond those that PaddleNLP counts, and no rows that fill no step at an epoch's end.
    added_steps = left_over = 0

    def __init__(
        self,
        dataset,
        batch_size: int,
        *,
        num_replicas: int,
        rank: int,
        seed: int,
        drop_last: bool = False,
        accumulation: int = 1,
        step: int = 0,
        place: Place | None = None,
    ):
        super().__init__(dataset, batch_size, num_replicas, rank)
        self.accumulation, self.step = accumulation, step
        self.rows_per_step = batch_size * num_replicas * accumulation
        self.start = place or Place(0, step * self.rows_per_step, seed)
        if step + self._steps_left == 0:
            raise UsageError(
                f"{len(dataset)} {dataset.unit} fill no step of {self.rows_per_step}: choose a smaller batch"
            )

    @property
    def _steps_left(self) -> int:
        return max(0, len(self.dataset) - self.start.row) // self.rows_per_step

    def __len__(self) -> int:
        """Micro-batches of the whole run, those before it resumed included."""
        return (self.step + self._steps_left) * self.accumulation

    def set_epoch(self, epoch: int = 0, consumed_samples: int = 0) -> None:
        """Nothing: where the run stands is known."""

    def epochs_until(self, step: int) -> int:
        """Epochs as the Trainer counts them that hold a step."""
        return 1

    def place_after(self, step: int) -> Place:
        """Where the run stands when it has trained a step."""
        return Place(0, self.start.row + (step - self.step) * self.rows_per_step, self.start.seed)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """Micro-batches of (sample, share) from where the run stands; `share` as of `EpochSampler`."""
        for number in range(self._steps_left):
            first = self.start.row + number * self.rows_per_step
            tokens = self.dataset.trained_tokens(range(first, first + self.rows_per_step))
            share = self.accumulation * self.nranks / max(1, tokens)
            for micro in range(self.accumulation):
                own = first + (micro * self.nranks + self.local_rank) * self.batch_size
                yield [(row, share) for row in range(own, own + self.batch_size)]
