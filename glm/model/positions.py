"""Where a token stands: a table of position schemes with one interface.

A scheme does its work at one or both of two places: `embed` adds to the word embeddings, `rotation` gives what rotates
queries and keys. Position ids are [B, P, T] int64, with P rows per token (GLM: position in the text, position in the
blank).

Shapes: B rows, T tokens, N heads, D head_dim, E rotary dimensions.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from glm.kernels.rotary import APART, BOTH_HALVES, PAIRS, turned, turns
from glm.model.rotary import inverse_frequencies, scaled_frequencies

# q [B, T, N, D], k [B, T, K, D] → the same, rotated.
Rotate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Learned2DPositions(nn.Layer):
    """Two learned tables, for the place in the text and for the place inside the blank (GLM, arXiv:2103.10360, 2.1)."""

    position_rows = 2

    def __init__(self, config):
        super().__init__()
        rows, width = config.max_position_embeddings + 1, config.hidden_size
        self.position_embeddings = nn.Embedding(rows, width)
        self.block_position_embeddings = nn.Embedding(rows, width)

    def embed(self, x_BTH: Tensor, position_ids_BPT: Tensor) -> Tensor:
        position, block = position_ids_BPT[:, 0], position_ids_BPT[:, 1]
        return x_BTH + self.position_embeddings(position) + self.block_position_embeddings(block)

    def rotation(self, position_ids_BPT: Tensor) -> Rotate:
        return lambda q_BTND, k_BTND: (q_BTND, k_BTND)


class PartialRotary(nn.Layer):
    """Rotary embedding (arXiv:2104.09864, 3.2) of the first E dimensions of a head, in neighbouring pairs (GLM-4) or in
    pairs E/2 apart (GLM-4.5).

    Scaled positions (YaRN and others) have other frequencies, and may multiply what is rotated.
    """

    position_rows = 1

    def __init__(self, config):
        super().__init__()
        self.frequencies, self.scale = scaled_frequencies(config)
        self.turn = ROTARY_PAIRS[config.position_type]

    def embed(self, x_BTH: Tensor, position_ids_BPT: Tensor) -> Tensor:
        return x_BTH

    def rotation(self, position_ids_BPT: Tensor) -> Rotate:
        cos, sin = _cos_sin(position_ids_BPT[:, 0], self.frequencies, self.scale)

        return _rotation(self.turn, self.training, cos, sin)


def apply_rotary(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor) -> Tensor:
    """The first 2·P dimensions of every head rotated by P angles (and scaled), in neighbouring pairs."""
    turning = 2 * cos_BT1P.shape[-1]
    pairs = x_BTND[..., :turning].astype("float32").reshape([0, 0, x_BTND.shape[2], turning // 2, 2])
    a, b = pairs[..., 0], pairs[..., 1]
    # Multiplying by what has one head takes a CPU ten times as long as making all heads of it first.
    cos, sin = cos_BT1P.expand_as(a), sin_BT1P.expand_as(a)
    rotated = paddle.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).flatten(-2)
    return _before_the_rest(rotated, x_BTND)


def apply_rotary_halves(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor) -> Tensor:
    """As `apply_rotary`, but dimension i goes with i + P."""
    turning = 2 * cos_BT1P.shape[-1]
    a, b = x_BTND[..., :turning].astype("float32").chunk(2, axis=-1)
    cos, sin = cos_BT1P.expand_as(a), sin_BT1P.expand_as(a)
    rotated = paddle.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return _before_the_rest(rotated, x_BTND)


def _before_the_rest(rotated: Tensor, x_BTND: Tensor) -> Tensor:
    """With the dimensions that do not turn. Where all do, nothing is put together: devices' kernels may crash of it."""
    rotated, turning = rotated.astype(x_BTND.dtype), rotated.shape[-1]
    return rotated if turning == x_BTND.shape[-1] else paddle.concat([rotated, x_BTND[..., turning:]], axis=-1)


ROTARY_PAIRS = {"partial_rotary": apply_rotary, "partial_rotary_halves": apply_rotary_halves}


def apply_rotary_2d(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor, cos2_BT1P: Tensor, sin2_BT1P: Tensor) -> Tensor:
    """Both halves of every head rotated, each by P = D/4 angles of its own position."""
    a, b, c, d = x_BTND.astype("float32").chunk(4, axis=-1)
    first = [a * cos_BT1P - b * sin_BT1P, b * cos_BT1P + a * sin_BT1P]
    second = [c * cos2_BT1P - d * sin2_BT1P, d * cos2_BT1P + c * sin2_BT1P]
    return paddle.concat([*first, *second], axis=-1).astype(x_BTND.dtype)


_KERNELS = {apply_rotary: PAIRS, apply_rotary_halves: APART, apply_rotary_2d: BOTH_HALVES}


def _rotation(apply: Callable[..., Tensor], training: bool, *cos_sin: Tensor) -> Rotate:
    """Of queries and keys by the same angles, cosines and sines in turn."""
    plain = partial(RotaryFunction.apply, apply) if training else apply
    kernel = partial(turned, _KERNELS[apply])

    def rotate(q_BTND: Tensor, k_BTND: Tensor) -> tuple[Tensor, Tensor]:
        by = kernel if turns(q_BTND, *cos_sin) else plain
        return by(q_BTND, *cos_sin), by(k_BTND, *cos_sin)

    return rotate


class RotaryFunction(PyLayer):
    """A rotation with its own gradient, which keeps the angles alone: the rotation back, scaled alike."""

    @staticmethod
    def forward(ctx, apply: Callable[..., Tensor], x_BTND: Tensor, *cos_sin: Tensor) -> Tensor:
        ctx.apply = apply
        ctx.save_for_backward(*cos_sin)
        return apply(x_BTND, *cos_sin)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos_sin = ctx.saved_tensor()
        back = [-x if i % 2 else x for i, x in enumerate(cos_sin)]
        return ctx.apply(grad, *back), *[None] * len(back)


class Rotary2D(nn.Layer):
    """Half of a head is rotated by the position in the text, half with that in the blank (ChatGLM-6B).

    Dimension i goes with i + E/2 inside each half. The published model rounds the frequencies to float16.
    """

    position_rows = 2

    def __init__(self, config):
        super().__init__()
        exact = inverse_frequencies(config.head_dim // 2, config.rope_theta)
        self.frequencies = exact.astype("float16").astype("float32")

    def embed(self, x_BTH: Tensor, position_ids_BPT: Tensor) -> Tensor:
        return x_BTH

    def rotation(self, position_ids_BPT: Tensor) -> Rotate:
        halves = [_cos_sin(position_ids_BPT[:, row], self.frequencies) for row in range(2)]
        return _rotation(apply_rotary_2d, self.training, *halves[0], *halves[1])


def _cos_sin(position_ids_BT: Tensor, frequencies: np.ndarray, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Of the angles, times `scale`: [B, T, 1, E/2] float32."""
    angles = position_ids_BT.astype("float32").unsqueeze(-1) * paddle.to_tensor(frequencies)
    cos, sin = angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)
    return (cos, sin) if scale == 1.0 else (cos * scale, sin * scale)


POSITIONS = {
    "learned_2d": Learned2DPositions,
    "rotary_2d": Rotary2D,
    **dict.fromkeys(ROTARY_PAIRS, PartialRotary),
}
