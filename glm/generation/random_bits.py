"""Random numbers as a pure function of a seed and a place.

A generator with hidden state cannot be seeded by an input of an exported graph. Here a number depends on nothing but
(seed, step, row, column), so eager mode and every runtime draw the same ones.
"""

import paddle
from paddle import Tensor


def gumbel_noise(seed: Tensor, step: Tensor, rows: int | Tensor, columns: int) -> Tensor:
    """Standard Gumbel noise [rows, columns], float32: argmax(logits + noise) draws from softmax(logits).

    Args:
        seed, step: 0-D int64, not negative.
        rows, columns: shape; what a number is, does not depend on how many there are.
    """
    row_B1 = paddle.arange(rows, dtype="int64").unsqueeze(1) * _word(104729)
    row_B1 = _mix(_mix(seed) + step * _word(7919) + row_B1)
    bits_BV = _mix(row_B1 + _mix(paddle.arange(columns, dtype="int64") + 1).unsqueeze(0))
    # 23 bits and a half: float32 holds that exactly. With 24 the last number would be 1, and its noise infinite.
    uniform_BV = ((bits_BV // _word(1 << 9)).astype("float32") + 0.5) * (1.0 / (1 << 23))
    return -paddle.log(-paddle.log(uniform_BV))


def _mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser (Appleby's MurmurHash3, fmix32) on int64 tensors, free of overflow."""
    x = x % _word(1 << 32)
    x = _multiply(paddle.bitwise_xor(x, x // _word(1 << 16)), 0x85EBCA6B)
    x = _multiply(paddle.bitwise_xor(x, x // _word(1 << 13)), 0xC2B2AE35)
    return paddle.bitwise_xor(x, x // _word(1 << 16))


def _multiply(x: Tensor, factor: int) -> Tensor:
    """x·factor modulo 2**32, in halves that stay below 2**63."""
    half = _word(1 << 16)
    return ((x % half) * _word(factor) + ((x // half) * _word(factor) % half) * half) % _word(1 << 32)


def _word(value: int) -> Tensor:
    """A constant as a tensor: a graph would round a Python factor to float32."""
    return paddle.full([], value, dtype="int64")
