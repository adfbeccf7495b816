"""Own kernels against Paddle's plain operators in double precision: values and gradients."""

from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from glm import kernels
from glm.distributed.tensor_parallel import columns, gated_mlp, linear
from glm.generation.options import NEVER
from glm.kernels import cross_entropy
from glm.kernels.activations import biased, gated, gelu_tanh, silu
from glm.kernels.dropout import Dropout
from glm.kernels.linear import MOST_ROWS, multiplies, products
from glm.kernels.log_softmax import log_softmax
from glm.kernels.norms import layer_norm, rms_norm
from glm.kernels.rotary import APART, BOTH_HALVES, PAIRS, turned, turns
from glm.model.attention import AttentionDropout, CachedAttention, DenseAttention
from glm.model.attention_choice import trial_rows
from glm.model.kernel_attention import KernelAttention
from glm.model.loss import Target, smoothed_cross_entropy
from glm.model.positions import _cos_sin, apply_rotary, apply_rotary_2d, apply_rotary_halves
from glm.model.rotary import inverse_frequencies
from glm.model.visibility import derived_rows

pytestmark = pytest.mark.skipif(bool(kernels.fault()), reason=f"no kernels here: {kernels.fault()}")


@pytest.fixture(autouse=True, params=[1, 3], ids=["one thread", "three threads"])
def threads(request):
    kernels.run("use_threads", request.param)
    yield
    kernels.run("use_threads", 1)


WIDE = (3, 7, 5000)  # above what one thread takes, and no multiple of a vector


def run(function, arrays, dtype="float32", frozen=()) -> list[np.ndarray | None]:
    """The result, and the gradients of a weighted sum of it."""
    tensors = [paddle.to_tensor(array.astype(dtype), stop_gradient=i in frozen) for i, array in enumerate(arrays)]
    result = function(*tensors)
    weights = paddle.to_tensor(np.random.default_rng(7).standard_normal(result.shape).astype(dtype))
    (result * weights).sum().backward()
    return [result.numpy(), *(None if i in frozen else tensor.grad.numpy() for i, tensor in enumerate(tensors))]


def assert_equal(found, wanted, most=1e-6) -> None:
    """Within `most` of the largest number of each array, which rounding to float32 explains."""
    for ours, exact in zip(found, wanted, strict=True):
        assert (ours is None) == (exact is None)
        if ours is not None:
            assert ours.shape == exact.shape
            assert np.abs(ours - exact).max() <= most * np.abs(exact).max()


def drawn(*shapes, seed=1) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [3 * draw.standard_normal(shape) for shape in shapes]


def both(ours, plain, arrays, **options) -> None:
    assert_equal(run(ours, arrays, **options), run(plain, arrays, "float64", **options))


@pytest.mark.parametrize("shape", [(1,), (2, 3, 17), WIDE], ids=str)
def test_activations(shape):
    both(lambda a, b: gated(silu, iter([a, b])), lambda a, b: F.silu(a) * b, drawn(shape, shape))
    both(gelu_tanh, lambda x: F.gelu(x, approximate=True), drawn(shape))


def test_activations_far_from_zero():
    """Neither overflows, and nothing that is not a number is hidden."""
    x = paddle.to_tensor([-1e4, -100.0, -88.0, 88.0, 100.0, 1e4, float("inf"), float("nan")])
    for ours, plain in ((gelu_tanh, lambda x: F.gelu(x, approximate=True)), (_swish, F.silu)):
        np.testing.assert_allclose(ours(x).numpy(), plain(x).numpy(), rtol=1e-6, atol=1e-30)


def _swish(x):
    return gated(silu, iter([x, paddle.ones_like(x)]))


