"""Layers with experts: what sorting and grouping give is what a loop over tokens gives, gradients included."""

import numpy as np
import paddle
import pytest
from family_models import NO_DROPOUT, SPARSE
from tiny_glm import relative_error, scatter, uncached_logits

from glm import GenerationConfig, GLMConfig, GLMForCausalLM
from glm.generation.search import Prompt, StopTokens
from glm.model.experts import Experts, GroupedMatmul, Pairs, SparseMLP


def config_of(**changes) -> GLMConfig:
    return GLMConfig("glm4-moe", **SPARSE | NO_DROPOUT | changes)


def tiny(seed: int = 0, **changes) -> GLMForCausalLM:
    model = GLMForCausalLM(config_of(**changes))
    scatter(model, seed, 0.3)
    model.eval()
    return model


@pytest.fixture(scope="module")
def model() -> GLMForCausalLM:
    return tiny()


def tokens(count: int, seed: int = 1) -> paddle.Tensor:
    x = paddle.to_tensor(np.random.default_rng(seed).standard_normal((count, 32)).astype("float32"))
    x.stop_gradient = False
    return x


def token_by_token(experts: Experts, x: paddle.Tensor, chosen: paddle.Tensor, weights: paddle.Tensor) -> paddle.Tensor:
    """Σ w·down(silu(gate x)·up x), with Paddle's own gradients."""
    rows = []
    for row, (token, picks) in enumerate(zip(x, chosen.tolist(), strict=True)):
        parts = []
        for place, expert in enumerate(picks):
            gate, up, down = (layer.weight[expert] for layer in (experts.gate_proj, experts.up_proj, experts.down_proj))
            inner = paddle.nn.functional.silu(token @ gate) * (token @ up)
            parts.append(weights[row, place] * (inner @ down))
        rows.append(sum(parts))
    return paddle.stack(rows)


@pytest.mark.parametrize("count", [1, 2, 23])
def test_outputs_and_gradients_are_those_of_a_loop_over_tokens(count, model):
    layer: SparseMLP = model.model.layers[1].mlp
    results = []
    for forward in (layer.experts.forward, lambda *inputs: token_by_token(layer.experts, *inputs)):
        layer.clear_gradients()
        x = tokens(count)
        chosen, weights = layer.gate(x)
        y = forward(x, chosen, weights)
        (y * y.detach().cos()).sum().backward()
        parameters = [layer.gate.weight, *layer.experts.parameters()]
        results.append([each.numpy().copy() for each in (y, x.grad, *[parameter.grad for parameter in parameters])])
    for found, wanted in zip(*results, strict=True):
        assert np.abs(wanted).max() > 0.1
        assert relative_error(found, wanted) < 5e-6


def test_experts_without_tokens_have_a_gradient_of_zeros(model):
    layer = model.model.layers[1].mlp
    layer.clear_gradients()
    x = tokens(1)
    chosen, weights = layer.gate(x)
    layer.experts(x, chosen, weights).sum().backward()
    gradient = layer.experts.up_proj.weight.grad
    used = [expert for expert in range(8) if float(gradient[expert].abs().max()) > 0]
    assert gradient.shape == layer.experts.up_proj.weight.shape
    assert used == sorted(chosen.flatten().tolist())


def test_no_token_at_all():
    x, weight = paddle.zeros([0, 4]), paddle.ones([3, 4, 5])
    assert GroupedMatmul.apply(x, weight, [0, 0, 0]).shape == [0, 5]


def test_pairs_are_sorted_and_keep_their_order():
    pairs = Pairs(paddle.to_tensor([[3, 0], [0, 1], [3, 1]]), 5)
    assert pairs.counts == [2, 2, 0, 2, 0]
    assert pairs.token_Z.tolist() == [0, 1, 1, 2, 0, 2]
    assert pairs.rank_Z.tolist() == [4, 0, 1, 2, 5, 3]


