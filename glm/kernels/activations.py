"""Activations of an MLP, and the addition of a bias."""

from collections.abc import Callable, Iterator

import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from glm.kernels.library import applied, empty, numel, run, serves


def silu(x: Tensor) -> Tensor:
    """x·σ(x), of any shape."""
    return F.silu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its approximation with tanh (arXiv:1606.08415, 2), of any shape."""
    return applied(_GeluTanh, x) if serves(x) else F.gelu(x, approximate=True)


def gated(activation: Callable[[Tensor], Tensor], products: Iterator[Tensor]) -> Tensor:
    """The activation of the first one times the second one, of equal shapes (SwiGLU, arXiv:2002.05202)."""
    gate = next(products)
    if activation is silu and serves(gate):
        return applied(_SwiGLU, gate, next(products))
    gate = activation(gate)  # under the same name, so that the gate itself is gone when the second one comes
    return gate * next(products)


def biased(y: Tensor, bias: Tensor) -> Tensor:
    """y [..., out] + b [out], without gradient."""
    if not serves(y, bias):
        return y + bias
    out, width = empty(*y.shape), bias.shape[0]
    run("add_bias", y, bias, out, numel(y) // width, width)
    return out


class _SwiGLU(PyLayer):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = empty(*gate.shape)
        run("swiglu", gate, up, out, numel(gate))
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gate, up = ctx.saved_tensor()
        grad_gate, grad_up = empty(*gate.shape), empty(*up.shape)
        run("swiglu_grad", gate, up, grad, grad_gate, grad_up, numel(gate))
        return tuple(
            None if x.stop_gradient else slope for x, slope in zip((gate, up), (grad_gate, grad_up), strict=True)
        )


class _GeluTanh(PyLayer):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = empty(*x.shape)
        run("gelu_tanh", x, out, numel(x))
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        grad_x = empty(*x.shape)
        run("gelu_tanh_grad", x, grad, grad_x, numel(x))
        return grad_x
