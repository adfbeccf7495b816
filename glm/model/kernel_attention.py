"""Attention of a CPU's own kernels (glm/kernels/): exact, in blocks of queries whose scores never leave the cache.

Of a block only the keys that any of its queries sees are read. The backward pass computes scores again, and has the
random numbers of dropout again, which are a hash. Shapes as in glm/model/attention.py.
"""

from paddle import Tensor
from paddle.autograd import PyLayer

from glm.kernels import applied, empty, run
from glm.kernels.dropout import drawn_seed
from glm.model.attention import AttentionDropout, KeepsKeysAndValues


class KernelAttention:
    """Every query against the keys of the same call that it may see, as `DenseAttention`, in float32.

    Args:
        visible_rows: [B, 2, T] int32 (`KernelAttention.mask`).
        n_rep: R, query heads per key/value head; it is found in the shapes.
        dropout: of the attention weights.
    """

    def __init__(self, visible_rows: Tensor, n_rep: int = 1, dropout: AttentionDropout | None = None):
        self.visible_rows, self.dropout = visible_rows, dropout

    @staticmethod
    def mask(visible_rows_B2T: Tensor, n_rep: int, dtype: str) -> Tensor:
        """[B, 2, T] int32, once for all layers."""
        return visible_rows_B2T.astype("int32")

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        drawn = (0.0, 0)
        if self.dropout:
            with self.dropout.numbers():
                drawn = (self.dropout.rate, drawn_seed())
        return applied(_KernelAttention, q_BTND, k_BTKD, v_BTKD, self.visible_rows, *drawn)


class KernelPrefill(KeepsKeysAndValues, KernelAttention):
    """The same, for the prompt of a cache."""


KernelAttention.prefill = KernelPrefill


class _KernelAttention(PyLayer):
    @staticmethod
    def forward(ctx, q_BTND, k_BTKD, v_BTKD, visible_rows_B2T, rate: float, seed: int):
        rows, tokens, heads, width = q_BTND.shape
        ctx.sizes = (rows, tokens, heads, k_BTKD.shape[2], width, rate, seed)
        context_BTND, lse_BNT = empty(*q_BTND.shape), empty(rows, heads, tokens)
        run("attention", q_BTND, k_BTKD, v_BTKD, visible_rows_B2T, context_BTND, lse_BNT, *ctx.sizes)
        ctx.save_for_backward(q_BTND, k_BTKD, v_BTKD, visible_rows_B2T, context_BTND, lse_BNT)
        return context_BTND

    @staticmethod
    def backward(ctx, grad_BTND):
        *qkv, visible_rows_B2T, context_BTND, lse_BNT = ctx.saved_tensor()
        slopes = [empty(*x.shape) for x in qkv]
        of_heads = empty(2, *context_BTND.shape)
        run("attention_grad", *qkv, visible_rows_B2T, context_BTND, lse_BNT, grad_BTND, *slopes, of_heads, *ctx.sizes)
        return *(None if x.stop_gradient else slope for x, slope in zip(qkv, slopes, strict=True)), None
