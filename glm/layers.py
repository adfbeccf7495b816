"""Norm, attention projections and MLP of a decoder block.

Shapes: B rows, T tokens, H hidden, N heads, D head_dim.
"""

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

# q, k, v → context, all [B, T, N, D]: the attention core, which a cache may stand behind.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

NORMS = {"layer_norm": lambda config: nn.LayerNorm(config.hidden_size, epsilon=config.norm_eps)}
ACTIVATIONS = {"gelu_tanh": lambda x: F.gelu(x, approximate=True)}


class Linear(nn.Linear):
    """x·W + b, with W [in, out], and a bias gradient that runs at the speed of a matmul."""

    def forward(self, x: Tensor) -> Tensor:
        y = paddle.matmul(x, self.weight)
        return AddBias.apply(y, self.bias) if self.training and not self.bias.stop_gradient else y + self.bias


class AddBias(PyLayer):
    """y + b; Paddle's own gradient of a broadcast addition takes longer on a CPU than the matmul before it."""

    @staticmethod
    def forward(ctx, y: Tensor, bias: Tensor) -> Tensor:
        return y + bias

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows = grad.flatten(0, -2)
        return grad, paddle.matmul(paddle.ones([1, rows.shape[0]], grad.dtype), rows).flatten()


class SelfAttention(nn.Layer):
    """Projects to queries, keys and values, attends, and projects back."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (Linear(width, width) for _ in range(4))

    def forward(self, x_BTH: Tensor, rotate: Callable, attend: Attend) -> Tensor:
        q_BTND, k_BTND, v_BTND = (self._heads(proj(x_BTH)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        context_BTND = attend(*rotate(q_BTND, k_BTND), v_BTND)
        return self.o_proj(context_BTND.reshape([0, 0, self.num_heads * self.head_dim]))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape([0, 0, self.num_heads, self.head_dim])


class MLP(nn.Layer):
    """Up, activation, down."""

    def __init__(self, config):
        super().__init__()
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x_BTH: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.up_proj(x_BTH)))


class Block(nn.Layer):
    """Pre-norm block.

    x ─┬─ input_layernorm ─ self_attn ─ dropout ─(+)─┬─ post_attention_layernorm ─ mlp ─ dropout ─(+)─ y
       └──────────────────────────────────────────┘ └───────────────────────────────────────────┘
    """

    def __init__(self, config):
        super().__init__()
        norm = NORMS[config.norm_type]
        self.input_layernorm, self.post_attention_layernorm = norm(config), norm(config)
        self.self_attn, self.mlp = SelfAttention(config), MLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BTH: Tensor, rotate: Callable, attend: Attend) -> Tensor:
        x_BTH = x_BTH + self.dropout(self.self_attn(self.input_layernorm(x_BTH), rotate, attend))
        return x_BTH + self.dropout(self.mlp(self.post_attention_layernorm(x_BTH)))
