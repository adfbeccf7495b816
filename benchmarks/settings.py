"""What is measured: shapes, sides, tasks, and the rows that compare them. Tables only; every process reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LABEL_SMOOTHING, LEARNING_RATE, LORA_RANK = 0.1, 1e-4, 8
SEED = 1
# Processes start without any of these, so that the shell of whoever runs this changes nothing.
TUNING_VARIABLES = ("MKL_", "OMP_", "KMP_", "GOMP_", "FLAGS_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OPENBLAS_")
ANSWER_LIMIT = 1200  # seconds until a process is given up
SETTLE = 0.3  # seconds between two runs: threads of the last one stop spinning (Intel's OpenMP after 0.2 s)
MOST_RUNS, ENOUGH_SECONDS = 15, 15.0  # short runs are repeated until a row has taken this long


@dataclass(frozen=True)
class Shape:
    """A model with random weights, and how large the work is.

    Attributes:
        config: of `glm.GLMConfig`: `preset` and what differs from it, or all fields.
        train_batch, train_source, train_target: rows of a training batch, tokens that are only read, tokens that are
            trained.
        prompt, long_prompt: tokens of prompts.
        new_tokens: that are generated.
        patience: seconds after which a generation of the slowest peer is cut short if it would take twice as long.
    """

    config: Mapping[str, Any]
    train_batch: int
    train_source: int
    train_target: int
    prompt: int
    new_tokens: int
    long_prompt: int = 0
    patience: float = 10.0


# Dropout as GLM-Large-Chinese has it, also where a preset has none.
DROPOUT = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "hidden_dropout": 0.1}
_GLM4 = {"family": "glm4", "norm_eps": 1e-5, "attention_bias": True, "num_key_value_heads": 2}
_GLM4_122M = _GLM4 | {
    "vocab_size": 32000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "head_dim": 64,
    "intermediate_size": 2048,
    "max_position_embeddings": 4096,
}
_GLM4_TINY = _GLM4 | {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 32,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
}
SHAPES = {
    "glm4": Shape(_GLM4_122M, 4, 0, 256, prompt=128, new_tokens=64, long_prompt=2048),
    "glm": Shape({"preset": "glm-large-chinese"} | DROPOUT, 2, 200, 32, prompt=201, new_tokens=32),
}
QUICK_SHAPES = {
    "glm4": Shape(_GLM4_TINY, 2, 0, 16, prompt=12, new_tokens=8, long_prompt=96),
    "glm": Shape({"preset": "glm-tiny-chinese"} | DROPOUT, 2, 24, 8, prompt=25, new_tokens=8),
}
SHAPE_TITLES = {"glm4": "122M GLM-4 shape", "glm": "glm-large-chinese's shape"}


@dataclass(frozen=True)
class Side:
    """Who computes.

    Attributes:
        title: in tables.
        module: of `benchmarks.sides`, with a class `Side`.
        weights: what the side opens, where it has several: fp32, int8, int4, int4-head4, or a type of llama.cpp.
        ours: whether this project computes, in its own environment; peers with torch have theirs.
        lora: whether it trains adapters only.
    """

    title: str
    module: str
    weights: str = "fp32"
    ours: bool = False
    own_environment: bool = False
    note: str = ""


SIDES = {
    "onnx-fp32": Side("glm, ONNX Runtime fp32", "onnx", "fp32", ours=True),
    "onnx-int8": Side("glm, ONNX Runtime int8", "onnx", "int8", ours=True),
    "onnx-int4": Side("glm, ONNX Runtime int4", "onnx", "int4", ours=True),
    "onnx-int4-head4": Side("glm, ONNX Runtime int4, --head_bits 4", "onnx", "int4-head4", ours=True),
    "loop": Side("glm, Paddle Inference fp32", "loop", ours=True),
    "eager": Side("glm, eager", "eager", ours=True),
    "transformers": Side("transformers", "transformers", own_environment=True),
    "peft": Side("PEFT", "transformers", own_environment=True),
    "llama-f32": Side("llama.cpp f32", "llama", "f32", own_environment=True),
    "llama-q8_0": Side("llama.cpp Q8_0", "llama", "q8_0", own_environment=True),
    "llama-q4_0": Side("llama.cpp Q4_0", "llama", "q4_0", own_environment=True),
    "paddlenlp": Side("paddlenlp's GLM, tuned", "paddlenlp"),
    "machine": Side("this machine", "machine"),
}


@dataclass(frozen=True)
class Task:
    """One kind of work.

    Attributes:
        kind: train, generate, or start (a fresh process).
        unit: what a run gives: see `benchmarks.report.VALUES`.
        batch: rows.
        long: whether the prompt is the long one.
        first_token_only: whether generation ends with the prompt's reading.
        lora, beams, no_repeat: adapters only; beams of the search; size of n-grams that must not occur twice.
    """

    kind: str
    unit: str
    batch: int = 1
    long: bool = False
    first_token_only: bool = False
    lora: bool = False
    beams: int = 1
    no_repeat: int = 0

    def prompt(self, shape: Shape) -> int:
        return shape.long_prompt if self.long else shape.prompt

    def new_tokens(self, shape: Shape) -> int:
        return 1 if self.first_token_only else shape.new_tokens


TASKS = {
    "train": Task("train", "trained"),
    "lora": Task("train", "trained", lora=True),
    "prefill": Task("generate", "prefill", first_token_only=True),
    "prefill-long": Task("generate", "prefill", long=True, first_token_only=True),
    "decode": Task("generate", "decode"),
    "decode-8": Task("generate", "decode", batch=8),
    "beam": Task("generate", "whole", beams=5, no_repeat=3),
    "greedy-2": Task("generate", "whole", batch=2),
    "beam-2": Task("generate", "whole", batch=2, beams=5, no_repeat=3),
    "start": Task("start", "seconds"),
    "memory": Task("start", "peak_memory"),
}
# A unit that is better when it is small, and how values are shown.
UNITS = {
    "trained": (False, "tokens/s"),
    "prefill": (False, "tokens/s"),
    "decode": (False, "tokens/s"),
    "whole": (False, "tokens/s"),
    "seconds": (True, "s"),
    "peak_memory": (True, "MB"),
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        title: in the table.
        shape, task: keys of `SHAPES` and `TASKS`.
        ours: key of `SIDES`.
        aims: side → what our value must be as a multiple of its value; None = no aim. `machine`: of the limit.
        beside: sides without an aim that are measured as well.
    """

    title: str
    shape: str
    task: str
    ours: str
    aims: Mapping[str, float | None]
    beside: tuple[str, ...] = field(default=())

    @property
    def sides(self) -> tuple[str, ...]:
        return (self.ours, *self.aims, *self.beside)