def test_bias():
    x, bias = (paddle.to_tensor(array.astype("float32")) for array in drawn(WIDE, WIDE[-1:]))
    assert (biased(x, bias) == x + bias).all()


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 17), WIDE, (700, 96)], ids=str)
def test_norms(shape, frozen):
    arrays = drawn(shape, shape[-1:], shape[-1:])

    def plain_rms(x, weight):
        return x * paddle.rsqrt(x.square().mean(axis=-1, keepdim=True) + 1e-5) * weight

    if 2 not in frozen:
        both(lambda x, weight: rms_norm(x, weight, 1e-5), plain_rms, arrays[:2], frozen=frozen)
    both(
        lambda x, weight, bias: layer_norm(x, weight, bias, 1e-5),
        lambda x, weight, bias: plain_rms(x - x.mean(axis=-1, keepdim=True), weight) + bias,
        arrays,
        frozen=frozen,
    )


@pytest.mark.parametrize("pairs", [4, 8], ids=["half of a head", "whole heads"])
@pytest.mark.parametrize("tokens", [5, 301])
def test_rotations(pairs, tokens):
    positions = paddle.to_tensor(np.random.default_rng(2).integers(0, 1000, [2, tokens]))
    cos_sin = _cos_sin(positions, inverse_frequencies(2 * pairs, 10000.0), 1.1)
    arrays = drawn((2, tokens, 6, 16))
    assert turns(paddle.to_tensor(arrays[0].astype("float32")), *cos_sin)
    for kernel, apply in ((PAIRS, apply_rotary), (APART, apply_rotary_halves)):
        plain = run(lambda x: apply(x, *cos_sin), arrays)  # noqa: B023
        assert_equal(run(lambda x: turned(kernel, x, *cos_sin), arrays), plain)  # noqa: B023
    if pairs == 4:
        other = _cos_sin(positions * 3 + 1, inverse_frequencies(8, 10000.0))
        plain = run(lambda x: apply_rotary_2d(x, *cos_sin, *other), arrays)
        assert_equal(run(lambda x: turned(BOTH_HALVES, x, *cos_sin, *other), arrays), plain)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("tokens", "vocabulary", "padding"), [(5, 7, 0), (5, 7, 2), (40, 3001, 3)])
def test_cross_entropy(tokens, vocabulary, padding, smoothing):
    labels = paddle.to_tensor(np.random.default_rng(3).integers(0, vocabulary, [tokens]))
    (logits,) = drawn((tokens, vocabulary + padding))
    logits = 4 * logits.astype("float32")
    weights = (vocabulary, 1 - smoothing, smoothing / vocabulary)

    def plain(z):
        real = z[:, :vocabulary]
        wanted = (1 - smoothing) * F.one_hot(labels, vocabulary).astype(z.dtype) + smoothing / vocabulary
        return real.exp().sum(axis=1).log() - (wanted * real).sum(axis=1)

    z, grad = paddle.to_tensor(logits), paddle.to_tensor(drawn((tokens,), seed=7)[0].astype("float32"))
    losses, lse = cross_entropy.losses(z, labels, *weights)
    exact = paddle.to_tensor(logits.astype("float64"), stop_gradient=False)
    wanted = plain(exact)
    (wanted * grad.astype("float64")).sum().backward()
    slope = cross_entropy.gradient(z, labels, lse, grad, *weights)
    assert_equal([losses.numpy(), slope.numpy()], [wanted.numpy(), exact.grad.numpy()])
    assert (slope[:, vocabulary:] == 0).all()


def test_loss_of_half_precision():
    """Logits of half precision on a CPU: forward and backward pass take the same way."""
    (logits,) = drawn((5, 9))
    labels, target = paddle.to_tensor([3, 0, 6, 3, 1]), Target(0.1, 9, SimpleNamespace(degree=1, rank=0), 9)
    rounded = paddle.to_tensor(logits.astype("float32")).astype("bfloat16")
    slopes = []
    for dtype in ("bfloat16", "float32"):
        z = rounded.astype(dtype).detach()
        z.stop_gradient = False
        smoothed_cross_entropy(z, labels, target).sum().backward()
        slopes.append(z.grad.astype("float32").numpy())
    np.testing.assert_allclose(*slopes, rtol=1e-2, atol=1e-4)


