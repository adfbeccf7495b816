"""Sequence parallelism: between the tensor-parallel parts of a layer, each rank has a share of every row's tokens.

Norms, dropout and the residual stream work on T / degree tokens. In front of layers that are cut by columns the tokens
of all ranks are gathered, and the sums behind layers that are cut by rows are scattered again: as many bytes as the
sums alone (Korthikanti et al., arXiv:2205.05198, 4.2.2). Training does so; evaluation and generation do not.

Shapes: B rows, T tokens, n ranks of the group, H hidden.
"""

import weakref
from collections.abc import Iterable, Iterator

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.distributed.communication import stream
from paddle.distributed.fleet.layers.mpu import mp_ops
from paddle.distributed.fleet.meta_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding

from glm.errors import UsageError


def gather_tokens(x: Tensor, group) -> Tensor:
    """The tokens of all ranks in their order: [B, T/n, …] → [B, T, …]. Their gradients are added up and scattered."""
    return _Gather.apply(x, group)


def scatter_sum(x: Tensor, group) -> Tensor:
    """This rank's tokens of the sum over the ranks: [B, T, …] → [B, T/n, …]. Gradients are gathered.

    Raises:
        UsageError: n does not divide T.
    """
    return _ScatterSum.apply(x, group)


def gather_whole(x: Tensor, group) -> Tensor:
    """As `gather_tokens`, in front of what adds up its gradients itself: each rank takes its own."""
    return _GatherWhole.apply(x, group)


def own_share(x: Tensor, axis: int, group) -> Tensor:
    """This rank's part of an axis of what all ranks have."""
    share = x.shape[axis] // group.nranks
    return paddle.slice(x, [axis % x.ndim], [group.rank * share], [(group.rank + 1) * share])


class _Gather(PyLayer):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _gathered(x, group)

    @staticmethod
    def backward(ctx, grad):
        return _scattered_sum(grad, ctx.group)


class _ScatterSum(PyLayer):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _scattered_sum(x, group)

    @staticmethod
    def backward(ctx, grad):
        return _gathered(grad, ctx.group)


class _GatherWhole(_Gather):
    @staticmethod
    def backward(ctx, grad):
        return own_share(grad, 1, ctx.group)


def _gathered(x: Tensor, group) -> Tensor:
    rows, tokens, *rest = x.shape
    parts = paddle.empty([group.nranks * rows, tokens, *rest], x.dtype)
    stream.all_gather(parts, x.contiguous(), group=group, sync_op=True, use_calc_stream=True)
    if rows > 1:
        # The ranks' parts lie one behind the other; of one row, that is the order of its tokens.
        parts = _swapped(parts.reshape([group.nranks, rows, tokens, *rest]))
    return parts.reshape([rows, group.nranks * tokens, *rest])


def _scattered_sum(x: Tensor, group) -> Tensor:
    rows, tokens, *rest = x.shape
    if tokens % group.nranks:
        raise UsageError(
            f"rows of {tokens} tokens have no equal shares for tensor_parallel_degree {group.nranks}, and "
            "sequence_parallel needs them in training: call the model's eval() before it generates"
        )
    share = tokens // group.nranks
    if rows > 1:
        x = _swapped(x.reshape([rows, group.nranks, share, *rest]))
    own = paddle.empty([rows, share, *rest], x.dtype)
    x = x.reshape([group.nranks * rows, share, *rest]).contiguous()
    stream.reduce_scatter(own, x, dist.ReduceOp.SUM, group=group, sync_op=True, use_calc_stream=True)
    return own


def _swapped(x: Tensor) -> Tensor:
    """[n, m, …] → [m, n, …]"""
    return x.transpose([1, 0, *range(2, x.ndim)])


