"""Blends of data sets: written-down values, the rule, PaddleNLP's compiled helper."""

import numpy as np
import pytest

from glm.datasets.blend import blend_index, member_samples, normalised
from glm.errors import UsageError


def test_written_down_values():
    index = blend_index([0.3, 0.7], 10)
    assert index["dataset"].tolist() == [1, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    assert index["sample"].tolist() == [0, 0, 1, 2, 1, 3, 4, 2, 5, 6]
    assert index["dataset"].dtype == np.int16 and index["sample"].dtype == np.int64


def test_equal_weights_take_turns():
    assert blend_index(normalised([1, 1, 1]), 6)["dataset"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_the_compiled_helper_gives_the_same(seed):
    helpers = pytest.importorskip("fast_dataindex.helpers")
    draw = np.random.default_rng(seed)
    weights, size = normalised(draw.random(draw.integers(1, 8)) + 1e-3), 500
    dataset, sample = np.zeros(size, np.int16), np.zeros(size, np.int64)
    helpers.build_blending_indices(dataset, sample, np.array(weights), len(weights), size, False)
    index = blend_index(weights, size)
    np.testing.assert_array_equal(index["dataset"], dataset)
    np.testing.assert_array_equal(index["sample"], sample)


def test_members_have_enough_samples():
    """Megatron's share with its surplus; more where the blend takes more."""
    weights = normalised([1, 3])
    assert member_samples(weights, 1000, blend_index(weights, 1000)["dataset"]) == [252, 754]
    for size in range(1, 60):
        for weights in (normalised([1, 3]), normalised([1, 1, 5]), normalised([1e-3, 1])):
            index = blend_index(weights, size)
            counts = member_samples(weights, size, index["dataset"])
            assert all(sample < counts[member] for member, sample in zip(*index.values(), strict=True))


@pytest.mark.parametrize("weights", [[0.0, 1], [-1, 2], [float("nan"), 1], [float("inf"), 1]])
def test_weights_that_are_none(weights):
    with pytest.raises(UsageError, match="weights must be above 0"):
        normalised(weights)
