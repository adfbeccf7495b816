"""The attention functions that fill a cache and read it, one a layer: of keys and values, or of latents."""

from typing import Any

from paddle import Tensor

from glm.model.attention import CachedAttention, Prefix, StepAttention, empty_tails, step_bias
from glm.model.latent_attention import CachedLatents, KeepsLatents, OverLatents
from glm.model.prefix_attention import SharedPrefixAttention, shared_prefix_attention


def filling(config, kind: type, mask: Any, n_rep: int) -> list:
    """Attention of a prompt that keeps what a prefix has (`filled`).

    Args:
        kind, mask: of `attention_class`.
    """
    layers = range(config.num_hidden_layers)
    if config.kv_lora_rank:
        return [KeepsLatents(kind(mask, n_rep)) for _ in layers]
    return [kind.prefill(mask, n_rep) for _ in layers]


def filled(attention_fns: list, bias: Tensor) -> Prefix:
    """What functions of `filling` have kept."""
    if isinstance(attention_fns[0], KeepsLatents):
        return Prefix([each.latents for each in attention_fns], [], bias)
    return Prefix([each.keys for each in attention_fns], [each.values for each in attention_fns], bias)


def divided(prefix: Prefix, columns: int) -> tuple[Prefix, list[Tensor]]:
    """Its first columns [K, B, S, D], and what a layer has behind them as tails [B, 1, K, t, D] of one beam.

    Args:
        prefix: keys and values of S columns or more, which are cut one by one; its bias is of S.
    """
    tails, kinds = empty_tails(prefix, 1), [prefix.keys] if has_latents(prefix) else [prefix.keys, prefix.values]
    for i in range(len(tails)):
        parts, layer = kinds[i % len(kinds)], i // len(kinds)
        # Not where nothing stands behind: devices' kernels may crash of what has no elements.
        if parts[layer].shape[2] > columns:
            tails[i] = parts[layer][:, :, columns:].transpose([1, 0, 2, 3]).unsqueeze(1)
            parts[layer] = parts[layer][:, :, :columns]
    return prefix, tails


def has_latents(prefix: Prefix) -> bool:
    return not prefix.values


def reading(prefix: Prefix, tails: list[Tensor]) -> list[CachedAttention | OverLatents]:
    """Attention of one token more; afterwards each has `tails`, the grown ones of its layer."""
    if has_latents(prefix):
        cached = zip(prefix.keys, tails, strict=True)
        return [OverLatents(CachedLatents(latents, prefix.bias, tail)) for latents, tail in cached]
    return [
        CachedAttention(keys, values, prefix.bias, tail_keys, tail_values)
        for keys, values, tail_keys, tail_values in zip(
            prefix.keys, prefix.values, tails[::2], tails[1::2], strict=True
        )
    ]


def going_on(prefix: Prefix, visible_rows_B2T: Tensor, n_rep: int, heads: int) -> list:
    """Attention of rows that go on from one prefix (glm/model/prefix_attention.py).

    Args:
        n_rep: query heads that share a key/value head. heads: query heads of this rank, which share a latent.
    """
    if not has_latents(prefix):
        return shared_prefix_attention(prefix, visible_rows_B2T, n_rep)
    both = Prefix(prefix.keys, prefix.keys, prefix.bias)
    found: list[SharedPrefixAttention] = shared_prefix_attention(both, visible_rows_B2T, heads)
    return [OverLatents(attention_fn) for attention_fn in found]


def stepping(config, past: list[Tensor], past_bias_B1C: Tensor, new_bias_BTT: Tensor) -> list:
    """Attention of new tokens of every row against what its cache holds and each other.

    Args:
        past: the parts of all layers (`glm.config.shapes.cache_shapes`), [B, K, C, D] each.
    """
    if config.kv_lora_rank:
        bias = step_bias(past_bias_B1C, new_bias_BTT, 1, config.num_attention_heads)
        return [OverLatents(StepAttention(latents, latents, bias)) for latents in past]
    bias = step_bias(past_bias_B1C, new_bias_BTT, config.num_key_value_heads, config.queries_per_kv)
    return [StepAttention(keys, values, bias) for keys, values in zip(past[::2], past[1::2], strict=True)]


def stepped(attention_fns: list) -> list[Tensor]:
    """What functions of `stepping` add to the parts of the cache, [B, K, T, D] each."""
    if isinstance(attention_fns[0], OverLatents):
        return [each.attention_fn.keys for each in attention_fns]
    return [part for each in attention_fns for part in (each.keys, each.values)]
