"""The random numbers of glm/generation/random_bits.py in numpy: the same bits at the same place."""

from functools import lru_cache

import numpy as np

_WORD = 0xFFFFFFFF


def gumbel_noise(seed: int, step: int, row: int, columns: np.ndarray | int) -> np.ndarray:
    """Standard Gumbel noise float32 of one row: argmax(logits + noise) draws from softmax(logits).

    Args:
        seed, step, row: not negative.
        columns: int64 places whose numbers are wanted, or how many from the first one on.
    """
    mixed = _column_words(columns) if isinstance(columns, int) else _mix(columns.astype("uint32") + np.uint32(1))
    place = (_mix_word(seed) + step * 7919 + row * 104729) & _WORD
    bits = _mix(mixed + np.uint32(_mix_word(place)))
    uniform = ((bits >> np.uint32(9)).astype("float32") + np.float32(0.5)) * np.float32(1.0 / (1 << 23))
    return -np.log(-np.log(uniform))


@lru_cache(maxsize=4)
def _column_words(count: int) -> np.ndarray:
    """The part of a number that its column gives, which is the same at every step."""
    return _mix(np.arange(1, count + 1, dtype="uint32"))


def _mix_word(value: int) -> int:
    return int(_mix(np.array([value & _WORD], dtype="uint32"))[0])


def _mix(x: np.ndarray) -> np.ndarray:
    """The 32-bit finaliser of glm/generation/random_bits.py; products of uint32 keep their lowest 32 bits."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
