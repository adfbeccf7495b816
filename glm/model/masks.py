"""Position ids and attention masks: pure functions, built outside the model.

A batch says in three small arrays what a token may see: `attention_mask` [B, T] (1 = a real token), and
`prefix_length` [B] (the first columns, which all real tokens see in both directions); behind the prefix a token sees
itself and what stands before it. `attention_bias` spells that out where scores are computed.
"""

import paddle
from paddle import Tensor

from glm.model.tracing import dim

# Far below any score.
MASKED = -30000.0


def attention_bias(attention_mask_BT: Tensor, prefix_length_B: Tensor) -> Tensor:
    """What is added to attention scores: 0 where a query sees a key, `MASKED` where not.

    Args:
        attention_mask_BT: int, 1 for real tokens, 0 for padding.
        prefix_length_B: int, number of leading columns that every row of the batch item may see
            (GLM's bidirectional part A, arXiv:2103.10360, 2.1); 0 gives a causal mask.

    Returns:
        [B, T, T] float32: batch, query, key.
    """
    column_T = paddle.arange(dim(attention_mask_BT, 1), dtype="int64")
    causal_TT = column_T.unsqueeze(0) <= column_T.unsqueeze(1)
    in_prefix_B1T = (column_T.unsqueeze(0) < prefix_length_B.astype("int64").unsqueeze(1)).unsqueeze(1)
    real_B1T = attention_mask_BT.astype("bool").unsqueeze(1)
    visible_BTT = paddle.logical_and(real_B1T, paddle.logical_or(in_prefix_B1T, causal_TT.unsqueeze(0)))
    return (1.0 - visible_BTT.astype("float32")) * MASKED


def key_bias(attention_mask_BT: Tensor) -> Tensor:
    """Bias [B, 1, T] float32 for queries that see every real column of a finished prefix."""
    return ((1.0 - attention_mask_BT.astype("float32")) * MASKED).unsqueeze(1)
