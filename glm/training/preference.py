"""Preference tuning from arguments to files: what finetune_preference.py runs."""

from collections.abc import Mapping
from pathlib import Path

from glm.api.loading import load_processor
from glm.cli.console import note, print_comparison
from glm.datasets import LoadedExamples
from glm.datasets.tasks import load_preferences
from glm.encoding.preference import PreferenceExample
from glm.encoding.preference_dataset import PreferenceDataset
from glm.encoding.processor import ChatProcessor, Processor
from glm.errors import UsageError
from glm.training.arguments import GLMTrainingArguments
from glm.training.preference_evaluation import PreferenceEvaluation
from glm.training.preference_flags import PreferenceArguments, PreferenceDataArguments, PreferenceModelArguments
from glm.training.preference_loss import PreferenceLoss
from glm.training.preference_reference import KeptReference, start_of
from glm.training.preference_rows import PairProcessor, PreferencePairs
from glm.training.preference_trainer import PreferenceTrainer, has_new_adapter
from glm.training.run import prepare_devices, require_same_run, show_progress, weight_dtypes
from glm.training.run_directory import REFERENCE_NAME, model_changes, saved_step
from glm.training.run_record import RunRecord, changes_since, read_record, record_of, rows_of
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

NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}


def tune_preference(
    data: PreferenceDataArguments,
    wanted: PreferenceArguments,
    options: PreferenceModelArguments,
    training: GLMTrainingArguments,
) -> PreferenceTrainer:
    """Trains and evaluates as the arguments say, and writes everything into `training.output_dir`.

    Returns:
        The trainer, for callers that continue with its model.

    Raises:
        GLMError: of any of the parts; nothing was overwritten then.
    """
    loss = loss_of(wanted)
    check_task(training)
    if training.expert_parallel_degree > 1:
        raise UsageError(
            f"expert_parallel_degree is {training.expert_parallel_degree}, and preference tuning "
            "evaluates: leave it out"
        )
    check_best(training, loss.figures, f"an evaluation with loss_type {loss.kind}")
    if data.max_length is not None and data.max_length < 1:
        raise UsageError(f"max_length is {data.max_length}, and must be at least 1")
    processor = pair_processor(data, options)
    prepare_devices(options.model_name_or_path, training)
    resume = adapter_resume_point(options, training) if training.do_train else None
    splits = load_splits(data, training, loaded_preferences)
    record = record_of((data, wanted, options, training), options, training, rows_of(splits))
    changes = changes_since(Path(resume), record, saved_step(Path(resume))) if resume else []
    if resume and loss.has_reference:
        require_same_start(Path(resume), record)
    model = load_model(options, training, lora_dropout=options.lora_dropout, **NO_DROPOUT)
    if resume:
        changes += model_changes(resume, model.config)
    processor.check_fits(model.config.vocab_size, model.config.max_position)
    require_same_run(model.config, lambda: described(list(splits.values())))
    pairs = encode_pairs(splits, processor, data, training)
    trainer = build_trainer(model, processor, loss, options, training, pairs, record)
    if loss.has_reference:
        refer(trainer, pairs, options, start_of(record.base, options.lora_path), resumes=bool(resume))
    train_and_evaluate(trainer, processor, pairs, options, resume, changes, run_evaluation)
    return trainer


def loss_of(wanted: PreferenceArguments) -> PreferenceLoss:
    return PreferenceLoss(
        wanted.loss_type, wanted.beta, wanted.simpo_gamma, wanted.dpo_label_smoothing, wanted.sft_loss_ratio
    )


def loaded_preferences(data: PreferenceDataArguments, split: str) -> LoadedExamples | None:
    """One split of pairs."""
    return load_preferences(data.task_name, split, data.data_path, data.skip_bad_rows)


def pair_processor(data: PreferenceDataArguments, options: PreferenceModelArguments) -> Processor:
    """The processor of a chat model. Raises UsageError for another one."""
    name = options.tokenizer_name_or_path or options.model_name_or_path
    processor = load_processor(name, (data.src_length, data.tgt_length))
    if not isinstance(processor, ChatProcessor):
        raise UsageError(
            f"{name} is a {processor.tokenizer.kind} model, which answers no messages: preference tuning takes a chat "
            "model, such as glm-4-9b-chat, glm-4-9b-0414 or chatglm-6b"
        )
    processor.generation.warn_of_unsupported()
    return processor


