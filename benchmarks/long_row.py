"""One decoder layer and the head with GLM-4-9B's widths and vocabulary, forward and backward over one long row.

    python -m benchmarks.long_row                  8,192, 16,384 and 32,768 tokens, in 24 GiB
    python -m benchmarks.long_row --tokens 8192 --no_recompute

The peak is the most that Paddle reports as allocated, beside what glm.memory computes of it. "above" is the peak
without weights and gradients: what grows with the tokens. There is no optimizer, and an embedding of a few tokens gives
the layer its input. float32: a CPU has no matmul in half precision.
"""

import argparse
import gc
import sys
import time
from dataclasses import dataclass

import numpy as np

import glm  # first: it chooses Paddle's settings

# isort: split
import paddle
from paddle import nn
from paddle.base import core
from rich.console import Console
from rich.table import Table

from glm.checkpoint.peak_memory import PeakMemory
from glm.config.fields import PlainConfig
from glm.config.glm_config import GLMConfig
from glm.config.presets import PRESETS
from glm.memory import GIB, Run, estimate
from glm.model.init import without_initialisation

TOKENS = (8192, 16384, 32768)
WORDS = 16  # of the embedding that stands in for the model's, which is not trained here
WARM_UP = 32  # tokens of a first pass: gradients stay allocated from then on, as between the steps of training


@dataclass(frozen=True)
class Pass:
    """Of one row: bytes at the peak, of them weights and gradients, computed, and in the process; seconds."""

    tokens: int
    peak: int
    standing: int
    computed: int
    grown: int
    forward: float
    backward: float

    @property
    def above(self) -> int:
        return self.peak - self.standing


def main(arguments: list[str] | None = None) -> list[Pass]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_row",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tokens", type=_positive, nargs="+", default=TOKENS, help="of a row; default: %(default)s")
    parser.add_argument(
        "--preset", type=_preset, default="glm-4-9b", help="whose widths, but no GLM's (2021); default: %(default)s"
    )
    parser.add_argument(
        "--no_recompute",
        dest="recompute",
        action="store_false",
        help="keep what the layer computed",
    )
    options = parser.parse_args(arguments)
    model = one_layer(options.preset)
    model.model.enable_recompute = options.recompute
    step(model, WARM_UP)
    passes = []
    for tokens in options.tokens:
        passes.append(measured(model, tokens))
        print_passes(options, passes)
    return passes


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of tokens from 1 on")
    return int(text)


def _preset(name: str) -> str:
    """The stand-in for the word embedding would be the head as well where they are tied."""
    known = [each for each in PRESETS if not PlainConfig.preset(each).tie_word_embeddings]
    if name not in known:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
    return name


def one_layer(preset: str) -> "glm.GLMForCausalLM":
    """Random weights; the word embedding is replaced by one of a few words, which is frozen."""
    with without_initialisation():
        model = glm.GLMForCausalLM(GLMConfig.preset(preset, num_hidden_layers=1, dtype="float32"))
    model.model.embed_tokens = nn.Embedding(WORDS, model.config.hidden_size)
    for parameter in model.parameters():
        parameter.set_value(paddle.uniform(parameter.shape, "float32", -0.02, 0.02, seed=1))
    model.model.embed_tokens.weight.stop_gradient = True
    model.train()
    gc.collect()
    return model


def step(model, tokens: int) -> tuple[float, float]:
    """Seconds of the forward and the backward pass over one causal row, all of whose tokens are trained."""
    draw = np.random.default_rng(0)
    ids, labels = (paddle.to_tensor(draw.integers(0, most, [1, tokens])) for most in (WORDS, model.config.vocab_size))
    begin = time.perf_counter()
    ones, positions = paddle.ones_like(ids), paddle.arange(tokens).expand([1, model.model.positions.position_rows, -1])
    loss = model(ids, ones, positions, paddle.zeros([1], "int64"), labels)
    middle = time.perf_counter()
    loss.backward()
    if not np.isfinite(float(loss)):
        raise SystemExit(f"the loss of {tokens} tokens is {float(loss)}")
    return middle - begin, time.perf_counter() - middle


def measured(model, tokens: int) -> Pass:
    """One pass; what the tensors need that are there anyway is weights and their gradients."""
    gc.collect()
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    standing, process = core.host_memory_stat_current_value("Allocated", 0), PeakMemory()
    forward, backward = step(model, tokens)
    peak = core.host_memory_stat_peak_value("Allocated", 0)
    recompute = model.model.enable_recompute
    memory = estimate(model.config, Run(train="full", batch_size=1, max_length=tokens, recompute=recompute))
    computed = standing + memory.activations + memory.step_workspace
    return Pass(tokens, peak, standing, computed, process.growth(), forward, backward)


def print_passes(options: argparse.Namespace, passes: list[Pass]) -> None:
    """A row for each, and by how much what grows grew."""
    table = Table("tokens", "peak", "computed", "above", "grew", "process grew", "forward", "backward")
    for before, each in zip([None, *passes], passes, strict=False):
        sizes = [f"{size / GIB:.2f} GiB" for size in (each.peak, each.computed, each.above)]
        growth = f"{each.above / before.above:.2f}x" if before else ""
        seconds = [f"{value:.1f} s" for value in (each.forward, each.backward)]
        table.add_row(f"{each.tokens:,}", *sizes, growth, f"{each.grown / GIB:.2f} GiB", *seconds)
    console = Console(width=None if sys.stdout.isatty() else 110)
    kept = "recomputed" if options.recompute else "kept"
    console.print(f"one layer of {options.preset}, {kept}, and its head, float32", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
