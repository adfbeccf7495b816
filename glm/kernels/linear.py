"""Products of a few rows with weights [in, out], GEMV or little more, as a step of generation has them.

Such a product is as fast as its weight is read. Paddle's reads it at three quarters of memory's speed, with a call for
every weight and one for its bias.
"""

from collections.abc import Iterable

import paddle
from paddle import Tensor

from glm.kernels.library import empty, numel, run, serves

Layer = tuple[Tensor, Tensor | None]  # weight [in, out], bias [out]
MOST_ROWS = 8
MOST_WEIGHTS = 3


def multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether `products` takes them, and is worth it: few rows [..., in], and no gradient.

    Args:
        weight: one of those that x is multiplied with; a bias, and the others, have its dtype and place.
    """
    return not paddle.is_grad_enabled() and 0 < numel(x) <= MOST_ROWS * x.shape[-1] and serves(x, weight)


def products(x: Tensor, layers: Iterable[Layer]) -> list[Tensor]:
    """x·W + b [..., out] of x [..., in] for each of up to three weights [in, out] with or without a bias [out]."""
    parts, found = [], []
    for weight, bias in layers:
        found.append(empty(*x.shape[:-1], weight.shape[1]))
        parts += [weight, bias, found[-1]]
    missing, width = MOST_WEIGHTS - len(found), x.shape[-1]
    widths = [y.shape[-1] for y in found] + [0] * missing
    run("few_rows", x, *parts, *[None] * (3 * missing), numel(x) // width, width, *widths)
    return found


def gated_products(x: Tensor, gate: Layer, up: Layer, down: Layer) -> Tensor:
    """(silu(x·G + g) · (x·U + u))·D + d [..., out], as `products` makes it in two steps and an activation."""
    (inner, columns), width = down[0].shape, x.shape[-1]
    out = empty(*x.shape[:-1], columns)
    run("few_gated_rows", x, *gate, *up, *down, out, numel(x) // width, width, inner, columns)
    return out
