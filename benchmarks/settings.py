"""What is measured: shapes, sides and tasks (benchmarks/rows.py: what is compared). Tables only; every process reads
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LABEL_SMOOTHING, LEARNING_RATE, LORA_RANK = 0.1, 1e-4, 8
SEED = 1
# Processes start without any of these, so that the shell of whoever runs this changes nothing.
TUNING_VARIABLES = ("MKL_", "OMP_", "KMP_", "GOMP_", "FLAGS_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OPENBLAS_")
ANSWER_LIMIT = 1200  # seconds until a process is given up
SETTLE = 0.3  # seconds between two runs: threads of the last one stop spinning (Intel's OpenMP after 0.2 s)
MOST_RUNS, ENOUGH_SECONDS = 15, 15.0  # short runs are repeated until a row has taken this long
SERVED_ROWS = 16  # texts that a server writes at once
SERVED_RUNS, SLOW_SECONDS = 3, 30.0  # counted runs of a load; a side that takes longer for one has one
LONGEST_PAUSE, USUAL_GAPS = 0.3, 2.5  # seconds, or so many of the usual gaps, that a stream may stand still
LONGEST_START = 2.0  # seconds until a server of the quickstart's model takes requests
LONGEST_FIRST = 0.25  # seconds from the start of glm_infer to its first token, in 4 bits


@dataclass(frozen=True)
class Shape:
    """A model with random weights, and how large the work is.

    Attributes:
        config: of `glm.GLMConfig`: `preset` and what differs from it, or all fields.
        train_batch, train_source, train_target: rows of a training batch, tokens that are only read, tokens that are
            trained.
        prompt, long_prompt: tokens of prompts.
        new_tokens: that are generated.
        shots, question, questions: tokens that all questions of a test begin with, tokens of a question, how many.
        patience: seconds after which a generation of the slowest peer is cut short if it would take twice as long.
        large: whether the weights are bfloat16 from the start, and what the sides do not open is removed at once: no
            model is ever in memory, and rows of it run only where they are named.
    """

    config: Mapping[str, Any]
    train_batch: int
    train_source: int
    train_target: int
    prompt: int
    new_tokens: int
    long_prompt: int = 0
    patience: float = 10.0
    shots: int = 0
    question: int = 0
    questions: int = 0
    large: bool = False


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
# config.json of THUDM/glm-4-9b-chat.
_GLM4_9B = _GLM4 | {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "head_dim": 128,
    "intermediate_size": 13696,
    "norm_eps": 1.5625e-07,
    "rope_theta": 5e6,
    "max_position_embeddings": 131072,
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
# GLM-4.7-Flash's experts between the attention and the biases of GLM-4.5-Air's kind, in as few layers as leave room for
# float32 twice, ours and llama.cpp's.
_GLM45_1B = {
    "family": "glm4-moe",
    "vocab_size": 16000,
    "hidden_size": 2048,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "attention_bias": True,
    "intermediate_size": 6144,
    "max_position_embeddings": 4096,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 1536,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.8,
}
_GLM45_TINY = _GLM45_1B | {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
SHAPES = {
    # Five shots and a question, of the length that MMLU's have.
    "glm4": Shape(
        _GLM4_122M, 4, 0, 256, prompt=128, new_tokens=64, long_prompt=2048, shots=520, question=104, questions=16
    ),
    "glm": Shape({"preset": "glm-large-chinese"} | DROPOUT, 2, 200, 32, prompt=201, new_tokens=32),
    "glm4-moe": Shape(_GLM45_1B, 1, 0, 16, prompt=128, new_tokens=64),
    "glm4-9b": Shape(_GLM4_9B, 1, 0, 16, prompt=128, new_tokens=33, long_prompt=1024, large=True),
    "quickstart": Shape({"preset": "glm-tiny-chinese"}, 1, 24, 8, prompt=25, new_tokens=8),
}
QUICK_SHAPES = {
    "glm4": Shape(_GLM4_TINY, 2, 0, 16, prompt=12, new_tokens=8, long_prompt=96, shots=40, question=9, questions=3),
    "glm": Shape({"preset": "glm-tiny-chinese"} | DROPOUT, 2, 24, 8, prompt=25, new_tokens=8),
    "glm4-moe": Shape(_GLM45_TINY, 1, 0, 16, prompt=12, new_tokens=8),
    "glm4-9b": Shape(_GLM4_TINY, 1, 0, 16, prompt=12, new_tokens=8, long_prompt=96, large=True),
    "quickstart": Shape({"preset": "glm-tiny-chinese"}, 1, 24, 8, prompt=25, new_tokens=8),
}
SHAPE_TITLES = {
    "glm4": "122M GLM-4 shape",
    "glm": "glm-large-chinese's shape",
    "glm4-moe": "64 experts in three layers of GLM-4.5's kind",
    "glm4-9b": "GLM-4-9B's shape",
    "quickstart": "the quickstart's model",
}


@dataclass(frozen=True)
class Side:
    """Who computes.

    Attributes:
        title: in tables.
        module: of `benchmarks.sides`, with a class `Side`.
        weights: what the side opens, where it has several: fp32, int8, int4, int4-head4, or a type of llama.cpp.
        ours: whether this project computes, in its own environment; peers with torch have theirs.
        lora: whether it trains adapters only.
        reuse: whether a scorer reads once what questions share.
        one_by_one: whether a server writes one text at a time: it gets fewer requests.
    """

    title: str
    module: str
    weights: str = "fp32"
    ours: bool = False
    own_environment: bool = False
    note: str = ""
    reuse: bool = True
    one_by_one: bool = False


SIDES = {
    "onnx-fp32": Side("glm, ONNX Runtime fp32", "onnx", "fp32", ours=True),
    "onnx-int8": Side("glm, ONNX Runtime int8", "onnx", "int8", ours=True),
    "onnx-int4": Side("glm, ONNX Runtime int4", "onnx", "int4", ours=True),
    "onnx-int4-head4": Side("glm, ONNX Runtime int4, --head_bits 4", "onnx", "int4-head4", ours=True),
    "loop": Side("glm, Paddle Inference fp32", "loop", ours=True),
    "eager": Side("glm, eager", "eager", ours=True),
    "scorer": Side("glm, eager, shots read once", "scorer", ours=True),
    "scorer-whole": Side("glm, eager, every prompt whole", "scorer", ours=True, reuse=False),
    "scorer-onnx": Side("glm, ONNX Runtime fp32, shots read once", "scorer_onnx", ours=True),
    "harness": Side("lm-evaluation-harness, transformers", "harness", own_environment=True),
    "transformers": Side("transformers", "transformers", own_environment=True),
    "peft": Side("PEFT", "transformers", own_environment=True),
    "llama-f32": Side("llama.cpp f32", "llama", "f32", own_environment=True),
    "llama-q8_0": Side("llama.cpp Q8_0", "llama", "q8_0", own_environment=True),
    "llama-q4_0": Side("llama.cpp Q4_0", "llama", "q4_0", own_environment=True),
    "paddlenlp": Side("paddlenlp's GLM, tuned", "paddlenlp"),
    "machine": Side("this machine", "machine"),
    "cpp-fp32": Side("glm_infer (C++) fp32", "cpp", "fp32", ours=True),
    "cpp-int4": Side("glm_infer (C++) int4", "cpp", "int4", ours=True),
    "served-fp32": Side("glm's server, ONNX Runtime fp32", "serving", "fp32", ours=True),
    "served-int4": Side("glm's server, ONNX Runtime int4", "serving", "int4", ours=True),
    "served-llama-f32": Side("llama.cpp's server f32", "llama_server", "f32", own_environment=True),
    "served-llama-q4_0": Side("llama.cpp's server Q4_0", "llama_server", "q4_0", own_environment=True),
    "served-transformers": Side(
        "transformers, one request after another", "transformers_server", own_environment=True, one_by_one=True
    ),
}
# What stands beside this project's value without being a peer: a limit of the machine, or one that was set.
LIMITS = {
    "machine": "limit: this machine's memory and matmul rates",
    "pause": f"limit: {USUAL_GAPS:g} × its usual gap, or {1e3 * LONGEST_PAUSE:g} ms",
    "start": f"limit: {LONGEST_START:g} s",
    "first-token": f"limit: {LONGEST_FIRST:g} s",
    "weights": "the weights' file",
}


@dataclass(frozen=True)
class Traffic:
    """What is asked of a server.

    Attributes:
        clients: of a closed loop; 0 where there is a rate.
        requests: how many, and how many of a side that answers one by one.
        rate: requests a second that come by themselves (Poisson).
        long_requests: long prompts that come among the others.
    """

    clients: int
    requests: tuple[int, int]
    rate: float = 0.0
    long_requests: int = 0


@dataclass(frozen=True)
class Task:
    """One kind of work.

    Attributes:
        kind: train, generate, score, start (a fresh process), serve, or ready (a fresh server).
        unit: what a run gives: see `benchmarks.values`.
        batch: rows.
        long: whether the prompt is the long one.
        first_token_only: whether generation ends with the prompt's reading.
        lora, beams, no_repeat: adapters only; beams of the search; size of n-grams that must not occur twice.
        traffic: of a server.
    """

    kind: str
    unit: str
    batch: int = 1
    long: bool = False
    first_token_only: bool = False
    lora: bool = False
    beams: int = 1
    no_repeat: int = 0
    traffic: Traffic | None = None

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
    "decode-16": Task("generate", "decode", batch=16),
    "beam": Task("generate", "whole", beams=5, no_repeat=3),
    "greedy-2": Task("generate", "whole", batch=2),
    "beam-2": Task("generate", "whole", batch=2, beams=5, no_repeat=3),
    "score": Task("score", "scored", batch=8),
    "start": Task("start", "seconds"),
    "memory": Task("start", "peak_memory"),
    "serve-1": Task("serve", "served", traffic=Traffic(1, (6, 4))),
    "serve-4": Task("serve", "served", traffic=Traffic(4, (16, 8))),
    "serve-16": Task("serve", "served", traffic=Traffic(16, (64, 16))),
    # About six tenths of what a closed loop of 1, 4 and 16 clients gets from this project in float32.
    "poisson-0.5": Task("serve", "ttft", traffic=Traffic(0, (10, 6), rate=0.5)),
    "poisson-1.5": Task("serve", "ttft", traffic=Traffic(0, (24, 6), rate=1.5)),
    "poisson-3": Task("serve", "ttft", traffic=Traffic(0, (40, 6), rate=3.0)),
    "long-prompt": Task("serve", "pause", traffic=Traffic(4, (40, 4), long_requests=2)),
    "ready": Task("ready", "seconds"),
}
# A unit that is better when it is small, and how values are shown.
UNITS = {
    "trained": (False, "tokens/s"),
    "prefill": (False, "tokens/s"),
    "decode": (False, "tokens/s"),
    "whole": (False, "tokens/s"),
    "scored": (False, "questions/s"),
    "seconds": (True, "s"),
    "peak_memory": (True, "MB"),
    "served": (False, "tokens/s"),
    "ttft": (True, "ms"),
    "pause": (True, "ms"),
}
