"""Rotary positions (arXiv:2104.09864, 3.2): x [B, T, N, D] turned by angles [B, T, 1, P], cosines and sines in turn."""

from paddle import Tensor
from paddle.autograd import PyLayer

from glm.kernels.library import applied, empty, run, serves

# The first 2·P dimensions in neighbouring pairs; in pairs P apart; and, with angles for each, both halves of a head.
PAIRS, APART, BOTH_HALVES = "rotate_pairs", "rotate_apart", "rotate_halves"


def turns(x: Tensor, *cos_sin: Tensor) -> bool:
    """Whether the kernels take these: each token has angles of its own."""
    return serves(x, *cos_sin) and all(angles.shape[:2] == x.shape[:2] for angles in cos_sin)


def turned(kernel: str, x: Tensor, *cos_sin: Tensor) -> Tensor:
    """Args: kernel: PAIRS or APART with one pair of angles, BOTH_HALVES with two."""
    return applied(_Turned, kernel, x, *cos_sin)


class _Turned(PyLayer):
    """The gradient is the rotation back."""

    @staticmethod
    def forward(ctx, kernel: str, x: Tensor, *cos_sin: Tensor) -> Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(*cos_sin)
        return _turn(kernel, x, cos_sin, 1.0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos_sin = ctx.saved_tensor()
        return _turn(ctx.kernel, grad, cos_sin, -1.0), *[None] * len(cos_sin)


def _turn(kernel: str, x: Tensor, cos_sin: tuple[Tensor, ...], direction: float) -> Tensor:
    y, (rows, tokens, heads, width), pairs = empty(*x.shape), x.shape, cos_sin[0].shape[-1]
    sizes = (heads, pairs) if kernel == BOTH_HALVES else (heads, width, pairs)
    run(kernel, x, *cos_sin, y, rows * tokens, *sizes, direction)
    return y
