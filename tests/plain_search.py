"""Greedy and beam search in plain Python, one text at a time: what `glm.generation.search` is compared with."""

from collections.abc import Callable

import numpy as np

from glm import GenerationConfig

# Lists of N texts of equal length → logits [N, V] of the token that follows.
Logits = Callable[[list[list[int]]], np.ndarray]


def log_softmax(logits) -> np.ndarray:
    shifted = np.asarray(logits, dtype="float64") - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kept_probabilities(scaled, top_k: int = 0, top_p: float = 0.0, min_p: float = 0.0) -> np.ndarray:
    """What a token is drawn by: temperature is in the logits already, then top_k, top_p and min_p take turns."""
    for keep in (
        lambda p: sorted(p)[-top_k] if 0 < top_k < len(p) else 0.0,
        lambda p: nucleus_edge(p, top_p) if 0 < top_p < 1 else 0.0,
        lambda p: min_p * max(p),
    ):
        probabilities = np.exp(log_softmax(scaled))
        scaled = np.where(probabilities >= keep(probabilities), scaled, -np.inf)
    return np.exp(log_softmax(scaled))


def nucleus_edge(probabilities, mass: float) -> float:
    """The probability of the last token that it takes, from the likeliest one on, to have that much of them all."""
    total = 0.0
    for probability in sorted(probabilities, reverse=True):
        total += probability
        if total >= mass:
            return probability
    return 0.0


def repeats(text: list[int], token: int, size: int) -> bool:
    """Whether the token would end an n-gram that the text has already."""
    ngram = (*text, token)[-size:]
    return len(ngram) == size and any(tuple(text[i : i + size]) == ngram for i in range(len(text) - size + 1))


def allowed(text: list[int], token: int, config: GenerationConfig, ends: set[int]) -> bool:
    too_early = token in ends and len(text) < config.min_length
    suppressed = token in config.suppress_tokens or (not text and token in config.begin_suppress_tokens)
    size = config.no_repeat_ngram_size
    return not too_early and not suppressed and not (size and repeats(text, token, size))


def penalised(scores, prompt: list[int], text: list[int], config: GenerationConfig) -> np.ndarray:
    """Scores [V], token by token: repetition (prompt and text), then frequency and presence (text)."""
    scores = np.array(scores, dtype="float64")
    for token in range(len(scores)):
        if token in prompt or token in text:
            scores[token] *= config.repetition_penalty if scores[token] < 0 else 1 / config.repetition_penalty
        scores[token] -= config.frequency_penalty * text.count(token) + config.presence_penalty * (token in text)
    return scores


def plain_greedy_search(
    logits: Logits, config: GenerationConfig, ends: set[int], prompt: list[int]
) -> tuple[list[int], float]:
    text, total = [], 0.0
    while len(text) < config.max_length and not (text and text[-1] in ends):
        following = log_softmax(penalised(logits([text])[0], prompt, text, config))
        token = max((t for t in range(len(following)) if allowed(text, t, config, ends)), key=following.__getitem__)
        text, total = [*text, token], total + following[token]
    return text, total


def plain_beam_search(
    logits: Logits, config: GenerationConfig, ends: set[int], prompt: list[int]
) -> tuple[list[int], float]:
    """Keeps the `num_beams` best running and as many finished texts (BeamSearchScorer without early stopping)."""

    def ranked(total: float, length: int) -> float:
        return total / ((5 + length) / 6) ** config.length_penalty

    running, finished = [([], 0.0)], []
    for step in range(config.max_length):
        texts = [text for text, _ in running]
        found = zip(log_softmax(logits(texts)), texts, strict=True)
        following = np.stack([penalised(log_probs, prompt, text, config) for log_probs, text in found])
        grown = [
            ([*text, token], total + following[row, token])
            for row, (text, total) in enumerate(running)
            for token in range(following.shape[1])
            if allowed(text, token, config, ends)
        ]
        grown.sort(key=lambda candidate: -candidate[1])
        best = [candidate for candidate in grown[: config.num_beams] if candidate[0][-1] in ends]
        finished += [(text, ranked(total, step)) for text, total in best]
        finished = sorted(finished, key=lambda item: -item[1])[: config.num_beams]
        running = [candidate for candidate in grown if candidate[0][-1] not in ends][: config.num_beams]
        if len(finished) == config.num_beams and finished[-1][1] >= ranked(grown[0][1], step):
            return finished[0]
    finished += [(text, ranked(total, config.max_length)) for text, total in running]
    return max(finished, key=lambda item: item[1])
