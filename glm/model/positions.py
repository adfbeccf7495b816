"""Where a token stands: a table of position schemes with one interface.

A scheme does its work at one or both of two places: `embed` adds to the word embeddings, `rotation` gives what rotates
queries and keys. Position ids are [B, P, T] int64, with P rows per token (GLM: position in the text, position in the
blank).

Shapes: B rows, T tokens, N heads, D head_dim, E rotary dimensions.
"""

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

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
    """Rotary embedding (arXiv:2104.09864, 3.2) of the first E dimensions of a head, in neighbouring pairs (GLM-4).

    Scaled positions (YaRN and others) have other frequencies, and may multiply what is rotated.
    """

    position_rows = 1

    def __init__(self, config):
        super().__init__()
        self.frequencies, self.scale = scaled_frequencies(config)

    def embed(self, x_BTH: Tensor, position_ids_BPT: Tensor) -> Tensor:
        return x_BTH

    def rotation(self, position_ids_BPT: Tensor) -> Rotate:
        cos, sin = _cos_sin(position_ids_BPT[:, 0], self.frequencies, self.scale)

        rotate = RotaryFunction.apply if self.training else apply_rotary
        return lambda q_BTND, k_BTND: (rotate(q_BTND, cos, sin), rotate(k_BTND, cos, sin))


def apply_rotary(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor) -> Tensor:
    """The first 2·P dimensions of every head rotated by P angles (and scaled), in neighbouring pairs."""
    turning = 2 * cos_BT1P.shape[-1]
    rotary, passed = x_BTND[..., :turning], x_BTND[..., turning:]
    pairs = rotary.astype("float32").reshape([0, 0, x_BTND.shape[2], turning // 2, 2])
    a, b = pairs[..., 0], pairs[..., 1]
    # Multiplying by what has one head takes a CPU ten times as long as making all heads of it first.
    cos, sin = cos_BT1P.expand_as(a), sin_BT1P.expand_as(a)
    rotated = paddle.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).flatten(-2)
    return paddle.concat([rotated.astype(x_BTND.dtype), passed], axis=-1)


class RotaryFunction(PyLayer):
    """`apply_rotary` with its own gradient: that of a rotation is the rotation back, scaled alike."""

    @staticmethod
    def forward(ctx, x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1P, sin_BT1P)
        return apply_rotary(x_BTND, cos_BT1P, sin_BT1P)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos_BT1P, sin_BT1P = ctx.saved_tensor()
        return apply_rotary(grad, cos_BT1P, -sin_BT1P), None, None


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

        def rotate(x_BTND: Tensor) -> Tensor:
            rotated = []
            for part, (cos, sin) in zip(x_BTND.astype("float32").chunk(2, axis=-1), halves, strict=True):
                a, b = part.chunk(2, axis=-1)
                rotated += [a * cos - b * sin, b * cos + a * sin]
            return paddle.concat(rotated, axis=-1).astype(x_BTND.dtype)

        return lambda q_BTND, k_BTND: (rotate(q_BTND), rotate(k_BTND))


def _cos_sin(position_ids_BT: Tensor, frequencies: np.ndarray, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Of the angles, times `scale`: [B, T, 1, E/2] float32."""
    angles = position_ids_BT.astype("float32").unsqueeze(-1) * paddle.to_tensor(frequencies)
    cos, sin = angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)
    return (cos, sin) if scale == 1.0 else (cos * scale, sin * scale)


POSITIONS = {"learned_2d": Learned2DPositions, "partial_rotary": PartialRotary, "rotary_2d": Rotary2D}
