"""Attention of new tokens behind a prefix that all rows of a batch share: a prefix of one row, read once.

The scores of all rows against the prefix are one matmul per key/value head, and its keys and values are never repeated.
Shapes: B rows, T new tokens, S tokens of the prefix, N heads, K key/value heads, R = N/K, D head_dim; Q = T·R.
"""

from functools import lru_cache

import paddle
from paddle import Tensor

from glm.config.chunks import FEWEST_QUERIES, SCORES, even_chunks
from glm.model.attention import Prefix, grouped, repeated_bias, scores_fp32, softmax, ungrouped
from glm.model.visibility import visibility_bias


class SharedPrefix:
    """What new tokens see of each other, and how many of them are computed at once; the prefix is seen by all.

    Args:
        visible_rows_B2T: of the new tokens (glm/model/visibility.py).
        heads: N. n_rep: R. length: S.
    """

    def __init__(self, visible_rows_B2T: Tensor, heads: int, n_rep: int, length: int):
        self.visible_rows, self.n_rep = visible_rows_B2T, n_rep
        rows, _, tokens = visible_rows_B2T.shape
        most = max(FEWEST_QUERIES, SCORES // (heads * (length + tokens)))  # queries
        self.parts = [
            (part, queries)
            for part in even_chunks(rows, max(1, most // tokens))
            for queries in even_chunks(tokens, most)
        ]
        # The same in all layers; several are made anew, so that only one exists.
        self.bias = lru_cache(maxsize=1)(self._bias)

    def _bias(self, part: range, queries: range) -> Tensor:
        """[B, Q, T] float32 of some rows and queries."""
        rows_B2T = self.visible_rows[part.start : part.stop]
        return repeated_bias(visibility_bias(rows_B2T, queries), self.n_rep)


class SharedPrefixAttention:
    """New tokens of every row against the shared prefix and each other.

    Args:
        keys, values: [K, 1, S, D] of one layer of the prefix. seen: by the new tokens.
    """

    def __init__(self, keys: Tensor, values: Tensor, seen: SharedPrefix):
        self.keys, self.values, self.seen = keys, values, seen

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        n_rep, q_KBQD = self.seen.n_rep, grouped(q_BTND, self.seen.n_rep)
        new = [x.transpose([2, 0, 1, 3]) for x in (k_BTKD, v_BTKD)]
        found: dict[range, list[Tensor]] = {}
        for part, queries in self.seen.parts:
            rows, columns = slice(part.start, part.stop), slice(queries.start * n_rep, queries.stop * n_rep)
            context = self._attend(q_KBQD[:, rows, columns], *(x[:, rows] for x in new), self.seen.bias(part, queries))
            found.setdefault(part, []).append(context)
        return ungrouped(_joined([_joined(columns, 2) for columns in found.values()], 1), n_rep)

    def _attend(self, q_KBQD: Tensor, k_KBTD: Tensor, v_KBTD: Tensor, bias_BQT: Tensor) -> Tensor:
        groups, rows, count, width = q_KBQD.shape
        of_prefix = scores_fp32(q_KBQD.reshape([groups, 1, rows * count, width]), self.keys)
        of_prefix = of_prefix.reshape([groups, rows, count, -1])
        of_new = scores_fp32(q_KBQD, k_KBTD) + bias_BQT
        weights = softmax(paddle.concat([of_prefix, of_new], axis=-1), v_KBTD)
        length = self.keys.shape[2]
        from_prefix = paddle.matmul(weights[..., :length].reshape([groups, 1, rows * count, length]), self.values)
        return from_prefix.reshape(q_KBQD.shape) + paddle.matmul(weights[..., length:], v_KBTD)


def shared_prefix_attention(prefix: Prefix, visible_rows_B2T: Tensor, n_rep: int) -> list[SharedPrefixAttention]:
    """The attention function of every layer.

    Args:
        prefix: of one row, without padding.
        visible_rows_B2T: of the new tokens among each other.
    """
    groups, _, length, _ = prefix.keys[0].shape
    seen = SharedPrefix(visible_rows_B2T, groups * n_rep, n_rep, length)
    return [SharedPrefixAttention(keys, values, seen) for keys, values in zip(prefix.keys, prefix.values, strict=True)]


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=axis)
