"""Attention over latents (MLA, DeepSeek-V2, arXiv:2405.04434, 2.1): GLM-4.7-Flash.

Queries are made of a latent of q_lora_rank numbers, keys and values of a latent c of kv_lora_rank, which all heads
share, as they share the rotated part of a key. A head's query and key are [not rotated | rotated].

Two forms give the same. Expanded, every head gets its key and value of c: training, evaluation, the prefill of a
prompt. Absorbed, c stays as it is: q·(W c) = (Wᵀ q)·c, so queries go into the latents' space, and what is weighed there
comes back from it. Then a cache keeps [c | rotated] of a token and layer, 576 numbers in GLM-4.7-Flash, and attention
functions see one key/value head, whose keys are its values, too.

Shapes: B rows, T tokens, H hidden, N heads, D width of a query and key, V of a value, C latent, R rotated, W = C + R.
"""

from collections.abc import Callable

import paddle
from paddle import Tensor, nn

from glm.config.latents import NORM_EPS
from glm.distributed.tensor_parallel import Ranks, TokenShares, linear
from glm.model.attention import CachedAttention
from glm.model.layers import AttentionFn, RMSNorm, SelfAttention


def self_attention(config) -> nn.Layer:
    """The attention of a layer: [B, T, H], rotation and attention function → [B, T, H]."""
    return LatentAttention(config) if config.kv_lora_rank else SelfAttention(config)


class LatentAttention(nn.Layer):
    """Projects to queries and latents, calls the attention function in one of the two forms, and projects back."""

    def __init__(self, config):
        super().__init__()
        hidden, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        self.latent_dim, self.head_dim, self.value_dim = config.kv_lora_rank, config.head_dim, config.v_head_dim
        self.unrotated = config.qk_nope_head_dim
        self.q_a_proj = linear(config, "q_a_proj", hidden, config.q_lora_rank, bias)
        self.q_a_layernorm = RMSNorm(config, config.q_lora_rank, NORM_EPS)
        self.q_b_proj = linear(config, "q_b_proj", config.q_lora_rank, heads * self.head_dim, bias=False)
        self.kv_a_proj_with_mqa = linear(config, "kv_a_proj_with_mqa", hidden, config.latent_dim, bias)
        self.kv_a_layernorm = RMSNorm(config, self.latent_dim, NORM_EPS)
        of_latent = heads * (self.unrotated + self.value_dim)
        self.kv_b_proj = linear(config, "kv_b_proj", self.latent_dim, of_latent, bias=False)
        self.o_proj = linear(config, "o_proj", heads * self.value_dim, hidden, bias)
        self.num_heads, self.tokens = self.q_b_proj.weight.shape[1] // self.head_dim, TokenShares(Ranks(config))

    def forward(self, x_BTH: Tensor, rotate: Callable, attention_fn: AttentionFn) -> Tensor:
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTH))).reshape([0, 0, self.num_heads, self.head_dim])
        q_BTND, q_rotated = q[..., : self.unrotated], q[..., self.unrotated :]
        latent_BTC, rotated_BT1R = self._latents(x_BTH)
        q_BTNR, k_BT1R = rotate(q_rotated, rotated_BT1R)
        if isinstance(attention_fn, OverLatents):
            latent_BT1W = paddle.concat([latent_BTC.unsqueeze(2), k_BT1R], axis=-1)
            context_BTNV = self._absorbed(q_BTND, q_BTNR, latent_BT1W, attention_fn)
        else:
            if isinstance(attention_fn, KeepsLatents):
                attention_fn.keep(latent_BTC, k_BT1R)
            q = paddle.concat([q_BTND, q_BTNR], axis=-1)
            context_BTNV = attention_fn(q, *self._expanded(latent_BTC, k_BT1R))
        return self.o_proj(context_BTNV.reshape([0, 0, self.num_heads * self.value_dim]))

    def keep(self, x_BTH: Tensor, rotate: Callable, attention_fn: "KeepsLatents") -> None:
        """Has the latents kept, and attends to nothing."""
        latent_BTC, rotated_BT1R = self._latents(x_BTH)
        attention_fn.keep(latent_BTC, rotate(rotated_BT1R, rotated_BT1R)[1])

    def _latents(self, x_BTH: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, C], and the part of keys [B, T, 1, R] that is going to be rotated."""
        latent, rotated = self.kv_a_proj_with_mqa(x_BTH).split([self.latent_dim, -1], axis=-1)
        # Gathered, as kv_b_proj does with the latents.
        return self.kv_a_layernorm(latent), self.tokens.gather(rotated.unsqueeze(2))

    def _expanded(self, latent_BTC: Tensor, rotated_BT1R: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B, T, N, D] and values [B, T, N, V]. Each rank's heads give a part of the rotated key's gradient."""
        both = self.kv_b_proj(latent_BTC).reshape([0, 0, self.num_heads, self.unrotated + self.value_dim])
        k_BTND, v_BTNV = both[..., : self.unrotated], both[..., self.unrotated :]
        rotated = self.tokens.copy(rotated_BT1R)
        rotated_BTNR = rotated.expand([*k_BTND.shape[:3], rotated.shape[-1]])
        return paddle.concat([k_BTND, rotated_BTNR], axis=-1), v_BTNV

    def _absorbed(self, q_BTND: Tensor, q_BTNR: Tensor, latent_BT1W: Tensor, attention_fn: "OverLatents") -> Tensor:
        """The context [B, T, N, V] of queries that go into the latents' space."""
        weight_CN = effective_weight(self.kv_b_proj).reshape([self.latent_dim, self.num_heads, -1])
        to_key_NDC, to_value_NCV = (
            weight_CN[..., : self.unrotated].transpose([1, 2, 0]),
            weight_CN[..., self.unrotated :].transpose([1, 0, 2]),
        )
        q_BTNW = paddle.concat([per_head(q_BTND, to_key_NDC), q_BTNR], axis=-1)
        # The attention function divides by √W, and the model by √D.
        q_BTNW = q_BTNW * (q_BTNW.shape[-1] / self.head_dim) ** 0.5
        return per_head(attention_fn(q_BTNW, latent_BT1W)[..., : self.latent_dim], to_value_NCV)


