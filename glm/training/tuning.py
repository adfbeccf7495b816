"""What fine-tuning and preference tuning share: the splits of their data, adapters, and what is written at the end."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from glm.api.loading import adapter_paths
from glm.cli.console import note
from glm.datasets import LoadedExamples
from glm.distributed.processes import digest
from glm.encoding.processor import Processor
from glm.errors import GLMError, UsageError
from glm.model.lora import GLMLoRAModel, add_lora, load_trainable_lora, merge_adapter, merge_lora
from glm.training.arguments import GLMTrainingArguments
from glm.training.flags import TunedModelArguments
from glm.training.run import find_resume_point, load_weights, run_training
from glm.training.run_directory import (
    EXPORT_FOLDER,
    PEFT_FOLDER,
    check_base_is_elsewhere,
    check_same_adapter,
    check_same_kind,
)
from glm.training.trainer import GLMTrainer

HELD_OUT = 200  # rows for evaluation, at most, where the data has no split of its own; never over a twentieth
Encoded = TypeVar("Encoded")
ExamplesOf = Callable[[Any, str], LoadedExamples | None]  # (data, split): what `load_examples` gives


def check_task(training: GLMTrainingArguments) -> None:
    """Raises UsageError for a run that does nothing, or that would export a part of a model."""
    if not (training.do_train or training.do_eval or training.do_predict):
        raise UsageError("nothing to do: pass --do_train, --do_eval, --do_predict or several of them")
    if training.do_export and training.tensor_parallel_degree > 1:
        raise UsageError(
            f"--do_export writes a graph for one device, not for {training.tensor_parallel_degree}: run "
            "export_generation_model.py on the trained model"
        )


def check_best(training: GLMTrainingArguments, figures: Sequence[str], what: str) -> None:
    """Raises UsageError where the best model would be chosen by a figure that no evaluation gives.

    Args:
        figures: of an evaluation besides its loss.
        what: kind of evaluation, in words.
    """
    wanted = training.metric_for_best_model
    if wanted is None:
        return
    known = ("loss",) if training.prediction_loss_only else ("loss", *figures)
    if wanted.removeprefix("eval_") not in known:
        raise UsageError(
            f"metric_for_best_model {wanted} is none of the figures of {what}: choose "
            f"{', '.join(known[:-1])}{' or ' * (len(known) > 1)}{known[-1]}"
        )
    if training.do_train and str(training.evaluation_strategy.value) == "no":
        note("metric_for_best_model acts where training evaluates: pass --evaluation_strategy steps and --eval_steps")


def adapter_resume_point(options: TunedModelArguments, training: GLMTrainingArguments) -> str | None:
    """The checkpoint of `output_dir` to resume from, after making sure that it is of such a run."""
    resume = find_resume_point(training)
    lora = bool(options.lora or options.lora_path)
    check_same_kind(resume, lora)
    if options.lora and not options.lora_path:
        check_same_adapter(resume, options.r, options.lora_alpha, options.lora_targets)
    if lora and training.overwrite_output_dir:
        check_base_is_elsewhere(options.model_name_or_path, training.output_dir)
    return resume


def described(splits: Sequence[Sequence[Any]]) -> str:
    """How many rows, and what tells them from others."""
    rows = ["\n".join(map(repr, split)) for split in splits]
    count = " + ".join(str(len(split)) for split in splits)
    return f"{count} rows with the digest {digest(*rows)}"


def load_splits(data: Any, training: GLMTrainingArguments, examples_of: ExamplesOf) -> dict[str, list]:
    """The examples "train" and "dev", [] where none are needed, and "test", where --do_predict finds that split.

    Args:
        data: what says where they are; has data_path.
        examples_of: gives the examples of a split of the data.
    """
    load = partial(_load_split, data, examples_of)
    test = load("test") if training.do_predict else None
    if training.do_predict and not test:
        note("the data has no test split: --do_predict takes the evaluation rows")
    evaluates = training.do_eval or (training.do_predict and not test)
    splits = _train_and_dev(load, data, training.do_train, evaluates) | ({"test": test} if test else {})
    return {name: rows if name == "train" else _first_rows(name, rows, training) for name, rows in splits.items()}


def _load_split(data: Any, examples_of: ExamplesOf, split: str) -> list | None:
    loaded = examples_of(data, split)
    if loaded is None:
        return None
    note(f"{split}: {loaded.source_description}")
    for line in loaded.notes:
        note(f"{split}: {line}")
    return loaded.examples


def _train_and_dev(load, data: Any, trains: bool, evaluates: bool) -> dict[str, list]:
    """Both splits; rows are held out where the data has no evaluation split."""
    dev = load("dev") if evaluates else []
    if dev is not None:
        return {"train": load("train") if trains else [], "dev": dev}
    train = load("train")
    count = max(1, min(HELD_OUT, len(train) // 20))
    if count >= len(train):
        raise GLMError(f"{data.data_path} has {len(train)} row, too few to train and to evaluate on")
    note(f"the data has no evaluation split: its last {count} rows are held out")
    return {"train": train[:-count], "dev": train[-count:]}


def _first_rows(split: str, examples: list, training: GLMTrainingArguments) -> list:
    """As many as --max_evaluate_steps batches of every replica hold."""
    limit = training.max_evaluate_steps * training.per_device_eval_batch_size * training.dataset_world_size
    if not 0 < limit < len(examples):
        return examples
    note(f"{split}: the first {limit} of {len(examples)} rows (max_evaluate_steps {training.max_evaluate_steps})")
    return examples[:limit]


def load_model(
    options: TunedModelArguments, training: GLMTrainingArguments, lora_dropout: float | None = None, **fields: Any
):
    """The model to train, with LoRA adapters where they are asked for.

    Args:
        lora_dropout: of an adapter that is trained further, in place of its own.
        fields: of the configuration, in place of the model's own.
    """
    model = load_weights(options, training, **fields)
    if options.lora_path:
        *merged, last = adapter_paths(options.lora_path)
        for path in merged:
            merge_adapter(model, path)
            note(f"{path} is merged into the weights; {last} is trained")
        return load_trainable_lora(model, last, lora_dropout)
    if options.lora:
        return add_lora(model, options.r, options.lora_alpha, options.lora_targets, options.lora_dropout)
    return model


def encode_each(
    splits: Mapping[str, list], training: GLMTrainingArguments, unit: str, encode: Callable[[str, list], Encoded]
) -> dict[str, Encoded]:
    """The splits that this run needs; what is left out of them names the split.

    Args:
        unit: what a split has, in words.
        encode: makes a data set of a split, by its name; it has left_out and counts.

    Raises:
        GLMError: of `encode`, with the split's name.
    """
    found = {}
    for name, examples in splits.items():
        if not (training.do_train if name == "train" else examples):
            continue
        try:
            found[name] = encode(name, examples)
        except GLMError as error:
            raise type(error)(f"{name}: {error}") from None
        for why in found[name].left_out:
            note(f"{name}: {unit} left out: {why}")
        for what, count in found[name].counts.items():
            note(f"{name}: {what}: {count}")
    return found


def train_and_evaluate(
    trainer: GLMTrainer,
    processor: Processor,
    datasets: Mapping[str, Any],
    options: TunedModelArguments,
    resume: str | None,
    changes: Sequence[str],
    evaluate: Callable[[GLMTrainer, str, Any], Any],
) -> None:
    """What the flags ask for, then what is written at the end.

    Args:
        resume, changes: see `run_training`.
        evaluate: with the prefix of its figures, and the rows.
    """
    training = trainer.args
    if training.do_train:
        run_training(trainer, resume, changes)
        _save_as_peft(trainer, options)
    if training.do_eval:
        evaluate(trainer, "eval", datasets["dev"])
    if training.do_predict:
        evaluate(trainer, "test", datasets.get("test") or datasets["dev"])
    _export_trained(trainer, processor)


def _save_as_peft(trainer: GLMTrainer, options: TunedModelArguments) -> None:
    """Writes the final adapter in Hugging Face PEFT's format as well, with --save_peft."""
    if options.save_peft and isinstance(trainer.model, GLMLoRAModel):
        peft = Path(trainer.args.output_dir) / PEFT_FOLDER
        trainer.model.save_pretrained(peft, peft=True, is_main_process=trainer.args.should_save)


def _export_trained(trainer: GLMTrainer, processor: Processor) -> None:
    """Writes the trained model as a graph, with --do_export; an adapter is merged for it."""
    if not (trainer.args.do_export and trainer.args.should_save):
        return
    from glm.export.paddle_graphs import export_directory

    lora = hasattr(trainer.model, "lora_config")
    model = merge_lora(trainer.model) if lora else trainer.model
    output = Path(trainer.args.output_dir)
    export_directory(model, processor, output / EXPORT_FOLDER / "glm", source=str(output))
