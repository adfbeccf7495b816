"""Norm, attention projections and MLP of a decoder block.

Shapes: B rows, T tokens, H hidden, N heads, K key/value heads, D head_dim.
"""

from collections.abc import Callable
from math import prod

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from glm.distributed.tensor_parallel import Ranks, TokenShares, columns, dropout, gated_mlp, linear, sum_of_rows
from glm.kernels import serves
from glm.kernels.activations import gelu_tanh, silu
from glm.kernels.norms import layer_norm, rms_norm

# q [B, T, N, D], k and v [B, T, K, D] → context [B, T, N, D]: attention function; it may read and update a KV cache.
AttentionFn = Callable[[Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Layer):
    """x / rms(x) · weight (arXiv:1910.07467), computed in float32."""

    def __init__(self, config, width: int | None = None, eps: float | None = None):
        super().__init__()
        shape = [width or config.hidden_size]
        self.weight = self.create_parameter(shape, default_initializer=nn.initializer.Constant(1.0))
        self.eps = config.norm_eps if eps is None else eps

    def forward(self, x_BTH: Tensor) -> Tensor:
        return self._normed(x_BTH, self.weight)

    def _normed(self, x_BTH: Tensor, weight_H: Tensor) -> Tensor:
        plain = TrainedRMSNorm.apply if self.training else _rms_norm
        return (rms_norm if serves(x_BTH, weight_H) else plain)(x_BTH, weight_H, self.eps)


def _rms_norm(x_BTH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    x = x_BTH.astype("float32")
    return (x * _inverse_rms(x, eps)).astype(x_BTH.dtype) * weight_H


def _inverse_rms(x_BTH: Tensor, eps: float) -> Tensor:
    return paddle.rsqrt(x_BTH.square().mean(axis=-1, keepdim=True) + eps)


class TrainedRMSNorm(PyLayer):
    """`_rms_norm` with its own gradient: a third of the passes over memory that one gradient an operator takes."""

    @staticmethod
    def forward(ctx, x_BTH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        x = x_BTH.astype("float32")
        inverse_BT1 = _inverse_rms(x, eps)
        ctx.save_for_backward(x_BTH, weight_H, inverse_BT1)
        return (x * inverse_BT1).astype(x_BTH.dtype) * weight_H

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_BTH, weight_H, inverse_BT1 = ctx.saved_tensor()
        # Paddle takes nothing but None for what needs no gradient.
        normed = x_BTH.astype("float32") * inverse_BT1
        slope = (grad * weight_H).astype("float32")
        along_BT1 = (slope * normed).mean(axis=-1, keepdim=True)
        grad_x = ((slope - normed * along_BT1) * inverse_BT1).astype(x_BTH.dtype)
        grad_weight = None if weight_H.stop_gradient else sum_of_rows(grad * normed.astype(grad.dtype))
        return None if x_BTH.stop_gradient else grad_x, grad_weight


class LayerNorm(nn.LayerNorm):
    """(x - mean) / deviation · weight + bias (arXiv:1607.06450)."""

    def forward(self, x_BTH: Tensor) -> Tensor:
        if serves(x_BTH, self.weight, self.bias):
            return layer_norm(x_BTH, self.weight, self.bias, self._epsilon)
        weight_H = self.weight
        if paddle.in_dynamic_mode() and weight_H.stop_gradient and not x_BTH.stop_gradient:
            # Paddle 3.3.1 gives x a wrong gradient where the weight has none: a copy has one, which nobody reads.
            weight_H = weight_H.detach()
            weight_H.stop_gradient = False
        return F.layer_norm(x_BTH, self._normalized_shape, weight_H, self.bias, self._epsilon)


NORMS = {
    "layer_norm": lambda config: LayerNorm(config.hidden_size, epsilon=config.norm_eps),
    "rms_norm": RMSNorm,
}
ACTIVATIONS = {"gelu_tanh": gelu_tanh, "silu": silu}


class HeadNorm(RMSNorm):
    """RMSNorm of every head [..., D], with one weight for all of them: also for those of the other ranks."""

    def __init__(self, config):
        super().__init__(config, config.head_dim)
        self.tokens = TokenShares(Ranks(config))

    def forward(self, x_BTND: Tensor) -> Tensor:
        return self._normed(x_BTND, self.tokens.copy(self.weight))


class SelfAttention(nn.Layer):
    """Projects to queries, keys and values, calls the attention function, and projects back."""

    def __init__(self, config):
        super().__init__()
        width, self.head_dim = config.hidden_size, config.head_dim
        queries, keys = (heads * self.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = linear(config, "q_proj", width, queries, config.attention_bias)
        self.k_proj = linear(config, "k_proj", width, keys, config.attention_bias)
        self.v_proj = linear(config, "v_proj", width, keys, config.attention_bias)
        self.o_proj = linear(config, "o_proj", queries, width, config.linear_bias)
        self.num_heads, self.num_key_value_heads = (
            layer.weight.shape[1] // self.head_dim for layer in (self.q_proj, self.k_proj)
        )
        self.q_norm, self.k_norm = (HeadNorm(config) if config.use_qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x_BTH: Tensor, rotate: Callable, attention_fn: AttentionFn) -> Tensor:
        q, k, v = columns(x_BTH, self.q_proj, self.k_proj, self.v_proj)
        q_BTND = q.reshape([0, 0, self.num_heads, self.head_dim])
        k_BTKD, v_BTKD = (x.reshape([0, 0, self.num_key_value_heads, self.head_dim]) for x in (k, v))
        context_BTND = attention_fn(*rotate(self.q_norm(q_BTND), self.k_norm(k_BTKD)), v_BTKD)
        return self.o_proj(context_BTND.reshape([0, 0, self.num_heads * self.head_dim]))

    def keep(self, x_BTH: Tensor, rotate: Callable, attention_fn: AttentionFn) -> None:
        """Has the keys and values kept, and attends to nothing."""
        k_BTKD, v_BTKD = (
            x.reshape([0, 0, self.num_key_value_heads, self.head_dim]) for x in columns(x_BTH, self.k_proj, self.v_proj)
        )
        k_BTKD = self.k_norm(k_BTKD)
        attention_fn.keep(rotate(k_BTKD, k_BTKD)[1], v_BTKD)


class MLP(nn.Layer):
    """Up, activation, down."""

    def __init__(self, config, inner: int):
        super().__init__()
        self.up_proj = linear(config, "up_proj", config.hidden_size, inner, config.linear_bias)
        self.down_proj = linear(config, "down_proj", inner, config.hidden_size, config.linear_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x_BTH: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.up_proj(x_BTH)))


class GatedMLP(MLP):
    """Up, times the activation of a gate, down (SwiGLU, arXiv:2002.05202)."""

    def __init__(self, config, inner: int):
        super().__init__(config, inner)
        self.gate_proj = linear(config, "gate_proj", config.hidden_size, inner, config.linear_bias)

    def forward(self, x_BTH: Tensor) -> Tensor:
        return gated_mlp(x_BTH, self.activation, self.gate_proj, self.up_proj, self.down_proj)


MLPS = {"plain": MLP, "gated": GatedMLP}


class Block(nn.Layer):
    """Pre-norm block, with norms after attention and MLP where the family has them.

    x ─┬─ input_layernorm ──────────┬─ self_attn ─ post_self_attn_layernorm ─ dropout ─(+)─ y
       └── residual: x, or α times ─┴──────────────────────────────────────────────────┘
    and the same with post_attention_layernorm, mlp and post_mlp_layernorm.
    """

    def __init__(self, config, attention: nn.Layer, mlp: nn.Layer):
        super().__init__()
        norm = NORMS[config.norm_type]
        self.input_layernorm, self.post_attention_layernorm = norm(config), norm(config)
        self.self_attn, self.mlp = attention, mlp
        behind = norm if config.post_norms else lambda config: nn.Identity()
        self.post_self_attn_layernorm, self.post_mlp_layernorm = behind(config), behind(config)
        self.dropout = dropout(config, config.hidden_dropout)
        self.residual = RESIDUALS[config.residual](config)

    def forward(self, x_BTH: Tensor, rotate: Callable, attention_fn: AttentionFn) -> Tensor:
        # Bind no intermediates: a live reference keeps the tensor allocated until the block returns.
        h_BTH = self.input_layernorm(x_BTH)
        x_BTH = self.residual(x_BTH, h_BTH) + self.dropout(
            self.post_self_attn_layernorm(self.self_attn(h_BTH, rotate, attention_fn))
        )
        h_BTH = self.post_attention_layernorm(x_BTH)
        return self.residual(x_BTH, h_BTH) + self.dropout(self.post_mlp_layernorm(self.mlp(h_BTH)))

    def keep(self, x_BTH: Tensor, rotate: Callable, attention_fn: AttentionFn) -> None:
        """Has kept what a cache needs of this block, whose output nobody reads."""
        self.self_attn.keep(self.input_layernorm(x_BTH), rotate, attention_fn)


# What goes past attention and MLP: the block's input, or α = √(2·layers) times what its norm made of it (ChatGLM-6B).
RESIDUALS = {
    "input": lambda config: lambda x, h: x,
    "scaled_norm": lambda config: lambda x, h: h * (2 * config.num_hidden_layers) ** 0.5,
}

# Rows for which MKL multiplies the other way round in half the time: those of beams.
FEW_ROWS = range(6, 64)


def tied_logits(x: Tensor, weight_VH: Tensor) -> Tensor:
    """x·Wᵀ [..., V] of x [..., H]; as (W·xᵀ)ᵀ where that is faster and the number of rows is known, not traced."""
    rows = prod(x.shape[:-1]) if min(x.shape) > 0 else 0
    if rows not in FEW_ROWS:
        return paddle.matmul(x, weight_VH, transpose_y=True)
    logits_VM = paddle.matmul(weight_VH, x.flatten(0, -2), transpose_y=True)
    return logits_VM.transpose([1, 0]).reshape([*x.shape[:-1], weight_VH.shape[0]])
