"""What a run is, and what it needs of one rank's memory."""

from dataclasses import dataclass

from glm.config.shapes import LORA_TARGETS
from glm.errors import UsageError

TRAIN = ("none", "full", "lora")
SHARDING = ("none", "stage1", "stage2")
OPT_LEVELS = ("O1", "O2")
FP32 = 4  # bytes
SIZES = {"float32": FP32, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Run:
    """What is done with a model; the tensor-parallel degree is the configuration's.

    Attributes:
        train: `full`, `lora`, or `none` for inference.
        dtype: of the arithmetic. The weights have it too, except in training at O1, where they stay float32.
        opt_level: O1 (casts inside the operators) or O2 (half-precision weights and float32 master weights).
        recompute: blocks keep their inputs only, and run once more in the backward pass.
        batch_size: rows per device.
        src_length, tgt_length: tokens of source and target; a training row has both.
        max_length: tokens of a pack of training rows, all of which may be trained; 0: rows are not packed.
        num_beams: of generation.
        r: rank of the LoRA adapters. lora_targets: which layers have them, as in `glm.model.lora.add_lora`.
        sharding, sharding_degree: ZeRO (arXiv:1910.02054): stage1 shares the optimizer's states out, stage2 the
            gradients too.

    Raises:
        UsageError: a value that is not one of those above, a number below 1, or packs without training.
    """

    train: str = "none"
    dtype: str = "float32"
    opt_level: str = "O1"
    recompute: bool = False
    batch_size: int = 2
    src_length: int = 608
    tgt_length: int = 160
    max_length: int = 0
    num_beams: int = 5
    r: int = 8
    lora_targets: str = "attention"
    sharding: str = "none"
    sharding_degree: int = 1

    def __post_init__(self):
        allowed = {"train": TRAIN, "dtype": tuple(SIZES), "opt_level": OPT_LEVELS, "sharding": SHARDING}
        allowed["lora_targets"] = tuple(LORA_TARGETS)
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise UsageError(f"{name} is '{getattr(self, name)}', and must be one of {', '.join(values)}")
        for name in ("batch_size", "src_length", "tgt_length", "num_beams", "r", "sharding_degree"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, and must be at least 1")
        if self.max_length < 0:
            raise UsageError(f"max_length is {self.max_length}, and must be at least 1, or 0 without packing")
        if self.max_length and self.train == "none":
            raise UsageError(
                f"max_length is {self.max_length} and train none: only training packs rows, so give --train full or "
                "lora, or leave --max_length out"
            )
        if (self.sharding == "none") != (self.sharding_degree == 1):
            raise UsageError(
                f"sharding is {self.sharding} and its degree {self.sharding_degree}: give both --sharding and a "
                "--sharding_parallel_degree above 1, or neither"
            )

    @property
    def mixed(self) -> bool:
        """Whether the weights are float32 and the operators cast."""
        return self.train != "none" and self.opt_level == "O1" and self.dtype != "float32"

    @property
    def adapts_mlps(self) -> bool:
        """Whether adapters stand on more than what makes queries, keys and values."""
        return self.train == "lora" and self.lora_targets != "attention"

    @property
    def adapts_experts(self) -> bool:
        return self.train == "lora" and self.lora_targets == "experts"

    @property
    def weight_size(self) -> int:
        """Bytes of a weight."""
        return FP32 if self.mixed else SIZES[self.dtype]

    @property
    def row_length(self) -> int:
        """Tokens of a training row."""
        return self.max_length or self.src_length + self.tgt_length

    @property
    def trained_tokens(self) -> int:
        """Most tokens of a batch that are trained."""
        return self.batch_size * (self.max_length or self.tgt_length)


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        weights: this rank's part of them, LoRA adapters included.
        gradients: of what is trained. They stay allocated between steps.
        optimizer: AdamW's two moments in float32, and at O2 the float32 master weights.
        activations: what the forward pass keeps for the backward pass.
        step_workspace: what a training step needs beside them when it needs most.
        cache: keys and values of the prompts and, with the copies that one step makes, of the beams.
        generation_workspace: what generation needs beside it when it needs most.
        active: of the weights, those that a token is multiplied by; with experts far fewer.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    step_workspace: int
    cache: int
    generation_workspace: int
    active: int

    @property
    def standing(self) -> int:
        """What stays from step to step."""
        return self.weights + self.gradients + self.optimizer

    @property
    def training(self) -> int:
        """The peak of a training step."""
        return self.standing + self.activations + self.step_workspace

    @property
    def generation(self) -> int:
        """The peak of generating for a batch, beside the states of training if there are any."""
        return self.standing + self.cache + self.generation_workspace

    @property
    def peak(self) -> int:
        return max(self.training, self.generation)
