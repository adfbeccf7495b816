"""Several data sets as one: which of them each sample is of. Megatron's greedy rule.

Source: NVIDIA/Megatron-LM, megatron/core/datasets/blended_dataset.py and helpers.cpp, build_blending_indices.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np

from glm.errors import UsageError

SURPLUS = 0.005  # a member has more samples than its share: the greedy rule is not exact
MOST = 32767  # members that int16 tells apart


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights whose sum is 1. Raises UsageError for one that is not above 0, and for too many."""
    if len(weights) > MOST:
        raise UsageError(f"input_dir names {len(weights):,} data sets, at most {MOST:,} can be blended: merge some")
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise UsageError(f"input_dir has the weight {weight}, and weights must be above 0")
    whole = np.asarray(weights, dtype=np.float64)
    return (whole / whole.sum()).tolist()


def blend_index(weights: Sequence[float], size: int) -> dict[str, np.ndarray]:
    """At each sample, the data set that lags furthest behind its weight; of equal ones the first.

    Args:
        weights: normalised.
        size: samples of the blend.

    Returns:
        dataset [size] int16, sample [size] int64: the member and which of its samples.
    """
    dataset, sample = np.empty(size, np.int16), np.empty(size, np.int64)
    taken, members = [0] * len(weights), range(len(weights))
    for place in range(size):
        count = max(place, 1)
        best, most = 0, weights[0] * count - taken[0]
        for member in members:
            lag = weights[member] * count - taken[member]
            if lag > most:
                best, most = member, lag
        dataset[place], sample[place] = best, taken[best]
        taken[best] += 1
    return {"dataset": dataset, "sample": sample}


def member_samples(weights: Sequence[float], size: int, dataset: np.ndarray) -> list[int]:
    """Samples that each member is built with: its share and the surplus, and never fewer than the blend takes."""
    shares = [ceil(ceil(size * weight) * (1 + SURPLUS)) for weight in weights]
    used = np.bincount(dataset, minlength=len(weights)).tolist()
    return [max(pair) for pair in zip(shares, used, strict=True)]
