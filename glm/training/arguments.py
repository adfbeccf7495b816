"""The typed arguments that the task scripts share, and how they are read: flags, and a JSON or YAML file of them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from paddlenlp.trainer import PdArgumentParser, TrainingArguments

from glm.cli.argument_file import command_line, expand, repeated_flags
from glm.cli.console import note
from glm.cli.script import HelpFormatter, unknown_argument
from glm.device.choice import check_dtype, choose_device
from glm.device.probe import default_dtype, require
from glm.distributed.processes import check_degrees, code_version, process_count, require_agreement
from glm.errors import UsageError
from glm.training.flags import (
    HELP_ALL,
    DataArguments,
    DecodeArguments,
    InstructionDataArguments,
    ModelArguments,
    TrainingFlags,
)

__all__ = [
    "DataArguments",
    "DecodeArguments",
    "GLMTrainingArguments",
    "InstructionDataArguments",
    "ModelArguments",
    "parse_arguments",
]
# Paddle's launcher reads --r as the beginning of its own --rank, wherever it stands.
RENAMED = {"--lora_rank": "--r"}
# PaddleNLP's flags that evaluation by generation would ignore: their default, and what to do instead.
NOT_IN_EVALUATION = {
    "fp16_full_eval": (False, "leave it out, the weights keep the dtype that they train in"),
    "bf16_full_eval": (False, "leave it out, the weights keep the dtype that they train in"),
    "eval_accumulation_steps": (None, "leave it out, no logits are kept"),
    "past_index": (-1, "leave it out, generation keeps its own cache"),
    "label_names": (None, "leave it out, the labels are the targets' tokens"),
}
# What PaddleNLP's configurations speed up elsewhere: layers and sums that sequence parallelism does not have.
WITHOUT_USE = {
    "enable_allreduce_avg_in_gradinent_scale",
    "enable_mp_async_allreduce",
    "enable_mp_fused_linear_param_grad_add",
    "enable_mp_skip_c_identity",
    "enable_sp_async_reduce_scatter",
}


@dataclass
class GLMTrainingArguments(TrainingFlags, TrainingArguments):
    """PaddleNLP's TrainingArguments, with the best device that is there as the default."""

    def __post_init__(self):
        self.device = choose_device(self.device)
        if self.bf16 is None:
            dtype, reason = default_dtype(self.device)
            self.bf16 = dtype == "bfloat16" and not self.fp16
            if self.device != "cpu" and not self.fp16:
                note(f"training in {dtype}: {reason}")
        for name in ("fp16", "bf16"):
            check_dtype(name if getattr(self, name) else None, self.device, "the flag")
        require(self.device)
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, and must be at least 1")
        if self.max_steps == 0:
            raise UsageError("max_steps is 0, and must be at least 1: leave it out to train --num_train_epochs")
        refuse_unsupported(self)
        if self.sequence_parallel:
            check_sequence_parallel(self)
        if self.expert_parallel_degree > 1:
            check_expert_parallel(self)
        check_degrees(self.tensor_parallel_degree, self.sharding_parallel_degree, self.device)
        require_agreement({"the code": code_version(), "the arguments": command_line(sys.argv[1:])})
        # PaddleNLP turns --do_eval into an evaluation at every --logging_steps; without --eval_steps, the end is meant.
        only_at_end = self.do_eval and str(self.evaluation_strategy) == "no" and not self.eval_steps
        self.do_eval = self.do_eval and not only_at_end
        # PaddleNLP has ranks of sharding share experts, and asserts that there are no others.
        expert_parallel_degree, self.expert_parallel_degree = self.expert_parallel_degree, -1
        super().__post_init__()
        self.expert_parallel_degree = expert_parallel_degree
        self.do_eval = self.do_eval or only_at_end

    @property
    def should_save_model_state(self) -> bool:
        """Whether this process is among those that write the model together."""
        return super().should_save_model_state or self.process_index < self.expert_parallel_degree


