"""Penalties on tokens that were said, and tokens that may not come: tensor code that runs eagerly and traces.

Its twin in numpy is glm/engine/logits.py. Only the scores of the tokens in question are read and written.

Shapes: B rows, G beams per sequence, V vocabulary, n prompt tokens, t tokens so far (the last prompt token first), i
ids.
"""

import paddle
from paddle import Tensor

from glm.generation.options import NEVER
from glm.model.tracing import dim

__all__ = ["added_at", "forbid", "forbid_repeats", "penalise_presence", "penalise_repetition", "real_tokens"]


def real_tokens(ids_Bn: Tensor, mask_Bn: Tensor) -> Tensor:
    """Prompts in which a real token, the last one, stands in every column of padding."""
    return paddle.where(mask_Bn > 0, ids_Bn, ids_Bn[:, -1:] + paddle.zeros_like(ids_Bn))


def penalise_repetition(scores_BGV: Tensor, prompt_Bn: Tensor, tokens_BGt: Tensor, penalty: Tensor) -> Tensor:
    """Makes what was said less likely (Keskar et al., arXiv:1909.05858, 4.1), once however often it was.

    Args:
        prompt_Bn: see `real_tokens`.
    """
    prompt_BGn = prompt_Bn.unsqueeze(1) + paddle.zeros_like(tokens_BGt[:, :, :1])
    said_BGn = paddle.concat([prompt_BGn, tokens_BGt], axis=-1)
    found_BGn = paddle.take_along_axis(scores_BGV, said_BGn, axis=-1, broadcast=False)
    less_BGn = paddle.where(found_BGn < 0, found_BGn * penalty, found_BGn / penalty)
    return _put(scores_BGV, said_BGn, less_BGn, "assign")


def penalise_presence(scores_BGV: Tensor, tokens_BGt: Tensor, presence: Tensor, frequency: Tensor) -> Tensor:
    """Takes `frequency` off for every time that a token was generated, and `presence` once (OpenAI's definition)."""
    column_t = paddle.arange(tokens_BGt.shape[-1] if paddle.in_dynamic_mode() else paddle.shape(tokens_BGt)[2])
    # Column 0 belongs to the prompt. Where it stands alone, nothing was generated.
    generated_t = (column_t > 0).astype("float32")
    counted_BGV = added_at(scores_BGV, tokens_BGt, -frequency * generated_t)
    newest_BG1 = tokens_BGt[:, :, -1:]
    said_BGt = paddle.where(column_t > 0, tokens_BGt, newest_BG1 + paddle.zeros_like(tokens_BGt))
    found_BGt = paddle.take_along_axis(counted_BGV, said_BGt, axis=-1, broadcast=False)
    return _put(counted_BGV, said_BGt, found_BGt - presence * generated_t.max(), "assign")


def forbid(scores_BGV: Tensor, ids_i: Tensor, factor: float | Tensor = 1.0) -> Tensor:
    """Makes tokens impossible.

    Args:
        ids_i: int64; those that the vocabulary does not have change nothing.
        factor: 0 leaves the scores as they are.
    """
    size = scores_BGV.shape[-1]
    there_i = paddle.logical_and(ids_i >= 0, ids_i < size).astype("float32")
    ids_BGi = ids_i.clip(0, size - 1) + paddle.zeros_like(scores_BGV[:, :, :1]).astype("int64")
    return added_at(scores_BGV, ids_BGi, NEVER * factor * there_i)


def added_at(scores_BGV: Tensor, ids_BGn: Tensor, amounts: Tensor) -> Tensor:
    """Adds an amount at every id, again where an id stands again; `amounts` spread to [B, G, n]."""
    return _put(scores_BGV, ids_BGn, amounts + paddle.zeros_like(ids_BGn).astype("float32"), "add")


def _put(scores_BGV: Tensor, ids_BGn: Tensor, values_BGn: Tensor, how: str) -> Tensor:
    # Without broadcasting, Paddle's host looks at the indices; with it, a graph has to find out shapes.
    eager = paddle.in_dynamic_mode()
    return paddle.put_along_axis(scores_BGV, ids_BGn, values_BGn, axis=2, reduce=how, broadcast=eager)


def forbid_repeats(logits_BGV: Tensor, tokens_BGt: Tensor, size: int | Tensor) -> Tensor:
    """Forbids tokens that would complete an n-gram of `size` tokens a second time.

    Column i of the tokens is forbidden as the next one where the size - 1 tokens before it are the size - 1 newest.
    Column 0 belongs to the prompt and counts in no n-gram.
    """
    length = dim(tokens_BGt, 2)
    back_n = paddle.arange(1, max(size, 2) if isinstance(size, int) else paddle.clip(size, min=2), dtype="int64")
    column_t = paddle.arange(length, dtype="int64")
    before_tn = column_t.unsqueeze(1) - back_n
    newest_n = (paddle.full([], length, dtype="int64") - back_n).clip(min=0)
    history = paddle.index_select(tokens_BGt, before_tn.clip(min=0).flatten(), axis=2)
    history_BGtn = history.reshape([0, 0, -1, dim(back_n, 0)])
    newest_BG1n = paddle.index_select(tokens_BGt, newest_n, axis=2).unsqueeze(2)
    same_BGtn = (history_BGtn == newest_BG1n) | (back_n >= size)
    repeat_BGt = same_BGtn.all(axis=-1) & (column_t >= size)
    return added_at(logits_BGV, tokens_BGt, NEVER * repeat_BGt.astype("float32"))
