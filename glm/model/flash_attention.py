"""Flash attention (arXiv:2205.14135) on devices that have it (glm/model/attention_choice.py).

Paddle's `scaled_dot_product_attention` hands mask and shared key/value heads on to the device's kernel, which keeps
scores in float32. It takes the kernel for half precision only, and for heads of at most 256 numbers that 8 divides.
FlashMask (arXiv:2410.01359) takes what is seen as it is described; the plain kernel takes a bias [T, T], or masks
causally by itself. Shapes as in glm/model/attention.py.
"""

from contextlib import nullcontext

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from glm.model.attention import AttentionDropout, KeepsKeysAndValues
from glm.model.visibility import visibility_bias


class FlashAttention:
    """Every query against all keys of the same call, as `DenseAttention`, without scores in memory.

    Args:
        mask: [B, 1, T, T] in the dtype to compute in (`FlashAttention.mask`).
        n_rep: R, query heads per key/value head; the kernel finds it in the shapes.
        dropout: of the attention weights; the kernel draws its random numbers itself.

    Nothing takes the kernel's place: in half precision Paddle's plain arithmetic would round scores, and GLM-4's
    overflow float16.
    """

    backend = "FLASH_ATTENTION"  # of paddle.nn.attention.SDPBackend

    def __init__(self, mask: Tensor, n_rep: int = 1, dropout: AttentionDropout | None = None):
        self.visible, self.dropout = mask, dropout

    @staticmethod
    def mask(visible_rows_B2T: Tensor, n_rep: int, dtype: str) -> Tensor:
        """[B, 2, T] → [B, 1, T, T], once for all layers."""
        return visibility_bias(visible_rows_B2T).astype(dtype).unsqueeze(1)

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        # Mixed precision may have left float32, as behind a bias.
        q, k, v = (x.astype(self.dtype) for x in (q_BTND, k_BTKD, v_BTKD))
        rate, numbers = (self.dropout.rate, self.dropout.numbers()) if self.dropout else (0.0, nullcontext())
        with numbers:
            return self.attend(q, k, v, rate).astype(v_BTKD.dtype)

    @property
    def dtype(self) -> str:
        """To compute in."""
        return self.visible.dtype

    def attend(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, rate: float) -> Tensor:
        return self.kernel(q_BTND, k_BTKD, v_BTKD, attn_mask=self.visible, dropout_p=rate)

    def kernel(self, *qkv: Tensor, **options) -> Tensor:
        from paddle.nn.attention import SDPBackend, sdpa_kernel  # older plugins' Paddle lacks it: then the probe fails

        with sdpa_kernel(SDPBackend[self.backend]):
            return F.scaled_dot_product_attention(*qkv, **options)


class CausalFlashAttention(FlashAttention):
    """The same of rows that are causal throughout, up to padding on the right (`is_causal`), without a bias.

    Args:
        mask: an empty tensor of the dtype to compute in.
    """

    @staticmethod
    def mask(visible_rows_B2T: Tensor, n_rep: int, dtype: str) -> Tensor:
        return paddle.zeros([0], dtype)

    def attend(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, rate: float) -> Tensor:
        return self.kernel(q_BTND, k_BTKD, v_BTKD, is_causal=True, dropout_p=rate)


class FlashMaskAttention(FlashAttention):
    """The same of any rows, by FlashMask's kernel.

    Args:
        mask: bounds [B, 1, T, 2] int32 of each column: the row behind the last one that sees it, and the first one;
            and the dtype to compute in.
    """

    def __init__(self, mask: tuple[Tensor, str], n_rep: int = 1, dropout: AttentionDropout | None = None):
        super().__init__(mask[0], n_rep, dropout)
        self.half = mask[1]

    @staticmethod
    def mask(visible_rows_B2T: Tensor, n_rep: int, dtype: str) -> tuple[Tensor, str]:
        return visible_rows_B2T.flip(1).transpose([0, 2, 1]).unsqueeze(1), dtype

    @property
    def dtype(self) -> str:
        return self.half

    def attend(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, rate: float) -> Tensor:
        return F.flashmask_attention(q_BTND, k_BTKD, v_BTKD, self.visible, dropout=rate, causal=False)


for _kind in (FlashAttention, CausalFlashAttention, FlashMaskAttention):
    _kind.prefill = type(f"{_kind.__name__}Prefill", (KeepsKeysAndValues, _kind), {})
