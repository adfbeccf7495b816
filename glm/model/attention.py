"""Attention functions, and the key/value cache behind them.

Shapes: B rows of a batch, T query tokens, S prefix positions, G beams per sequence, t generated tokens, N heads,
K key/value heads, R = N/K heads that share one, D head_dim.

The cache has two parts. The prefix (the prompt, S positions) is computed once, never copied and shared by all beams of
a row; the tail (what was generated, t positions per beam) grows by one position per step. While decoding, the token
axis of the model carries the beams: [B, G] ids are one new token for each beam, and a single matmul per head lets all
beams of a row read the shared prefix. Keys are stored rotated.

What a token may see is described by `visible_rows` [B, 2, T] (glm/model/visibility.py), spelled out where scores are
computed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from glm.kernels.cached_attention import cached_attention, reads
from glm.model.tracing import dim, empty_axis
from glm.model.visibility import visibility_bias


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout of attention weights.

    Attributes:
        rate: share of the weights that become 0, above 0.
        numbers: the context to draw random numbers in.
    """

    rate: float
    numbers: Callable[[], AbstractContextManager]

    def __call__(self, weights: Tensor) -> Tensor:
        with self.numbers():
            return F.dropout(weights, self.rate)


class DenseAttention:
    """Every query against all keys of the same call: training, evaluation and the prefill of a prompt.

    Query heads of one KV head are stacked along the token axis: one matmul per KV head (GQA).

    Args:
        bias: [B, T·R, T] float32, added to the scores (`DenseAttention.mask`).
        n_rep: R, query heads per key/value head.
        dropout: of the attention weights.
    """

    def __init__(self, bias: Tensor, n_rep: int = 1, dropout: AttentionDropout | None = None):
        self.bias_BQT, self.n_rep, self.dropout = bias, n_rep, dropout

    @staticmethod
    def mask(visible_rows_B2T: Tensor, n_rep: int, dtype: str = "float32") -> Tensor:
        """[B, 2, T] → [B, T·R, T], once for all layers; scores are float32 whatever the dtype."""
        return repeated_bias(visibility_bias(visible_rows_B2T), n_rep)

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        # Heads in front of the batch: adding a bias that has no head axis is then one pass over memory.
        k, v = (x.transpose([2, 0, 1, 3]) for x in (k_BTKD, v_BTKD))
        return ungrouped(self.attend(grouped(q_BTND, self.n_rep), k, v), self.n_rep)

    def attend(self, q_KBQD: Tensor, k_KBTD: Tensor, v_KBTD: Tensor) -> Tensor:
        """Q = T·R queries."""
        weights_KBQT = softmax(scores_fp32(q_KBQD, k_KBTD) + self.bias_BQT, v_KBTD)
        if self.dropout:
            weights_KBQT = self.dropout(weights_KBQT)
        return paddle.matmul(weights_KBQT, v_KBTD)


def repeated_bias(bias_BTT: Tensor, n_rep: int) -> Tensor:
    """A bias for `grouped` queries: [B, T, T] → [B, T·R, T]. It is large, so one serves all layers."""
    return bias_BTT if n_rep == 1 else bias_BTT.repeat_interleave(n_rep, axis=1)