def test_weights_are_the_scores_of_the_chosen(model):
    """Not of score and bias, and times the scale; of the router's own formula written out with NumPy."""
    router, x = model.model.layers[1].mlp.gate, tokens(9)
    chosen, weights = (part.numpy() for part in router(x))
    scores = 1 / (1 + np.exp(-(x.numpy().astype("float64") @ router.weight.numpy())))
    choice = scores + router.e_score_correction_bias.numpy()
    for row, (picks, found) in enumerate(zip(chosen, weights, strict=True)):
        best = np.argsort(-choice[row])[:2]
        assert set(picks) == set(best)
        wanted = scores[row, picks] / scores[row, picks].sum() * 2.5
        assert np.abs(found - wanted).max() < 1e-6


# precision


def float32_of(model) -> set[str]:
    return {name for name, weight in model.state_dict().items() if weight.dtype == paddle.float32}


KEPT = {"model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.e_score_correction_bias"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_router_stays_float32_to_the_bit(dtype):
    """However the model gets its dtype: as it is built, cast, or decorated for O2."""
    assert float32_of(GLMForCausalLM(config_of(dtype=dtype)).cast(dtype)) == KEPT
    model = tiny()
    before = {name: model.state_dict()[name].numpy().copy() for name in KEPT}
    model.to(dtype=dtype)
    assert float32_of(model) == KEPT
    assert all(np.array_equal(model.state_dict()[name].numpy(), array) for name, array in before.items())
    again = paddle.amp.decorate(tiny(), level="O2", dtype="bfloat16") if dtype == "bfloat16" else None
    if again is not None:
        assert float32_of(again) >= KEPT
        assert all(np.array_equal(again.state_dict()[name].numpy(), array) for name, array in before.items())


def test_a_model_that_is_built_in_bfloat16():
    model = GLMForCausalLM.from_pretrained("glm-4.5-tiny", dtype="bfloat16", from_scratch=True)
    assert float32_of(model) == KEPT
    assert str(model.model.layers[1].mlp.experts.up_proj.weight.dtype) == "paddle.bfloat16"


# generation and training


def prompt(rows: int) -> Prompt:
    ids = np.random.default_rng(5).integers(8, 80, (rows, 6))
    positions = np.tile(np.arange(6), (rows, 1, 1))
    step, prefix = np.array([1]), np.zeros(rows, "int64")
    return Prompt(*map(paddle.to_tensor, (ids, np.ones_like(ids), positions, prefix, step)))


@pytest.mark.parametrize(
    "changes", [{}, {"n_group": 2, "topk_group": 1, "use_qk_norm": False}], ids=["qk norm", "groups"]
)
def test_cached_generation_is_uncached(changes):
    model, stop = tiny(seed=3, **changes), StopTokens((79,), 5)
    found = model.generate(prompt(3), GenerationConfig(max_length=8), stop)[0].numpy()
    wanted = np.zeros([3, 0], dtype="int64")
    for _ in range(8):
        best = uncached_logits(model, prompt(3), wanted).argmax(axis=-1)
        wanted = np.concatenate([wanted, best[:, None]], axis=1)
    ended = (wanted == 79).cumsum(axis=1) - (wanted == 79) > 0
    wanted[ended] = 5
    assert len(set(wanted.flatten().tolist())) > 6
    assert found.tolist() == wanted[:, : found.shape[1]].tolist()


def losses_and_gradients(model, ids: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    model.clear_gradients()
    rows, width = ids.shape
    positions = np.tile(np.arange(width), (rows, 1, 1))
    inputs = [paddle.to_tensor(x) for x in (ids, np.ones_like(ids), positions, np.zeros(rows, "int64"))]
    loss = model(*inputs, labels=paddle.to_tensor(ids))
    loss.backward()
    return float(loss), {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def test_recomputed_blocks_have_the_same_loss_and_gradients():
    ids = np.random.default_rng(2).integers(8, 80, (3, 7))
    model = tiny()
    model.train()
    plain = losses_and_gradients(model, ids)
    model.model.enable_recompute = True
    again = losses_and_gradients(model, ids)
    assert again[0] == plain[0]
    for name, gradient in plain[1].items():
        assert relative_error(again[1][name], gradient) < 1e-6, name
