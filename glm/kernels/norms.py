"""RMSNorm and LayerNorm over the last axis."""

from paddle import Tensor
from paddle.autograd import PyLayer

from glm.kernels.library import applied, empty, numel, run


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight (arXiv:1910.07467): [..., n] and [n]."""
    return applied(_Norm, x, weight, None, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / deviation · weight + bias (arXiv:1607.06450): [..., n], [n] and [n]."""
    return applied(_Norm, x, weight, bias, eps)


class _Norm(PyLayer):
    """With a bias LayerNorm, else RMSNorm."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        width = weight.shape[0]
        rows = numel(x) // width
        y, inverses = empty(*x.shape), empty(rows)
        means = None if bias is None else empty(rows)
        run("norm", x, weight, bias, y, means, inverses, rows, width, eps)
        ctx.means, ctx.inverses = means, inverses
        ctx.save_for_backward(x, weight, *([] if bias is None else [bias]))
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *bias = saved = ctx.saved_tensor()
        # Paddle takes nothing but None for what needs no gradient.
        slopes = [None if tensor.stop_gradient else empty(*tensor.shape) for tensor in saved]
        of_bias = slopes[2] if bias else None
        rows, width = ctx.inverses.shape[0], weight.shape[0]
        run("norm_grad", x, weight, grad, ctx.means, ctx.inverses, slopes[0], slopes[1], of_bias, rows, width)
        return tuple(slopes)
