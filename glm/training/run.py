"""What every training run does around its trainer: devices, the checkpoint to resume from, progress, results."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import paddle
from paddlenlp.trainer.trainer_callback import PrinterCallback, ProgressCallback
from paddlenlp.trainer.trainer_utils import get_last_checkpoint

from glm import kernels
from glm.api.causal_lm import GLMForCausalLM
from glm.cli.console import note, print_metrics
from glm.config.glm_config import GLMConfig
from glm.device.probe import probe_collectives
from glm.distributed.exchange_probe import probe_exchange
from glm.distributed.processes import (
    advise,
    barrier,
    process_count,
    process_rank,
    require_agreement,
    require_shared,
)
from glm.distributed.rank_table import environment_note
from glm.files.locks import hold_directory
from glm.model.lora import GLMLoRAModel
from glm.training.arguments import GLMTrainingArguments
from glm.training.bar import BarCallback
from glm.training.run_directory import check_output_dir, clear_directory, resume_point
from glm.training.trainer import GLMTrainer


def prepare_devices(model_name_or_path: str, training: GLMTrainingArguments) -> None:
    """Chooses this process's device; finds out what would fail only later, and in each process elsewhere."""
    paddle.set_device(training.device)
    if training.tensor_parallel_degree > 1:
        if training.do_train:
            degree = training.tensor_parallel_degree
            GLMConfig.from_pretrained(model_name_or_path, tensor_parallel_degree=degree).require_trainable()
        probe_collectives()
    if training.expert_parallel_degree > 1:
        probe_exchange(training.expert_parallel_degree)
    if rank_table := environment_note(os.environ):
        note(rank_table)


def require_same_run(config: GLMConfig, describe_data: Callable[[], str]) -> None:
    """Each process has read model and data from its own disk: they must be the same ones.

    Args:
        describe_data: what the data are, asked for where there are several processes.
    """
    if process_count() == 1:
        return
    fields = (f"{name} {json.dumps(value)}" for name, value in config.to_checkpoint_dict().items())
    require_agreement({"the model's config.json": "\n".join(fields), "the data": describe_data()})


def find_resume_point(training: GLMTrainingArguments) -> str | None:
    """The checkpoint of `output_dir` to resume from, after making sure that all processes see the directory."""
    check_output_dir(training.output_dir)
    advise(partial(_after_an_interruption, training.output_dir, training.overwrite_output_dir))
    require_shared(Path(training.output_dir))
    return resume_point(training.output_dir, training.overwrite_output_dir, training.resume_from_checkpoint)


def _after_an_interruption(output_dir: str, overwrite: bool) -> str:
    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if last is None:
        return "no checkpoint was written yet: the same command starts anew"
    return f"the same command{' without --overwrite_output_dir' * overwrite} resumes from {last}"


def weight_dtypes(training: GLMTrainingArguments) -> tuple[str, str]:
    """What a run computes in, and what its weights are kept in."""
    dtype = "bfloat16" if training.bf16 else "float16" if training.fp16 else "float32"
    # Mixed precision at level O1 casts inside the operators; O2 keeps the weights themselves in half precision.
    return dtype, dtype if training.fp16_opt_level == "O2" else "float32"


def load_weights(options, training: GLMTrainingArguments, **fields: Any) -> GLMForCausalLM:
    """The model to train, before adapters; where no weights are read, the seed of the run draws them.

    Args:
        options: has model_name_or_path and from_scratch.
        fields: of the configuration, in place of the model's own.
    """
    dtype, in_memory = weight_dtypes(training)
    paddle.seed(training.seed)
    model = GLMForCausalLM.from_pretrained(
        options.model_name_or_path,
        dtype=in_memory,
        from_scratch=options.from_scratch,
        sequence_parallel=training.sequence_parallel,
        **expert_parallel(training),
        **fields,
    )
    if warning := model.config.dtype_warning(dtype):
        note(warning)
    return model


def expert_parallel(training: GLMTrainingArguments) -> dict[str, int]:
    """Which of the ranks that share experts this process is; neighbours share them."""
    degree = max(training.expert_parallel_degree, 1)
    return {"expert_parallel_degree": degree, "expert_parallel_rank": process_rank() % degree}


def show_progress(trainer: GLMTrainer) -> None:
    """This project's progress bar in place of PaddleNLP's, or lines."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(PrinterCallback if trainer.args.disable_tqdm else BarCallback)


def run_training(trainer: GLMTrainer, resume: str | None, changes: Sequence[str] = ()) -> None:
    """Trains, saves the model and its metrics, and prints them.

    Args:
        resume: the checkpoint to resume from.
        changes: what the run does otherwise since then, a line each.

    Raises:
        UsageError: another run is writing into the same directory.
    """
    if trainer.args.should_save:
        hold_directory(Path(trainer.args.output_dir))
    barrier()
    if resume:
        for line in (f"resuming from {resume}", *changes):
            note(line)
    elif trainer.args.overwrite_output_dir:
        if trainer.args.should_save:
            clear_directory(trainer.args.output_dir, lora=isinstance(trainer.model, GLMLoRAModel))
        barrier()
    if paddle.get_device() == "cpu" and kernels.fault() and not kernels.is_chosen_off():
        note(f"Paddle's own kernels compute alone, which takes up to 1.5 times as long: {kernels.fault()}")
    sizes, trained = trainer.weight_sizes()
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.save_state()
    metrics = result.metrics
    if not metrics:  # the checkpoint was at the end already
        return
    metrics |= {"parameters": sizes, "trained_parameters": trained}
    if trainer.is_world_process_zero():
        trainer.save_metrics("train", metrics)
        print_metrics(f"training: {trainer.args.output_dir}", metrics)
