"""What a small model really needs: peaks of the bytes that Paddle reports as allocated, on the CPU or on a device."""

import gc
from dataclasses import dataclass, replace

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import numpy as np
import paddle
from paddle.base import core

from glm import GenerationConfig, GLMConfig, GLMForCausalLM
from glm.generation.search import Prompt, StopTokens
from glm.memory import Run
from glm.model.lora import add_lora

SHAPE = {"vocab_size": 2001, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
DROPOUT = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "hidden_dropout": 0.1}
NO_DROPOUT = dict.fromkeys(DROPOUT, 0.0)
RUN = Run(batch_size=2, src_length=180, tgt_length=60)
LONG = {"batch_size": 1, "src_length": 1040, "tgt_length": 60}  # of a `Run`
STEPS = 2  # AdamW has its moments after the first one, and the gradients stay allocated from then on
# Whose memory, the state that is asked → Paddle's function, on the CPU and on every other device.
STATES = ("current_value", "peak_value", "reset_peak_value")
CPU, DEVICE = ({state: getattr(core, f"{kind}_memory_stat_{state}") for state in STATES} for kind in ("host", "device"))


@dataclass
class Meter:
    """Bytes in tensors, above what there was at the beginning."""

    functions: dict
    device: int = 0
    start: int = 0

    def __post_init__(self):
        gc.collect()
        self.start = self.ask("current_value")
        self.ask("reset_peak_value")

    def ask(self, state: str) -> int:
        return self.functions[state]("Allocated", self.device)

    @property
    def current(self) -> int:
        return self.ask("current_value") - self.start

    @property
    def peak(self) -> int:
        return self.ask("peak_value") - self.start


@dataclass(frozen=True)
class Measured:
    """Bytes: of the weights, between two steps, and the peak."""

    weights: int
    standing: int
    peak: int


TOLERANCE = 0.05  # of the peak, and of what comes and goes above the weights and states


def off(found: int, wanted: int) -> float:
    """How far a number is from another one, as a share of the latter."""
    return abs(found - wanted) / wanted


def config_of(**changes) -> GLMConfig:
    return GLMConfig(**SHAPE | DROPOUT | {"max_position_embeddings": 512} | changes)


def measure_training(config: GLMConfig, run: Run, functions: dict = CPU, device: int = 0) -> Measured:
    """Steps of forward, backward, gradient clipping and AdamW, as PaddleNLP's Trainer makes them."""
    batch = training_batch(config, run)
    meter = Meter(functions, device)
    model = GLMForCausalLM(config)
    model.model.enable_recompute = run.recompute
    if run.train == "lora":
        model = add_lora(model, run.r, targets=run.lora_targets)
    model.train()
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=parameters, grad_clip=clip)
    for _ in range(STEPS):
        loss = model(**batch, label_smoothing=0.1)
        loss.backward()
        del loss
        optimizer.step()
        optimizer.clear_grad()
    return Measured(_weights(model), meter.current, meter.peak)


def training_batch(config: GLMConfig, run: Run) -> dict[str, paddle.Tensor]:
    """Rows without padding, whose targets are trained; of a pack all tokens, which holds the longest rows."""
    draw, rows, width = np.random.default_rng(0), run.batch_size, run.row_length
    labels = draw.integers(1, config.vocab_size, (rows, width))
    labels[:, : 0 if run.max_length else run.src_length] = -100
    position = np.stack([np.arange(width), np.zeros(width, "int64")])
    return ({"visible_rows": _packs(run)} if run.max_length else {}) | {
        "input_ids": paddle.to_tensor(draw.integers(1, config.vocab_size, (rows, width))),
        "attention_mask": paddle.ones([rows, width], "int64"),
        "position_ids": paddle.to_tensor(np.stack([position] * rows)),
        "prefix_length": paddle.full([rows], run.src_length, "int64"),
        "labels": paddle.to_tensor(labels),
    }


def _packs(run: Run) -> paddle.Tensor:
    """`visible_rows` of packs of causal rows, the longest ones behind each other."""
    columns, longest = np.arange(run.max_length), run.src_length + run.tgt_length
    seen = np.stack([columns, np.minimum((columns // longest + 1) * longest, run.max_length)])
    return paddle.to_tensor(np.stack([seen] * run.batch_size).astype("int32"))


def measure_generation(config: GLMConfig, run: Run, functions: dict = CPU, device: int = 0) -> Measured:
    """The longest generation of a batch, with everything that a search can be asked for."""
    batch = training_batch(config, replace(run, tgt_length=1))
    batch.pop("labels")
    prompt = Prompt(**batch, position_step=paddle.to_tensor([0, 1]))
    length = run.tgt_length
    options = GenerationConfig(max_length=length, min_length=length, num_beams=run.num_beams, no_repeat_ngram_size=3)
    meter = Meter(functions, device)
    model = GLMForCausalLM(config)
    model.eval()
    standing = meter.current
    tokens, _ = model.generate(prompt, options, StopTokens((1, 2), 0))
    assert tokens.shape == [run.batch_size, length]
    return Measured(_weights(model), standing, meter.peak)


def _weights(model) -> int:
    return sum(p.size for p in model.parameters()) * 4
