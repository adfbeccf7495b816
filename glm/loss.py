"""Cross entropy with label smoothing."""

import paddle
from paddle import Tensor


def smoothed_cross_entropy(logits_MV: Tensor, labels_M: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy against (1 - smoothing)·one-hot + smoothing·uniform (Szegedy et al., arXiv:1512.00567, 7).

    Both parts need one logsumexp: loss = lse - (1 - ε)·z_y - ε·mean(z).

    Args:
        logits_MV: [M, V] in any float dtype; computed in float32.
        labels_M: [M] int64 in 0..V-1.
        smoothing: ε in 0..1.

    Returns:
        0-D float32 tensor.
    """
    logits_MV = logits_MV.astype("float32")
    target_M = paddle.take_along_axis(logits_MV, labels_M.unsqueeze(1), axis=1).squeeze(1)
    loss_M = paddle.logsumexp(logits_MV, axis=1) - (1.0 - smoothing) * target_M
    if smoothing:
        loss_M = loss_M - smoothing * logits_MV.mean(axis=1)
    return loss_M.mean()
