"""The head and its loss in chunks of tokens: of a long row's logits only those of one chunk exist, forward or backward.

Beyond one chunk of tokens, a trained head computes each chunk's logits again in the backward pass: four matmuls instead
of three, because its gradient is a sum over the tokens, whose weights are not known before. A frozen head (LoRA) has
none: the gradient of the hidden states is computed in the forward pass, and weighed in the backward pass.

Shapes: M target tokens of a batch, H hidden, W columns of the vocabulary on this rank.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.distributed.fleet.utils import recompute

from glm.config.chunks import even_chunks
from glm.model.loss import Target, smoothed_cross_entropy


@dataclass(frozen=True)
class Head:
    """The weights of a language-model head.

    Args:
        weight: [H, W]; tied [W, H].
        bias: [W], or None.
        tied: whether the weight is the word embedding.
        dtype: to multiply in.
    """

    weight: Tensor
    bias: Tensor | None
    tied: bool
    dtype: str

    @property
    def width(self) -> int:
        """W."""
        return self.weight.shape[0 if self.tied else 1]

    @property
    def frozen(self) -> bool:
        return self.weight.stop_gradient and (self.bias is None or self.bias.stop_gradient)

    def cast(self) -> "Head":
        """The same one with a weight in the dtype to multiply in: once for all chunks."""
        return replace(self, weight=self.weight.astype(self.dtype))

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """[M, W] in the dtype to multiply in; float32 with a bias."""
        z_MW = paddle.matmul(hidden_MH.astype(self.dtype), self.weight, transpose_y=self.tied)
        return z_MW if self.bias is None else z_MW.astype("float32") + self.bias.astype("float32")

    def hidden_gradient(self, grad_MW: Tensor) -> Tensor:
        """[M, H] of that of the logits, in the dtype to multiply in."""
        return paddle.matmul(grad_MW.astype(self.dtype), self.weight, transpose_y=not self.tied)

    def weight_gradient(self, grad_MW: Tensor, hidden_MH: Tensor) -> Tensor:
        """As the weight, in float32: chunks are added up."""
        left, right = (grad_MW, hidden_MH) if self.tied else (hidden_MH, grad_MW)
        product = paddle.matmul(left.astype(self.dtype), right.astype(self.dtype), transpose_x=True)
        return product.astype("float32")


def chunked_losses(hidden_MH: Tensor, head: Head, labels_M: Tensor, target: Target) -> Tensor:
    """Losses [M] float32 as `smoothed_cross_entropy` gives them of the head's logits.

    Args:
        hidden_MH: in any float dtype; of several ranks a copy of each (`Ranks.copy`).
        labels_M: int64 in 0..V-1.
        target: what the logits are trained for.
    """
    return _ChunkedLosses.apply(hidden_MH, head.weight, head.bias, labels_M, head, target)


def recomputed_losses(
    logits: Callable[[Tensor], Tensor], hidden_MH: Tensor, labels_M: Tensor, target: Target
) -> Tensor:
    """The same of any head, such as one with an adapter: `logits` [M, W] are computed again in the backward pass."""

    def losses(hidden: Tensor, labels: Tensor) -> Tensor:
        return smoothed_cross_entropy(logits(hidden), labels, target)

    run = partial(recompute, losses, use_reentrant=False) if paddle.is_grad_enabled() else losses
    return paddle.concat([run(*part) for part in _chunks(target.chunk, hidden_MH, labels_M)])


class _ChunkedLosses(PyLayer):
    @staticmethod
    @paddle.amp.auto_cast(enable=False)
    def forward(ctx, hidden_MH, weight, bias, labels_M, head, target):
        ctx.passes_on = not hidden_MH.stop_gradient
        early, cast = head.frozen and ctx.passes_on, head.cast()
        losses, sums, slopes = [], [], []
        for hidden, labels in _chunks(target.chunk, hidden_MH, labels_M):
            loss, kept, lse = target.losses(cast.logits(hidden), labels)
            if early:
                slopes.append(cast.hidden_gradient(target.gradient(kept, labels, lse, paddle.ones_like(loss))))
            del kept
            losses.append(loss)
            sums.append(lse)
        ctx.head, ctx.target, ctx.early, ctx.dtype = head, target, early, hidden_MH.dtype
        if early:
            # Under float16's scaled losses, small numbers would be lost before they are weighed.
            wide = "float32" if hidden_MH.dtype == paddle.float16 else hidden_MH.dtype
            ctx.save_for_backward(paddle.concat(slopes).astype(wide))
        else:
            ctx.save_for_backward(hidden_MH, labels_M, paddle.concat(sums))
        return paddle.concat(losses)

    @staticmethod
    @paddle.amp.auto_cast(enable=False)
    def backward(ctx, grad_M):
        if ctx.early:
            (slope_MH,) = ctx.saved_tensor()
            return _given(ctx.head, (slope_MH * grad_M.unsqueeze(1)).astype(ctx.dtype), None, None)
        return _given(ctx.head, *_gradients(ctx, grad_M))


def _gradients(ctx, grad_M: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of the hidden states, the weight and the bias."""
    head, target, cast = ctx.head, ctx.target, ctx.head.cast()
    slopes, weight, bias = [], None, None
    for hidden, labels, lse, grad in _chunks(target.chunk, *ctx.saved_tensor(), grad_M):
        kept = target.kept(cast.logits(hidden), lse)
        grad_MW = target.gradient(kept, labels, lse, grad)
        del kept
        if ctx.passes_on:
            slopes.append(cast.hidden_gradient(grad_MW).astype(ctx.dtype))
        if not head.weight.stop_gradient:
            part = cast.weight_gradient(grad_MW, hidden)
            weight = part if weight is None else weight.add_(part)
            del part
        if head.bias is not None and not head.bias.stop_gradient:
            part = grad_MW.sum(axis=0)
            bias = part if bias is None else bias.add_(part)
        del grad_MW  # before the next chunk's logits
    return paddle.concat(slopes) if slopes else None, weight, bias


def _given(head: Head, hidden: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> tuple:
    """As Paddle wants them: one for each tensor of the call, in its dtype; of the labels none."""
    weight = None if weight is None else weight.astype(head.weight.dtype)
    if head.bias is None:
        return hidden, weight, None
    return hidden, weight, None if bias is None else bias.astype(head.bias.dtype), None


def _chunks(most: int, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """The same tokens [m, ...] of each tensor [M, ...]."""
    for tokens in even_chunks(tensors[0].shape[0], most):
        yield [tensor[tokens.start : tokens.stop] for tensor in tensors]