ATTENTION = [(5, 2, 1, 16), (131, 4, 1, 16), (131, 6, 3, 32), (1100, 2, 2, 8)]  # tokens, heads, queries per key, width


@pytest.mark.parametrize(("tokens", "heads", "n_rep", "width"), ATTENTION)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "prefixes, padding, documents"])
def test_attention(tokens, heads, n_rep, width, causal):
    """Of real tokens: what padding gives nobody reads."""
    visible, mask = trial_rows(tokens, causal)
    rows, real = mask.shape[0], mask.astype("float32").reshape([*mask.shape, 1, 1])
    shapes = [(rows, tokens, count, width) for count in (heads, heads // n_rep, heads // n_rep)]
    arrays = [array / 3 for array in drawn(*shapes)]

    def through(kind):
        return lambda q, k, v: kind(kind.mask(visible, n_rep, "float32"), n_rep)(q, k, v) * real.astype(q.dtype)

    def exact(q, k, v):
        k, v = (x.repeat_interleave(n_rep, axis=2) for x in (k, v))
        scores = paddle.einsum("btnd,bsnd->bnts", q, k) / width**0.5
        bias = DenseAttention.mask(visible, 1).astype(q.dtype).unsqueeze(1)
        context = paddle.einsum("bnts,bsnd->btnd", F.softmax(scores + bias, axis=-1), v)
        return context * real.astype(q.dtype)

    assert_equal(run(through(KernelAttention), arrays), run(exact, arrays, "float64"), most=2e-6)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("prefix", "tail"), [(0, 1), (17, 1), (130, 9)])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 8), (6, 2, 32), (5, 1, 12)])
def test_attention_of_a_step(beams, prefix, tail, heads, groups, width):
    """Beams, hidden positions of the prefix, none of it, heads that share a key."""
    rows = 2
    keys, tails = (groups, rows, prefix, width), (rows, beams, groups, tail - 1, width)
    new = (rows, beams, groups, width)
    arrays = drawn(keys, keys, tails, tails, (rows, beams, heads, width), new, new)
    bias = np.random.default_rng(2).choice([0, NEVER], (rows, 1, prefix), p=[0.7, 0.3])

    def attend():
        keys, values, *tails, q, k, v = (paddle.to_tensor(array.astype("float32")) for array in arrays)
        step = CachedAttention(keys, values, paddle.to_tensor(bias.astype("float32")), *tails)
        return [step(q, k, v).numpy(), *(each.numpy() for each in step.tails)]

    with paddle.no_grad():
        found = attend()
    assert_equal(found, attend(), most=5e-6)  # with a gradient it is Paddle's operators


@pytest.mark.parametrize("rows", range(1, MOST_ROWS + 1))
@pytest.mark.parametrize(("width", "widths"), [(1, [1]), (8, [64, 65, 3]), (77, [130, 16]), (40, [5000, 200, 2048])])
def test_products_of_few_rows(rows, width, widths):
    """Depths and widths that fill no vector, weights with and without a bias, more columns than are summed at once."""
    x, *arrays = drawn((rows, width), *[(width, n) for n in widths], *[(n,) for n in widths])
    weights, biases = arrays[: len(widths)], [b if i != 1 else None for i, b in enumerate(arrays[len(widths) :])]
    with paddle.no_grad():
        tensors = [None if a is None else paddle.to_tensor(a.astype("float32")) for a in (x, *weights, *biases)]
        assert multiplies(tensors[0], tensors[1])
        found = products(tensors[0], zip(tensors[1 : 1 + len(widths)], tensors[1 + len(widths) :], strict=True))
    wanted = [x @ w + (0.0 if b is None else b) for w, b in zip(weights, biases, strict=True)]
    assert_equal([y.numpy() for y in found], wanted, most=2e-6)


