"""Frequencies of rotary positions, for the model and for its exported graphs. Needs no Paddle."""

from collections.abc import Mapping
from math import ceil, floor, log, pi
from typing import Any

import numpy as np

from glm.config.rope_scaling import ORIGINAL


def inverse_frequencies(rotary_dim: int, base: float) -> np.ndarray:
    """base^(-2i/E) [E/2] float32."""
    return np.float32(1) / _powers(rotary_dim, base)


def _powers(rotary_dim: int, base: float) -> np.ndarray:
    """base^(2i/E) [E/2] float32; exponents in float32 and the power in float64 round as torch does."""
    exponents = np.arange(0, rotary_dim, 2, dtype="float32") / np.float32(rotary_dim)
    return (np.float64(base) ** exponents.astype("float64")).astype("float32")


def scaled_frequencies(config: Any) -> tuple[np.ndarray, float]:
    """Inverse frequencies [E/2] float32 of partial rotary positions, and what cosines and sines are multiplied by.

    As transformers 5.3.0 computes them (modeling_rope_utils.py), float32 step for step.

    Args:
        config: rotary_dim, rope_theta, rope_scaling.
    """
    rotary_dim, scaling = config.rotary_dim, config.rope_scaling
    if not scaling:
        return inverse_frequencies(rotary_dim, config.rope_theta), 1.0
    return _SCALED[scaling["rope_type"]](_powers(rotary_dim, config.rope_theta), config.rope_theta, scaling)


def _linear(powers: np.ndarray, base: float, scaling: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    return np.float32(1) / powers / np.float32(scaling["factor"]), 1.0


def _llama3(powers: np.ndarray, base: float, scaling: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """Long waves are slowed down by the factor, short ones are not, those between by what lies between."""
    frequencies = np.float32(1) / powers
    factor, original = scaling["factor"], scaling[ORIGINAL]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    # torch divides a number by a tensor as its reciprocal times the number.
    waves = np.float32(1) / frequencies * np.float32(2 * pi)
    slowed = np.where(waves > original / low, frequencies / np.float32(factor), frequencies)
    share = (np.float32(1) / waves * np.float32(original) - np.float32(low)) / np.float32(high - low)
    between = (1 - share) * slowed / np.float32(factor) + share * slowed
    medium = (waves >= original / high) & (waves <= original / low)
    return np.where(medium, between, slowed), 1.0


def _yarn(powers: np.ndarray, base: float, scaling: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """YaRN (arXiv:2309.00071, 3.2 to 3.4): slow dimensions are interpolated, fast ones kept, a ramp between them."""
    dims = 2 * len(powers)

    def turning(rotations: float) -> float:
        """The dimension that rotates so often within the original length."""
        return dims * log(scaling[ORIGINAL] / (rotations * 2 * pi)) / (2 * log(base))

    low, high = turning(scaling.get("beta_fast") or 32), turning(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    width = (high if high != low else high + 0.001) - low
    ramp = ((np.arange(len(powers), dtype="float32") - np.float32(low)) / np.float32(width)).clip(0, 1)
    kept = 1 - ramp
    interpolated = np.float32(1) / (np.float32(scaling["factor"]) * powers)
    return interpolated * (1 - kept) + np.float32(1) / powers * kept, _attention_factor(scaling)


def _attention_factor(scaling: Mapping[str, Any]) -> float:
    """By which softer attention over more tokens is made sharp again."""

    def scale(weight: float) -> float:
        return 0.1 * weight * log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    of_scores, of_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return scale(of_scores) / scale(of_all) if of_scores and of_all else scale(1)


_SCALED = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