def grouped(q_BTND: Tensor, n_rep: int) -> Tensor:
    """Queries by key/value head: [B, T, N, D] → [K, B, T·R, D], R = `n_rep`."""
    heads, width = q_BTND.shape[2:]
    if n_rep == 1:
        return q_BTND.transpose([2, 0, 1, 3])
    q_KBTRD = q_BTND.reshape([0, 0, heads // n_rep, n_rep, width]).transpose([2, 0, 1, 3, 4])
    return q_KBTRD.reshape([0, 0, -1, width])


def ungrouped(context_KBQD: Tensor, n_rep: int) -> Tensor:
    """The inverse of `grouped`: [K, B, T·R, D] → [B, T, N, D]."""
    groups, width = context_KBQD.shape[0], context_KBQD.shape[-1]
    if n_rep == 1:
        return context_KBQD.transpose([1, 2, 0, 3])
    context_BTKRD = context_KBQD.reshape([0, 0, -1, n_rep, width]).transpose([1, 2, 0, 3, 4])
    return context_BTKRD.reshape([0, 0, groups * n_rep, width])


class KeepsKeysAndValues:
    """In front of an attention class: keeps the keys and values [K, B, T, D] of one layer as a cache's prefix."""

    def keep(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        self.keys, self.values = (x.transpose([2, 0, 1, 3]) for x in (k_BTKD, v_BTKD))

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        self.keep(k_BTKD, v_BTKD)
        return super().__call__(q_BTND, k_BTKD, v_BTKD)


class PrefillAttention(KeepsKeysAndValues, DenseAttention):
    """Dense attention that keeps what it has transposed anyway."""

    __call__ = DenseAttention.__call__

    def attend(self, q_KBQD: Tensor, k_KBTD: Tensor, v_KBTD: Tensor) -> Tensor:
        self.keys, self.values = k_KBTD, v_KBTD
        return super().attend(q_KBQD, k_KBTD, v_KBTD)


DenseAttention.prefill = PrefillAttention


@dataclass
class Prefix:
    """Keys and values [K, B, S, D] of every layer, or latents for both (glm/model/latent_attention.py) in the place of
    keys; and the bias [B, 1, S] float32 that hides padding.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor


class CachedAttention:
    """One new token per beam against the prefix of its row and its own tail; grows the tail.

    Args:
        prefix_keys, prefix_values: [K, B, S, D]. prefix_bias: [B, 1, S].
        tail_keys, tail_values: [B, G, K, t, D]; after the call [B, G, K, t + 1, D].
    """

    def __init__(self, prefix_keys, prefix_values, prefix_bias, tail_keys, tail_values):
        self.prefix_keys, self.prefix_values, self.prefix_bias = prefix_keys, prefix_values, prefix_bias
        self.tail_keys, self.tail_values = tail_keys, tail_values

    @property
    def tails(self) -> list[Tensor]:
        """What the next step's cache has of this layer."""
        return [self.tail_keys, self.tail_values]

    def grow(self, k_BGKD: Tensor, v_BGKD: Tensor) -> None:
        """Puts the new tokens behind the tails."""
        self.tail_keys = paddle.concat([self.tail_keys, k_BGKD.unsqueeze(3)], axis=3)
        self.tail_values = paddle.concat([self.tail_values, v_BGKD.unsqueeze(3)], axis=3)

    def __call__(self, q_BGND: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> Tensor:
        self.grow(k_BGKD, v_BGKD)
        prefix = self.prefix_keys, self.prefix_values, self.prefix_bias
        if reads(q_BGND, self.prefix_keys):
            return cached_attention(q_BGND, *prefix, [self.tail_keys, self.tail_values])
        groups, (heads, width) = k_BGKD.shape[2], q_BGND.shape[2:]
        n_rep = heads // groups
        prefix_KBQS = scores_fp32(grouped(q_BGND, n_rep), self.prefix_keys) + self.prefix_bias
        tail_BGKRt = scores_fp32(q_BGND.reshape([0, 0, groups, n_rep, width]), self.tail_keys)
        tail_KBQt = tail_BGKRt.transpose([2, 0, 1, 3, 4]).flatten(2, 3)
        weights_KBQs = softmax(paddle.concat([prefix_KBQS, tail_KBQt], axis=-1), self.tail_values)
        columns = dim(self.prefix_keys, 2)
        from_prefix = ungrouped(paddle.matmul(weights_KBQs[..., :columns], self.prefix_values), n_rep)
        # Split G·R with t in front: a graph's reshape takes one size that is not known.
        weights_tKBGR = weights_KBQs[..., columns:].transpose([3, 0, 1, 2]).reshape([0, 0, 0, -1, n_rep])
        from_tail_BGKRD = paddle.matmul(weights_tKBGR.transpose([2, 3, 1, 4, 0]), self.tail_values)
        # The shape of the queries once more: a graph knows one beam to be one again.
        return (from_prefix + from_tail_BGKRD.reshape([0, 0, heads, width])).reshape([0, q_BGND.shape[1], heads, width])


class StepAttention:
    """New tokens of every row against what its cache holds and each other; keeps their keys and values.

    The cache is read where it lies: scores of both parts stand side by side under one softmax, keys and values never.

    Args:
        past_keys, past_values: [B, K, C, D].
        bias: [B, K, T·R, C + T] float32, hides positions of the cache that are not read, and later new tokens
            (`step_bias`).
    """

    def __init__(self, past_keys: Tensor, past_values: Tensor, bias: Tensor):
        self.past_keys, self.past_values, self.bias = past_keys, past_values, bias

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        """Keeps `keys` and `values` [B, K, T, D] of the new tokens."""
        self.keys, self.values = (x.transpose([0, 2, 1, 3]) for x in (k_BTKD, v_BTKD))
        groups, (heads, width) = k_BTKD.shape[2], q_BTND.shape[2:]
        q_BTKRD = q_BTND.reshape([0, 0, groups, heads // groups, width])
        q_BKQD = q_BTKRD.transpose([0, 2, 1, 3, 4]).reshape([0, groups, -1, width])
        scores = paddle.concat([scores_fp32(q_BKQD, keys) for keys in (self.past_keys, self.keys)], axis=-1)
        weights = softmax(scores + self.bias, self.values)
        columns = dim(self.past_keys, 2)
        from_past = paddle.matmul(weights[..., :columns], self.past_values)
        context_BKQD = from_past + paddle.matmul(weights[..., columns:], self.values)
        context_BTKRD = context_BKQD.reshape([0, groups, -1, heads // groups, width]).transpose([0, 2, 1, 3, 4])
        return context_BTKRD.reshape([0, 0, heads, width])


def step_bias(past_B1C: Tensor, new_BTT: Tensor, groups: int, n_rep: int) -> Tensor:
    """Biases of the cache's positions and of the new ones as `StepAttention` adds them: [B, K, T·R, C + T].

    All heads of it, once for all layers: an addition that repeats it takes a CPU ten times as long.
    """
    past_BTC = past_B1C + paddle.zeros_like(new_BTT[:, :, :1])
    bias_BQS = repeated_bias(paddle.concat([past_BTC, new_BTT], axis=-1), n_rep)
    return paddle.stack([bias_BQS] * groups, axis=1)


def scores_fp32(queries: Tensor, keys: Tensor) -> Tensor:
    """q·k / √D [..., Q, T] in float32: in half precision GLM-4's overflow, under mixed precision as well."""
    with paddle.amp.auto_cast(enable=False):
        scaled = queries.astype("float32") * queries.shape[-1] ** -0.5
        return paddle.matmul(scaled, keys.astype("float32"), transpose_y=True)


def softmax(scores: Tensor, values: Tensor) -> Tensor:
    """Attention weights of float32 scores, in the dtype of the values they weigh."""
    return F.softmax(scores, axis=-1).astype(values.dtype)


def empty_tails(prefix: Prefix, beams: int | Tensor) -> list[Tensor]:
    """An empty tail for all that the prefix has of every layer: keys then values, [B, G, K, 0, D] each."""
    heads, batch, _, width = (dim(prefix.keys[0], axis) for axis in range(4))
    shape = [batch, beams, heads, empty_axis(), width]
    return [paddle.zeros(shape, dtype=prefix.keys[0].dtype) for _ in (*prefix.keys, *prefix.values)]


def select_beams(x_BG: Tensor, beam_BK: Tensor) -> Tensor:
    """Chooses beams anew: [B, G, …] and [B, K], the old beam of each new one → [B, K, …]."""
    row_B1 = paddle.arange(dim(beam_BK, 0), dtype=beam_BK.dtype).unsqueeze(1)
    return paddle.gather_nd(x_BG, paddle.stack([row_B1 + paddle.zeros_like(beam_BK), beam_BK], axis=-1))
