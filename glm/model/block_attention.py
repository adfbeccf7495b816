"""Exact attention in blocks of queries: no tensor grows with the square of a row's tokens.

A block of queries reads the stretch of keys that any of its rows may see: of a causal row half of all scores are never
computed, of a packed one few but those inside the documents. The backward pass computes the softmax of a block again,
and draws the random numbers of dropout again. Rows of a batch are taken one by one: each has stretches of its own.

Shapes: T tokens of a row or of a block, S keys that a block reads, N heads, K key/value heads, R = N/K, D head_dim.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from glm.config.chunks import even_chunks, query_block
from glm.model.attention import AttentionDropout, KeepsKeysAndValues, scores_fp32
from glm.model.visibility import visibility_bias


class RowBlocks:
    """What the rows of a batch see, on the device and on the host, which decides what is read."""

    def __init__(self, visible_rows_B2T: Tensor):
        self.on_device, self.on_host = visible_rows_B2T, visible_rows_B2T.numpy()
        self.blocks = lru_cache(maxsize=None)(self._blocks)  # the same in all layers

    def _blocks(self, row: int, most: int) -> list[tuple[range, range]]:
        """Queries of each block, `most` at most, and the keys that they read."""
        first_T, end_T = self.on_host[row]
        found = []
        for queries in even_chunks(len(first_T), most):
            seen = np.flatnonzero((first_T < queries.stop) & (end_T > queries.start))
            found.append((queries, range(seen[0], seen[-1] + 1) if len(seen) else range(0)))
        return found

    def bias(self, row: int, queries: range, keys: range) -> Tensor:
        """[T, S] float32, added to the scores of a block."""
        return visibility_bias(self.on_device[row : row + 1, :, keys.start : keys.stop], queries).squeeze(0)


class BlockAttention:
    """Every query against the keys of the same call that it may see, as `DenseAttention`.

    Args:
        rows: what they may see (`BlockAttention.mask`).
        n_rep: R, query heads per key/value head; it is found in the shapes.
        dropout: of the attention weights.
    """

    def __init__(self, rows: RowBlocks, n_rep: int = 1, dropout: AttentionDropout | None = None):
        self.rows, self.dropout = rows, dropout

    @staticmethod
    def mask(visible_rows_B2T: Tensor, n_rep: int, dtype: str) -> RowBlocks:
        """[B, 2, T], once for all layers."""
        return RowBlocks(visible_rows_B2T)

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        return _BlockAttention.apply(q_BTND, k_BTKD, v_BTKD, self.rows, self.dropout)


class BlockPrefill(KeepsKeysAndValues, BlockAttention):
    """The same, for the prompt of a cache."""


BlockAttention.prefill = BlockPrefill


class _BlockAttention(PyLayer):
    @staticmethod
    @paddle.amp.auto_cast(enable=False)
    def forward(ctx, q_BTND, k_BTKD, v_BTKD, rows: RowBlocks, dropout: AttentionDropout | None):
        ctx.rows, ctx.dropout = rows, dropout
        with _random_numbers(dropout) as ctx.random_state:
            contexts = [_Row(rows, i, q, k, v, dropout).context() for i, (q, k, v) in _each(q_BTND, k_BTKD, v_BTKD)]
        context_BTND = _batch(contexts)
        ctx.save_for_backward(q_BTND, k_BTKD, v_BTKD, context_BTND)
        return context_BTND

    @staticmethod
    @paddle.amp.auto_cast(enable=False)
    def backward(ctx, grad_BTND):
        saved = ctx.saved_tensor()
        with _random_numbers(ctx.dropout, ctx.random_state):
            gradients = [
                _Row(ctx.rows, i, q, k, v, ctx.dropout).gradients(context, grad)
                for i, (q, k, v, context, grad) in _each(*saved, grad_BTND)
            ]
        sides = zip(saved, zip(*gradients, strict=True), strict=False)
        return tuple(None if x.stop_gradient else _batch(rows).astype(x.dtype) for x, rows in sides)


def _each(*tensors: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """Numbered rows of a batch, heads in front: [B, T, heads, D] → [heads, T, D] each."""
    return ((i, [tensor[i].transpose([1, 0, 2]) for tensor in tensors]) for i in range(tensors[0].shape[0]))


def _batch(rows: Sequence[Tensor]) -> Tensor:
    """The inverse of `_each`."""
    return paddle.stack([row.transpose([1, 0, 2]) for row in rows])


@contextmanager
def _random_numbers(dropout: AttentionDropout | None, state=None):
    """In the random numbers of dropout, or where they stood at `state`; gives where they stand."""
    if dropout is None:
        yield None
        return
    with dropout.numbers():
        now = paddle.get_rng_state()
        if state is not None:
            paddle.set_rng_state(state)
        yield now
        if state is not None:
            paddle.set_rng_state(now)


class _Row:
    """One row of a batch: q [N, T, D], k and v [K, T, D]; values may have a width of their own."""

    def __init__(self, rows: RowBlocks, row: int, q, k, v, dropout: AttentionDropout | None):
        self.rows, self.row, self.dropout = rows, row, dropout
        self.q, self.k, self.v = q, k.astype("float32"), v
        self.heads, tokens, self.width = q.shape
        self.groups, self.value_width = k.shape[0], v.shape[2]
        self.blocks = rows.blocks(row, query_block(self.heads, tokens))

    def context(self) -> Tensor:
        """[N, T, D] in the dtype of the values."""
        return paddle.concat([self._block_context(*block) for block in self.blocks], axis=1)

    def _block_context(self, queries: range, keys: range) -> Tensor:
        if not keys:
            return paddle.zeros([self.heads, len(queries), self.value_width], self.v.dtype)
        weights_NTS = self._weights(queries, keys)
        if self.dropout:
            weights_NTS = weights_NTS.multiply_(self._kept(weights_NTS))
        context = paddle.matmul(self._grouped(weights_NTS.astype(self.v.dtype)), _part(self.v, keys))
        return context.reshape([self.heads, -1, self.value_width])

    def gradients(self, context: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of q in its dtype, of k and v in float32, of those of the context; both [N, T, D]."""
        along_NT1 = (context.astype("float32") * grad.astype("float32")).sum(axis=-1, keepdim=True)
        grad_q, (grad_k, grad_v) = [], (paddle.zeros(x.shape, "float32") for x in (self.k, self.v))
        for queries, keys in self.blocks:
            if not keys:
                grad_q.append(paddle.zeros([self.heads, len(queries), self.width], self.q.dtype))
                continue
            of_q, of_k, of_v = self._block_gradients(queries, keys, _part(grad, queries), _part(along_NT1, queries))
            grad_q.append(of_q)
            grad_k[:, keys.start : keys.stop] = of_k.add_(_part(grad_k, keys))
            grad_v[:, keys.start : keys.stop] = of_v.add_(_part(grad_v, keys))
            del of_k, of_v  # before the next block's scores
        return paddle.concat(grad_q, axis=1), grad_k, grad_v

    def _block_gradients(self, queries: range, keys: range, grad_NTD, along_NT1) -> tuple[Tensor, Tensor, Tensor]:
        weights_NTS, grad_KQD = self._weights(queries, keys), self._grouped(grad_NTD)
        kept = self._kept(weights_NTS) if self.dropout else None
        slope_NTS = paddle.matmul(grad_KQD, _part(self.v, keys), transpose_y=True).astype("float32")
        slope_NTS = slope_NTS.reshape(weights_NTS.shape)
        dropped = weights_NTS
        if self.dropout:
            slope_NTS, dropped = slope_NTS.multiply_(kept), kept.multiply_(weights_NTS)
        weighed = self._grouped(dropped.astype(grad_KQD.dtype))
        grad_v = paddle.matmul(weighed, grad_KQD, transpose_x=True).astype("float32")
        slope_KQS = self._grouped(slope_NTS.subtract_(along_NT1).multiply_(weights_NTS))
        scale, q_KQD = self.width**-0.5, self._grouped(_part(self.q, queries)).astype("float32")
        grad_q = (paddle.matmul(slope_KQS, _part(self.k, keys)) * scale).astype(self.q.dtype)
        grad_k = paddle.matmul(slope_KQS, q_KQD * scale, transpose_x=True)
        return grad_q.reshape([self.heads, -1, self.width]), grad_k, grad_v

    def _weights(self, queries: range, keys: range) -> Tensor:
        """Softmax [N, T, S] float32 of a block."""
        scores = scores_fp32(self._grouped(_part(self.q, queries)), _part(self.k, keys))
        scores_NTS = scores.reshape([self.heads, len(queries), len(keys)])
        return F.softmax(scores_NTS.add_(self.rows.bias(self.row, queries, keys)), axis=-1)

    def _kept(self, weights: Tensor) -> Tensor:
        """What dropout multiplies the weights with."""
        return F.dropout(paddle.ones_like(weights), self.dropout.rate)

    def _grouped(self, x_NT: Tensor) -> Tensor:
        """Query heads of one key/value head below each other: [N, T, …] → [K, R·T, …]."""
        return x_NT.reshape([self.groups, -1, x_NT.shape[-1]])


def _part(x: Tensor, tokens: range) -> Tensor:
    """Some tokens of [heads, T, …]."""
    return x[:, tokens.start : tokens.stop]
