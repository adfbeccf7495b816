"""What a token may see, described instead of stored: for every column, the rows of queries that see it.

`visible_rows` [B, 2, T] int32: queries i with visible_rows[b, 0, j] <= i < visible_rows[b, 1, j] see column j.

    causal                                       j, T
    in a prefix that is visible both ways        0, T
    in a document of a packed row                j, or where the document starts if j is in its prefix; where it ends
    in a prompt that two answers share           j, T; in the first answer j, where it ends; in the second one j, T
    padding                                      0, 0

These are FlashMask's bounds (Wang et al., arXiv:2410.01359): UTE and LTS. Shapes: B rows of a batch, T tokens, S keys.
"""

import paddle
from paddle import Tensor

# Far below any score.
MASKED = -30000.0


def derived_rows(attention_mask_BT: Tensor, prefix_length_B: Tensor) -> Tensor:
    """`visible_rows` [B, 2, T] int32 of rows that hold one text each.

    Args:
        attention_mask_BT: int, 1 for real tokens, 0 for padding.
        prefix_length_B: int, number of leading columns that every row of the batch item may see
            (GLM's bidirectional part A, arXiv:2103.10360, 2.1); 0 gives a causal mask.
    """
    column_BT = _counted(attention_mask_BT)
    real_BT = attention_mask_BT.astype("bool").astype("int32")
    behind_BT = (column_BT >= prefix_length_B.astype("int32").unsqueeze(1)).astype("int32")
    return paddle.stack([column_BT * behind_BT * real_BT, (column_BT[:, -1:] + 1) * real_BT], axis=1)


def _counted(x_T: Tensor) -> Tensor:
    """0, 1, 2 … along the last axis, int32; in a graph, too, where its size is not known."""
    return paddle.ones_like(x_T, dtype="int32").cumsum(axis=-1, dtype="int32") - 1


def visibility_bias(visible_rows_B2T: Tensor) -> Tensor:
    """What is added to attention scores, 0 where a query sees a key, `MASKED` where not: [B, T, T] float32, queries
    before keys.
    """
    row_T1 = _counted(visible_rows_B2T[0, 0]).unsqueeze(1)
    first_B1T, end_B1T = visible_rows_B2T[:, :1], visible_rows_B2T[:, 1:]
    visible_BTT = paddle.logical_and(first_B1T <= row_T1, row_T1 < end_B1T)
    return (1.0 - visible_BTT.astype("float32")) * MASKED


def attention_bias(attention_mask_BT: Tensor, prefix_length_B: Tensor) -> Tensor:
    """`visibility_bias` [B, T, T] float32 of rows that hold one text each; arguments as in `derived_rows`."""
    return visibility_bias(derived_rows(attention_mask_BT, prefix_length_B))


def key_bias(attention_mask_BT: Tensor) -> Tensor:
    """Bias [B, 1, T] float32 for queries that see every real column of a finished prefix."""
    return ((1.0 - attention_mask_BT.astype("float32")) * MASKED).unsqueeze(1)
