"""How fast a run is: tokens per second, and which share of the device's arithmetic the model's own takes (MFU)."""

import time
from dataclasses import dataclass
from math import prod

import paddle

from glm.config.fields import ConfigFields
from glm.config.shapes import active_shapes

_ENOUGH = 0.02  # seconds that the measured matmul takes
_SMALLEST, _LARGEST, _TIMES = 512, 8192, 5


def flops_per_token(config: ConfigFields, length: int) -> float:
    """Arithmetic of a trained token of a causal model: forward once, backward twice.

    6 for each weight of a matmul (of a token's own experts, and not for the table that ids are looked up in), and
    6·L·N·D·length for scores and weighted values, of which a causal model needs half: PaLM (arXiv:2204.02311),
    appendix B, counts them whole.
    Recomputed forward passes do not count.
    """
    weights = sum(prod(shape) for shape in active_shapes(config).values() if len(shape) > 1)
    widths = config.head_dim + config.value_dim  # of scores, and of weighted values
    attention = config.num_hidden_layers * config.num_attention_heads * widths * length
    return 6.0 * weights + 3.0 * attention


def measured_peak(dtype: str) -> float:
    """FLOP/s that a square matmul reaches on the current device, the best of a few."""
    size = _SMALLEST
    while True:
        seconds = min(_matmul_seconds(size, dtype) for _ in range(_TIMES))
        if seconds >= _ENOUGH or size >= _LARGEST:
            return 2.0 * size**3 / seconds
        size *= 2


@paddle.no_grad()
def _matmul_seconds(size: int, dtype: str) -> float:
    a = paddle.ones([size, size], dtype=dtype)
    start = time.perf_counter()
    float(paddle.matmul(a, a)[0, 0])  # reading a number waits for the device
    return time.perf_counter() - start


@dataclass(frozen=True)
class Throughput:
    """What turns samples per second into figures that people compare.

    Attributes:
        length: tokens of a sample.
        flops: of a token.
        peak: FLOP/s of a device.
        devices: of the run.
    """

    length: int
    flops: float
    peak: float
    devices: int

    def figures(self, samples_per_second: float) -> dict[str, float]:
        """tokens_per_second of all devices together, and mfu, a share of 1."""
        tokens = samples_per_second * self.length
        return {
            "tokens_per_second": round(tokens, 1),
            "mfu": round(tokens * self.flops / (self.peak * self.devices), 4),
        }
