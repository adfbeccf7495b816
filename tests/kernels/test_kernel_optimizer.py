"""AdamW and clipping by own kernels against Paddle's."""

import time

import numpy as np
import paddle
import pytest
from paddle.nn import ClipGradByGlobalNorm

from glm import kernels
from glm.kernels.optimizer import AdamW, GlobalNormClip

pytestmark = pytest.mark.skipif(bool(kernels.fault()), reason=f"no kernels here: {kernels.fault()}")
SHAPES = ([7], [130, 300])


def trained(optimizer_class, clip, steps=4) -> tuple[list[np.ndarray], dict]:
    """Weights after some steps, and the optimizer's state."""
    draw = np.random.default_rng(1)
    with paddle.utils.unique_name.guard(f"{optimizer_class.__module__}_{time.perf_counter()}_"):
        weights = [paddle.create_parameter(shape, "float32") for shape in SHAPES]
    for weight in weights:
        weight.set_value(draw.standard_normal(weight.shape).astype("float32"))
    rate = paddle.optimizer.lr.LinearWarmup(1e-2, 3, 0.0, 1e-2)
    optimizer = optimizer_class(
        rate,
        parameters=weights,
        weight_decay=0.1,
        beta2=0.95,
        apply_decay_param_fun=lambda name: "parameter_1" in name,
        grad_clip=clip,
    )
    for _ in range(steps):
        for weight in weights:
            (weight * paddle.to_tensor(draw.standard_normal(weight.shape).astype("float32"))).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    state = {name.partition("create_")[2]: value for name, value in optimizer.state_dict().items() if "." in name}
    return [weight.numpy() for weight in weights], state


@pytest.mark.parametrize("norm", [None, 1.0, 1e6], ids=["unclipped", "clipped", "below the norm"])
def test_steps_and_states_are_paddles(norm):
    ours, state = trained(AdamW, norm and GlobalNormClip(norm))
    theirs, their_state = trained(paddle.optimizer.AdamW, norm and ClipGradByGlobalNorm(norm))
    for found, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert state.keys() == their_state.keys()
    for name, value in state.items():
        np.testing.assert_allclose(value.numpy(), their_state[name].numpy(), rtol=1e-5, atol=1e-9, err_msg=name)


def test_gradients_are_given_back():
    weight = paddle.create_parameter([3], "float32")
    optimizer = AdamW(1e-3, parameters=[weight])
    weight.sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    assert weight.grad is None


def test_what_the_kernel_does_not_take_is_clipped_all_the_same(monkeypatch):
    monkeypatch.setattr(AdamW, "_takes", lambda *_: False)
    ours, _ = trained(AdamW, GlobalNormClip(1.0))
    theirs, _ = trained(paddle.optimizer.AdamW, ClipGradByGlobalNorm(1.0))
    for found, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