def test_what_products_take():
    """Few rows, whatever axes they have, in float32, and nothing that has a gradient."""
    weight = paddle.ones([4, 3])
    with paddle.no_grad():
        assert multiplies(paddle.ones([2, 4, 4]), weight)
        assert products(paddle.ones([2, 4, 4]), [(weight, None)])[0].shape == [2, 4, 3]
        assert not multiplies(paddle.ones([3, 3, 4]), weight)
        assert not multiplies(paddle.ones([0, 4]), weight)
        assert not multiplies(paddle.ones([1, 4]), weight.astype("float64"))
    assert not multiplies(paddle.ones([1, 4]), weight)


def test_layers_of_few_rows():
    """`columns` and a layer alone, as with a gradient, which Paddle's operators have."""
    config = SimpleNamespace(tensor_parallel_degree=1)
    layers = [linear(config, name, 24, width, bias) for name, width, bias in (("q", 40, True), ("k", 8, False))]
    (array,) = drawn((1, 3, 24))
    x = paddle.to_tensor(array.astype("float32"))
    wanted = [layer(x).numpy() for layer in layers]
    with paddle.no_grad():
        assert_equal([y.numpy() for y in columns(x, *layers)], wanted)
        assert_equal([layer(x).numpy() for layer in layers], wanted)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gated_mlp_of_few_rows(bias):
    config = SimpleNamespace(tensor_parallel_degree=1)
    sizes = (("gate", 24, 300), ("up", 24, 300), ("down", 300, 24))
    layers = [linear(config, name, inside, outside, bias) for name, inside, outside in sizes]
    draw = np.random.default_rng(3)
    for parameter in (parameter for layer in layers for parameter in layer.parameters()):
        parameter.set_value(draw.standard_normal(parameter.shape).astype("float32"))
    x = paddle.to_tensor(draw.standard_normal((2, 3, 24)).astype("float32"))
    for activation in (silu, gelu_tanh):
        wanted = gated_mlp(x, activation, *layers).numpy()
        with paddle.no_grad():
            assert_equal([gated_mlp(x, activation, *layers).numpy()], [wanted], most=2e-6)


def _doubled(layer) -> None:
    layer.register_forward_post_hook(lambda layer, inputs, output: 2 * output)


def _replaced(layer) -> None:
    layer.forward = lambda x, forward=layer.forward: 2 * forward(x)


@pytest.mark.parametrize("change", [_doubled, _replaced])
@pytest.mark.parametrize("changed", range(3))
def test_a_layer_that_somebody_changed_is_called(change, changed):
    """A hook, as quantizers have them, or another `forward` of one layer."""
    config = SimpleNamespace(tensor_parallel_degree=1)
    layers = [linear(config, name, 16, 16, True) for name in ("gate", "up", "down")]
    x = paddle.to_tensor(drawn((2, 16))[0].astype("float32"))
    change(layers[changed])
    wanted = [[layer(x).numpy() for layer in layers], [gated_mlp(x, silu, *layers).numpy()]]
    with paddle.no_grad():
        assert_equal([y.numpy() for y in columns(x, *layers)], wanted[0])
        assert_equal([gated_mlp(x, silu, *layers).numpy()], wanted[1], most=2e-6)


def test_log_softmax():
    arrays = [10 * array for array in drawn((3, 2, 5000))] + drawn((1, 7))
    for array in arrays:
        x = paddle.to_tensor(array.astype("float32"))
        shifted = array - array.max(axis=-1, keepdims=True)  # Paddle's own ends at -64
        exact = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        with paddle.no_grad():
            assert_equal([log_softmax(x).numpy()], [exact])
        assert_equal([log_softmax(x).numpy()], [exact])


