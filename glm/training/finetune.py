"""Fine-tuning from arguments to files: what both fine-tuning scripts run."""

from pathlib import Path

from glm.api.loading import load_processor
from glm.cli.console import note, print_metrics, print_samples
from glm.datasets import TASKS, LoadedExamples, load_examples
from glm.encoding.dataset import EncodedDataset
from glm.encoding.examples import Example
from glm.encoding.packing import PackedDataset, default_max_length
from glm.encoding.processor import Processor
from glm.errors import UsageError
from glm.evaluation.generation import GenerationEvaluation
from glm.evaluation.metrics import METRIC_NAMES, METRICS, require_packages
from glm.training.arguments import DataArguments, DecodeArguments, GLMTrainingArguments, ModelArguments
from glm.training.router_balance import watch_routers
from glm.training.run import prepare_devices, require_same_run, show_progress
from glm.training.run_directory import model_changes, saved_step
from glm.training.run_record import changes_since, record_of, rows_of
from glm.training.trainer import GLMTrainer
from glm.training.tuning import (
    adapter_resume_point,
    check_best,
    check_task,
    described,
    encode_each,
    load_model,
    load_splits,
    train_and_evaluate,
)


def finetune(
    data: DataArguments, decode: DecodeArguments, options: ModelArguments, training: GLMTrainingArguments
) -> GLMTrainer:
    """Trains and evaluates as the arguments say, and writes everything into `training.output_dir`.

    Returns:
        The trainer, for callers that continue with its model.

    Raises:
        GLMError: of any of the parts; nothing was overwritten then.
    """
    check_task(training)
    _check_packing(data, training)
    _check_best(data, training)
    _check_packages(data, training)
    prepare_devices(options.model_name_or_path, training)
    resume = adapter_resume_point(options, training) if training.do_train else None
    splits = load_splits(data, training, loaded_examples)
    processor = load_processor(
        options.tokenizer_name_or_path or options.model_name_or_path,
        (data.src_length, data.tgt_length),
        no_block_position=data.no_block_position,
    )
    processor.set_thinking(data.enable_thinking)
    record = record_of((data, decode, options, training), options, training, rows_of(splits))
    changes = changes_since(Path(resume), record, saved_step(Path(resume))) if resume else []
    processor.generation.warn_of_unsupported()
    model = load_model(options, training)
    if resume:
        changes += model_changes(resume, model.config)
    processor.check_fits(model.config.vocab_size, model.config.max_position)
    require_same_run(model.config, lambda: described(list(splits.values())))
    datasets = encode_splits(splits, processor, data, training)
    trainer = build_trainer(model, processor, data, decode, options, training, datasets, record)
    _report_truncation(processor)
    train_and_evaluate(trainer, processor, datasets, options, resume, changes, run_evaluation)
    return trainer


def loaded_examples(data: DataArguments, split: str) -> LoadedExamples | None:
    """One split of texts to train on."""
    return load_examples(data.task_name, split, data.data_path, data.data_name, data.skip_bad_rows, data.history_column)


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
    if task := TASKS.get(data.task_name):
        check_best(training, METRIC_NAMES[task.metrics], f"an evaluation on {data.task_name}")


def _check_packages(data: DataArguments, training: GLMTrainingArguments) -> None:
    """Raises UsageError where an evaluation would lack a package, before anything is trained."""
    task, evaluates = TASKS.get(data.task_name), training.do_eval or training.do_predict
    if task and evaluates and not training.prediction_loss_only:
        require_packages(task.metrics)


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
    watch_routers(trainer, options)
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

    def encode(name: str, examples: list[Example]) -> EncodedDataset:
        with_prompts = name != "train" and not training.prediction_loss_only
        return EncodedDataset(examples, processor, with_prompts, data.skip_bad_rows)

    datasets = encode_each(splits, training, "rows", encode)
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
