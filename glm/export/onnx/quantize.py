"""Weights in blocks of few bits, in the layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized.

Along the inputs of a matrix, each block of numbers shares a scale and a zero point: weight ≈ scale · (q - zero). Two
4-bit numbers share a byte, the first in its low half (onnxruntime/docs/ContribOperators.md).

Shapes: N outputs, K inputs, b = ⌈K / block⌉ blocks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glm.errors import GLMError, UsageError

SMALLEST_BLOCK, LARGEST_BLOCK = 16, 256  # those that ONNX Runtime takes


class Quantized(NamedTuple):
    """Rows of a matrix.

    Attributes:
        data: [N, b, block · bits / 8] uint8; what K does not fill of the last block counts as zeros.
        scales: [N, b] float32.
        zeros: [N, ⌈b · bits / 8⌉] uint8, None where every zero point is 2^(bits-1).
    """

    data: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None


@dataclass(frozen=True)
class Blocks:
    """How weights are quantized.

    Attributes:
        bits: 4 or 8.
        block: numbers that share a scale, a power of 2 from 16 to 256.
        symmetric: zero is in the middle of the range; else each block has a zero point of its own.
    """

    bits: int
    block: int
    symmetric: bool = True

    def __post_init__(self):
        if self.bits not in (4, 8):
            raise UsageError(f"weights of {self.bits} bits are not supported: choose 4 or 8")
        if not SMALLEST_BLOCK <= self.block <= LARGEST_BLOCK or self.block & (self.block - 1):
            raise UsageError(
                f"block size {self.block} is not a power of 2 from {SMALLEST_BLOCK} to {LARGEST_BLOCK}: choose 128"
            )

    def count(self, inputs: int) -> int:
        """b, the blocks of so many inputs."""
        return -(-inputs // self.block)

    def packed(self, numbers: int) -> int:
        """Bytes of so many numbers."""
        return -(-numbers * self.bits // 8)

    def quantize(self, rows_NK: np.ndarray) -> Quantized:
        """Nearest numbers; the largest magnitude of a symmetric block is hit exactly.

        Raises:
            GLMError: a number is not finite.
        """
        outputs, inputs = rows_NK.shape
        blocks = np.zeros((outputs, self.count(inputs) * self.block), dtype="float32")
        blocks[:, :inputs] = rows_NK
        blocks = blocks.reshape(outputs, -1, self.block)
        scales, zeros = self._centred(blocks) if self.symmetric else self._ranged(blocks)
        if not np.isfinite(scales).all():
            raise GLMError("a weight is nan or infinite, which has no quantized form: export with --weights fp32")
        numbers = np.clip(np.round(blocks / scales[..., None]) + zeros[..., None], 0, 2**self.bits - 1)
        packed_zeros = None if self.symmetric else self._pack(zeros.astype("uint8"))
        return Quantized(self._pack(numbers.astype("uint8")), scales, packed_zeros)

    def dequantize(self, quantized: Quantized, inputs: int) -> np.ndarray:
        """The weights [N, K] float32 that the numbers stand for."""
        scales = quantized.scales
        zeros = np.full(scales.shape, 2 ** (self.bits - 1), dtype="float32")
        if quantized.zeros is not None:
            zeros = self._unpack(quantized.zeros)[:, : scales.shape[1]].astype("float32")
        numbers = self._unpack(quantized.data).astype("float32")
        return ((numbers - zeros[..., None]) * scales[..., None]).reshape(len(scales), -1)[:, :inputs]

    def _centred(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points: the range reaches one further below zero, so the largest number is put there."""
        middle = 2 ** (self.bits - 1)
        at = np.abs(blocks).argmax(axis=-1)[..., None]
        scales = np.take_along_axis(blocks, at, axis=-1)[..., 0] / np.float32(-middle)
        return _no_zeros(scales), np.full(scales.shape, middle, dtype="float32")

    def _ranged(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points that cover a block from its smallest to its largest number, and zero."""
        low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
        scales = _no_zeros((high - low) / np.float32(2**self.bits - 1))
        return scales, np.round(-low / scales)

    def _pack(self, numbers: np.ndarray) -> np.ndarray:
        if self.bits == 8:
            return numbers
        if numbers.shape[-1] % 2:
            numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
        return numbers[..., 0::2] | (numbers[..., 1::2] << 4)

    def _unpack(self, packed: np.ndarray) -> np.ndarray:
        if self.bits == 8:
            return packed
        return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _no_zeros(scales: np.ndarray) -> np.ndarray:
    """A block of zeros stays one with any scale."""
    return np.where(scales == 0, np.float32(1), scales)
