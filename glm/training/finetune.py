"""Fine-tuning from arguments to files: what both fine-tuning scripts run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from glm.api.loading import adapter_paths, load_processor
from glm.cli.console import note, print_metrics, print_samples
from glm.datasets import TASKS, load_examples
from glm.distributed.processes import digest
from glm.encoding.dataset import EncodedDataset
from glm.encoding.examples import Example
from glm.encoding.packing import PackedDataset, default_max_length
from glm.encoding.processor import Processor
from glm.errors import GLMError, UsageError
from glm.evaluation.generation import GenerationEvaluation
from glm.evaluation.metrics import METRIC_NAMES, METRICS, require_packages
from glm.model.lora import GLMLoRAModel, add_lora, load_trainable_lora, merge_adapter, merge_lora
from glm.training.arguments import DataArguments, DecodeArguments, GLMTrainingArguments, ModelArguments
from glm.training.run import (
    find_resume_point,
    load_weights,
    prepare_devices,
    require_same_run,
    run_training,
    show_progress,
)
from glm.training.run_directory import (
    EXPORT_FOLDER,
    PEFT_FOLDER,
    check_base_is_elsewhere,
    check_same_adapter,
    check_same_kind,
    model_changes,
    saved_step,
)
from glm.training.run_record import changes_since, record_of, rows_of
from glm.training.trainer import GLMTrainer

HELD_OUT = 200  # rows for evaluation, at most, where the data has no split of its own; never over a twentieth


def finetune(
    data: DataArguments, decode: DecodeArguments, options: ModelArguments, training: GLMTrainingArguments
) -> GLMTrainer:
    """Trains and evaluates as the arguments say, and writes everything into `training.output_dir`.

    Returns:
        The trainer, for callers that continue with its model.

    Raises:
        GLMError: of any of the parts; nothing was overwritten then.
    """
    _check_task(training)
    _check_packing(data, training)
    _check_best(data, training)
    _check_packages(data, training)
    prepare_devices(options.model_name_or_path, training)
    resume = _resume_point(options, training) if training.do_train else None
    splits = load_splits(data, training)
    processor = load_processor(
        options.tokenizer_name_or_path or options.model_name_or_path,
        (data.src_length, data.tgt_length),
        no_block_position=data.no_block_position,
    )
    record = record_of((data, decode, options, training), options, training, rows_of(splits))
    changes = changes_since(Path(resume), record, saved_step(Path(resume))) if resume else []
    processor.generation.warn_of_unsupported()
    model = load_model(options, training)
    if resume:
        changes += model_changes(resume, model.config)
    processor.check_fits(model.config.vocab_size, model.config.max_position)
    require_same_run(model.config, lambda: _described(list(splits.values())))
    datasets = encode_splits(splits, processor, data, training)
    trainer = build_trainer(model, processor, data, decode, options, training, datasets, record)
    _report_truncation(processor)
    if training.do_train:
        run_training(trainer, resume, changes)
        if options.save_peft and isinstance(trainer.model, GLMLoRAModel):
            peft = Path(training.output_dir) / PEFT_FOLDER
            trainer.model.save_pretrained(peft, peft=True, is_main_process=training.should_save)
    if training.do_eval:
        run_evaluation(trainer, "eval", datasets["dev"])
    if training.do_predict:
        run_evaluation(trainer, "test", datasets.get("test") or datasets["dev"])
    if training.do_export and training.should_save:
        _export(trainer, processor)
    return trainer


def _check_task(training: GLMTrainingArguments) -> None:
    if not (training.do_train or training.do_eval or training.do_predict):
        raise UsageError("nothing to do: pass --do_train, --do_eval, --do_predict or several of them")
    if training.do_export and training.tensor_parallel_degree > 1:
        raise UsageError(
            f"--do_export writes a graph for one device, not for {training.tensor_parallel_degree}: run "
            "export_generation_model.py on the trained model"
        )


def _check_packing(data: DataArguments, training: GLMTrainingArguments) -> None:
    if data.packing and not training.do_train:
        note("packing acts in training alone: evaluation keeps rows apart")
    if data.max_length is None:
        return
    if not data.packing:
        raise UsageError(
            f"max_length is {data.max_length}, and is the length of a pack: pass --packing True, or leave it out"
        )
    if data.max_length < 1:
        raise UsageError(f"max_length is {data.max_length}, and must be at least 1")


def _check_best(data: DataArguments, training: GLMTrainingArguments) -> None:
    """Raises UsageError where the best model would be chosen by a figure that no evaluation gives."""
    wanted, task = training.metric_for_best_model, TASKS.get(data.task_name)
    if wanted is None or task is None:
        return
    known = ("loss",) if training.prediction_loss_only else ("loss", *METRIC_NAMES[task.metrics])
    if wanted.removeprefix("eval_") not in known:
        raise UsageError(
            f"metric_for_best_model {wanted} is none of the figures of an evaluation on {data.task_name}: choose "
            f"{', '.join(known[:-1])}{' or ' * (len(known) > 1)}{known[-1]}"
        )
    if training.do_train and str(training.evaluation_strategy.value) == "no":
        note("metric_for_best_model acts where training evaluates: pass --evaluation_strategy steps and --eval_steps")


def _check_packages(data: DataArguments, training: GLMTrainingArguments) -> None:
    """Raises UsageError where an evaluation would lack a package, before anything is trained."""
    task, evaluates = TASKS.get(data.task_name), training.do_eval or training.do_predict
    if task and evaluates and not training.prediction_loss_only:
        require_packages(task.metrics)


def _resume_point(options: ModelArguments, training: GLMTrainingArguments) -> str | None:
    """The checkpoint of `output_dir` to resume from, after making sure that it is of such a run."""
    resume = find_resume_point(training)
    lora = bool(options.lora or options.lora_path)
    check_same_kind(resume, lora)
    if options.lora and not options.lora_path:
        check_same_adapter(resume, options.r, options.lora_alpha, options.lora_targets)
    if lora and training.overwrite_output_dir:
        check_base_is_elsewhere(options.model_name_or_path, training.output_dir)
    return resume


def _described(splits: Sequence[list[Example]]) -> str:
    """How many rows, and what tells them from others."""
    rows = ["\n".join(map(repr, split)) for split in splits]
    count = " + ".join(str(len(split)) for split in splits)
    return f"{count} rows with the digest {digest(*rows)}"


def load_splits(data: DataArguments, training: GLMTrainingArguments) -> dict[str, list[Example]]:
    """The examples "train" and "dev", [] where none are needed, and "test", where --do_predict finds that split."""
    load = partial(_load_split, data)
    test = load("test") if training.do_predict else None
    if training.do_predict and not test:
        note("the data has no test split: --do_predict takes the evaluation rows")
    evaluates = training.do_eval or (training.do_predict and not test)
    splits = _train_and_dev(load, data, training.do_train, evaluates) | ({"test": test} if test else {})
    return {name: rows if name == "train" else _first_rows(name, rows, training) for name, rows in splits.items()}


def _load_split(data: DataArguments, split: str) -> list[Example] | None:
    loaded = load_examples(
        data.task_name, split, data.data_path, data.data_name, data.skip_bad_rows, data.history_column
    )
    if loaded is None:
        return None
    note(f"{split}: {loaded.source_description}")
    for line in loaded.notes:
        note(f"{split}: {line}")
    return loaded.examples


def _train_and_dev(load, data: DataArguments, trains: bool, evaluates: bool) -> dict[str, list[Example]]:
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


def _first_rows(split: str, examples: list[Example], training: GLMTrainingArguments) -> list[Example]:
    """As many as --max_evaluate_steps batches of every replica hold."""
    limit = training.max_evaluate_steps * training.per_device_eval_batch_size * training.dataset_world_size
    if not 0 < limit < len(examples):
        return examples
    note(f"{split}: the first {limit} of {len(examples)} rows (max_evaluate_steps {training.max_evaluate_steps})")
    return examples[:limit]


def load_model(options: ModelArguments, training: GLMTrainingArguments):
    """The model to train, with LoRA adapters where they are asked for."""
    model = load_weights(options, training)
    if options.lora_path:
        *merged, last = adapter_paths(options.lora_path)
        for path in merged:
            merge_adapter(model, path)
            note(f"{path} is merged into the weights; {last} is trained")
        return load_trainable_lora(model, last)
    if options.lora:
        return add_lora(model, options.r, options.lora_alpha, options.lora_targets, options.lora_dropout)
    return model


def build_trainer(model, processor, data, decode, options, training, datasets, record=None) -> GLMTrainer:
    """The trainer, with this project's progress bar in place of PaddleNLP's."""
    evaluation = GenerationEvaluation(
        processor,
        decode.generation_config(processor, training.seed),
        training.per_device_eval_batch_size,
        show_progress=not training.disable_tqdm and training.local_process_index == 0,
        score=METRICS[TASKS[data.task_name].metrics],
        loss_only=training.prediction_loss_only,
    )
    smoothing = processor.defaults.label_smoothing if options.label_smoothing is None else options.label_smoothing
    trainer = GLMTrainer(
        model=model,
        args=training,
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("dev"),
        evaluation=evaluation,
        label_smoothing=smoothing,
        lr_decay_ratio=options.lr_decay_ratio,
        weight_format=options.weight_format,
        record=record,
    )
    show_progress(trainer)
    return trainer


def _pack(dataset: EncodedDataset, processor: Processor, data: DataArguments) -> PackedDataset:
    """Training rows in packs; how well they are filled is said."""
    length = default_max_length(processor) if data.max_length is None else data.max_length
    try:
        packed = PackedDataset(dataset.rows, length, data.skip_bad_rows)
    except UsageError as error:
        raise UsageError(f"train: {error}") from None
    for why in packed.left_out:
        note(f"train: rows left out: {why}")
    rows, packs, share = packed.sizes.sum(), len(packed), f"{packed.real_share:.1%}"
    note(f"train: {rows} rows in {packs} pack{'s' * (packs > 1)} of {length} tokens, {share} of them real ones")
    return packed


def encode_splits(
    splits: dict[str, list[Example]], processor: Processor, data: DataArguments, training: GLMTrainingArguments
) -> dict[str, EncodedDataset | PackedDataset]:
    """The splits that this run needs, training rows in packs with --packing; what is left out names the split.

    Raises:
        GLMError: of `EncodedDataset` and `PackedDataset`, with the split's name.
    """
    needed = {name: rows for name, rows in splits.items() if (training.do_train if name == "train" else rows)}
    datasets = {}
    for name, examples in needed.items():
        with_prompts = name != "train" and not training.prediction_loss_only
        try:
            datasets[name] = EncodedDataset(examples, processor, with_prompts, data.skip_bad_rows)
        except GLMError as error:
            raise type(error)(f"{name}: {error}") from None
        for why in datasets[name].left_out:
            note(f"{name}: rows left out: {why}")
        for what, count in datasets[name].counts.items():
            note(f"{name}: {what}: {count}")
    if data.packing and "train" in datasets:
        datasets["train"] = _pack(datasets["train"], processor, data)
    return datasets


def run_evaluation(trainer: GLMTrainer, prefix: str, dataset: EncodedDataset) -> dict[str, float]:
    """Evaluates, saves the metrics, and prints them with a few samples."""
    metrics = trainer.evaluate(dataset, metric_key_prefix=prefix)
    if trainer.is_world_process_zero():
        trainer.save_metrics(prefix, metrics)
        print_samples(trainer.predictions[: trainer.args.eval_samples_shown])
        what = "held-out" if dataset is trainer.eval_dataset else "test"
        print_metrics(f"evaluation on {len(dataset.examples)} {what} rows", metrics)
    return metrics


def _report_truncation(processor: Processor) -> None:
    if processor.truncation:
        note(f"truncated: {', '.join(processor.truncation)}")


def _export(trainer: GLMTrainer, processor: Processor) -> None:
    from glm.export.paddle_graphs import export_directory

    lora = hasattr(trainer.model, "lora_config")
    model = merge_lora(trainer.model) if lora else trainer.model
    output = Path(trainer.args.output_dir)
    export_directory(model, processor, output / EXPORT_FOLDER / "glm", source=str(output))