def test_kernels_without_a_gradient():
    """The same numbers, and nothing that leads back."""
    x, y, weight = (paddle.to_tensor(array.astype("float32")) for array in drawn((1, 5, 2, 16), (1, 5, 2, 16), (16,)))
    cos_sin = _cos_sin(paddle.arange(5).unsqueeze(0), inverse_frequencies(16, 10000.0))
    visible = derived_rows(paddle.ones([1, 5], "int64"), paddle.zeros([1], "int64"))
    functions = [
        lambda: rms_norm(x, weight, 1e-5),
        lambda: layer_norm(x, weight, weight, 1e-5),
        lambda: gated(silu, iter([x, y])),
        lambda: gelu_tanh(x),
        lambda: turned(PAIRS, x, *cos_sin),
        lambda: KernelAttention(KernelAttention.mask(visible, 1, "float32"))(x, y, x),
    ]
    x.stop_gradient = False
    for function in functions:
        wanted = function()
        with paddle.no_grad():
            found = function()
        assert (found == wanted).all()
        assert found.stop_gradient
        assert not wanted.stop_gradient


def test_attention_takes_frozen_inputs():
    visible, _ = trial_rows(9, causal=True)
    q, k, v = drawn(*[(visible.shape[0], 9, 2, 8)] * 3)
    attend = KernelAttention(KernelAttention.mask(visible, 1, "float32"))
    slopes = run(attend, [q, k, v], frozen=(0, 2))
    assert slopes[1] is slopes[3] is None
    assert_equal(slopes[2:3], run(attend, [q, k, v])[2:3])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout(rate):
    """Each number is kept or not by itself; the same ones in the backward pass; others in the next call."""
    layer = Dropout(rate)
    x = paddle.ones([300, 1001])
    x.stop_gradient = False
    found = layer(x)
    found.sum().backward()
    assert (x.grad == found).all()
    kept = found.numpy() > 0
    np.testing.assert_allclose(found.numpy()[kept], 1 / (1 - rate), rtol=1e-6)
    deviation = (rate * (1 - rate) / kept.size) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation
    other = layer(x).numpy() > 0
    for pair in ((kept, other), (kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1])):
        assert abs(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]) < 5 / kept.size**0.5
    layer.eval()
    assert (layer(x) == x).all()


def test_dropout_begins_again_where_the_generator_does():
    x, layer = paddle.ones([999]), Dropout(0.3)
    paddle.seed(3)
    first, second = layer(x), layer(x)
    paddle.seed(3)
    assert (layer(x) == first).all()
    assert not (first == second).all()


def test_dropout_of_attention_weights():
    """The values show the weights that met them: dense attention with the same weights has the same gradients."""
    visible, _ = trial_rows(70, causal=True)
    rows, rate = visible.shape[0], 0.3
    q, k, v = (array / 3 for array in drawn(*[(rows, 70, 2, 70)] * 3))
    dropout = AttentionDropout(rate, lambda: paddle.no_grad())

    def attend(q, k, v):
        paddle.seed(5)
        return KernelAttention(KernelAttention.mask(visible, 1, "float32"), 1, dropout)(q, k, v)

    def weights(q, k):
        return F.softmax(
            paddle.einsum("btnd,bsnd->bnts", q, k) / 70**0.5
            + DenseAttention.mask(visible, 1).astype(q.dtype).unsqueeze(1),
            axis=-1,
        )

    tensors = [paddle.to_tensor(x.astype("float32")) for x in (q, k)]
    unit = paddle.eye(70).reshape([1, 70, 1, 70]).expand([rows, 70, 2, 70])
    dropped = attend(*tensors, unit).transpose([0, 2, 1, 3])  # [B, N, T, S]
    kept = (dropped > 0).astype("float64") / (1 - rate)
    share = float((dropped > 0).sum()) / (rows * 2 * 70 * 71 / 2)
    assert abs(share - (1 - rate)) < 0.02

    def plain(q, k, v):
        return paddle.einsum("bnts,bsnd->btnd", weights(q, k) * kept.astype(q.dtype), v)

    assert_equal(run(attend, [q, k, v]), run(plain, [q, k, v], "float64"), most=2e-6)
