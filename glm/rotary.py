"""Frequencies of rotary positions, for the model and for its exported graphs. Needs no Paddle."""

import numpy as np


def inverse_frequencies(rotary_dim: int, base: float) -> np.ndarray:
    """base^(-2i/R) [R/2] float32; exponents in float32 and the power in float64 round as torch does."""
    exponents = np.arange(0, rotary_dim, 2, dtype="float32") / np.float32(rotary_dim)
    return np.float32(1) / (np.float64(base) ** exponents.astype("float64")).astype("float32")