def per_head(x_BTNI: Tensor, weight_NIO: Tensor) -> Tensor:
    """Each head times its own matrix: [B, T, N, I] → [B, T, N, O]."""
    y_NBTO = paddle.matmul(x_BTNI.transpose([2, 0, 1, 3]), weight_NIO.unsqueeze(1))
    return y_NBTO.transpose([1, 2, 0, 3])


def effective_weight(layer: nn.Layer) -> Tensor:
    """The weight [in, out] that a linear layer multiplies with, its adapter's part included."""
    if not hasattr(layer, "lora_A") or layer.merged or layer.disable_lora:
        return layer.weight
    return layer.weight + paddle.matmul(layer.lora_A, layer.lora_B) * layer.scaling


class OverLatents:
    """An attention function of one key/value head, which reads latents: its keys are its values, too.

    Args:
        attention_fn: takes queries [B, T, N, W], keys and values [B, T, 1, W].
    """

    def __init__(self, attention_fn: AttentionFn):
        self.attention_fn = attention_fn

    def __call__(self, q_BTNW: Tensor, latent_BT1W: Tensor) -> Tensor:
        """[B, T, N, W]."""
        return self.attention_fn(q_BTNW, latent_BT1W, latent_BT1W)

    @property
    def tails(self) -> list[Tensor]:
        return self.attention_fn.tails


class CachedLatents(CachedAttention):
    """`CachedAttention` with one tail for keys and values.

    Args:
        prefix: [1, B, S, W]. prefix_bias: [B, 1, S]. tail: [B, G, 1, t, W].
    """

    def __init__(self, prefix: Tensor, prefix_bias: Tensor, tail: Tensor):
        super().__init__(prefix, prefix, prefix_bias, tail, tail)

    @property
    def tails(self) -> list[Tensor]:
        return [self.tail_keys]

    def grow(self, latent_BG1W: Tensor, _: Tensor) -> None:
        self.tail_keys = self.tail_values = paddle.concat([self.tail_keys, latent_BG1W.unsqueeze(3)], axis=3)


class KeepsLatents:
    """Attention in the expanded form that keeps the latents [1, B, T, W] of one layer as a cache's prefix.

    Args:
        attention_fn: of all heads.
    """

    def __init__(self, attention_fn: AttentionFn):
        self.attention_fn = attention_fn

    def keep(self, latent_BTC: Tensor, rotated_BT1R: Tensor) -> None:
        self.latents = paddle.concat([latent_BTC, rotated_BT1R.squeeze(2)], axis=-1).unsqueeze(0)

    def __call__(self, q_BTND: Tensor, k_BTND: Tensor, v_BTNV: Tensor) -> Tensor:
        return self.attention_fn(q_BTND, k_BTND, v_BTNV)
