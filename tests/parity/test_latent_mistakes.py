"""Each mistake that ports of attention over latents can make is seen by the logits of transformers."""

from collections.abc import Callable

import fixture_files
import paddle
import pytest
from test_expert_mistakes import error
from test_family_models import opened

from glm.model.positions import apply_rotary_halves

FLASH, WIDTHS = "glm4lite-flash", "glm4lite-widths"


def attentions(model) -> list:
    return [layer.self_attn for layer in model.model.layers]


def half_split_pairs(model) -> None:
    model.model.positions.turn = apply_rotary_halves


def no_norm_of_query_latents(model) -> None:
    for attention in attentions(model):
        attention.q_a_layernorm = paddle.nn.Identity()


def no_norm_of_key_latents(model) -> None:
    for attention in attentions(model):
        attention.kv_a_layernorm = paddle.nn.Identity()


def epsilon_of_the_other_norms(model) -> None:
    """transformers has 1e-6 in the norms of latents and rms_norm_eps, 1e-5, elsewhere."""
    for attention in attentions(model):
        attention.q_a_layernorm.eps = model.config.norm_eps


def epsilon_of_the_other_norms_in_keys(model) -> None:
    for attention in attentions(model):
        attention.kv_a_layernorm.eps = model.config.norm_eps


def _scaled_queries(model, factor: Callable[[object], float]) -> None:
    for attention in attentions(model):
        weight = attention.q_b_proj.weight
        weight.set_value(weight * factor(model.config))


def scaled_by_the_values_width(model) -> None:
    _scaled_queries(model, lambda config: (config.head_dim / config.v_head_dim) ** 0.5)


def scaled_by_what_is_not_rotated(model) -> None:
    _scaled_queries(model, lambda config: (config.head_dim / config.qk_nope_head_dim) ** 0.5)


def unrotated_keys(model) -> None:
    for attention in attentions(model):
        original = attention.forward

        def forward(x, rotate, attention_fn, original=original):
            return original(x, lambda q, k: (rotate(q, k)[0], k), attention_fn)

        attention.forward = forward


def normed_rotated_keys(model) -> None:
    """The norm over all that kv_a_proj_with_mqa gives, as if its rotated part belonged to the latent."""
    for attention in attentions(model):
        rank = attention.latent_dim

        def normed(layer, inputs, both, rank=rank):
            scale = paddle.rsqrt(both.square().mean(axis=-1, keepdim=True) + 1e-6)
            return paddle.concat([both[..., :rank], both[..., rank:] * scale], axis=-1)

        attention.kv_a_proj_with_mqa.register_forward_post_hook(normed)


def rotated_in_front(model) -> None:
    """A head as [rotated | not rotated], as other models have it."""
    for attention in attentions(model):
        weight = attention.q_b_proj.weight
        heads = weight.reshape([weight.shape[0], attention.num_heads, -1])
        weight.set_value(heads.roll(attention.unrotated, axis=2).reshape(weight.shape))


def values_in_front(model) -> None:
    """kv_b_proj's heads as [value | key]."""
    for attention in attentions(model):
        weight = attention.kv_b_proj.weight
        heads = weight.reshape([weight.shape[0], attention.num_heads, -1])
        weight.set_value(heads.roll(attention.value_dim, axis=2).reshape(weight.shape))


def keys_behind_each_other(model) -> None:
    """kv_b_proj as all keys and then all values, not head by head."""
    for attention in attentions(model):
        weight = attention.kv_b_proj.weight
        rows, unrotated = attention.num_heads, attention.unrotated
        keys, values = weight.split([rows * unrotated, -1], axis=1)
        parts = [each.reshape([weight.shape[0], rows, -1]) for each in (keys, values)]
        weight.set_value(paddle.concat(parts, axis=2).reshape(weight.shape))


# Fixture, mistake, and by how much the logits then miss, as a share of the largest: rounded down.
MISTAKES: list[tuple[str, Callable, float]] = [
    (FLASH, half_split_pairs, 0.9),
    (WIDTHS, half_split_pairs, 0.5),
    (FLASH, no_norm_of_query_latents, 0.8),
    (FLASH, no_norm_of_key_latents, 1.2),
    (FLASH, epsilon_of_the_other_norms, 6e-4),
    (FLASH, epsilon_of_the_other_norms_in_keys, 4e-4),
    (WIDTHS, scaled_by_the_values_width, 0.02),
    (FLASH, scaled_by_what_is_not_rotated, 0.3),
    (FLASH, unrotated_keys, 0.8),
    (FLASH, normed_rotated_keys, 0.7),
    (FLASH, rotated_in_front, 1.4),
    (WIDTHS, values_in_front, 1.6),
    (FLASH, keys_behind_each_other, 1.2),
]


@pytest.mark.parametrize(("name", "mistake", "least"), MISTAKES, ids=lambda value: getattr(value, "__name__", None))
def test_a_mistake_is_seen(name, mistake, least):
    fixture = fixture_files.load(name)
    model = opened(fixture.directory)
    assert error(model, fixture) < 1e-5
    mistake(model)
    assert error(model, fixture) > least
