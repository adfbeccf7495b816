"""Cutting gradients by their norm where ranks share experts (glm/training/expert_gradients.py), seen from one rank."""

import numpy as np
import paddle
import paddle.distributed as dist
import pytest

from glm.training.expert_gradients import ClipWithExperts


@pytest.mark.parametrize("most", [0.5, 1e3])
def test_it_cuts_in_place_by_the_norm_of_all(monkeypatch, most):
    """The other rank's experts have gradients of a square of 7; no gradient is there twice."""
    monkeypatch.setattr(dist, "all_reduce", lambda own, group: own.add_(paddle.to_tensor(7.0)))
    parameters = [paddle.create_parameter([3, 2], "float32") for _ in range(3)]
    grads = [paddle.to_tensor(np.full((3, 2), value, "float32")) for value in (1.0, 2.0)]
    before, place = [grad.numpy() for grad in grads], [grad.data_ptr() for grad in grads]
    clip = ClipWithExperts(most, {parameters[0].name}, None)
    found = clip._dygraph_clip([*zip(parameters, grads, strict=False), (parameters[2], None)])
    factor = min(1.0, most / np.sqrt(6 * 1.0 + 6 * 4.0 + 7.0))
    assert [grad.data_ptr() for _, grad in found] == place
    for (_, grad), was in zip(found, before, strict=True):
        np.testing.assert_allclose(grad.numpy(), was * factor, rtol=1e-6)
