"""The flags of the fine-tuning scripts that are this project's, and --help of them. Imports no framework."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Optional

from glm.cli.script import HelpFormatter
from glm.encoding.processor import Processor
from glm.generation.options import GenerationConfig

HELP_ALL = "show all of PaddleNLP's TrainingArguments as well, and exit"
TASK_HELP = (
    "dureader_qg; a BELLE subset: school_math_0.25M, multiturn_chat_0.8M, train_2M_CN, …; adgen; alpaca; messages "
    "(conversations with roles)."
)


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
    packing: bool = field(
        default=False,
        metadata={
            "help": "Train on packs: several rows that do not see each other in one of max_length tokens; batch sizes "
            "count packs then. Evaluation keeps rows apart."
        },
    )
    max_length: Optional[int] = field(
        default=None,
        metadata={
            "help": "Most tokens of a pack; default: 2048, or the positions of a smaller model, and no less than "
            "src_length + tgt_length."
        },
    )
    no_block_position: bool = field(
        default=False,
        metadata={
            "help": "Target tokens continue counting text positions instead of block positions; GLM (2021) only."
        },
    )
    enable_thinking: Optional[bool] = field(
        default=None,
        metadata={
            "help": "Train and evaluate with thinking on or off, as prompts say it; default: the chat template's."
        },
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

    def generation_config(self, processor: Processor, seed: int = 0) -> GenerationConfig:
        """The flags, and for those that are not given what the kind of model says.

        `min_tgt_length` gives way to a shorter `tgt_length`.
        """
        flags = {
            "min_length": self.min_tgt_length,
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
        }
        chosen = dict(processor.defaults.evaluation) | {
            name: value for name, value in flags.items() if value is not None
        }
        return GenerationConfig(
            max_length=processor.tgt_length,
            min_length=min(chosen.pop("min_length"), processor.tgt_length),
            gnmt_length=processor.defaults.gnmt_length,
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
class TunedModelArguments:
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
        metadata={
            "help": "attention = query, key, value; all = every linear layer, but not those of experts; experts = "
            "those, too. Routers are never adapted.",
            "choices": ["attention", "all", "experts"],
        },
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
class ModelArguments(TunedModelArguments):
    """Which model, and what of it is trained."""

    label_smoothing: Optional[float] = field(
        default=None,
        metadata={
            "help": "Share of the target probability that is spread over the whole vocabulary; default: 0.1, chat "
            "models 0."
        },
    )
    router_bias_update_rate: float = field(
        default=0.0,
        metadata={
            "help": "Models with experts: after each step the routers' biases move by this towards an even load "
            "(arXiv:2408.15664; 1e-3 in pretraining). Fine-tuning leaves them alone."
        },
    )
    router_balance_loss: float = field(
        default=0.0,
        metadata={"help": "Models with experts: weight of the sequence-wise loss of an uneven load, such as 1e-4."},
    )


@dataclass
class TrainingFlags:
    """What this project adds to PaddleNLP's TrainingArguments, or means otherwise."""

    device: Optional[str] = field(default=None, metadata={"help": "npu, gpu or cpu; default: the best one present."})
    bf16: Optional[bool] = field(
        default=None, metadata={"help": "bfloat16 arithmetic; default: on an NPU that has it, unless --fp16."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Start anew, and remove the checkpoints and results of an earlier run from output_dir, and the "
            "model of one of the other kind (LoRA or full); without it, the run resumes from the newest checkpoint "
            "there."
        },
    )
    resume_from_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "Directory of the checkpoint to resume from; left out, the newest one of output_dir."},
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


# Of PaddleNLP's TrainingArguments, those that most runs need: name → its default there, and what it is.
MOST_USED: dict[str, tuple[object, str]] = {
    "output_dir": (MISSING, "Where checkpoints, the model and the results go; required."),
    "do_train": (False, "Train."),
    "learning_rate": (5e-5, "The highest learning rate of AdamW."),
    "lr_scheduler_type": ("linear", "linear, cosine, constant, …"),
    "warmup_ratio": (0.0, "Share of all steps in which the learning rate rises."),
    "weight_decay": (0.0, "Of AdamW, on matrices."),
    "max_grad_norm": (1.0, "Longer gradients are cut to this norm; 0 = off."),
    "num_train_epochs": (1.0, "Passes over the rows."),
    "max_steps": (-1, "Steps of training, instead of epochs, if positive."),
    "per_device_train_batch_size": (8, "Rows, or packs, per device and forward pass."),
    "per_device_eval_batch_size": (8, "The same in evaluation."),
    "gradient_accumulation_steps": (1, "Forward passes per step."),
    "logging_steps": (500, "Steps between two lines of the log."),
    "evaluation_strategy": ("no", "no, steps or epoch: when to evaluate besides the end."),
    "eval_steps": (None, "Steps between two evaluations."),
    "save_strategy": ("steps", "no, steps or epoch: when to write a checkpoint."),
    "save_steps": (500, "Steps between two checkpoints."),
    "save_total_limit": (None, "Most checkpoints that are kept, the newest ones."),
    "load_best_model_at_end": (False, "End with the weights of the best evaluation."),
    "metric_for_best_model": (None, "By which evaluations are compared."),
    "fp16": (False, "float16 arithmetic, on GPU and NPU."),
    "fp16_opt_level": ("O1", "O1 casts inside the operators; O2 has half-precision weights."),
    "recompute": (False, "Keep block inputs only, and compute the blocks twice."),
    "tensor_parallel_degree": (-1, "Devices that share one model."),
    "sequence_parallel": (False, "Those devices also share the tokens between the layers' matrices: less memory."),
    "expert_parallel_degree": (-1, "Of models with experts: data-parallel devices that divide the experts among them."),
    "sharding": ("", "stage1 or stage2: devices share optimizer states, and gradients."),
    "sharding_parallel_degree": (-1, "Devices that sharding uses."),
    "seed": (42, "Of the order of rows, of dropout and of new weights."),
    "disable_tqdm": (None, "Lines instead of a bar."),
}


def help_on_request(classes: Sequence[type], description: str) -> None:
    """Prints the help and ends the process, if --help is among its arguments; PaddleNLP is not imported for it.

    Args:
        classes: dataclasses of flags.
        description: the first lines.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        help_parser(classes, description).print_help()
        sys.exit(0)


def help_parser(classes: Sequence[type], description: str) -> argparse.ArgumentParser:
    """A parser that has this project's flags, and PaddleNLP's most used ones, to show them."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [FILE.json|FILE.yaml] [--flag value …]",
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--help_all", action="store_true", help=HELP_ALL)
    for each in classes:
        group = parser.add_argument_group(each.__doc__.splitlines()[0].rstrip("."))
        for one in fields(each):
            _show(group, one)
    group = parser.add_argument_group("most used of PaddleNLP's TrainingArguments")
    for name, (default, text) in MOST_USED.items():
        group.add_argument(f"--{name}", default=None if default in (MISSING, "") else default, help=text)
    return parser


def _show(group: argparse._ArgumentGroup, one: Field) -> None:
    described = {name: value for name, value in one.metadata.items() if name in ("help", "choices")}
    truth = {"nargs": "?"} if isinstance(one.default, bool) or one.type == Optional[bool] else {}
    several = {"nargs": "+"} if one.default_factory is list else {}
    default = None if one.default is MISSING else one.default
    group.add_argument(f"--{one.name}", default=default, **described, **truth, **several)