def refuse_unsupported(args: TrainingArguments) -> None:
    """Raises UsageError for what PaddleNLP's arguments offer and this model, or its checkpoints, cannot do."""
    for name in ("pipeline", "sep", "context", "expert_tensor"):
        degree = getattr(args, f"{name}_parallel_degree")
        if degree > 1:
            raise UsageError(f"{name}_parallel_degree is {degree}, and is not supported: use --tensor_parallel_degree")
    if args.use_expert_parallel:
        raise UsageError("use_expert_parallel is not supported: use --expert_parallel_degree, with a number of ranks")
    if "split_param" in args.sharding_parallel_config:
        raise UsageError("sharding_parallel_config split_param is not supported: a run with it cannot be resumed")
    if "stage3" in str(args.sharding):
        raise UsageError("sharding stage3 is not supported: use stage1 or stage2, and --tensor_parallel_degree")
    for name in ("ignore_load_lr_and_optim", "ignore_save_lr_and_optim"):
        if getattr(args, name):
            raise UsageError(
                f"{name} is not supported: a run resumes with its optimizer's state; to begin anew from a checkpoint, "
                "give it as --model_name_or_path with another --output_dir"
            )
    best = args.metric_for_best_model
    if args.prediction_loss_only and best not in (None, "loss", "eval_loss"):
        raise UsageError(f"metric_for_best_model is {best}, and prediction_loss_only is True: leave one of them out")
    for name, (unused, instead) in NOT_IN_EVALUATION.items():
        if getattr(args, name) != unused:
            raise UsageError(f"{name} is {getattr(args, name)}, and evaluation has no use for it: {instead}")


def check_expert_parallel(args: TrainingArguments) -> None:
    """Raises UsageError for what ranks that share experts cannot do, and where they are no whole groups."""
    degree, count = args.expert_parallel_degree, process_count()
    if count % degree:
        raise UsageError(
            f"expert_parallel_degree is {degree}, and {count} process{'es were' if count > 1 else ' was'} launched: "
            f"start a multiple of {degree} with python -m paddle.distributed.launch"
        )
    evaluates = args.do_eval or args.do_predict or str(args.evaluation_strategy) != "no"
    refused = {
        f"tensor_parallel_degree {args.tensor_parallel_degree}": args.tensor_parallel_degree > 1,
        f"sharding {args.sharding}": bool(args.sharding),
        "fp16, of which each rank would judge the overflow of its own experts": args.fp16,
        "amp_master_grad": args.amp_master_grad,
        "unified_checkpoint": args.unified_checkpoint,
        "do_export": args.do_export,
        "evaluation, in which ranks have texts of different lengths (evaluate what the run saves)": evaluates,
    }
    for what in (what for what, asked in refused.items() if asked):
        raise UsageError(f"expert_parallel_degree is {degree}, and goes without {what}: leave one of them out")


def check_sequence_parallel(args: TrainingArguments) -> None:
    """Raises UsageError where there is nothing to divide the tokens among, and for what would then do nothing."""
    if args.tensor_parallel_degree <= 1:
        raise UsageError(
            f"sequence_parallel is {args.sequence_parallel} and tensor_parallel_degree {args.tensor_parallel_degree}: "
            "the ranks of tensor parallelism divide the tokens among them, choose a degree above 1 or leave it out"
        )
    if args.fuse_sequence_parallel_allreduce:
        raise UsageError(
            f"fuse_sequence_parallel_allreduce is {args.fuse_sequence_parallel_allreduce}, and gradients of norms and "
            "biases are added up one by one, as they come: leave it out"
        )
    for name in ("tensor_parallel_config", "sequence_parallel_config"):
        given = set(getattr(args, name).replace(",", " ").split())
        if unused := sorted(given & WITHOUT_USE):
            raise UsageError(
                f"{name} {unused[0]} does nothing beside sequence_parallel {args.sequence_parallel}: leave one out"
            )


def parse_arguments(classes: Sequence[type], description: str, argv: Sequence[str] | None = None) -> tuple:
    """Reads flags into dataclasses, those of a JSON or YAML file first.

    Args:
        classes: dataclasses; a flag for each of their fields.
        description: the first lines of --help.
        argv: sys.argv[1:] if not given.

    Raises:
        UsageError: an unknown flag, a value that does not fit, an unreadable file.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = ArgumentParser(list(classes), description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    for line in repeated_flags([RENAMED.get(word, word) for word in argv], parser):
        note(line)
    argv = [RENAMED.get(word, word) for word in expand(argv, parser)]
    try:
        return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError(" ".join(str(error).split())) from error


class ArgumentParser(PdArgumentParser):
    """PaddleNLP's parser with one-line errors."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_argument("--help_all", action="help", help=HELP_ALL)
        for action in self._actions:
            if action.dest == "bf16":  # PaddleNLP's parser lets only flags with a default stand without a value
                action.nargs, action.const = "?", True

    def error(self, message: str) -> None:
        raise UsageError(f"{message} (see --help)")

    def common_parse(self, args, return_remaining_strings) -> tuple:
        unknown = self.parse_known_args(args)[1]
        if unknown:
            raise unknown_argument(unknown[0], self._option_string_actions)
        return super().common_parse(args, return_remaining_strings)
