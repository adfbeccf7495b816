"""What may follow a text, and how likely it is: the rules of glm/generation.py in numpy.

Shapes: G beams of a text, V vocabulary, t tokens so far. Scores are float32.
"""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from glm.errors import GLMError
from glm.generation_config import NEVER, NOT_FINITE, GenerationConfig

_FIRST_LOOK = 512  # tokens among which a nucleus is looked for first: sorting a whole vocabulary takes milliseconds
_LEAST_GROUPS = 256  # wide enough for vector instructions


def next_log_probs(
    logits_GV: np.ndarray, tokens_Gt: np.ndarray, config: GenerationConfig, eos_token_ids: Sequence[int]
) -> np.ndarray:
    """Log-probabilities [G, V] of the next token of every beam, under the rules; a new array.

    Args:
        tokens_Gt: int64, what was generated so far, without the prompt.

    Raises:
        GLMError: a logit is nan or infinite.
    """
    highest_G1 = logits_GV.max(axis=-1, keepdims=True)
    if not np.isfinite(highest_G1).all():  # a nan is the highest of any row
        raise GLMError(NOT_FINITE)
    shifted_GV = logits_GV - highest_G1
    log_probs_GV = shifted_GV - np.log(np.exp(shifted_GV).sum(axis=-1, keepdims=True))
    # The rules come after the softmax: what they forbid must not make a beam's other tokens likelier.
    if tokens_Gt.shape[1] < config.min_length and eos_token_ids:
        log_probs_GV[:, list(eos_token_ids)] += np.float32(NEVER)
    if config.no_repeat_ngram_size:
        for log_probs_V, tokens_t in zip(log_probs_GV, tokens_Gt, strict=True):
            np.add.at(log_probs_V, repeating_tokens(tokens_t, config.no_repeat_ngram_size), np.float32(NEVER))
    return log_probs_GV


def repeating_tokens(tokens_t: np.ndarray, size: int) -> np.ndarray:
    """Tokens that would complete an n-gram of `size` tokens a second time."""
    if len(tokens_t) < size:
        return tokens_t[:0]
    ngrams = sliding_window_view(tokens_t, size)
    newest = tokens_t[len(tokens_t) - size + 1 :]
    return ngrams[(ngrams[:, :-1] == newest).all(axis=1), -1]


def likely_tokens(logits_V: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Ids of the `top_k` best tokens, or of those in the nucleus of mass `top_p`, in rising order.

    The nucleus (arXiv:1904.09751, 3.1) is measured over the whole vocabulary; 0 means all tokens, for either.
    """
    most, mass = min(top_k or logits_V.size, logits_V.size), top_p or 1.0
    if most == logits_V.size and mass >= 1.0:
        return np.arange(logits_V.size)
    return np.flatnonzero(logits_V >= _least_likely(logits_V, most, mass))


def _least_likely(logits_V: np.ndarray, most: int, mass: float) -> np.float32:
    """The lowest logit that stays."""
    if mass >= 1.0:
        return highest(logits_V, most)[-1]
    largest = logits_V.max()
    whole = np.exp(logits_V - largest).sum()
    looked = min(_FIRST_LOOK, most)
    while True:
        best = highest(logits_V, looked)
        probs = np.exp(best - largest) / whole
        inside = np.cumsum(probs) - probs < mass
        if looked == most or not inside[-1]:
            return best[inside].min()
        looked = min(8 * looked, most)


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """The highest scores of a flat array, the best one first."""
    return np.sort(scores[_candidates(scores, count)])[::-1][:count]


def best_indices(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the highest scores of a flat array, the best one first; of equal ones the earlier first."""
    candidates = _candidates(scores, count)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:count]]


def _candidates(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices in rising order, few but among them those of the highest scores.

    The scores are dealt out to groups. At least `count` scores are no lower than the `count`-th best of the groups'
    maxima, so what is lower is none of the best. Finding maxima is far cheaper than partitioning all.
    """
    groups = max(_LEAST_GROUPS, 4 * count)
    deals = scores.size // groups
    if deals < 2:
        return np.arange(scores.size)
    maxima_G = scores[: deals * groups].reshape(deals, groups).max(axis=0)
    # "Not lower" keeps a nan, which is neither lower nor higher.
    return np.flatnonzero(~(scores < np.partition(maxima_G, -count)[-count]))
