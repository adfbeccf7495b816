"""The typed arguments that the task scripts share, and how they are read: flags, and a JSON or YAML file of them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from paddlenlp.trainer import PdArgumentParser, TrainingArguments

from glm.cli.argument_file import command_line, expand, repeated_flags
from glm.cli.console import note
from glm.cli.script import HelpFormatter, unknown_argument
from glm.device.choice import check_dtype, choose_device
from glm.device.probe import default_dtype, require
from glm.distributed.processes import check_degrees, code_version, require_agreement
from glm.encoding.encoder import Encoder
from glm.errors import UsageError
from glm.generation.options import GenerationConfig

TASK_HELP = (
    "dureader_qg; a BELLE subset: school_math_0.25M, multiturn_chat_0.8M, train_2M_CN, …; adgen; alpaca; messages "
    "(conversations with roles)."
)
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


@dataclass
class DataArguments:
    """Which text pairs to train and evaluate on."""

    task_name: str = field(
        default="dureader_qg",
        metadata={"help": TASK_HELP},
    )
    data_name: Optional[str] = field(default=None, metadata={"help": "Collection of the task; bellegroup for BELLE."})
    data_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "JSON, JSON Lines or parquet file, a folder with train.json and dev.json, shards or split folders "
            "(docs/files.md), or a Hugging Face data set name "
            "(BelleGroup/school_math_0.25M). Without it the small sample bundled under data/ is used."
        },
    )
    history_column: Optional[str] = field(
        default=None,
        metadata={"help": "Column of a row's earlier turns, [question, answer] pairs or messages; default: history."},
    )
    skip_bad_rows: bool = field(default=False, metadata={"help": "Leave rows with errors out and count them."})
    src_length: int = field(
        default=608,
        metadata={
            "help": "Most tokens of a source, special ones included; longer ones lose their start, conversations their "
            "oldest turns."
        },
    )
    tgt_length: int = field(
        default=160,
        metadata={"help": "Most tokens of a target and of a generated text; longer ones lose their end."},
    )
    no_block_position: bool = field(
        default=False,
        metadata={"help": "Target tokens go on counting text positions instead of block positions; GLM (2021) only."},
    )


@dataclass
class InstructionDataArguments(DataArguments):
    """Which instructions to train and evaluate on."""

    task_name: str = field(
        default="school_math_0.25M",
        metadata={"help": TASK_HELP},
    )
    data_name: Optional[str] = field(
        default=None, metadata={"help": "Collection the task belongs to; bellegroup for BELLE."}
    )


@dataclass
class DecodeArguments:
    """How evaluation generates."""

    min_tgt_length: Optional[int] = field(
        default=None, metadata={"help": "No end token before this many tokens; default: 55, chat models 0."}
    )
    length_penalty: Optional[float] = field(
        default=None,
        metadata={
            "help": "Beams are ranked by log-probability / ((5 + length) / 6) ** length_penalty, in chat models by "
            "log-probability / length ** length_penalty; default: 0.7, chat models 1."
        },
    )
    no_repeat_ngram_size: Optional[int] = field(
        default=None, metadata={"help": "No n-gram of this size twice; 0 = off; default: 3, chat models 0."}
    )
    num_beams: Optional[int] = field(
        default=None, metadata={"help": "Beams of the search; 1 = greedy or sampling; default: 5, chat models 1."}
    )
    select_topk: bool = field(
        default=True, metadata={"help": "Take the most likely candidates; False draws them from the distribution."}
    )
    top_p: float = field(
        default=0.0, metadata={"help": "Draw from the nucleus of this mass of what top_k left; 0 = off."}
    )
    top_k: int = field(default=0, metadata={"help": "Draw from the k most likely tokens; 0 = off."})
    min_p: float = field(
        default=0.0, metadata={"help": "Draw from the tokens at least so likely, beside the likeliest; 0 = off."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Divides the logits before drawing; 0 takes the most likely."}
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Makes tokens of source and generated text less likely; 1 = off."}
    )
    presence_penalty: float = field(
        default=0.0, metadata={"help": "Is taken off the score of a token that was generated; -2 to 2; 0 = off."}
    )
    frequency_penalty: float = field(
        default=0.0, metadata={"help": "The same, as often as it was generated; -2 to 2; 0 = off."}
    )

    def generation_config(self, encoder: Encoder, seed: int = 0) -> GenerationConfig:
        """The flags, and for those that are not given what the kind of model says.

        `min_tgt_length` gives way to a shorter `tgt_length`.
        """
        flags = {
            "min_length": self.min_tgt_length,
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
        }
        chosen = encoder.evaluation | {name: value for name, value in flags.items() if value is not None}
        return GenerationConfig(
            max_length=encoder.tgt_length,
            min_length=min(chosen.pop("min_length"), encoder.tgt_length),
            gnmt_length=encoder.gnmt_length,
            do_sample=not self.select_topk,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=seed,
            **chosen,
        )


@dataclass
class ModelArguments:
    """Which model, and what of it is trained."""

    model_name_or_path: str = field(
        default="THUDM/glm-large-chinese",
        metadata={
            "help": "Directory of a model, or a preset, by its Hub name too: THUDM/glm-large-chinese, glm-4-9b-chat, … "
            "and the untrained glm-tiny-chinese, glm-4-9b-chat-tiny, …; the README lists all."
        },
    )
    tokenizer_name_or_path: Optional[str] = field(
        default=None, metadata={"help": "Directory or preset of the tokenizer; default: the model's."}
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Random weights in the shape of the model, instead of its trained ones."}
    )
    weight_format: str = field(
        default="safetensors",
        metadata={"help": "How full weights are written.", "choices": ["safetensors", "pdparams"]},
    )
    label_smoothing: Optional[float] = field(
        default=None,
        metadata={
            "help": "Share of the target probability that is spread over the whole vocabulary; default: 0.1, chat "
            "models 0."
        },
    )
    lr_decay_ratio: float = field(
        default=0.1, metadata={"help": "The linear schedule ends at learning_rate times this."}
    )
    lora: bool = field(default=False, metadata={"help": "Train LoRA adapters instead of the whole model."})
    r: int = field(
        default=8,
        metadata={"help": "Rank of the LoRA adapters; behind paddle.distributed.launch write --lora_rank."},
    )
    lora_alpha: Optional[float] = field(default=None, metadata={"help": "LoRA scaling is lora_alpha / r; default 2·r."})
    lora_targets: str = field(
        default="attention",
        metadata={"help": "attention = query, key, value; all = every linear layer.", "choices": ["attention", "all"]},
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapters' input."})
    lora_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "Go on training the adapter of this directory; of several, each behind the flag, the last one, "
            "with the others merged into the weights.",
            "action": "append",
        },
    )
    save_peft: bool = field(
        default=False, metadata={"help": "Write the final adapter in Hugging Face PEFT's format as well, under peft/."}
    )


@dataclass
class GLMTrainingArguments(TrainingArguments):
    """PaddleNLP's TrainingArguments, with the best device that is there as the default."""

    device: Optional[str] = field(default=None, metadata={"help": "npu, gpu or cpu; default: the best one present."})
    bf16: Optional[bool] = field(
        default=None, metadata={"help": "bfloat16 arithmetic; default: on an NPU that has it, unless --fp16."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Start anew, and remove the checkpoints and results of an earlier run from output_dir, and the "
            "model of one of the other kind (LoRA or full); without it, the run goes on from the newest checkpoint "
            "there."
        },
    )
    resume_from_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "Directory of the checkpoint to go on from; left out, the newest one of output_dir."},
    )
    do_eval: bool = field(default=False, metadata={"help": "Evaluate on the dev split, or on rows held out of train."})
    do_predict: bool = field(
        default=False,
        metadata={"help": "Evaluate on the test split at the end; without one, on the rows of --do_eval."},
    )
    prediction_loss_only: bool = field(default=False, metadata={"help": "Evaluate the loss, and generate no texts."})
    max_evaluate_steps: int = field(
        default=-1,
        metadata={"help": "If positive, evaluate on the first rows alone that fill this many batches of each replica."},
    )
    eval_samples_shown: int = field(
        default=4, metadata={"help": "Generated texts that evaluation shows beside their references."}
    )
    debug: bool = field(default=False, metadata={"help": "Show PaddleNLP's own log, and the traceback of an error."})

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
        refuse_unsupported(self)
        check_degrees(self.tensor_parallel_degree, self.sharding_parallel_degree, self.device)
        require_agreement({"the code": code_version(), "the arguments": command_line(sys.argv[1:])})
        # PaddleNLP turns --do_eval into an evaluation at every --logging_steps; without --eval_steps, the end is meant.
        only_at_end = self.do_eval and str(self.evaluation_strategy) == "no" and not self.eval_steps
        self.do_eval = self.do_eval and not only_at_end
        super().__post_init__()
        self.do_eval = self.do_eval or only_at_end


