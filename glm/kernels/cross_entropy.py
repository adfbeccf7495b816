"""Cross entropy with label smoothing (arXiv:1512.00567) and its gradient, each in one reading of the logits."""

from paddle import Tensor

from glm.kernels.library import empty, run


def losses(logits_MW: Tensor, labels_M: Tensor, real: int, on_label: float, share: float) -> tuple[Tensor, Tensor]:
    """log Σ exp z - on_label·z[label] - share·Σ z over the first `real` columns, and log Σ exp z: [M] float32 each.

    Args:
        logits_MW: float32. labels_M: int64 in 0..real-1.
    """
    rows, width = logits_MW.shape
    losses_M, lse_M = empty(rows), empty(rows)
    run("cross_entropy", logits_MW, labels_M.astype("int64"), losses_M, lse_M, rows, width, real, on_label, share)
    return losses_M, lse_M


def gradient(
    logits_MW: Tensor, labels_M: Tensor, lse_M: Tensor, grad_M: Tensor, real: int, on_label: float, share: float
) -> Tensor:
    """Of the logits [M, W] float32, 0 beyond `real` columns, for gradients of the losses."""
    (rows, width), out = logits_MW.shape, empty(*logits_MW.shape)
    labels_M = labels_M.astype("int64")
    run("cross_entropy_grad", logits_MW, labels_M, lse_M, grad_M, out, rows, width, real, on_label, share)
    return out
