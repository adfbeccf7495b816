"""Cross entropy with label smoothing, over a vocabulary that ranks may share."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from glm.distributed.tensor_parallel import Ranks

# Added to the logits of padding: no probability is left of them.
_NEVER = -1e9


def smoothed_cross_entropy(
    logits_MW: Tensor, labels_M: Tensor, smoothing: float, vocab_size: int, ranks: Ranks
) -> Tensor:
    """Cross entropy per token against (1 - smoothing)·one-hot + smoothing·uniform (Szegedy et al., arXiv:1512.00567).

    Both parts need one logsumexp: loss = lse - (1 - ε)·z_y - ε·mean(z).

    Args:
        logits_MW: [M, W] in any float dtype, this rank's W columns of the vocabulary; computed in float32.
        labels_M: [M] int64 in 0..V-1.
        smoothing: ε in 0..1.
        vocab_size: V; columns beyond it are padding.
        ranks: who shares the vocabulary.

    Returns:
        [M] float32, the same on every rank.
    """
    return _SmoothedCrossEntropy.apply(logits_MW, labels_M, smoothing, vocab_size, ranks)


class _SmoothedCrossEntropy(PyLayer):
    """With its own gradient: the probabilities are computed once, and of the whole vocabulary only three sums cross
    between the ranks."""

    @staticmethod
    def forward(ctx, logits_MW, labels_M, smoothing, vocab_size, ranks):
        width, first = logits_MW.shape[1], ranks.rank * logits_MW.shape[1]
        real = max(0, min(width, vocab_size - first))
        z_MW = logits_MW.astype("float32")
        if real < width:
            z_MW = z_MW + _NEVER * (paddle.arange(width) >= real).astype("float32")
        here_M, column_M = _own_labels(labels_M - first, width)
        target_M = _take(z_MW, column_M) * here_M
        p_MW = F.softmax(z_MW, axis=1)
        # log Σ exp z = z - log p of any column; of the best one, p is never too small for its logarithm.
        best_M = z_MW.argmax(axis=1)
        lse_M = _take(z_MW, best_M) - _take(p_MW, best_M).log()
        sum_M = z_MW[:, :real].sum(axis=1) if smoothing and real else paddle.zeros_like(lse_M)
        p_MW, lse_M, target_M, sum_M = _joined(p_MW, lse_M, target_M, sum_M, ranks)
        ctx.save_for_backward(p_MW, here_M, column_M)
        ctx.smoothing, ctx.share, ctx.real, ctx.dtype = smoothing, smoothing / vocab_size, real, logits_MW.dtype
        return lse_M - (1.0 - smoothing) * target_M - ctx.share * sum_M

    @staticmethod
    def backward(ctx, grad_M):
        p_MW, here_M, column_M = ctx.saved_tensor()
        width, grad_M1 = p_MW.shape[1], grad_M.unsqueeze(1)
        grad_MW = p_MW * grad_M1
        if ctx.share:
            smoothed = grad_M1 * ctx.share
            if ctx.real < width:
                smoothed = smoothed * (paddle.arange(width) < ctx.real).astype("float32")
            # Under the same name: another one would keep a third of its memory.
            grad_MW = grad_MW - smoothed
        at = column_M.unsqueeze(1)
        on_target_M = _take(grad_MW, column_M) - grad_M * (1.0 - ctx.smoothing) * here_M
        return paddle.put_along_axis(grad_MW, at, on_target_M.unsqueeze(1), axis=1).astype(ctx.dtype)


def _own_labels(labels_M: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """1.0 where a label is a column of this rank, and that column, or any."""
    here_M = (labels_M >= 0) & (labels_M < width)
    return here_M.astype("float32"), labels_M.clip(0, width - 1)


def _take(x_MW: Tensor, column_M: Tensor) -> Tensor:
    # With broadcasting, Paddle first copies the whole of x.
    return paddle.take_along_axis(x_MW, column_M.unsqueeze(1), axis=1, broadcast=False).squeeze(1)


def _joined(p_MW, lse_M, target_M, sum_M, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each rank's softmax and sums, those over the whole vocabulary."""
    if ranks.degree == 1:
        return p_MW, lse_M, target_M, sum_M
    highest_M = ranks.max(lse_M)
    total_M, target_M, sum_M = ranks.sum(paddle.stack([(lse_M - highest_M).exp(), target_M, sum_M])).unbind()
    all_M = highest_M + total_M.log()
    return p_MW * (lse_M - all_M).exp().unsqueeze(1), all_M, target_M, sum_M
