"""Each mistake that ports of GLM-4.5 have made is seen by the logits of transformers: made here, they miss them.

Among them are llama.cpp's softmax (pull request 18980), SGLang's bias in bfloat16 (issues 31213 and 37133), and the
turned pairs of transformers' GLM-5 (pull request 46842). All of them give texts that look like texts.
"""

from collections.abc import Callable

import fixture_files
import numpy as np
import paddle
import pytest
from test_family_models import inputs, opened
from tiny_glm import relative_error

from glm.model import experts
from glm.model.experts import Experts, Router
from glm.model.positions import apply_rotary

AIR, GROUPS, UNNORMED = "glm4moe-air", "glm4moe-groups-qknorm", "glm4moe-unnormed"
Break = Callable[[object, pytest.MonkeyPatch], None]


def routers(model) -> list[Router]:
    return [layer for layer in model.sublayers() if isinstance(layer, Router)]


def neighbouring_pairs(model, patch) -> None:
    model.model.positions.turn = apply_rotary


def rounded_bias(model, patch) -> None:
    """`.astype(bfloat16)` of the whole model, O2, a quantizer: steps of 0.03 where biases differ by 0.1."""
    for router in routers(model):
        bias = router.e_score_correction_bias
        bias.set_value(bias.astype("bfloat16").astype("float32"))


def rounded_gate(model, patch) -> None:
    for router in routers(model):
        router.weight.set_value(router.weight.astype("bfloat16").astype("float32"))


def no_bias(model, patch) -> None:
    for router in routers(model):
        router.e_score_correction_bias.zero_()


def biased_weights(model, patch) -> None:
    """The bias picks, and here it weighs, too."""
    original = paddle.take_along_axis
    (router,) = routers(model)

    def take(scores, chosen, axis):
        return original(scores + router.e_score_correction_bias, chosen, axis)

    patch.setattr(experts.paddle, "take_along_axis", take)


def softmax_scores(model, patch) -> None:
    patch.setattr(experts.paddle.nn.functional, "sigmoid", lambda x: paddle.nn.functional.softmax(x, axis=-1))


def scaled_shared_expert(model, patch) -> None:
    for layer in model.model.layers:
        if hasattr(layer.mlp, "shared_experts"):
            down = layer.mlp.shared_experts.down_proj.weight
            down.set_value(down * layer.mlp.gate.scale)


def no_scale(model, patch) -> None:
    for router in routers(model):
        router.scale = 1.0


def no_groups(model, patch) -> None:
    for router in routers(model):
        router.groups = 1


def turned_normalising(model, patch) -> None:
    for router in routers(model):
        router.normalises = not router.normalises


def one_expert_less(model, patch) -> None:
    for router in routers(model):
        router.top_k -= 1


def no_head_norms(model, patch) -> None:
    for layer in model.model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = paddle.nn.Identity()


def norms_behind_rotation(model, patch) -> None:
    """With weights of one value the order would not matter; with others it does."""
    for layer in model.model.layers:
        attention = layer.self_attn
        q_norm, k_norm = attention.q_norm, attention.k_norm
        attention.q_norm = attention.k_norm = paddle.nn.Identity()
        original = attention.forward

        def forward(x, rotate, attention_fn, original=original, q_norm=q_norm, k_norm=k_norm):
            def late(q, k):
                q, k = rotate(q, k)
                return q_norm(q), k_norm(k)

            return original(x, late, attention_fn)

        attention.forward = forward


def unsorted_weights(model, patch) -> None:
    """Weights in another order than the choices they belong to."""
    original = Experts.forward
    patch.setattr(Experts, "forward", lambda self, x, chosen, w: original(self, x, chosen, w.flip([1])))


def swapped_gate_and_up(model, patch) -> None:
    for layer in model.model.layers:
        if isinstance(getattr(layer.mlp, "experts", None), Experts):
            stacks = layer.mlp.experts
            stacks.gate_proj, stacks.up_proj = stacks.up_proj, stacks.gate_proj


# Fixture, mistake, and by how much the logits then miss, as a share of the largest: rounded down.
MISTAKES: list[tuple[str, Break, float]] = [
    (AIR, neighbouring_pairs, 1.2),
    (GROUPS, neighbouring_pairs, 1.0),
    (AIR, rounded_bias, 0.1),
    (AIR, rounded_gate, 3e-4),
    (AIR, no_bias, 0.2),
    (AIR, biased_weights, 0.04),
    (AIR, softmax_scores, 0.3),
    (GROUPS, scaled_shared_expert, 0.9),
    (GROUPS, no_scale, 0.8),
    (GROUPS, no_groups, 0.9),
    (AIR, turned_normalising, 0.2),
    (UNNORMED, turned_normalising, 0.5),
    (AIR, one_expert_less, 0.3),
    (GROUPS, no_head_norms, 1.4),
    (GROUPS, norms_behind_rotation, 0.7),
    (UNNORMED, unsorted_weights, 0.3),
    (AIR, swapped_gate_and_up, 0.3),
]


def error(model, fixture) -> float:
    case = fixture.case("left_padded")
    real = case["attention_mask"] == 1
    return relative_error(model(*inputs(case)).numpy()[real], case["logits"][real])


@pytest.mark.long
@pytest.mark.parametrize(("name", "mistake", "least"), MISTAKES, ids=lambda value: getattr(value, "__name__", None))
def test_a_mistake_is_seen(name, mistake, least, monkeypatch):
    fixture = fixture_files.load(name)
    model = opened(fixture.directory)
    assert error(model, fixture) < 1e-5
    with monkeypatch.context() as patch:
        mistake(model, patch)
        assert error(model, fixture) > least


def test_without_a_bias_some_would_not_be_seen():
    """The fixtures are as hard as GLM-4.5's own layers: biases around 7, closer to each other than bfloat16's steps."""
    for name in (AIR, GROUPS, UNNORMED):
        for key, bias in fixture_files.load(name).weights.items():
            if key.endswith("e_score_correction_bias"):
                steps = np.diff(np.unique(bias))
                assert 6.5 < bias.min() < bias.max() < 7.5
                assert steps.min() < 2**-5
