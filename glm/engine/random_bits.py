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
    mixed = _column_words(columns) if isinstance(columns, int) else _mix(columns.astype("uint64") + np.uint64(1))
    place = (_mix_word(seed) + step * 7919 + row * 104729) & _WORD
    bits = _mix(np.uint64(_mix_word(place)) + mixed)
    uniform = ((bits >> np.uint64(9)).astype("float32") + np.float32(0.5)) * np.float32(1.0 / (1 << 23))
    return -np.log(-np.log(uniform))


@lru_cache(maxsize=4)
def _column_words(count: int) -> np.ndarray:
    """The part of a number that its column gives, which is the same at every step."""
    return _mix(np.arange(1, count + 1, dtype="uint64"))


def _mix_word(value: int) -> int:
    return int(_mix(np.array([value & _WORD], dtype="uint64"))[0])


def _mix(x: np.ndarray) -> np.ndarray:
    """The 32-bit finaliser of glm/generation/random_bits.py on uint64 words."""
    word = np.uint64(_WORD)
    x = x & word
    x = (x ^ (x >> np.uint64(16))) * np.uint64(0x85EBCA6B) & word
    x = (x ^ (x >> np.uint64(13))) * np.uint64(0xC2B2AE35) & word
    return x ^ (x >> np.uint64(16))
