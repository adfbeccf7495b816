"""GLMTrainer: PaddleNLP's Trainer with GLM's schedule, evaluation by generation, and runs that resume exactly."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import paddle
from paddle.io import DistributedBatchSampler
from paddle.utils import unique_name
from paddlenlp.trainer import Trainer
from paddlenlp.trainer.trainer_callback import TrainerState
from paddlenlp.trainer.trainer_utils import TrainOutput, get_last_checkpoint
from tqdm import tqdm

from glm.checkpoint.atomic import atomic_directory, atomic_write
from glm.checkpoint.unpickle import verify_pickle
from glm.checkpoint.write import FILE_NAMES
from glm.datasets.encoding import GLMEncoder
from glm.datasets.prompts import Example
from glm.errors import GLMError, UsageError
from glm.generation import Prompt, StopTokens
from glm.generation_config import GenerationConfig
from glm.history import EVALUATIONS_NAME, HISTORY_NAME, LossHistory
from glm.lora import PADDLE_CONFIG, GLMLoRAModel
from glm.metrics import score

PREDICTIONS_NAME = "eval_predictions.jsonl"
STATE_NAME = "trainer_state.json"
# What a run leaves that was killed before its first checkpoint: a fresh start may go over it.
LEFT_BEFORE_A_CHECKPOINT = ("runs", HISTORY_NAME, EVALUATIONS_NAME, ".*.tmp-*")
PICKLED_STATE = ("optimizer*.pdopt", "scheduler*.pdparams", "scaler*.pdparams", "rng_state*.pth")


class EncodedDataset(paddle.io.Dataset):
    """Encoded (source, target) pairs, beside the texts they come from."""

    def __init__(self, examples: Sequence[Example], encoder: GLMEncoder):
        self.examples = list(examples)
        pairs = tqdm(self.examples, desc="encode", unit=" rows", leave=False, disable=len(self.examples) < 20000)
        self.pairs = [(encoder.source(e.source), encoder.target(e.target)) for e in pairs]

    @property
    def mean_tokens(self) -> float:
        """Tokens of a row, source and target, on average."""
        return sum(len(source) + len(target) for source, target in self.pairs) / len(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[list[int], list[int]]:
        return self.pairs[index]


class EpochSampler(DistributedBatchSampler):
    """Batches in an order that depends on seed and epoch alone, so a resumed run sees what an unbroken one sees."""

    def __init__(self, *args, seed: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))
        order = np.resize(order, self.total_size)[self.local_rank : self.total_size : self.nranks]
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size].tolist()
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


@dataclass
class GenerationEvaluation:
    """How evaluation generates: the encoder and decoder of texts, and the decoding options."""

    encoder: GLMEncoder
    config: GenerationConfig


class GLMTrainer(Trainer):
    """Trains a `GLMForCausalLM` or its LoRA model on encoded pairs.

    Args:
        evaluation: how to generate, and with which texts' encoder.
        label_smoothing, lr_decay_ratio, weight_format: see `glm.arguments.ModelArguments`.
        kwargs: of PaddleNLP's Trainer.
    """

    def __init__(
        self,
        *args,
        evaluation: GenerationEvaluation,
        label_smoothing: float = 0.0,
        lr_decay_ratio: float = 0.0,
        weight_format: str = "safetensors",
        **kwargs,
    ):
        super().__init__(*args, data_collator=evaluation.encoder.training_batch, **kwargs)
        self.evaluation, self.label_smoothing = evaluation, label_smoothing
        self.lr_decay_ratio, self.weight_format = lr_decay_ratio, weight_format
        self.history = LossHistory(Path(self.args.output_dir), write=self.is_world_process_zero())
        self._rng_to_restore: str | None = None
        self._resumed_step = 0
        self.predictions: list[tuple[str, str]] = []

    # training

    def compute_loss(self, model, inputs, return_outputs=False):
        return model(**inputs, label_smoothing=self.label_smoothing)

    def training_step(self, model, inputs, step_control=0):
        if self._rng_to_restore:
            # At the first step and not before: building the data loader draws random numbers of its own.
            self._load_rng_state(self._rng_to_restore)
            self._rng_to_restore = None
        loss = super().training_step(model, inputs, step_control)
        self.history.add(self.state.global_step + 1, loss, self._get_learning_rate())
        return loss

    def create_scheduler(self, num_training_steps: int):
        """Linear warm-up, then linear decay to learning_rate · lr_decay_ratio; other schedules are PaddleNLP's."""
        if self.args.lr_scheduler_type.value != "linear" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps)
        warmup = self.args.warmup_steps or int(num_training_steps * self.args.warmup_ratio)
        self.lr_scheduler = linear_schedule(self.args.learning_rate, warmup, num_training_steps, self.lr_decay_ratio)
        return self.lr_scheduler

    def _get_train_sampler(self):
        return EpochSampler(
            self.train_dataset,
            self.args.per_device_train_batch_size,
            num_replicas=self.args.dataset_world_size,
            rank=self.args.dataset_rank,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed,
        )

    # resuming

    def train(self, resume_from_checkpoint=None, **kwargs):
        if resume_from_checkpoint:
            resume_from_checkpoint = str(resume_from_checkpoint)
            check_training_state(Path(resume_from_checkpoint))
            self._rng_to_restore = resume_from_checkpoint
            self._resumed_step = _saved_step(Path(resume_from_checkpoint))
            self.history.resume(self._resumed_step)
        # An optimizer's state is saved under names that count up through a process; a resuming one must count alike.
        with unique_name.guard():
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.history.finish()
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            # PaddleNLP's own attempt looks for a file name that only one of our formats has.
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        return result

    def _inner_training_loop(self, args, model, train_dataloader, len_dataloader, max_steps, *rest):
        """PaddleNLP's loop, unless the checkpoint is the last one already: it would train a step beyond the end."""
        if not self._resumed_step or self._resumed_step < max_steps:
            return super()._inner_training_loop(args, model, train_dataloader, len_dataloader, max_steps, *rest)
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

    # saving

    def _save_checkpoint(self, model, metrics=None):
        """Builds checkpoint-N beside its place and moves it there whole, so that a killed run leaves no half."""
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.history.flush()
        run_directory, signal_directory, limit = (
            self.args.output_dir,
            self.args.output_signal_dir,
            self.args.save_total_limit,
        )
        with atomic_directory(final) as staging:
            self.args.output_dir = self.args.output_signal_dir = str(staging.parent)
            self.args.save_total_limit = None
            try:
                super()._save_checkpoint(model, metrics)
            finally:
                self.args.output_dir, self.args.output_signal_dir = run_directory, signal_directory
                self.args.save_total_limit = limit
            if self.state.best_model_checkpoint == str(staging):
                self.state.best_model_checkpoint = str(final)
                self.state.save_to_json(str(staging / STATE_NAME))
        if self.args.should_save:
            self._rotate_checkpoints(use_mtime=False, output_dir=run_directory)

    def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
        """Model, tokenizer and arguments of a run."""
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        if isinstance(self.model, GLMLoRAModel):
            self.model.save_pretrained(directory, is_main_process=self.args.should_save)
        else:
            self._save_weights(directory)
        if self.args.should_save:
            self.evaluation.encoder.tokenizer.save_pretrained(directory)
            paddle.save(self.args, str(directory / "training_args.bin"))

    def _save_weights(self, directory: Path) -> None:
        """The weights in the chosen format; an earlier run's in another format would be read in their place."""
        if self.args.should_save:
            for name, file in FILE_NAMES.items():
                if name != self.weight_format:
                    (directory / file).unlink(missing_ok=True)
        self.model.save_pretrained(directory, is_main_process=self.args.should_save, weight_format=self.weight_format)

    # evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Loss, and metrics of generated texts against their references; predictions go to eval_predictions.jsonl."""
        dataset = eval_dataset or self.eval_dataset
        self.model.eval()
        with paddle.no_grad():
            loss = self._mean_loss(dataset)
            predictions = self._generate(dataset)
        tokenizer = self.evaluation.encoder.tokenizer
        # What the tokenizer cannot write (full-width forms, spaces) is not asked of the model.
        references = [tokenizer.decode(tokenizer.encode(e.target)).strip() for e in dataset.examples]
        metrics = {"loss": loss} | score(predictions, references)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.predictions = list(zip(predictions, references, strict=True))
        self._write_predictions(dataset)
        if self.state.global_step:
            self.history.add_evaluation(self.state.global_step, metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics

    def _mean_loss(self, dataset: EncodedDataset) -> float:
        """Mean over the rows' tokens, without label smoothing."""
        total, tokens = 0.0, 0
        for pairs in self._batches(dataset, "loss"):
            batch = self.evaluation.encoder.training_batch(pairs)
            count = int((batch["labels"] >= 0).sum())
            total += float(self.model(**{name: paddle.to_tensor(array) for name, array in batch.items()})) * count
            tokens += count
        return total / tokens

    def _generate(self, dataset: EncodedDataset) -> list[str]:
        evaluation, texts = self.evaluation, []
        stop = StopTokens.of(evaluation.encoder.tokenizer)
        for pairs in self._batches(dataset, "generate"):
            prompt = Prompt.of(evaluation.encoder.prompt_batch([source for source, _ in pairs]))
            tokens, _ = self.model.generate(prompt, evaluation.config, stop)
            texts += [evaluation.encoder.tokenizer.decode(row).strip() for row in tokens.tolist()]
        return texts

    def _batches(self, dataset: EncodedDataset, what: str):
        size = self.args.per_device_eval_batch_size
        starts = range(0, len(dataset), size)
        for start in tqdm(starts, desc=f"evaluate: {what}", leave=False, disable=self.args.disable_tqdm):
            yield dataset.pairs[start : start + size]

    def _write_predictions(self, dataset: EncodedDataset) -> None:
        if not self.is_world_process_zero():
            return
        rows = (
            {"source": example.source, "prediction": prediction, "reference": reference}
            for example, (prediction, reference) in zip(dataset.examples, self.predictions, strict=True)
        )
        with atomic_write(Path(self.args.output_dir) / PREDICTIONS_NAME, "w", "utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def linear_schedule(learning_rate: float, warmup: int, steps: int, decay_ratio: float):
    """Learning rate a step: up to `learning_rate` over `warmup` steps, then down to `decay_ratio` of it at `steps`."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        left = max(0.0, (steps - step) / max(1, steps - warmup))
        return decay_ratio + (1.0 - decay_ratio) * left

    return paddle.optimizer.lr.LambdaDecay(learning_rate, factor)


def resume_point(output_dir: str, overwrite: bool, wanted: str | None) -> str | None:
    """The checkpoint to go on from, None for a fresh start.

    Raises:
        UsageError: `output_dir` holds something else and must not be overwritten, or `wanted` is no checkpoint.
    """
    if wanted:
        if not (Path(wanted) / STATE_NAME).is_file():
            raise UsageError(f"resume_from_checkpoint {wanted} is no checkpoint: it holds no {STATE_NAME}")
        return wanted
    directory = Path(output_dir)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"output_dir {output_dir} is a file: choose another directory")
    left = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    if overwrite or all(any(fnmatch(name, pattern) for pattern in LEFT_BEFORE_A_CHECKPOINT) for name in left):
        return None
    last = get_last_checkpoint(output_dir)
    if last is None:
        raise UsageError(
            f"output_dir {output_dir} is not empty and holds no checkpoint to resume: choose another directory, or "
            "pass --overwrite_output_dir"
        )
    return last


def check_same_kind(checkpoint: str | None, lora: bool) -> None:
    """Raises UsageError where a LoRA run would go on from a checkpoint of full fine-tuning, or the other way round."""
    found = checkpoint and (Path(checkpoint) / PADDLE_CONFIG).is_file()
    if checkpoint and found != lora:
        kinds = ("full fine-tuning", "LoRA")
        raise UsageError(
            f"{checkpoint} is of a run with {kinds[found]}, and this one is with {kinds[lora]}: choose another "
            "output_dir, or pass --overwrite_output_dir"
        )


def check_training_state(checkpoint: Path) -> None:
    """Refuses a checkpoint whose pickled files would run code when Paddle reads them.

    Raises:
        GLMError: naming the file.
    """
    if not (checkpoint / STATE_NAME).is_file():
        raise GLMError(f"{checkpoint} is no checkpoint: it holds no {STATE_NAME}")
    for pattern in PICKLED_STATE:
        for path in checkpoint.glob(pattern):
            verify_pickle(path)


def clear_directory(output_dir: str) -> None:
    """Removes what an earlier run left, so that a fresh run does not mix with it."""
    for path in Path(output_dir).glob("checkpoint-*"):
        shutil.rmtree(path)
    for pattern in ("*_results.json", "eval_*.jsonl"):
        for path in Path(output_dir).glob(pattern):
            path.unlink()


def _saved_step(checkpoint: Path) -> int:
    return json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))["global_step"]
