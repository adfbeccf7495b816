"""GLMTrainer: PaddleNLP's Trainer with GLM's schedule, evaluation by generation, and runs that resume exactly."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import ClassVar

import paddle
from paddle.utils import unique_name
from paddlenlp.trainer import Trainer
from paddlenlp.trainer.trainer_callback import TrainerState
from paddlenlp.trainer.trainer_utils import TrainOutput

from glm.checkpoint.file_names import FILE_NAMES, remove_weights
from glm.cli.console import note
from glm.distributed.processes import written_together
from glm.encoding.dataset import EncodedDataset
from glm.encoding.packing import PackedDataset
from glm.evaluation.generation import GenerationEvaluation, write_predictions
from glm.evaluation.perplexity import LossEvaluation
from glm.evaluation.replica import Replica
from glm.files.atomic import atomic_directory
from glm.kernels.optimizer import take_kernels
from glm.model.lora import GLMLoRAModel
from glm.model.parameters import full_shape
from glm.training import random_state
from glm.training.expert_gradients import ExpertGradients
from glm.training.history import LossHistory
from glm.training.optimizer_state import file_name, load_optimizer, save_optimizer
from glm.training.resumed_place import note_left_over, note_place
from glm.training.run_directory import STATE_NAME, check_training_state, saved_step
from glm.training.run_record import RunRecord, read_record, write_record
from glm.training.sampler import EpochSampler, Place, training_batch
from glm.training.schedules import linear_schedule


class GLMTrainer(Trainer):
    """Trains a `GLMForCausalLM` or its LoRA model on encoded pairs.

    Args:
        evaluation: how to generate, and with which texts' processor.
        label_smoothing, lr_decay_ratio, weight_format: see `glm.training.arguments.ModelArguments`.
        record: what the run was started with, for its checkpoints.
        kwargs: of PaddleNLP's Trainer.

    Attributes:
        sampler_class: the order of the rows.
        panels: what is drawn below the loss (`LossHistory`).
    """

    sampler_class = EpochSampler
    panels: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(
        self,
        *args,
        evaluation: GenerationEvaluation | LossEvaluation,
        label_smoothing: float = 0.0,
        lr_decay_ratio: float = 0.0,
        weight_format: str = "safetensors",
        record: RunRecord | None = None,
        **kwargs,
    ):
        random_state.forget()
        packs = isinstance(kwargs.get("train_dataset"), PackedDataset)
        collate = evaluation.processor.packed_batch if packs else evaluation.processor.training_batch
        super().__init__(*args, data_collator=partial(training_batch, collate), **kwargs)
        random_state.seed_replica(self.args)
        self.evaluation, self.label_smoothing = evaluation, label_smoothing
        self.lr_decay_ratio, self.weight_format, self.record = lr_decay_ratio, weight_format, record
        self.history = LossHistory(Path(self.args.output_dir), self.is_world_process_zero(), self.panels)
        self._rng_to_restore: str | None = None
        self._resumed_step, self._logged_step, self._draws_anew, self._best_is_settled = 0, 0, False, False
        self._found: tuple[RunRecord, Place, int] | None = None  # in the checkpoint that the run resumes from
        self._rows_trained = 0  # by this process's run, on all replicas together
        self._columns, self._real_columns = 0, 0  # of this process's batches: all of them, and those of real tokens
        self.predictions: list[tuple[str, str]] = []
        self._experts = ExpertGradients(self._glm) if self._glm.config.expert_parallel_degree > 1 else None
        if self._experts:
            self.add_callback(self._experts)

    # training

    def _wrap_model(self, model, training=True):
        """PaddleNLP's, which adds up gradients of replicas; ranks that share experts do it themselves."""
        return model if self._experts else super()._wrap_model(model, training)

    def compute_loss(self, model, inputs, return_outputs=False):
        weight = inputs.pop("token_weight")
        return model(**inputs, label_smoothing=self.label_smoothing, reduction="none").sum() * weight

    def training_step(self, model, inputs, step_control=0):
        if self._rng_to_restore:
            # At the first step and not before: building the data loader draws random numbers of its own.
            self._load_rng_state(self._rng_to_restore)
            self._rng_to_restore = None
        # Before the step, which takes the batch apart; replicas have equally many rows.
        self._rows_trained += len(inputs["labels"]) * self.args.dataset_world_size
        self._columns += prod(inputs["attention_mask"].shape)
        self._real_columns += inputs["attention_mask"].sum()  # stays on the device
        loss = super().training_step(model, inputs, step_control)
        # With tensor_parallel_config enable_delay_scale_loss, PaddleNLP divides the step's gradients instead.
        self._remember(loss / self.args.gradient_accumulation_steps if self._enable_delay_scale_loss() else loss)
        return loss

    def _remember(self, part: paddle.Tensor) -> None:
        """Keeps a micro-batch's part of its step's loss."""
        self.history.add(self.state.global_step + 1, self._mean_over_replicas(part), self._get_learning_rate())

    def log(self, logs, **kwargs):
        """PaddleNLP's, with the learning rate of the step itself, not the next one's, and a resumed run's figures.

        Where it delays the scaling of the loss, it divides the sum since the last log line at every step.
        """
        if "loss" in logs and self._enable_delay_scale_loss():
            logs["loss"] = round(self.history.mean_loss(after=self._logged_step), 8)
        self._logged_step = self.state.global_step if "loss" in logs else self._logged_step
        if "learning_rate" in logs and self.history.rows:
            logs["learning_rate"] = self.history.rows[-1]["learning_rate"]
        if "train_loss" in logs and self.history.rows:
            logs |= self._training_figures(logs["train_runtime"])
        super().log(logs, **kwargs)

    def _training_figures(self, seconds: float) -> dict[str, float]:
        """The mean loss of all steps, and the speed of those since resuming: PaddleNLP mixes the two up."""
        steps = self.history.steps_after(self._resumed_step)
        samples = self._rows_trained / seconds
        speeds = {"samples": samples, "steps": steps / seconds, "tokens": samples * self.train_dataset.mean_tokens}
        rates = {f"train_{name}_per_second": round(rate, 4) for name, rate in speeds.items()}
        share = float(self._real_columns) / max(1, self._columns)
        return rates | {"train_loss": self.history.mean_loss(), "train_real_token_share": round(share, 4)}

    def _load_rng_state(self, checkpoint):
        if checkpoint is None:
            return
        if self._draws_anew:
            random_state.seed_from(self.args, self._resumed_step)
        else:
            super()._load_rng_state(checkpoint)

    def _mean_over_replicas(self, loss: paddle.Tensor) -> paddle.Tensor:
        """Tensor-parallel ranks have the same loss, so the mean over all processes is that over the replicas."""
        if self.args.dataset_world_size == 1:
            return loss
        total = loss.clone()
        paddle.distributed.all_reduce(total)
        return total / paddle.distributed.get_world_size()

    def create_scheduler(self, num_training_steps: int):
        """Linear warm-up, then linear decay to learning_rate · lr_decay_ratio; other schedules are PaddleNLP's."""
        if self.args.lr_scheduler_type.value != "linear" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps)
        warmup = self.args.warmup_steps or int(num_training_steps * self.args.warmup_ratio)
        self.lr_scheduler = linear_schedule(self.args.learning_rate, warmup, num_training_steps, self.lr_decay_ratio)
        return self.lr_scheduler

    def create_optimizer(self, lr_scheduler=None):
        """PaddleNLP's, with a faster step where kernels serve; several ranks' gradients are clipped by PaddleNLP."""
        optimizer = super().create_optimizer(lr_scheduler)
        if self._experts:
            self._experts.clip(optimizer)
        if self.args.world_size == 1:
            take_kernels(optimizer)
        return optimizer

    def create_optimizer_and_scheduler(self, num_training_steps: int):
        super().create_optimizer_and_scheduler(self._steps_in_all(num_training_steps))

    def _steps_in_all(self, steps: int) -> int:
        """Of what PaddleNLP counts from epochs, for a run whose earlier steps had other rows."""
        return steps if self.args.max_steps > 0 else steps + self._sampler.added_steps

    def _get_train_sampler(self):
        resumed = {}
        if self._resumed_step and not self.args.ignore_data_skip:
            resumed = {"step": self._resumed_step, "place": self._found and self._found[1]}
        self._sampler = self.sampler_class(
            self.train_dataset,
            self.args.per_device_train_batch_size,
            num_replicas=self.args.dataset_world_size,
            rank=self.args.dataset_rank,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed,
            accumulation=self.args.gradient_accumulation_steps,
            **resumed,
        )
        return self._sampler

    # resuming

    def train(self, resume_from_checkpoint=None, **kwargs):
        self._glm.config.require_trainable()
        self._rows_trained = self._columns = self._real_columns = 0
        if resume_from_checkpoint:
            resume_from_checkpoint = str(resume_from_checkpoint)
            self._resume_from(Path(resume_from_checkpoint))
        # Master weights are named after a counter of the process (glm/training/optimizer_state.py): start it anew.
        with unique_name.guard():
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.history.finish()
        self._settle_best()
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            # PaddleNLP's own attempt looks for a file name that only one of our formats has.
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        return result

    def _resume_from(self, checkpoint: Path) -> None:
        """What of a checkpoint is needed before PaddleNLP reads it, and what is to be said about it."""
        check_training_state(checkpoint)
        self._rng_to_restore = str(checkpoint)
        self._resumed_step = self._logged_step = saved_step(checkpoint)
        self._found = read_record(checkpoint)
        self.history.resume(self._resumed_step)
        if differs := random_state.difference(checkpoint, self.args):
            self._draws_anew = True
            note(f"dropout draws fresh random numbers: the checkpoint's do not fit this run ({differs})")
        if self._found and self._found[0].flags["seed"] != self.args.seed:
            self._draws_anew = True

    def _inner_training_loop(self, args, model, train_dataloader, len_dataloader, max_steps, epochs, *rest):
        """PaddleNLP's loop, unless the checkpoint is the last one already: it would train a step beyond the end."""
        sampler, max_steps = self._sampler, self._steps_in_all(max_steps)
        if not self._resumed_step or self._resumed_step < max_steps:
            if self._found:
                note_place(sampler, max_steps, *self._found)
            note_left_over(sampler, len(self.train_dataset))
            if sampler.added_steps:
                epochs = sampler.epochs_until(max_steps)
            return super()._inner_training_loop(args, model, train_dataloader, len_dataloader, max_steps, epochs, *rest)
        beyond = f"is at step {self._resumed_step}, and this run ends at step {max_steps}"
        where = beyond if self._resumed_step > max_steps else "is the last step of this run"
        note(f"{self._rng_to_restore} {where}: nothing left to train")
        self.state = TrainerState.load_from_json(str(Path(self._rng_to_restore) / STATE_NAME))
        return TrainOutput(self._resumed_step, 0.0, {})

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        if not resume_from_checkpoint:
            return
        if isinstance(self.model, GLMLoRAModel):
            self.model.load_adapter(Path(resume_from_checkpoint))
        else:
            self.model.load_checkpoint(resume_from_checkpoint)

    def _load_best_model_from_peft_checkpoint(self):
        """Nothing: `train` loads the best model of either kind."""

    def _settle_best(self) -> None:
        """Once in a run that resumes: forgets a best figure that its own cannot be compared with, or with no model.

        A directory that was moved with its checkpoints has the best one still.
        """
        if not self._resumed_step or self._best_is_settled or not self.state.best_model_checkpoint:
            return
        self._best_is_settled = True
        best = Path(self.state.best_model_checkpoint)
        own = Path(self.args.output_dir) / best.name
        best = own if own.is_dir() else best
        self.state.best_model_checkpoint = str(best)
        another_figure = self._found and self.record and self._found[0].judged_by != self.record.judged_by
        if another_figure or not best.is_dir():
            self.state.best_metric = self.state.best_model_checkpoint = None

    # saving

    def _save_checkpoint(self, model, metrics=None):
        """Builds checkpoint-N beside its place and moves it there whole, so that a killed run leaves no half."""
        self._settle_best()
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.history.flush()
        run_directory, signal_directory, limit = (
            self.args.output_dir,
            self.args.output_signal_dir,
            self.args.save_total_limit,
        )
        with written_together(final, atomic_directory) as staging:
            self.args.output_dir = self.args.output_signal_dir = str(staging.parent)
            self.args.save_total_limit, self.args.ignore_save_lr_and_optim = None, True
            try:
                super()._save_checkpoint(model, metrics)
            finally:
                self.args.output_dir, self.args.output_signal_dir = run_directory, signal_directory
                self.args.save_total_limit, self.args.ignore_save_lr_and_optim = limit, False
            self._save_optimizer_and_scheduler(staging)
            if self.state.best_model_checkpoint == str(staging):
                self.state.best_model_checkpoint = str(final)
                if self.args.should_save:
                    self.state.save_to_json(str(staging / STATE_NAME))
        if self.args.should_save:
            self._rotate_checkpoints(output_dir=run_directory)

    def _rotate_checkpoints(self, use_mtime=False, output_dir=None) -> None:
        """PaddleNLP's, which looks for the best checkpoint among those of this directory."""
        best = self.state.best_model_checkpoint
        self.state.best_model_checkpoint = best if best and Path(best).parent == Path(output_dir) else None
        super()._rotate_checkpoints(use_mtime, output_dir)
        self.state.best_model_checkpoint = best

    def _save_optimizer_and_scheduler(self, directory: Path) -> None:
        """Each rank's optimizer state under the weights' names (optimizer_state.py); replicas hold the same."""
        args = self.args
        config = self._glm.config
        experts, place = config.expert_parallel_degree, config.expert_parallel_rank
        degrees = max(args.tensor_parallel_degree, 1), max(args.sharding_parallel_degree, experts, 1)
        if args.data_parallel_rank == place:  # of ranks that have the same, the first
            name = file_name(args.tensor_parallel_rank, degrees[0], args.sharding_parallel_rank + place, degrees[1])
            save_optimizer(directory / name, self.optimizer, self._weight_names(), degrees, config)
        if args.should_save:
            random_state.save_layout(directory, args)
            if self.record:
                write_record(directory, self.record, self._sampler, self.state.global_step)
            paddle.save(self.lr_scheduler.state_dict(), str(directory / "scheduler.pdparams"))
            if self.do_grad_scaling:
                paddle.save(self.scaler.state_dict(), str(directory / "scaler.pdparams"))

    def _load_optimizer_and_scheduler(self, checkpoint=None):
        if checkpoint is None:
            return
        directory = Path(checkpoint)
        load_optimizer(directory, self.optimizer, self._weight_names(), self._glm.config)
        # Its step alone: with the rate beside it, a changed schedule would begin a step late.
        self.lr_scheduler.step(paddle.load(str(directory / "scheduler.pdparams"))["last_epoch"])
        if self.do_grad_scaling and (directory / "scaler.pdparams").is_file():
            self.scaler.load_state_dict(paddle.load(str(directory / "scaler.pdparams"), return_numpy=True))

    @property
    def _glm(self):
        """The GLM itself, without adapters' wrapper."""
        return self.model.model if isinstance(self.model, GLMLoRAModel) else self.model

    def weight_sizes(self) -> tuple[int, int]:
        """Parameters of the whole model, on all ranks together: all of them, and those that are trained."""
        named = list(self._glm.named_parameters())
        sizes = [prod(full_shape(name, p, self._glm.config)) for name, p in named]
        return sum(sizes), sum(size for size, (_, p) in zip(sizes, named, strict=True) if not p.stop_gradient)

    def _weight_names(self) -> dict[str, str]:
        """Names of the trained weights, by those of their parameters."""
        return {p.name: name for name, p in self._glm.named_parameters() if not p.stop_gradient}

    def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
        """Model, tokenizer and arguments of a run."""
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        if isinstance(self.model, GLMLoRAModel):
            self.model.save_pretrained(directory, is_main_process=self.args.should_save)
        else:
            self._save_weights(directory)
        if self.args.should_save:
            self.evaluation.processor.save_pretrained(directory)
            paddle.save(self.args, str(directory / "training_args.bin"))

    def _save_weights(self, directory: Path) -> None:
        """The weights in the chosen format; an earlier run's in another format would be read in their place."""
        if self.args.should_save:
            for other in set(FILE_NAMES) - {self.weight_format}:
                remove_weights(directory, other)
        self.model.sharers.barrier()
        self.model.save_pretrained(directory, is_main_process=self.args.should_save, weight_format=self.weight_format)

    # evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Loss, and metrics of generated texts against their references; predictions go to a file of that prefix.

        With --prediction_loss_only the loss alone.
        """
        dataset = eval_dataset or self.eval_dataset
        self.model.eval()
        measured = self._measured(dataset, metric_key_prefix)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        if self.state.global_step:
            self.history.add_evaluation(self.state.global_step, metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics

    @property
    def _replica(self) -> Replica:
        return Replica(self.args.dataset_rank, self.args.dataset_world_size)

    def _measured(self, dataset: EncodedDataset, prefix: str) -> dict[str, float]:
        """Figures of the model on a split."""
        loss, self.predictions = self.evaluation.run(self.model, dataset, self._replica)
        metrics = self._loss_metrics(loss)
        if self.predictions:
            metrics |= self.evaluation.score(*map(list, zip(*self.predictions, strict=True)))
            if self.is_world_process_zero():
                path = Path(self.args.output_dir) / f"{prefix}_predictions.jsonl"
                write_predictions(path, dataset.examples, self.predictions)
        return metrics

    def _loss_metrics(self, loss: float) -> dict[str, float]:
        """Figures of an evaluation that follow from its loss."""
        return {"loss": loss}
