"""The estimate is of all devices; a CPU's own kernels keep less for the backward pass, and never need more."""

from dataclasses import replace

import pytest

from glm import kernels
from glm.memory import estimate
from tests.memory.measurement import RUN, config_of, measure_training
from tests.memory.test_estimate import SHAPES

pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(kernels.fault()), reason=f"no kernels here: {kernels.fault()}")]


@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_needs_no_more_with_kernels(shape, recompute):
    config, run = config_of(**SHAPES[shape]), replace(RUN, train="full", recompute=recompute)
    assert measure_training(config, run).peak <= 1.02 * estimate(config, run).training
