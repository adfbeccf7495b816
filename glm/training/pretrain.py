"""Pretraining from arguments to files: what pretrain_generation.py runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glm.api.causal_lm import GLMForCausalLM
from glm.api.loading import load_processor
from glm.cli.console import note, print_metrics
from glm.config.glm_config import GLMConfig
from glm.datasets.indexed_record import require_tokenizer
from glm.datasets.pretraining import Samples, SampleSettings, Source, content_of, open_sources
from glm.distributed.processes import barrier, process_count, process_rank
from glm.encoding.boundaries import Boundaries
from glm.encoding.processor import Processor
from glm.errors import GLMError, UsageError
from glm.evaluation.perplexity import LossEvaluation
from glm.model.positions import POSITIONS
from glm.training.arguments import GLMTrainingArguments
from glm.training.pretrain_flags import PretrainDataArguments, PretrainModelArguments, ScheduleArguments
from glm.training.pretrain_rows import RowProcessor, TrainingSamples
from glm.training.pretrain_trainer import PretrainTrainer, check_schedule
from glm.training.run import (
    find_resume_point,
    load_weights,
    prepare_devices,
    require_same_run,
    run_training,
    show_progress,
    weight_dtypes,
)
from glm.training.run_directory import check_same_kind, model_changes, saved_step
from glm.training.run_record import RunRecord, changes_since, read_record, record_of
from glm.training.throughput import Throughput, flops_per_token, measured_peak

# What a run does → the split that it needs, and the name of its results.
SPLITS = {"do_train": "train", "do_eval": "valid", "do_predict": "test"}
_LOOKED_AT = 100  # documents that are searched for the end token


def pretrain(
    data: PretrainDataArguments,
    options: PretrainModelArguments,
    schedule: ScheduleArguments,
    training: GLMTrainingArguments,
) -> PretrainTrainer:
    """Trains and evaluates as the arguments say, and writes everything into `training.output_dir`.

    Returns:
        The trainer, for callers that continue with its model.

    Raises:
        GLMError: of any of the parts; nothing was overwritten then.
    """
    check_run(data, schedule, training)
    config = GLMConfig.from_pretrained(options.model_name_or_path, **_overrides(options))
    check_model(config, options.model_name_or_path, data.max_length)
    prepare_devices(options.model_name_or_path, training)
    resume = find_resume_point(training) if training.do_train else None
    check_same_kind(resume, lora=False)
    processor = load_processor(options.tokenizer_name_or_path or options.model_name_or_path)
    processor.check_fits(config.vocab_size, config.max_position)
    boundaries = boundaries_of(data, processor)
    sources = open_sources(data.input_dir)
    for source in sources:
        require_tokenizer(source.prefix, processor.tokenizer)
    check_end_tokens(sources, boundaries)
    splits = load_splits(sources, data, training, config.vocab_size, resume)
    record = record_of(
        (data, options, schedule, training), options, training, _rows(splits), _order(sources, splits, data, training)
    )
    changes = changes_since(Path(resume), record, saved_step(Path(resume))) if resume else []
    require_same_run(config, lambda: json.dumps(record.order))
    build_in_turn(list(splits.values()))
    model = load_weights(options, training, **_overrides(options))
    if resume:
        changes += model_changes(resume, model.config)
    trainer = build_trainer(model, processor, boundaries, options, schedule, training, splits, record)
    if training.do_train:
        run_training(trainer, resume, changes)
    for flag, prefix in (("do_eval", "eval"), ("do_predict", "test")):
        if getattr(training, flag):
            run_evaluation(trainer, prefix, splits[SPLITS[flag]])
    return trainer


def check_run(data: PretrainDataArguments, schedule: ScheduleArguments, training: GLMTrainingArguments) -> None:
    """Raises UsageError for flags that miss, or that pretraining has no use for."""
    if not any(getattr(training, flag) for flag in SPLITS):
        raise UsageError("nothing to do: pass --do_train, --do_eval, --do_predict or several of them")
    if not data.input_dir:
        raise UsageError("input_dir is missing: pass the prefix that preprocess_data.py wrote, without .bin and .idx")
    if data.max_length < 1:
        raise UsageError(f"max_length is {data.max_length}, and must be at least 1")
    if not 0 <= training.seed < 1 << 32:
        raise UsageError(f"seed is {training.seed}, and must be between 0 and 4294967295 to draw an order of samples")
    if training.metric_for_best_model not in (None, "loss", "eval_loss"):
        raise UsageError(f"metric_for_best_model is {training.metric_for_best_model}, and pretraining has loss only")
    if training.do_export:
        raise UsageError("--do_export belongs to fine-tuning: run export_generation_model.py on the trained model")
    if training.ignore_data_skip:
        raise UsageError("ignore_data_skip is not supported: a run resumes with the sample behind its last one")
    if training.do_train:
        check_schedule(schedule, training.lr_scheduler_type.value, training.learning_rate)


def check_model(config: GLMConfig, name: str, max_length: int) -> None:
    """Raises UsageError for a model that is not causal, or too short for the samples."""
    if POSITIONS[config.position_type].position_rows > 1:
        raise UsageError(
            f"{name} is of family {config.family}, which fills blanks and reads in both directions, and pretraining is "
            "causal: take a GLM-4 model, such as glm-4-9b"
        )
    if max_length > config.max_position:
        raise UsageError(
            f"max_length is {max_length}, and {name} has {config.max_position} positions: choose shorter samples, or "
            "give it more with --max_position_embeddings and --rope_theta"
        )


def boundaries_of(data: PretrainDataArguments, processor: Processor) -> Boundaries:
    end = processor.tokenizer.eos_token_id
    return Boundaries(end, data.eod_mask_loss, data.reset_position_ids, data.reset_attention_mask)


def check_end_tokens(sources: Sequence[Source], boundaries: Boundaries) -> None:
    """Raises GLMError where boundaries count and no document is marked by the end token."""
    if boundaries == Boundaries(boundaries.end_token_id):
        return
    for source in sources:
        count = min(_LOOKED_AT, len(source.data))
        if not any(boundaries.end_token_id in source.data[number][-1:] for number in range(count)):
            raise GLMError(
                f"{source.prefix}: none of the first {count} documents ends in the token {boundaries.end_token_id}, by "
                "which --eod_mask_loss, --reset_position_ids and --reset_attention_mask know an end: make the data "
                "with --append_eos, or leave them out"
            )


def load_splits(
    sources: Sequence[Source],
    data: PretrainDataArguments,
    training: GLMTrainingArguments,
    vocab_size: int,
    resume: str | None,
) -> dict[str, Samples]:
    """The splits that this run needs, not built yet; `training.max_steps` is what the data says where no flag does."""
    settings = SampleSettings(data.split, data.max_length, training.seed, vocab_size, data.data_cache)
    splits = {}
    for flag, name in SPLITS.items():
        if getattr(training, flag):
            samples = Samples(sources, name, settings)
            count = _trained_samples(samples, training, resume) if flag == "do_train" else _evaluated(samples, training)
            splits[name] = samples.take(count)
    for name, samples in splits.items():
        note(f"{name}: {len(samples):,} samples of {data.max_length} tokens, of {samples.tokens:,} in its documents")
    return splits


def _trained_samples(samples: Samples, training: GLMTrainingArguments, resume: str | None) -> int:
    """Those of the whole run: what a checkpoint has behind it, and the steps that follow."""
    rows_per_step = (
        training.per_device_train_batch_size * training.gradient_accumulation_steps * training.dataset_world_size
    )
    step = saved_step(Path(resume)) if resume else 0
    found = read_record(Path(resume)) if resume else None
    behind = found[1].row if found else step * rows_per_step
    if training.max_steps <= 0:
        wanted = int(samples.samples_of_a_pass * training.num_train_epochs)
        training.max_steps = max(step, step + (wanted - behind) // rows_per_step, 1)
        note(f"{training.num_train_epochs:g} passes over the data are {training.max_steps} steps (--max_steps)")
    if training.max_steps < step:
        raise UsageError(
            f"max_steps is {training.max_steps}, and {resume} is at step {step}: pass --max_steps {step} or more, or "
            "choose another output_dir"
        )
    return behind + (training.max_steps - step) * rows_per_step


def _evaluated(samples: Samples, training: GLMTrainingArguments) -> int:
    """One pass, at most as many as --max_evaluate_steps batches of every replica hold."""
    limit = training.max_evaluate_steps * training.per_device_eval_batch_size * training.dataset_world_size
    return min(limit, samples.samples_of_a_pass) if limit > 0 else samples.samples_of_a_pass


def _rows(splits: dict[str, Samples]) -> dict[str, str]:
    names = {"train": "train", "valid": "dev", "test": "test"}  # as in fine-tuning
    return {names[name]: f"{len(samples)} samples of {samples.tokens} tokens" for name, samples in splits.items()}


def _order(
    sources: Sequence[Source],
    splits: dict[str, Samples],
    data: PretrainDataArguments,
    training: GLMTrainingArguments,
) -> dict[str, Any]:
    """What the order of the training samples depends on."""
    order = {"data": content_of(sources), "split": data.split, "max_length": data.max_length, "seed": training.seed}
    return order | ({"samples": len(splits["train"])} if "train" in splits else {})


def build_in_turn(splits: Sequence[Samples]) -> None:
    """Opens the indices; rank 0 builds what is missing, and the others wait. Where it fails, every process ends."""
    for turn in (process_rank() == 0, process_rank() > 0):
        if turn:
            for samples in splits:
                samples.build()
        barrier()


def _overrides(options: PretrainModelArguments) -> dict[str, Any]:
    given = {"max_position_embeddings": options.max_position_embeddings, "rope_theta": options.rope_theta}
    return {name: value for name, value in given.items() if value is not None}


def build_trainer(
    model: GLMForCausalLM,
    processor: Processor,
    boundaries: Boundaries,
    options: PretrainModelArguments,
    schedule: ScheduleArguments,
    training: GLMTrainingArguments,
    splits: dict[str, Samples],
    record: RunRecord | None = None,
) -> PretrainTrainer:
    """The trainer, with this project's progress bar."""
    evaluation = LossEvaluation(
        RowProcessor(processor, boundaries),
        training.per_device_eval_batch_size,
        show_progress=not training.disable_tqdm and training.local_process_index == 0,
    )
    trainer = PretrainTrainer(
        model=model,
        args=training,
        train_dataset=TrainingSamples(splits["train"], boundaries) if "train" in splits else None,
        eval_dataset=splits.get("valid"),
        evaluation=evaluation,
        weight_format=options.weight_format,
        record=record,
        schedule=schedule,
        throughput=throughput_of(model.config, schedule, training, splits.get("train")),
    )
    show_progress(trainer)
    return trainer


def throughput_of(
    config: GLMConfig, schedule: ScheduleArguments, training: GLMTrainingArguments, samples: Samples | None
) -> Throughput | None:
    """What speed is compared with; the peak is measured unless --peak_tflops says it."""
    if samples is None:
        return None
    length, given = samples.settings.max_length, schedule.peak_tflops
    peak = given * 1e12 if given else measured_peak(weight_dtypes(training)[0])
    how = "--peak_tflops" if given else "a matmul measured now; --peak_tflops says what the data sheet does"
    note(f"MFU is of {peak / 1e12:.3g} TFLOP/s a device ({how})")
    return Throughput(length, flops_per_token(config, length), peak, process_count())


def run_evaluation(trainer: PretrainTrainer, prefix: str, samples: Samples) -> dict[str, float]:
    """Evaluates, saves the metrics, and prints them."""
    metrics = trainer.evaluate(samples, metric_key_prefix=prefix)
    if trainer.is_world_process_zero():
        trainer.save_metrics(prefix, metrics)
        print_metrics(f"{samples.name}: {len(samples)} samples", metrics)
    return metrics