_FLOAT_BESIDE = ("loop", "eager")
ROWS = {
    "train": Row("full fine-tuning", "glm4", "train", "eager", {"transformers": 1.3}),
    "lora": Row(f"LoRA fine-tuning, r={LORA_RANK}, q, k, v", "glm4", "lora", "eager", {"peft": 1.3}),
    "prefill-128": Row(
        "prefill b=1, 128 tokens",
        "glm4",
        "prefill",
        "onnx-fp32",
        {"transformers": 2.0},
        ("llama-f32", "onnx-int8", "llama-q8_0", "onnx-int4", "llama-q4_0", *_FLOAT_BESIDE),
    ),
    "prefill-2048": Row(
        "prefill b=1, 2048 tokens",
        "glm4",
        "prefill-long",
        "onnx-fp32",
        {"transformers": 2.0},
        ("llama-f32", "onnx-int8", "llama-q8_0", "onnx-int4", "llama-q4_0", *_FLOAT_BESIDE),
    ),
    "decode-fp32": Row(
        "decode b=1 fp32",
        "glm4",
        "decode",
        "onnx-fp32",
        {"transformers": 2.6, "llama-f32": 1.0, "machine": 0.85},
        _FLOAT_BESIDE,
    ),
    "decode8-fp32": Row(
        "decode b=8 fp32", "glm4", "decode-8", "onnx-fp32", {"transformers": 4.0, "llama-f32": 1.0}, _FLOAT_BESIDE
    ),
    "decode-int8": Row(
        "decode b=1 int8", "glm4", "decode", "onnx-int8", {"transformers": 6.0, "llama-q8_0": 1.0, "machine": None}
    ),
    "decode-int4": Row(
        "decode b=1 int4",
        "glm4",
        "decode",
        "onnx-int4",
        {"transformers": 9.0, "llama-q4_0": 1.0, "machine": None},
        ("onnx-int4-head4",),
    ),
    "beam": Row("beam search 5, no-repeat 3-gram", "glm4", "beam", "onnx-fp32", {"transformers": 3.0}, ("eager",)),
    "start-fp32": Row("start-up to the first token, fp32 export", "glm4", "start", "onnx-fp32", {"transformers": 0.5}),
    "start-int4": Row("start-up to the first token, int4 export", "glm4", "start", "onnx-int4", {"transformers": 0.5}),
    "memory-int4": Row(
        "peak memory of inference, int4", "glm4", "memory", "onnx-int4", {"transformers": 0.6}, ("onnx-fp32",)
    ),
    "glm-beam": Row(
        "beam search 5, no-repeat 3-gram, b=2", "glm", "beam-2", "onnx-fp32", {"paddlenlp": 20.0}, ("eager",)
    ),
    "glm-greedy": Row("greedy, b=2", "glm", "greedy-2", "onnx-fp32", {"paddlenlp": 10.0}, ("eager",)),
    "glm-train": Row("training, all weights", "glm", "train", "eager", {"paddlenlp": 1.5}),
    "glm-lora": Row(f"training, LoRA r={LORA_RANK}", "glm", "lora", "eager", {"paddlenlp": 1.5}),
}
