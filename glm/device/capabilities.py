"""The tiny computations that show whether a device can do what the suite needs.

Each takes a dtype and gives pairs of a tensor and the numbers it must hold, which follow from arithmetic on paper: the
CPU is not asked, because it has no half precision. glm/device/probe.py runs them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

Pairs = list[tuple[Tensor, object]]

MODEL, TRAINING, GENERATION = "model", "training", "generation"
HALF_DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Capability:
    """Something a device must do.

    Attributes:
        name: what, for people.
        use: what it is for: the model itself, training, generation, or one of the half precisions.
        run: gives the pairs for a dtype.
        dtype: of its numbers.
    """

    name: str
    use: str
    run: Callable[[str], Pairs]
    dtype: str = "float32"


def _numbers(values, dtype: str, trained: bool = True) -> Tensor:
    return paddle.to_tensor(values, dtype=dtype, stop_gradient=not trained)


def _creation(dtype: str) -> Pairs:
    host = np.arange(6, dtype="float32").reshape(2, 3)
    there = paddle.to_tensor(host)
    back = paddle.to_tensor(there.cpu().numpy())
    return [
        (paddle.zeros([2], dtype), [0, 0]),
        (paddle.full([], 7, "int64"), 7),
        (paddle.arange(3, dtype="int64"), [0, 1, 2]),
        (paddle.ones_like(there), np.ones([2, 3])),
        (back.astype(dtype).clone(), host),
    ]


def _strides(dtype: str) -> Pairs:
    x = _numbers([[1, 2, 3], [4, 5, 6]], dtype)
    turned = x.transpose([1, 0])
    turned[1:, :].sum().backward()
    return [(turned.contiguous(), [[1, 4], [2, 5], [3, 6]]), (x[:, 1], [2, 5]), (x.grad, [[0, 1, 1], [0, 1, 1]])]


def _embedding(dtype: str) -> Pairs:
    weight = _numbers([[1, 2], [3, 4], [5, 6]], dtype)
    rows = F.embedding(paddle.to_tensor([2, 0, 2]), weight)
    rows.sum().backward()
    return [(rows, [[5, 6], [1, 2], [5, 6]]), (weight.grad, [[1, 1], [0, 0], [2, 2]])]


def _layer_norm(dtype: str) -> Pairs:
    x, weight, bias = (_numbers(v, dtype) for v in ([[1, 3]], [2, 2], [1, 1]))
    y = F.layer_norm(x, [2], weight, bias, epsilon=0.0)
    y.sum().backward()
    return [(y, [[-1, 3]]), (weight.grad, [-1, 1]), (bias.grad, [1, 1]), (x.grad, [[0, 0]])]


def _matmul(dtype: str) -> Pairs:
    x, weight = _numbers([[1, 2], [3, 4]], dtype), _numbers([[1, 0, 2], [0, 1, 2]], dtype)
    y = paddle.matmul(x, weight)
    y.sum().backward()
    heads = paddle.matmul(x.reshape([1, 2, 2]), x.reshape([1, 2, 2]), transpose_y=True)
    return [
        (y, [[1, 2, 6], [3, 4, 14]]),
        (x.grad, [[3, 3], [3, 3]]),
        (weight.grad, [[4, 4, 4], [6, 6, 6]]),
        (heads, [[[5, 11], [11, 25]]]),
    ]


def _gelu(dtype: str) -> Pairs:
    x = _numbers([0, 1], dtype)
    y = F.gelu(x, approximate=True)
    y.sum().backward()
    return [(y, [0, 0.841192]), (x.grad, [0.5, 1.082964])]


def _softmax(dtype: str) -> Pairs:
    x = _numbers([0, math.log(3)], dtype)
    y = F.softmax(x, axis=-1, dtype="float32").astype(dtype)
    y[1].backward()
    return [(y, [0.25, 0.75]), (x.grad, [-0.1875, 0.1875])]


def _arithmetic(dtype: str) -> Pairs:
    x, row = _numbers([[1, 2], [3, 4]], dtype), _numbers([1, 2], dtype)
    y = x * 2 + row - x / 2
    y.sum().backward()
    return [(y, [[2.5, 5], [5.5, 8]]), (x.grad, [[1.5, 1.5], [1.5, 1.5]]), (row.grad, [2, 2])]


def _dropout(dtype: str) -> Pairs:
    y = F.dropout(paddle.ones([64], dtype), 0.5)
    kept = (y > 0).astype(dtype)
    return [(y, 2 * kept.numpy()), ((kept.sum() > 0) & (kept.sum() < 64), True)]


def _cross_entropy(dtype: str) -> Pairs:
    x, label = _numbers([[0, 0], [0, 0]], dtype), paddle.to_tensor([[1], [0]])
    loss = (paddle.logsumexp(x, axis=1) - paddle.take_along_axis(x, label, axis=1).squeeze(1)).mean()
    loss.backward()
    written = paddle.put_along_axis(x.detach(), label, paddle.full([2, 1], 5, dtype), axis=1)
    p = F.softmax(written, axis=1)
    best = p.argmax(axis=1)
    likely = paddle.take_along_axis(p, best.unsqueeze(1), axis=1, broadcast=False).squeeze(1)
    return [
        (loss, math.log(2)),
        (x.grad, [[0.25, -0.25], [-0.25, 0.25]]),
        (written, [[0, 5], [5, 0]]),
        (best, [1, 0]),
        (likely.log(), [-math.log1p(math.exp(-5))] * 2),
        (label.clip(0, 0), [[0], [0]]),
    ]


class _Doubled(PyLayer):
    """2·x, with a gradient written here."""

    @staticmethod
    def forward(ctx, x: Tensor, row: Tensor) -> Tensor:
        ctx.save_for_backward(row)
        return 2 * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensor()[0], None


def _own_gradients(dtype: str) -> Pairs:
    """What norm and rotary positions are made of where they have gradients of their own."""
    x, row = _numbers([[3, 4], [6, 8]], dtype), _numbers([2, 2], dtype, trained=False)
    y = _Doubled.apply(x, row)
    y.sum().backward()
    pairs = x.detach().astype("float32").reshape([2, 1, 2])
    a, b = pairs[..., 0], pairs[..., 1]
    angle = paddle.zeros([2, 1])
    turned = paddle.stack([a * angle.cos().expand_as(a), b + angle.sin().expand_as(b)], axis=-1).flatten(-2)
    rows = paddle.matmul(paddle.ones([1, 2], dtype), x.detach()).flatten()
    return [
        (y, [[6, 8], [12, 16]]),
        (x.grad, [[2, 2], [2, 2]]),
        (turned.astype(dtype), [[3, 4], [6, 8]]),
        (paddle.rsqrt(pairs.square().mean(axis=-1)), [[0.282843], [0.141421]]),
        (rows, [9, 12]),
    ]


def _trained_tokens(dtype: str) -> Pairs:
    labels, x = paddle.to_tensor([-1, 4, -1, 6]), _numbers([[1], [2], [3], [4]], dtype)
    at = paddle.nonzero(labels >= 0).flatten()
    rows = paddle.index_select(x, at)
    rows.sum().backward()
    return [(at, [1, 3]), (labels[at], [4, 6]), (rows, [[2], [4]]), (x.grad, [[0], [1], [0], [1]])]


def _weight(dtype: str) -> Tensor:
    """A trained 1.0."""
    return paddle.create_parameter([1], dtype, default_initializer=paddle.nn.initializer.Constant(1.0))


def _optimizer(weight: Tensor) -> paddle.optimizer.AdamW:
    return paddle.optimizer.AdamW(
        0.25,
        parameters=[weight],
        weight_decay=0.0,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
        multi_precision=weight.dtype != paddle.float32,
    )


def _adamw(dtype: str) -> Pairs:
    """Its first step is as long as the learning rate, whatever the gradient."""
    weight = _weight(dtype)
    optimizer = _optimizer(weight)
    (weight * 4).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    return [(weight, [0.75])]


def _loss_scaling(dtype: str) -> Pairs:
    weight, scaler = _weight(dtype), paddle.amp.GradScaler(init_loss_scaling=8.0)
    optimizer = _optimizer(weight)
    with paddle.amp.auto_cast(dtype="float16"):  # outside of it the scaler turns itself off
        loss = scaler.scale(weight.sum())
    loss.backward()
    scaled = weight.grad.clone()
    scaler.step(optimizer)
    scaler.update()
    return [(scaled, [8]), (weight, [0.75])]


def _choice(dtype: str) -> Pairs:
    x = _numbers([[1, 3, 2, 0]], dtype, trained=False)
    best, at = paddle.topk(x, 2, axis=1)
    return [
        (best, [[3, 2]]),
        (at, [[1, 2]]),
        (x.argmax(axis=-1), [1]),
        (paddle.sort(x, axis=-1, descending=True).cumsum(axis=-1), [[3, 5, 6, 6]]),
        (paddle.where(x >= 2, x, paddle.full_like(x, -1e9)).min(), -1e9),
    ]


def _beams(dtype: str) -> Pairs:
    x = _numbers([[[1, 2], [3, 4]]], dtype, trained=False)
    chosen = paddle.gather_nd(x, paddle.to_tensor([[[0, 1], [0, 1]]]))
    grown = paddle.concat([chosen, paddle.zeros([1, 2, 0], dtype), chosen], axis=-1)
    stacked = paddle.stack([chosen, chosen], axis=-1)
    return [(chosen, [[[3, 4], [3, 4]]]), (grown, [[[3, 4, 3, 4]] * 2]), (stacked[0, 0], [[3, 3], [4, 4]])]


def _rules(dtype: str) -> Pairs:
    x, ids = _numbers([[1, 1, 1]], dtype, trained=False), paddle.to_tensor([[2, 2]])
    added = paddle.put_along_axis(x, ids, _numbers([[1, 2]], dtype, trained=False), axis=1, reduce="add")
    taken = paddle.take_along_axis(added, ids, axis=-1, broadcast=False)
    return [
        (added, [[1, 1, 4]]),
        (taken, [[4, 4]]),
        (paddle.put_along_axis(x, ids, taken / 2, axis=1, reduce="assign"), [[1, 1, 2]]),
        (F.one_hot(ids, 3).sum(axis=1), [[0, 0, 2]]),
        ((ids == 2).all(axis=-1), [True]),
    ]


def _random_bits(dtype: str) -> Pairs:
    """Integers of more than 32 bits, which random numbers from a seed are made of."""
    x, word = paddle.to_tensor([(1 << 40) + 5]), paddle.full([], 1 << 32, "int64")
    return [(x % word, [5]), (x // word, [256]), (paddle.bitwise_xor(x, word), [(1 << 40) + (1 << 32) + 5])]


def _loop(dtype: str) -> Pairs:
    def grow(step, ids):
        return [step + 1, paddle.concat([ids, step.reshape([1])])]

    state = [paddle.zeros([], "int64"), paddle.to_tensor([9])]
    step, ids = paddle.static.nn.while_loop(lambda step, ids: step < 3, grow, state)
    return [(step, 3), (ids, [9, 0, 1, 2])]


_BLOCK = {
    "arithmetic with broadcasting": _arithmetic,
    "embedding and its gradient": _embedding,
    "layer norm and its gradient": _layer_norm,
    "matmul and its gradient": _matmul,
    "gelu and its gradient": _gelu,
    "softmax and its gradient": _softmax,
}
CAPABILITIES = [
    Capability("creation and copies", MODEL, _creation),
    Capability("strided copies", MODEL, _strides),
    *(Capability(name, MODEL, run) for name, run in _BLOCK.items()),
    Capability("dropout", TRAINING, _dropout),
    Capability("cross entropy by columns", TRAINING, _cross_entropy),
    Capability("selection of trained tokens", TRAINING, _trained_tokens),
    Capability("gradients of one's own", TRAINING, _own_gradients),
    Capability("AdamW with gradient clipping", TRAINING, _adamw),
    Capability("top k, sort, argmax", GENERATION, _choice),
    Capability("selection of beams", GENERATION, _beams),
    Capability("no n-gram twice", GENERATION, _rules),
    Capability("random numbers from a seed", GENERATION, _random_bits),
    Capability("a loop that grows", GENERATION, _loop),
    *(Capability(name, dtype, run, dtype) for dtype, (name, run) in product(HALF_DTYPES, _BLOCK.items())),
    *(Capability("gradients of one's own", dtype, _own_gradients, dtype) for dtype in HALF_DTYPES),
    *(Capability("AdamW with float32 master weights", dtype, _adamw, dtype) for dtype in HALF_DTYPES),
    Capability("loss scaling", "float16", _loss_scaling, "float16"),
]
