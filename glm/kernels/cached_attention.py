"""Attention of a step of generation, in one call: Paddle takes some thirty operators for it, on a few numbers each."""

import paddle
from paddle import Tensor

from glm.kernels.library import empty, run, serves


def reads(q_BGND: Tensor, keys_KBSD: Tensor) -> bool:
    """Whether `cached_attention` takes these, and a cache of the keys' dtype and place: it has no gradient."""
    return not paddle.is_grad_enabled() and serves(q_BGND, keys_KBSD)


def cached_attention(
    q_BGND: Tensor, keys_KBSD: Tensor, values_KBSD: Tensor, bias_B1S: Tensor, tail_BGKtD: list[Tensor]
) -> Tensor:
    """The context [B, G, N, D] of one new token of each of G beams, against the prefix of its row and its own tail.

    Args:
        q_BGND: float32, as all.
        bias_B1S: added to the scores of the prefix's S positions, of which there may be none.
        tail_BGKtD: keys and values, t of 1 or more, the new token's among them.
    """
    batch, beams, heads, width = q_BGND.shape
    groups, prefix, tail = keys_KBSD.shape[0], keys_KBSD.shape[2], tail_BGKtD[0].shape[3]
    context = empty(*q_BGND.shape)
    sizes = batch, beams, heads, groups, prefix, tail, width
    run("cached_attention", q_BGND, keys_KBSD, values_KBSD, bias_B1S, *tail_BGKtD, context, *sizes)
    return context