def gathered_columns(x: Tensor, *layers: nn.Layer) -> Iterator[Tensor]:
    """What each of several `GathersTokens` makes of one input, this rank's tokens: [B, T/n, in] → [B, T, out / n].

    They are gathered once for all, and kept for the backward pass as they are, which gathers them again.
    """
    weights = [_cast(layer.weight) for layer in layers]
    products = list(_GatheredMatmuls.apply(_cast(x), layers[0].model_parallel_group, *weights))
    for layer in layers:
        yield layer.finish(x, products.pop(0))


def _cast(x: Tensor) -> Tensor:
    """What mixed precision would make of it, before it is sent or kept."""
    return x.astype(paddle.get_autocast_dtype()) if paddle.is_autocast_enabled() else x


class _GatheredMatmuls(PyLayer):
    """x [B, T/n, in] of all ranks, times weights [in, out / n] each."""

    @staticmethod
    def forward(ctx, x, group, *weights):
        ctx.group = group
        ctx.save_for_backward(x, *weights)
        whole = _gathered(x, group)
        return tuple(paddle.matmul(whole, weight) for weight in weights)

    @staticmethod
    def backward(ctx, *grads):
        x, *weights = ctx.saved_tensor()
        grad_x = None if x.stop_gradient else _scattered_sum(_sum_of_products(grads, weights), ctx.group)
        trained = [not weight.stop_gradient for weight in weights]
        whole = _gathered(x, ctx.group).flatten(0, -2) if any(trained) else None
        grad_weights = [
            paddle.matmul(whole, grad.flatten(0, -2), transpose_x=True) if trains else None
            for grad, trains in zip(grads, trained, strict=True)
        ]
        return (grad_x, *grad_weights)


def _sum_of_products(grads: Iterable[Tensor], weights: Iterable[Tensor]) -> Tensor:
    total = None
    for grad, weight in zip(grads, weights, strict=True):
        product = paddle.matmul(grad, weight, transpose_y=True)
        total = product if total is None else total.add_(product)
    return total


class GathersTokens:
    """A column-parallel layer on this rank's tokens, in training: [B, T/n, in] → [B, T, out / n]."""

    def forward(self, x: Tensor) -> Tensor:
        return next(gathered_columns(x, self)) if self.training else super().forward(x)

    def finish(self, x: Tensor, product: Tensor) -> Tensor:
        """What is added to the product [B, T, out / n] of all tokens x and the weight."""
        return product if self.bias is None else product + self.bias


class ScattersTokens:
    """A row-parallel layer whose output are this rank's tokens, in training: [B, T, in / n] → [B, T/n, out]."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y = scatter_sum(paddle.matmul(x, self.weight), self.model_parallel_group)
        return y if self.bias is None else y + self.bias


class GatheringLinear(GathersTokens, ColumnParallelLinear):
    """fleet's column-parallel layer, under sequence parallelism."""


class ScatteringLinear(ScattersTokens, RowParallelLinear):
    """fleet's row-parallel layer, under sequence parallelism."""


class ScatteringEmbedding(VocabParallelEmbedding):
    """fleet's word embedding, [B, T] ids → [B, T/n, H] in training."""

    def forward(self, ids: Tensor) -> Tensor:
        if not self.training:
            return super().forward(ids)
        start, size = self.vocab_start_index, self.num_embeddings
        found = mp_ops._c_lookup_table(self.weight, ids, start_index=start, vocab_size=size)
        return scatter_sum(found, self.model_parallel_group)


def add_up_gradients(model: nn.Layer, ranks, parameters: Iterable[Tensor]) -> None:
    """From now on the gradients of parameters that each rank has whole, and which come of its own tokens, are those of
    all tokens.
    """
    # A hook keeps what it refers to alive, and its parameter with it.
    model = weakref.ref(model)

    def summed(grad: Tensor) -> Tensor:
        if model().training:
            # The same tensor with other memory: of a second one, Paddle would go on with the first where a later hook
            # takes the sum away (PaddleNLP's amp_master_grad).
            ranks.sum(grad)._share_buffer_to(grad)
        return grad

    for parameter in parameters:
        parameter.register_hook(summed)
