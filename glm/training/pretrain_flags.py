"""The flags of pretrain_generation.py that are this project's. Imports no framework."""

from dataclasses import dataclass, field
from typing import List, Optional


@dataclass
class PretrainDataArguments:
    """Which text to train on, and how it is cut into samples."""

    input_dir: List[str] = field(
        default_factory=list,
        metadata={
            "help": "Indexed data sets, {prefix}.bin and {prefix}.idx as preprocess_data.py writes them: one prefix, a "
            "folder of them, or weights and prefixes by turns, 0.3 a 0.7 b."
        },
    )
    split: str = field(
        default="949,50,1", metadata={"help": "Shares of the documents for training, validation and test."}
    )
    max_length: int = field(
        default=1024, metadata={"help": "Tokens of a sample; documents run on from one sample into the next."}
    )
    data_cache: Optional[str] = field(
        default=None,
        metadata={"help": "Folder where the indices of the samples are kept; default: index-cache beside the data."},
    )
    eod_mask_loss: bool = field(
        default=False, metadata={"help": "Do not train the first token of a document to follow the one before."}
    )
    reset_position_ids: bool = field(default=False, metadata={"help": "Positions begin at 0 in every document."})
    reset_attention_mask: bool = field(default=False, metadata={"help": "Documents do not see each other."})


@dataclass
class PretrainModelArguments:
    """Which model, and where it starts."""

    model_name_or_path: str = field(
        default="glm-4-9b",
        metadata={
            "help": "Directory of a model or checkpoint to go on from, or a preset: glm-4-9b, glm-4-9b-0414, … and the "
            "untrained glm-4-9b-tiny, …; the README lists all. A GLM-4 model: others do not write from left to right."
        },
    )
    tokenizer_name_or_path: Optional[str] = field(
        default=None, metadata={"help": "Directory or preset of the tokenizer; default: the model's."}
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Random weights in the shape of the model, instead of its trained ones."}
    )
    max_position_embeddings: Optional[int] = field(
        default=None, metadata={"help": "Positions that the model is given; default: its own."}
    )
    rope_theta: Optional[float] = field(
        default=None, metadata={"help": "Base of the rotary positions that the model is given; default: its own."}
    )
    weight_format: str = field(
        default="safetensors",
        metadata={"help": "How the weights are written.", "choices": ["safetensors", "pdparams"]},
    )


@dataclass
class ScheduleArguments:
    """How the learning rate falls, and what speed is compared with."""

    min_learning_rate: float = field(
        default=0.0, metadata={"help": "Where the linear or cosine schedule ends, and stays."}
    )
    decay_steps: Optional[int] = field(
        default=None, metadata={"help": "Step at which it ends, warm-up included; default: the last one."}
    )
    peak_tflops: Optional[float] = field(
        default=None,
        metadata={
            "help": "TFLOP/s of one device, of which MFU is a share; default: what a matmul reaches that is "
            "measured at the start."
        },
    )
