"""The rows of the table: what is compared with what, and the aims, by kind of processor where they differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.settings import LORA_RANK, SHAPES, SIDES

# Kinds of processors that have aims of their own, by a word of their names in /proc/cpuinfo.
PROCESSORS = {"intel": "Intel", "amd": "AMD"}


def processor_kind(name: str) -> str | None:
    """Key of `PROCESSORS` for a processor's name; None for another one, which has only the aims that all have."""
    return next((kind for kind, word in PROCESSORS.items() if word in name), None)


Aim = float | None | Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        title: in the table.
        shape, task: keys of `SHAPES` and `TASKS`.
        ours: key of `SIDES`.
        aims: side, or key of `LIMITS` → what our value must be as a multiple of its value, or that by kind of
            processor; None = no aim.
        beside: sides without an aim that are measured as well.
    """

    title: str
    shape: str
    task: str
    ours: str
    aims: Mapping[str, Aim]
    beside: tuple[str, ...] = field(default=())

    @property
    def sides(self) -> tuple[str, ...]:
        """Those that run; limits that were set do not."""
        return (self.ours, *(side for side in self.aims if side in SIDES), *self.beside)

    @property
    def large(self) -> bool:
        """Whether it runs only where it is named: see `Shape`."""
        return SHAPES[self.shape].large

    def aims_of(self, processor: str | None) -> dict[str, float | None]:
        """The aims on one kind of processor."""
        return {side: aim.get(processor) if isinstance(aim, Mapping) else aim for side, aim in self.aims.items()}


_FLOAT_BESIDE = ("loop", "eager")
_TRAINING = {"intel": 1.15, "amd": 1.7}
_SERVED = {"served-transformers": None, "served-llama-f32": None}
_CPP_FP32, _CPP_INT4 = {"onnx-fp32": None, "llama-f32": None}, {"onnx-int4": None, "llama-q4_0": None}
_FIRST = "server, time to the first token, fp32,"
_PAUSE = "server, longest pause of a text while a prompt of 2,048 tokens is read"
ROWS = {
    "train": Row("full fine-tuning", "glm4", "train", "eager", {"transformers": _TRAINING, "machine": 0.7}),
    "lora": Row(
        f"LoRA fine-tuning, r={LORA_RANK}, q, k, v", "glm4", "lora", "eager", {"peft": _TRAINING, "machine": 0.7}
    ),
    "prefill-128": Row(
        "prefill b=1, 128 tokens",
        "glm4",
        "prefill",
        "onnx-fp32",
        {"transformers": {"intel": 1.5, "amd": 2.0}},
        ("llama-f32", "onnx-int8", "llama-q8_0", "onnx-int4", "llama-q4_0", *_FLOAT_BESIDE),
    ),
    "prefill-2048": Row(
        "prefill b=1, 2048 tokens",
        "glm4",
        "prefill-long",
        "onnx-fp32",
        {"transformers": {"intel": 1.3, "amd": 2.0}},
        ("llama-f32", "onnx-int8", "llama-q8_0", "onnx-int4", "llama-q4_0", *_FLOAT_BESIDE),
    ),
    "decode-fp32": Row(
        "decode b=1 fp32",
        "glm4",
        "decode",
        "onnx-fp32",
        {"transformers": {"amd": 2.6}, "llama-f32": 1.0, "machine": 0.88},
        _FLOAT_BESIDE,
    ),
    "decode8-fp32": Row(
        "decode b=8 fp32",
        "glm4",
        "decode-8",
        "onnx-fp32",
        {"transformers": {"amd": 4.0}, "llama-f32": 1.2, "machine": None},
        _FLOAT_BESIDE,
    ),
    "decode16-fp32": Row("decode b=16 fp32", "glm4", "decode-16", "onnx-fp32", {"llama-f32": 1.2, "machine": None}),
    "decode-int8": Row(
        "decode b=1 int8",
        "glm4",
        "decode",
        "onnx-int8",
        {"transformers": {"amd": 6.0}, "llama-q8_0": 1.15, "machine": 0.75},
    ),
    "decode-int4": Row(
        "decode b=1 int4",
        "glm4",
        "decode",
        "onnx-int4",
        {"transformers": {"amd": 9.0}, "llama-q4_0": 1.15, "machine": 0.75},
        ("onnx-int4-head4",),
    ),
    "decode8-int4": Row("decode b=8 int4", "glm4", "decode-8", "onnx-int4", {"llama-q4_0": 1.2, "machine": None}),
    "decode16-int4": Row("decode b=16 int4", "glm4", "decode-16", "onnx-int4", {"llama-q4_0": 1.2, "machine": None}),
    "beam": Row(
        "beam search 5, no-repeat 3-gram",
        "glm4",
        "beam",
        "onnx-fp32",
        {"transformers": {"amd": 3.0}, "machine": 0.75},
        ("eager",),
    ),
    "eager-decode": Row("the model in Python, decode b=1", "glm4", "decode", "eager", {"onnx-fp32": 0.7}),
    "eager-128": Row("the model in Python, prefill b=1, 128 tokens", "glm4", "prefill", "eager", {"onnx-fp32": 0.9}),
    "eager-2048": Row(
        "the model in Python, prefill b=1, 2048 tokens", "glm4", "prefill-long", "eager", {"onnx-fp32": 0.9}
    ),
    "mmlu": Row(
        "questions of four letters, five shots (MMLU)",
        "glm4",
        "score",
        "scorer",
        {"harness": 3.0, "scorer-whole": 3.0},
        ("scorer-onnx",),
    ),
    "start-fp32": Row("start-up to the first token, fp32 export", "glm4", "start", "onnx-fp32", {"transformers": 0.5}),
    "start-int4": Row("start-up to the first token, int4 export", "glm4", "start", "onnx-int4", {"transformers": 0.5}),
    "memory-int4": Row(
        "peak memory of inference, int4", "glm4", "memory", "onnx-int4", {"transformers": 0.6}, ("onnx-fp32",)
    ),
    "cpp-start-fp32": Row("C++, start-up to the first token, fp32", "glm4", "start", "cpp-fp32", _CPP_FP32),
    "cpp-start-int4": Row(
        "C++, start-up to the first token, int4", "glm4", "start", "cpp-int4", {"first-token": 1.0} | _CPP_INT4
    ),
    "cpp-memory-fp32": Row("C++, peak memory, fp32", "glm4", "memory", "cpp-fp32", {"weights": 1.1} | _CPP_FP32),
    "cpp-memory-int4": Row("C++, peak memory, int4", "glm4", "memory", "cpp-int4", {"weights": 1.1} | _CPP_INT4),
    "cpp-decode-fp32": Row("C++, decode b=1 fp32", "glm4", "decode", "cpp-fp32", _CPP_FP32 | {"onnx-fp32": 1.0}),
    "cpp-decode-int4": Row("C++, decode b=1 int4", "glm4", "decode", "cpp-int4", _CPP_INT4 | {"onnx-int4": 1.15}),
    "glm-beam": Row(
        "beam search 5, no-repeat 3-gram, b=2", "glm", "beam-2", "onnx-fp32", {"paddlenlp": 20.0}, ("eager",)
    ),
    # No aim beside PaddleNLP: ten times its speed is more than this memory gives in float32.
    "glm-greedy": Row("greedy, b=2", "glm", "greedy-2", "onnx-fp32", {"paddlenlp": None, "machine": None}, ("eager",)),
    "glm-train": Row("training, all weights", "glm", "train", "eager", {"paddlenlp": 1.5}),
    "glm-lora": Row(f"training, LoRA r={LORA_RANK}", "glm", "lora", "eager", {"paddlenlp": 1.5}),
    "moe-prefill-128": Row(
        "64 experts, prefill b=1, 128 tokens, int4", "glm4-moe", "prefill", "onnx-int4", {"llama-q4_0": None}
    ),
    "moe-decode-fp32": Row(
        "64 experts, decode b=1 fp32", "glm4-moe", "decode", "onnx-fp32", {"llama-f32": None, "machine": 0.6}
    ),
    "moe-decode-int4": Row(
        "64 experts, decode b=1 int4", "glm4-moe", "decode", "onnx-int4", {"llama-q4_0": None, "machine": 0.6}
    ),
    "big-prefill-128": Row(
        "GLM-4-9B's shape, prefill b=1, 128 tokens, int4", "glm4-9b", "prefill", "onnx-int4", {"llama-q4_0": 1.1}
    ),
    "big-prefill-1024": Row(
        "GLM-4-9B's shape, prefill b=1, 1024 tokens, int4", "glm4-9b", "prefill-long", "onnx-int4", {"llama-q4_0": 1.1}
    ),
    # The machine's turn is next to ours: a memory's rate changes within the quarter of a minute that llama.cpp takes.
    "big-decode-int4": Row(
        "GLM-4-9B's shape, decode b=1 int4", "glm4-9b", "decode", "onnx-int4", {"machine": 0.85, "llama-q4_0": 1.1}
    ),
    # Of its own, because four sides with 9 billion weights do not fit the memory.
    "big-decode-head4": Row(
        "GLM-4-9B's shape, decode b=1 int4, --head_bits 4",
        "glm4-9b",
        "decode",
        "onnx-int4-head4",
        {"machine": 0.85, "llama-q4_0": 1.1},
    ),
    "serve-1": Row("server, 1 client, fp32", "glm4", "serve-1", "served-fp32", _SERVED),
    "serve-4": Row("server, 4 clients, fp32", "glm4", "serve-4", "served-fp32", _SERVED),
    "serve-16": Row(
        "server, 16 clients, fp32",
        "glm4",
        "serve-16",
        "served-fp32",
        {"served-transformers": 6.0, "served-llama-f32": 1.2},
    ),
    "serve-1-int4": Row("server, 1 client, int4", "glm4", "serve-1", "served-int4", {"served-llama-q4_0": None}),
    "serve-4-int4": Row("server, 4 clients, int4", "glm4", "serve-4", "served-int4", {"served-llama-q4_0": None}),
    "serve-16-int4": Row("server, 16 clients, int4", "glm4", "serve-16", "served-int4", {"served-llama-q4_0": 1.2}),
    "poisson-0.5": Row(f"{_FIRST} 0.5 requests/s", "glm4", "poisson-0.5", "served-fp32", _SERVED),
    "poisson-1.5": Row(f"{_FIRST} 1.5 requests/s", "glm4", "poisson-1.5", "served-fp32", _SERVED),
    "poisson-3": Row(f"{_FIRST} 3 requests/s", "glm4", "poisson-3", "served-fp32", _SERVED),
    "long-prompt": Row(
        f"{_PAUSE}, fp32", "glm4", "long-prompt", "served-fp32", {"pause": 1.0, "served-llama-f32": None}
    ),
    "long-prompt-int4": Row(
        f"{_PAUSE}, int4", "glm4", "long-prompt", "served-int4", {"pause": 1.0, "served-llama-q4_0": None}
    ),
    "ready-int4": Row("server, start to ready, int4", "glm4", "ready", "served-int4", {"served-llama-q4_0": None}),
    "ready-quickstart": Row(
        "server, start to ready, the quickstart's model", "quickstart", "ready", "served-fp32", {"start": 1.0}
    ),
}
