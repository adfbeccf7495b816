"""What may follow a sequence, and how likely it is: the logits processors of glm/generation/search.py in numpy.

Shapes: G beams of a sequence, V vocabulary, t tokens so far. Scores are float32.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from glm.engine.requests import TokenLogprobs
from glm.errors import GLMError
from glm.generation.options import NEVER, NOT_FINITE, GenerationConfig

_FIRST_LOOK = 512  # tokens among which a nucleus is looked for first: sorting a whole vocabulary takes milliseconds
NO_TOKENS = np.zeros([0], dtype="int64")
_LEAST_GROUPS = 256  # wide enough for vector instructions


def next_log_probs(
    logits_GV: np.ndarray,
    tokens_Gt: np.ndarray,
    config: GenerationConfig,
    eos_token_ids: Sequence[int],
    prompt_n: np.ndarray = NO_TOKENS,
    normalised: bool = True,
) -> np.ndarray:
    """Log-probabilities [G, V] of the next token of every beam, under penalties and logits processors; a new array.

    Args:
        tokens_Gt: int64, what was generated so far, without the prompt.
        prompt_n: int64, the prompt.
        normalised: False leaves out what is the same for all tokens of a beam: the best is the best without it, and
            nobody can tell how likely it is.

    Raises:
        GLMError: a logit is nan or infinite.
    """
    highest_G1 = logits_GV.max(axis=-1, keepdims=True)
    if not np.isfinite(highest_G1).all():  # a nan is the highest of any row
        raise GLMError(NOT_FINITE)
    penalises = bool(config.repetition_penalty != 1 or config.presence_penalty or config.frequency_penalty)
    if penalises and config.num_beams == 1:
        logits_GV = logits_GV.copy()
        penalise(logits_GV, tokens_Gt, prompt_n, config)
        highest_G1 = logits_GV.max(axis=-1, keepdims=True)
    shifted_GV = logits_GV - highest_G1
    log_probs_GV = shifted_GV
    if normalised:
        log_probs_GV = shifted_GV - np.log(np.exp(shifted_GV).sum(axis=-1, keepdims=True))
    if penalises and config.num_beams > 1:  # as transformers and PaddleNLP penalise beams
        penalise(log_probs_GV, tokens_Gt, prompt_n, config)
    # The rules come after the softmax: what they forbid must not make a beam's other tokens likelier.
    if tokens_Gt.shape[1] < config.min_length and eos_token_ids:
        log_probs_GV[:, list(eos_token_ids)] += np.float32(NEVER)
    if config.no_repeat_ngram_size:
        for log_probs_V, tokens_t in zip(log_probs_GV, tokens_Gt, strict=True):
            np.add.at(log_probs_V, repeating_tokens(tokens_t, config.no_repeat_ngram_size), np.float32(NEVER))
    _suppress(log_probs_GV, config.suppress_tokens)
    if not tokens_Gt.shape[1]:
        _suppress(log_probs_GV, config.begin_suppress_tokens)
    return log_probs_GV


def rows_of(logits_BV: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Logits [G, V] of some slots; those of a single one are not copied."""
    return logits_BV[slots[0] : slots[0] + 1] if len(slots) == 1 else logits_BV[slots]


def adjusted(logits_GV: np.ndarray, bias: Mapping[int, float] | None, allowed_V: np.ndarray | None) -> np.ndarray:
    """Logits [G, V] under a request's bias and constraint; the same array where it has neither.

    Raises:
        GLMError: no token is allowed.
    """
    if bias:
        logits_GV = logits_GV.copy()
        logits_GV[:, list(bias)] += np.array(list(bias.values()), dtype="float32")
    if allowed_V is None:
        return logits_GV
    if not allowed_V.any():
        raise GLMError("the constraint of this text allows no token: nothing of the vocabulary continues it")
    return np.where(allowed_V, logits_GV, np.float32(-np.inf))


def token_logprobs(logits_V: np.ndarray, token: int, count: int) -> TokenLogprobs:
    """Log-probabilities of a token and of the `count` likeliest ones, as the logits have them."""
    shifted_V = logits_V - logits_V.max()
    log_probs_V = shifted_V - np.log(np.exp(shifted_V).sum())
    best = best_indices(log_probs_V, count) if count else NO_TOKENS
    return TokenLogprobs(float(log_probs_V[token]), tuple(best.tolist()), tuple(log_probs_V[best].tolist()))


def penalise(scores_GV: np.ndarray, tokens_Gt: np.ndarray, prompt_n: np.ndarray, config: GenerationConfig) -> None:
    """Makes what was said less likely, in place; see `GenerationConfig`'s penalties.

    Args:
        tokens_Gt, prompt_n: as in `next_log_probs`.
    """
    penalty = np.float32(config.repetition_penalty)
    for scores_V, tokens_t in zip(scores_GV, tokens_Gt, strict=True):
        if penalty != 1:
            said = np.concatenate([prompt_n, tokens_t])
            found = scores_V[said]
            scores_V[said] = np.where(found < 0, found * penalty, found / penalty)
        if config.presence_penalty or config.frequency_penalty:
            said, counts = np.unique(tokens_t, return_counts=True)
            scores_V[said] -= np.float32(config.frequency_penalty) * counts.astype("float32")
            scores_V[said] -= np.float32(config.presence_penalty)


def _suppress(log_probs_GV: np.ndarray, ids: Sequence[int]) -> None:
    if ids:
        log_probs_GV[:, [index for index in ids if index < log_probs_GV.shape[1]]] += np.float32(NEVER)


def repeating_tokens(tokens_t: np.ndarray, size: int) -> np.ndarray:
    """Tokens that would complete an n-gram of `size` tokens a second time."""
    if len(tokens_t) < size:
        return tokens_t[:0]
    ngrams = sliding_window_view(tokens_t, size)
    newest = tokens_t[len(tokens_t) - size + 1 :]
    return ngrams[(ngrams[:, :-1] == newest).all(axis=1), -1]


def filtered_tokens(logits_V: np.ndarray, top_k: int, top_p: float, min_p: float = 0.0) -> np.ndarray:
    """Ids of the `top_k` best tokens, of these those in the nucleus of mass `top_p`, in rising order.

    The nucleus (arXiv:1904.09751, 3.1) is measured over what top_k left; of that those stay that are at least `min_p`
    times as likely as the best. 0 means all tokens, for each.
    """
    least = -np.inf
    if 0 < top_k < logits_V.size:
        least = highest(logits_V, top_k)[-1]
    if 0 < top_p < 1:
        left = logits_V if least == -np.inf else logits_V[logits_V >= least]
        least = _lowest_kept(left, top_p)
    if min_p > 0:
        least = max(least, logits_V.max() + np.log(np.float32(min_p)))
    return np.arange(logits_V.size) if least == -np.inf else np.flatnonzero(logits_V >= least)


def _lowest_kept(logits_V: np.ndarray, mass: float) -> np.float32:
    """The lowest logit of a nucleus."""
    largest = logits_V.max()
    whole = np.exp(logits_V - largest).sum()
    looked = min(_FIRST_LOOK, logits_V.size)
    while True:
        best = highest(logits_V, looked)
        probs = np.exp(best - largest) / whole
        inside = np.cumsum(probs) - probs < mass
        if looked == logits_V.size or not inside[-1]:
            return best[inside].min()
        looked = min(8 * looked, logits_V.size)


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
