"""What a token may see, described instead of stored: for every column, the rows of queries that see it.

`visible_rows` [B, 2, T] int32: queries i with visible_rows[b, 0, j] <= i < visible_rows[b, 1, j] see column j.

    causal                                       j, T
    in a prefix that is visible both ways        0, T
    in a document of a packed row                j, or where the document starts if j is in its prefix; where it ends
    in a prompt that two answers share           j, T; in the first answer j, where it ends; in the second one j, T
    padding                                      0, 0

These are FlashMask's bounds (Wang et al., arXiv:2410.01359): UTE and LTS. Shapes: B rows of a batch, T tokens, S keys.
"""

import numpy as np
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


def visibility_bias(visible_rows_B2S: Tensor, queries: range | None = None) -> Tensor:
    """What is added to attention scores: 0 where a query sees a key, `MASKED` where not.

    Args:
        visible_rows_B2S: of the keys that are looked at.
        queries: which rows look; without it as many as there are keys.

    Returns:
        [B, T, S] float32.
    """
    if queries is None:
        row_T = _counted(visible_rows_B2S[0, 0])
    else:
        row_T = paddle.arange(queries.start, queries.stop, dtype="int32")
    row_T1, first_B1S, end_B1S = row_T.unsqueeze(1), visible_rows_B2S[:, :1], visible_rows_B2S[:, 1:]
    visible_BTS = paddle.logical_and(first_B1S <= row_T1, row_T1 < end_B1S)
    return (1.0 - visible_BTS.astype("float32")) * MASKED


def is_causal(visible_rows_B2T: Tensor) -> bool:
    """Whether real tokens see themselves and all before them, and padding stands on the right only."""
    rows_B2T = visible_rows_B2T.numpy()
    width = rows_B2T.shape[2]
    real_BT = rows_B2T[:, 1] > 0
    wanted_B2T = np.stack([np.arange(width) * real_BT, width * real_BT], axis=1)
    return bool((rows_B2T == wanted_B2T).all() and (real_BT[:, :-1] >= real_BT[:, 1:]).all())


def seen_share(visible_rows_B2T: Tensor) -> float:
    """Pairs of a query and a key that it sees, as a share of all pairs: 0.5 of a causal row, less of packed ones."""
    rows_B2T = visible_rows_B2T.numpy()
    return float((rows_B2T[:, 1] - rows_B2T[:, 0]).clip(0).mean() / rows_B2T.shape[2])


def attention_bias(attention_mask_BT: Tensor, prefix_length_B: Tensor) -> Tensor:
    """`visibility_bias` [B, T, T] float32 of rows that hold one text each; arguments as in `derived_rows`."""
    return visibility_bias(derived_rows(attention_mask_BT, prefix_length_B))


def key_bias(attention_mask_BT: Tensor) -> Tensor:
    """Bias [B, 1, T] float32 for queries that see every real column of a finished prefix."""
    return ((1.0 - attention_mask_BT.astype("float32")) * MASKED).unsqueeze(1)