def refuse_unsupported(args: TrainingArguments) -> None:
    """Raises UsageError for what PaddleNLP's arguments offer and this model, or its checkpoints, cannot do."""
    for name in ("pipeline", "sep", "context", "expert"):
        degree = getattr(args, f"{name}_parallel_degree")
        if degree > 1:
            raise UsageError(f"{name}_parallel_degree is {degree}, and is not supported: use --tensor_parallel_degree")
    if "split_param" in args.sharding_parallel_config:
        raise UsageError("sharding_parallel_config split_param is not supported: a run with it cannot be resumed")
    if "stage3" in str(args.sharding):
        raise UsageError("sharding stage3 is not supported: use stage1 or stage2, and --tensor_parallel_degree")
    for name in ("ignore_load_lr_and_optim", "ignore_save_lr_and_optim"):
        if getattr(args, name):
            raise UsageError(
                f"{name} is not supported: a run goes on with its optimizer's state; to begin anew from a checkpoint, "
                "give it as --model_name_or_path with another --output_dir"
            )
    best = args.metric_for_best_model
    if args.prediction_loss_only and best not in (None, "loss", "eval_loss"):
        raise UsageError(f"metric_for_best_model is {best}, and prediction_loss_only is True: leave one of them out")
    for name, (unused, instead) in NOT_IN_EVALUATION.items():
        if getattr(args, name) != unused:
            raise UsageError(f"{name} is {getattr(args, name)}, and evaluation has no use for it: {instead}")


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
