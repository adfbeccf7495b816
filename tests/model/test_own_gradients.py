"""Gradients that are written by hand against those that Paddle takes through the plain operators."""

from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from glm.model.layers import LayerNorm, TrainedRMSNorm, _rms_norm
from glm.model.loss import Target, smoothed_cross_entropy
from glm.model.positions import RotaryFunction, _cos_sin, apply_rotary, apply_rotary_2d
from glm.model.rotary import inverse_frequencies


def gradients(function, arrays, frozen=()) -> list[np.ndarray | None]:
    """The result, and the gradients of a weighted sum of it."""
    tensors = [paddle.to_tensor(array, stop_gradient=i in frozen) for i, array in enumerate(arrays)]
    result = function(*tensors)
    weights = paddle.to_tensor(np.random.default_rng(7).standard_normal(result.shape).astype("float32"))
    (result * weights).sum().backward()
    return [result.numpy(), *(None if i in frozen else tensor.grad.numpy() for i, tensor in enumerate(tensors))]


def assert_equal(found, wanted) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("frozen", [(), (0,), (1,)], ids=["all", "frozen input", "frozen weight"])
def test_rms_norm(frozen):
    draw = np.random.default_rng(1)
    arrays = [draw.standard_normal([2, 5, 16]).astype("float32") * 3, draw.standard_normal([16]).astype("float32")]
    ours = gradients(lambda x, weight: TrainedRMSNorm.apply(x, weight, 1e-5), arrays, frozen)
    assert_equal(ours, gradients(lambda x, weight: _rms_norm(x, weight, 1e-5), arrays, frozen))


@pytest.mark.parametrize("frozen", [(), (1,), (1, 2)], ids=["all", "frozen weight", "frozen"])
def test_layer_norm(without_kernels, frozen):
    """Paddle's own gradient of the input is wrong where the weight is frozen, as it is under LoRA."""
    draw = np.random.default_rng(1)
    arrays = [draw.standard_normal(shape).astype("float32") * 3 for shape in ([2, 5, 16], [16], [16])]
    layer = LayerNorm(16, epsilon=1e-5)
    for i, (parameter, array) in enumerate(zip((layer.weight, layer.bias), arrays[1:], strict=True), 1):
        parameter.set_value(array)
        parameter.stop_gradient = i in frozen

    def plain(x, weight, bias):
        centred = x - x.mean(axis=-1, keepdim=True)
        return centred * paddle.rsqrt(centred.square().mean(axis=-1, keepdim=True) + 1e-5) * weight + bias

    wanted = gradients(plain, arrays, frozen=(1, 2))[:2]
    assert_equal(gradients(layer, arrays[:1]), wanted)


@pytest.mark.parametrize("scale", [1.0, 1.14], ids=["plain", "scaled as by yarn"])
@pytest.mark.parametrize("turning", [4, 8], ids=["half of a head", "whole heads"])
def test_rotation(turning, scale):
    draw = np.random.default_rng(2)
    positions = paddle.to_tensor(draw.integers(0, 100_000, [2, 5]))
    cos, sin = _cos_sin(positions, inverse_frequencies(turning, 10000.0), scale)
    arrays = [draw.standard_normal([2, 5, 3, 8]).astype("float32")]
    ours = gradients(lambda x: RotaryFunction.apply(apply_rotary, x, cos, sin), arrays)
    assert_equal(ours, gradients(lambda x: apply_rotary(x, cos, sin), arrays))


def test_rotation_of_halves():
    """Each by a position of its own (ChatGLM-6B)."""
    draw = np.random.default_rng(5)
    frequencies = inverse_frequencies(4, 10000.0)
    rows = [_cos_sin(paddle.to_tensor(draw.integers(0, 1000, [2, 5])), frequencies) for _ in range(2)]
    angles = [*rows[0], *rows[1]]
    arrays = [draw.standard_normal([2, 5, 3, 8]).astype("float32")]
    ours = gradients(lambda x: RotaryFunction.apply(apply_rotary_2d, x, *angles), arrays)
    assert_equal(ours, gradients(lambda x: apply_rotary_2d(x, *angles), arrays))


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_each_token(smoothing, padding):
    """Tokens that weigh differently, with and without columns beyond the vocabulary."""
    draw, vocab_size, labels = np.random.default_rng(3), 7, paddle.to_tensor([3, 0, 6, 3, 1])
    target = Target(smoothing, vocab_size, SimpleNamespace(degree=1, rank=0), vocab_size + padding)

    def plain(logits_MW):
        logp_MV = F.log_softmax(logits_MW[:, :vocab_size], axis=1)
        wanted_MV = (1 - smoothing) * F.one_hot(labels, vocab_size) + smoothing / vocab_size
        return -(wanted_MV * logp_MV).sum(axis=1)

    arrays = [4 * draw.standard_normal([5, vocab_size + padding]).astype("float32")]
    ours = gradients(lambda x: smoothed_cross_entropy(x, labels, target), arrays)
    assert ours[0].shape == (5,)
    assert_equal(ours, gradients(plain, arrays))
