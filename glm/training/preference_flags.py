"""The flags of finetune_preference.py that are this project's. Imports no framework."""

from dataclasses import dataclass, field
from typing import Optional

from glm.training.flags import TunedModelArguments


@dataclass
class PreferenceDataArguments:
    """Which pairs of answers to train and evaluate on."""

    task_name: str = field(
        default="preference", metadata={"help": "preference: a prompt, a better and a worse answer."}
    )
    data_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "JSON, JSON Lines or parquet file, a folder with train.json and dev.json, shards or split folders "
            "(docs/files.md), or a Hugging Face data set name: rows of PaddleNLP (src, tgt, response, sort), alpaca or "
            "ShareGPT with chosen and rejected, or TRL's prompt, chosen, rejected (docs/data.md). Without it the small "
            "sample bundled under data/ is used."
        },
    )
    skip_bad_rows: bool = field(default=False, metadata={"help": "Leave rows with errors out and count them."})
    src_length: int = field(
        default=2048,
        metadata={
            "help": "Most tokens of a prompt, special ones included; GLM-4 keeps the two lengths together. A pair that "
            "they would cut is left out and counted: a cut answer has no end."
        },
    )
    tgt_length: int = field(default=1024, metadata={"help": "Most tokens of an answer."})
    max_length: Optional[int] = field(
        default=None,
        metadata={
            "help": "Most tokens of a row, which is a prompt and both its answers; longer ones are left out and "
            "counted. Default: what src_length and tgt_length allow."
        },
    )


@dataclass
class PreferenceArguments:
    """What is trained for."""

    loss_type: str = field(
        default="sigmoid",
        metadata={
            "help": "sigmoid = DPO; hinge; ipo; kto_pair: these compare the model with the reference, which is what "
            "training started from. simpo and orpo have no reference. ipo, simpo and orpo take the mean "
            "log-probability of an answer's tokens, the others the sum. kto_pair's divergence is the mean over the "
            "pairs of one device's forward pass.",
            "choices": ["sigmoid", "hinge", "ipo", "simpo", "orpo", "kto_pair"],
        },
    )
    beta: float = field(
        default=0.1,
        metadata={"help": "How close the model stays to the reference; of ipo the paper's tau, of orpo its lambda."},
    )
    simpo_gamma: float = field(default=0.5, metadata={"help": "Margin that simpo asks for."})
    dpo_label_smoothing: float = field(
        default=0.0,
        metadata={"help": "With sigmoid: how likely the preference of a pair is the wrong way round; below 0.5."},
    )
    sft_loss_ratio: float = field(
        default=0.0,
        metadata={"help": "Adds so much of the chosen answer's mean negative log-probability, as fine-tuning has it."},
    )


@dataclass
class PreferenceModelArguments(TunedModelArguments):
    """Which model, and what of it is trained."""

    model_name_or_path: str = field(
        default="glm-4-9b-chat",
        metadata={
            "help": "Directory of a model, or a preset: glm-4-9b-chat, glm-4-9b-0414, chatglm-6b, … and the untrained "
            "glm-4-9b-chat-tiny, …; the README lists all. A chat model, fine-tuned already: GLM (2021) is none."
        },
    )
    lora_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Dropout on the adapters' input. All other dropout is off, as in TRL, that of an adapter of "
            "--lora_path included: model and reference differ by training alone."
        },
    )
    lora_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "Go on training the adapter of this directory, which as it was is the reference; of several, each "
            "behind the flag, the last one, with the others merged into the weights.",
            "action": "append",
        },
    )
