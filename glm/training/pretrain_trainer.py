"""PretrainTrainer: the trainer on samples of running text, in the order of their index."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp, inf

from glm.errors import UsageError
from glm.training.pretrain_flags import ScheduleArguments
from glm.training.sample_sampler import SampleSampler
from glm.training.schedules import cosine_schedule, linear_schedule
from glm.training.throughput import Throughput
from glm.training.trainer import GLMTrainer

_LARGEST = 700.0  # of a loss whose perplexity is a float64
SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}


class PretrainTrainer(GLMTrainer):
    """Trains a `GLMForCausalLM` on `TrainingSamples`; what a run writes and how it resumes is `GLMTrainer`'s.

    Args:
        schedule: how the learning rate falls.
        throughput: of the model on these devices.
        args, kwargs: of `GLMTrainer`.
    """

    sampler_class = SampleSampler

    def __init__(self, *args, schedule: ScheduleArguments, throughput: Throughput, **kwargs):
        super().__init__(*args, **kwargs)
        self.schedule, self.throughput = schedule, throughput

    def create_scheduler(self, num_training_steps: int):
        """Megatron-LM's linear and cosine schedules: the warm-up is a share of the steps until the lowest rate."""
        args, kind = self.args, self.args.lr_scheduler_type.value
        if kind not in SCHEDULES or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps)
        steps = self.schedule.decay_steps or num_training_steps
        warmup = args.warmup_steps or steps * args.warmup_ratio
        lowest = self.schedule.min_learning_rate / args.learning_rate
        self.lr_scheduler = SCHEDULES[kind](args.learning_rate, warmup, steps, lowest)
        return self.lr_scheduler

    def log(self, logs, **kwargs):
        """`GLMTrainer`'s, with tokens per second and MFU since the line before."""
        if "interval_samples_per_second" in logs:
            logs |= self.throughput.figures(logs["interval_samples_per_second"])
        super().log(logs, **kwargs)

    def evaluate(self, *args, **kwargs):
        with self._clock_stopped():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args, **kwargs):
        with self._clock_stopped():
            super()._save_checkpoint(*args, **kwargs)

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        """Of the speed since the line before, in which PaddleNLP counts evaluations and checkpoints."""
        start = time.time()
        yield
        if self.is_in_train:
            self._globalstep_last_start_time += time.time() - start

    def _training_figures(self, seconds: float) -> dict[str, float]:
        figures = super()._training_figures(seconds)
        del figures["train_real_token_share"]  # a sample is full
        return figures | {"train_mfu": self.throughput.figures(figures["train_samples_per_second"])["mfu"]}

    def _loss_metrics(self, loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": exp(loss) if loss < _LARGEST else inf}


def check_schedule(schedule: ScheduleArguments, kind: str, highest: float) -> None:
    """Raises UsageError for a kind of schedule that there is none of, and for rates and steps that do not fit."""
    if kind not in (*SCHEDULES, "constant", "constant_with_warmup"):
        raise UsageError(f"lr_scheduler_type is {kind}, and pretraining has {', '.join(SCHEDULES)} and constant")
    if highest <= 0:
        raise UsageError(f"learning_rate is {highest}, and must be above 0")
    if not 0 <= schedule.min_learning_rate <= highest:
        raise UsageError(
            f"min_learning_rate is {schedule.min_learning_rate}, and must be between 0 and learning_rate {highest}"
        )
    if schedule.min_learning_rate and kind not in SCHEDULES:
        raise UsageError(
            f"min_learning_rate is {schedule.min_learning_rate}, and lr_scheduler_type {kind} never falls: leave it out"
        )
    for name in ("decay_steps", "peak_tflops"):
        value = getattr(schedule, name)
        if value is not None and value <= 0:
            raise UsageError(f"{name} is {value}, and must be above 0")
