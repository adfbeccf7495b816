"""Cross entropy with label smoothing, over a vocabulary that ranks may share."""

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from glm.config.chunks import head_chunk
from glm.distributed.tensor_parallel import Ranks
from glm.kernels import cross_entropy, serves

# Added to the logits of padding: no probability is left of them.
_NEVER = -1e9


@dataclass(frozen=True)
class Target:
    """What logits are trained for: a label and, a little, all others.

    Args:
        smoothing: ε in 0..1.
        vocab_size: V; columns beyond it are padding.
        ranks: who shares the vocabulary.
        width: W, columns of this rank.
    """

    smoothing: float
    vocab_size: int
    ranks: Ranks
    width: int

    @property
    def chunk(self) -> int:
        """Tokens whose logits may exist at once."""
        return head_chunk(self.width)

    @property
    def first(self) -> int:
        """The token of column 0."""
        return self.ranks.rank * self.width

    @property
    def real(self) -> int:
        """Columns that are no padding."""
        return max(0, min(self.width, self.vocab_size - self.first))

    @property
    def share(self) -> float:
        """Probability that smoothing gives to each token."""
        return self.smoothing / self.vocab_size

    def own_labels(self, labels_M: Tensor) -> tuple[Tensor, Tensor]:
        """1.0 where a label is a column of this rank, and that column, or any."""
        labels_M = labels_M - self.first
        here_M = (labels_M >= 0) & (labels_M < self.width)
        return here_M.astype("float32"), labels_M.clip(0, self.width - 1)

    def padded_out(self, logits_MW: Tensor) -> Tensor:
        """In float32, those of padding far below any other."""
        z_MW = logits_MW.astype("float32")
        if self.real < self.width:
            z_MW = z_MW + _NEVER * (paddle.arange(self.width) >= self.real).astype("float32")
        return z_MW

    def losses(self, logits_MW: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses [M], what their gradient needs [M, W] and the logarithm [M] of Σ exp z over the whole vocabulary.

        The gradient needs the probabilities, or where kernels serve the logits as they are.
        """
        wide_MW = _wide(logits_MW)
        if self._has_kernels(wide_MW):
            losses_M, lse_M = cross_entropy.losses(wide_MW, labels_M, *self._weights)
            return losses_M, wide_MW, lse_M
        here_M, column_M = self.own_labels(labels_M)
        z_MW = self.padded_out(logits_MW)
        target_M = _take(z_MW, column_M) * here_M
        p_MW = F.softmax(z_MW, axis=1)
        # log Σ exp z = z - log p of any column; of the best one, p is never too small for its logarithm.
        best_M = z_MW.argmax(axis=1)
        lse_M = _take(z_MW, best_M) - _take(p_MW, best_M).log()
        smooths = self.smoothing and self.real
        sum_M = z_MW[:, : self.real].sum(axis=1) if smooths else paddle.zeros_like(lse_M)
        del z_MW
        p_MW, lse_M, target_M, sum_M = _joined(p_MW, lse_M, target_M, sum_M, self.ranks)
        return lse_M - (1.0 - self.smoothing) * target_M - self.share * sum_M, p_MW, lse_M

    def kept(self, logits_MW: Tensor, lse_M: Tensor) -> Tensor:
        """What `losses` gave for the gradient [M, W], of logits that are computed again."""
        wide_MW = _wide(logits_MW)
        return wide_MW if self._has_kernels(wide_MW) else (self.padded_out(wide_MW) - lse_M.unsqueeze(1)).exp_()

    def _has_kernels(self, wide_MW: Tensor) -> bool:
        """Of what is float32 either way, so that forward and backward pass answer alike."""
        return self.ranks.degree == 1 and serves(wide_MW)

    @property
    def _weights(self) -> tuple[int, float, float]:
        return self.real, 1.0 - self.smoothing, self.share

    def gradient(self, kept_MW: Tensor, labels_M: Tensor, lse_M: Tensor, grad_M: Tensor) -> Tensor:
        """Of the logits [M, W] float32, for gradients of the losses; of what `losses` gave."""
        if self._has_kernels(kept_MW):
            return cross_entropy.gradient(kept_MW, labels_M, lse_M, grad_M, *self._weights)
        here_M, column_M = self.own_labels(labels_M)
        grad_M1 = grad_M.unsqueeze(1)
        grad_MW = kept_MW * grad_M1
        if self.share:
            smoothed = grad_M1 * self.share
            if self.real < self.width:
                smoothed = smoothed * (paddle.arange(self.width) < self.real).astype("float32")
            # Under the same name: another one would keep a third of its memory.
            grad_MW = grad_MW - smoothed
        on_target_M = _take(grad_MW, column_M) - grad_M * (1.0 - self.smoothing) * here_M
        return paddle.put_along_axis(grad_MW, column_M.unsqueeze(1), on_target_M.unsqueeze(1), axis=1)


def smoothed_cross_entropy(logits_MW: Tensor, labels_M: Tensor, target: Target) -> Tensor:
    """Cross entropy per token against (1 - smoothing)·one-hot + smoothing·uniform (Szegedy et al., arXiv:1512.00567).

    Both parts need one logsumexp: loss = lse - (1 - ε)·z_y - ε·mean(z).

    Args:
        logits_MW: [M, W] in any float dtype, this rank's W columns of the vocabulary; computed in float32.
        labels_M: [M] int64 in 0..V-1.
        target: what they are trained for.

    Returns:
        [M] float32, the same on every rank.
    """
    return _SmoothedCrossEntropy.apply(logits_MW, labels_M, target)


def log_probs(logits_MW: Tensor, ids_MX: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Log-probabilities of some tokens, and the likeliest token, of logits of which each rank has its columns.

    Of the vocabulary a maximum, a sum and the chosen columns cross between the ranks.

    Args:
        logits_MW: in any float dtype; computed in float32.
        ids_MX: [M, X] int64 in 0..V-1.

    Returns:
        [M, X] float32, [M] int64; of equal logits the smallest id is the likeliest, as argmax has it.
    """
    ranks, z_MW = target.ranks, target.padded_out(logits_MW)
    own_M = z_MW.max(axis=1)
    highest_M = ranks.max(own_M)
    here_MX, column_MX = target.own_labels(ids_MX)
    chosen_MX = paddle.take_along_axis(z_MW, column_MX, axis=1, broadcast=False) * here_MX
    total_M1 = (z_MW - highest_M.unsqueeze(1)).exp().sum(axis=1, keepdim=True)
    both = ranks.sum(paddle.concat([chosen_MX, total_M1], axis=1))
    found_MX = both[:, :-1] - (highest_M.unsqueeze(1) + both[:, -1:].log())
    # In float32, which holds every id and which all collectives take; a rank that has not the best one names none.
    best_M = (z_MW.argmax(axis=1) + target.first).astype("float32")
    named_M = paddle.where(own_M == highest_M, best_M, paddle.full_like(best_M, target.vocab_size))
    return found_MX, (-ranks.max(-named_M)).astype("int64")


class _SmoothedCrossEntropy(PyLayer):
    """With its own gradient: the probabilities are computed once, and of the whole vocabulary only three sums cross
    between the ranks."""

    @staticmethod
    def forward(ctx, logits_MW, labels_M, target: Target):
        losses_M, kept_MW, lse_M = target.losses(logits_MW, labels_M)
        ctx.save_for_backward(kept_MW, labels_M, lse_M)
        ctx.target, ctx.dtype = target, logits_MW.dtype
        return losses_M

    @staticmethod
    def backward(ctx, grad_M):
        return ctx.target.gradient(*ctx.saved_tensor(), grad_M).astype(ctx.dtype)


def _wide(x: Tensor) -> Tensor:
    """In float32."""
    return x if x.dtype == paddle.float32 else x.astype("float32")


def _take(x_MW: Tensor, column_M: Tensor) -> Tensor:
    """One column of each row: [M]."""
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