def require_same_start(checkpoint: Path, record: RunRecord) -> None:
    """Raises UsageError where a run that resumes would be compared with another reference than before."""
    found = read_record(checkpoint)
    if found is None:
        return
    old = found[0]
    for name, before, now in (
        ("lora_path", old.flags.get("lora_path"), record.flags["lora_path"]),
        ("model_name_or_path", old.base, record.base),
    ):
        if before != now:
            raise UsageError(
                f"{checkpoint} is of a run that started from --{name} {before}, and this one has {now}: the start is "
                "the reference; give it the same, or another output_dir"
            )


def encode_pairs(
    splits: Mapping[str, list[PreferenceExample]],
    processor: Processor,
    data: PreferenceDataArguments,
    training: GLMTrainingArguments,
) -> dict[str, PreferencePairs]:
    """The splits that this run needs; what is left out names the split.

    Raises:
        GLMError: of `PreferenceDataset`, with the split's name.
    """

    def encode(_: str, examples: list[PreferenceExample]) -> PreferenceDataset:
        return PreferenceDataset(examples, processor, data.max_length, data.skip_bad_rows)

    encoded = encode_each(splits, training, "pairs", encode)
    return {name: PreferencePairs(dataset) for name, dataset in encoded.items()}


def build_trainer(
    model,
    processor: Processor,
    loss: PreferenceLoss,
    options: PreferenceModelArguments,
    training: GLMTrainingArguments,
    pairs: Mapping[str, PreferencePairs],
    record: RunRecord | None = None,
) -> PreferenceTrainer:
    """The trainer, with this project's progress bar."""
    evaluation = PreferenceEvaluation(
        PairProcessor(processor),
        loss,
        training.per_device_eval_batch_size,
        show_progress=not training.disable_tqdm and training.local_process_index == 0,
    )
    trainer = PreferenceTrainer(
        model=model,
        args=training,
        train_dataset=pairs.get("train"),
        eval_dataset=pairs.get("dev"),
        evaluation=evaluation,
        lr_decay_ratio=options.lr_decay_ratio,
        weight_format=options.weight_format,
        record=record,
    )
    show_progress(trainer)
    return trainer


def refer(
    trainer: PreferenceTrainer,
    pairs: Mapping[str, PreferencePairs],
    options: PreferenceModelArguments,
    start: str,
    resumes: bool,
) -> None:
    """Gives pairs the reference's log-probabilities, while the model is what training starts from.

    With a new adapter the training pairs get theirs as they come.

    Args:
        start: what tells that model from others.
        resumes: whether the run is one that had begun.
    """
    training = trainer.args
    new_adapter = has_new_adapter(trainer.model, options.lora_path)
    keeps = training.do_train and not new_adapter
    kept = KeptReference(Path(training.output_dir) / REFERENCE_NAME, start, weight_dtypes(training)[0])
    found = kept.read(pairs, resumes) if keeps else {}
    needed = {name: split for name, split in pairs.items() if name != "train" or not new_adapter}
    for name, split in needed.items():
        split.reference = found[name] if name in found else trainer.reference_of(split, name)
    if keeps and found.keys() != pairs.keys() and training.should_save:
        kept.write(pairs)
    if not training.do_train:
        note("without --do_train the reference is the model itself: rewards are 0, and log-probabilities tell")


def run_evaluation(trainer: PreferenceTrainer, prefix: str, pairs: PreferencePairs) -> dict[str, float]:
    """Evaluates, saves the metrics, and prints them beside those before training."""
    metrics = trainer.evaluate(pairs, metric_key_prefix=prefix)
    if trainer.is_world_process_zero():
        trainer.save_metrics(prefix, metrics)
        what, before = "test", {}
        if pairs is trainer.eval_dataset:
            what, before = "held-out", trainer.evaluated_before
        columns = {"before": before, "after": metrics} if before else {"now": metrics}
        shown = {heading: _figures(column) for heading, column in columns.items()}
        print_comparison(f"evaluation on {len(pairs)} {what} pairs", shown)
    return metrics


def _figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Figures of an evaluation by their names in training: eval_rewards/chosen is rewards/chosen."""
    parts = ((*name.partition("_"), value) for name, value in metrics.items())
    return {name: value for prefix, _, name, value in parts if prefix in ("eval", "test")}
