"""Dropout whose random numbers are a hash, so that its backward pass needs none of them kept.

The seed of a call is drawn from Paddle's generator: runs resume, and ranks agree or differ, as with Paddle's own.
"""

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from glm.kernels.library import empty, numel, run, serves


class Dropout(nn.Dropout):
    """Paddle's, by the kernels where they serve: other random numbers, as another device has others."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p and self.mode == "upscale_in_train" and serves(x):
            return _Dropout.apply(x, self.p, drawn_seed())
        return super().forward(x)


def drawn_seed() -> int:
    """63 bits of Paddle's generator."""
    high, low = paddle.randint(0, 2**31 - 1, [2], "int64").tolist()
    return high << 32 | low


class _Dropout(PyLayer):
    @staticmethod
    def forward(ctx, x: Tensor, rate: float, seed: int) -> Tensor:
        ctx.drawn = (rate, seed)
        return _dropped(x, rate, seed)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _dropped(grad, *ctx.drawn)


def _dropped(x: Tensor, rate: float, seed: int) -> Tensor:
    out = empty(*x.shape)
    run("dropout", x, None, out, numel(x), rate, seed)
    return out
