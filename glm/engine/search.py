"""Greedy search, sampling and beam search of one sequence, over the logits that a runtime gives step by step. numpy
only.

The semantics are those of glm/generation/search.py, whose tokens these searches give from the same logits.

Shapes: G beams, X candidates, V vocabulary, t tokens so far.
"""

from collections.abc import Sequence

import numpy as np

from glm.engine.logits import NO_TOKENS, best_indices, filtered_tokens, next_log_probs
from glm.engine.random_bits import gumbel_noise
from glm.generation.options import NEVER, GenerationConfig, StopTokens


class Search:
    """One sequence that grows.

    Args:
        config: decoding options.
        stop: what ends the sequence.
        row: what random numbers depend on besides the seed (`Request.choice`).
        prompt: int64 ids that the sequence follows.
        scored: whether the score of its result is asked for; beams are chosen by it, and have it always.

    Attributes:
        beams: G, cache slots that the sequence needs.
        tokens: [G, t] int64, what was generated so far; the last column is still to be read by the model.
        sources: the beam [G] that each new beam continues; None where every beam continues itself.
        ended: whether it is complete by itself. finished: whether it is, or has its full length.
    """

    def __init__(
        self,
        config: GenerationConfig,
        stop: StopTokens,
        row: int = 0,
        prompt: np.ndarray = NO_TOKENS,
        scored: bool = True,
    ):
        self.config, self.stop, self.row, self.beams = config, stop, row, config.num_beams
        self.prompt, self.scored = prompt, scored or config.num_beams > 1
        self.tokens = np.zeros([self.beams, 0], dtype="int64")
        self.sources: np.ndarray | None = None
        self.ended = self.finished = False

    @property
    def step(self) -> int:
        return self.tokens.shape[1]

    def advance(self, logits_GV: np.ndarray) -> None:
        """Chooses the next token of every beam.

        Args:
            logits_GV: float32, of what follows each beam; it is left as it is.
        """
        rules = self.config, self.stop.eos_token_ids, self.prompt
        # A draw has random numbers that depend on the log-probabilities' last bits.
        normalised = self.scored or self.config.do_sample
        self._choose(next_log_probs(logits_GV, self.tokens, *rules, normalised=normalised))
        self.finished = self.ended or self.step >= self.config.max_length

    def result(self) -> tuple[list[int], float]:
        """The sequence's tokens, the end token included, and its score: see `GenerationMixin.generate`."""
        raise NotImplementedError

    def _choose(self, log_probs_GV: np.ndarray) -> None:
        raise NotImplementedError

    def _filtered(self, warped_V: np.ndarray) -> np.ndarray:
        return filtered_tokens(warped_V, self.config.top_k, self.config.top_p, self.config.min_p)

    def _drawn(self, log_probs_V: np.ndarray, beam: int, ids: np.ndarray) -> np.ndarray:
        """Scores of some tokens with the noise that makes the best one a random draw."""
        row, whole = self.row * self.beams + beam, len(ids) == len(log_probs_V)
        noise = gumbel_noise(self.config.seed, self.step, row, len(ids) if whole else ids)
        return (log_probs_V if whole else log_probs_V[ids]) + noise


class Sampling(Search):
    """Greedy search or sampling: one beam."""

    score = np.float32(0.0)

    def _choose(self, log_probs_GV: np.ndarray) -> None:
        log_probs_V = log_probs_GV[0]
        token = self._sample(log_probs_V) if self.config.do_sample else int(log_probs_V.argmax())
        if self.scored:
            self.score = self.score + log_probs_V[token]
        self.tokens = np.concatenate([self.tokens, np.array([[token]])], axis=1)
        self.ended = token in self.stop.eos_token_ids

    def _sample(self, log_probs_V: np.ndarray) -> int:
        warped_V = log_probs_V / np.float32(self.config.temperature)
        ids = self._filtered(warped_V)
        return int(ids[self._drawn(warped_V, 0, ids).argmax()])

    def result(self) -> tuple[list[int], float]:
        return self.tokens[0].tolist(), float(self.score)


class BeamSearch(Search):
    """Beam search with a pool of the G best finished sequences; see `glm.generation.search._BeamSearch`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        # All beams start alike, so only the first may bring candidates into the first step.
        self.scores_G = np.where(np.arange(self.beams) > 0, np.float32(NEVER), np.float32(0.0))
        self.pool: list[tuple[np.float32, list[int]]] = [(np.float32(NEVER), [])] * self.beams

    def _choose(self, log_probs_GV: np.ndarray) -> None:
        beam_X, token_X, score_X = self._candidates(log_probs_GV)
        grown_Xt = np.concatenate([self.tokens[beam_X], token_X[:, None]], axis=1)
        end_X = np.isin(token_X, self.stop.eos_token_ids)
        # Whether the stop token counts as part of the sequence.
        penalty = self._penalty(self.step + (not self.config.gnmt_length))
        ended = [(score_X[i] / penalty, grown_Xt[i].tolist()) for i in np.flatnonzero(end_X[: self.beams])]
        self.pool = sorted([*self.pool, *ended], key=lambda entry: -entry[0])[: self.beams]

        running_X = score_X + np.float32(NEVER) * end_X
        self.sources = kept_G = best_indices(running_X, self.beams)
        self.scores_G, self.tokens, self.sources = running_X[kept_G], grown_Xt[kept_G], beam_X[kept_G]
        best = score_X.max() if self.config.gnmt_length else self.scores_G[0]
        self.ended = bool(self.pool[-1][0] >= best / penalty)

    def _candidates(self, log_probs_GV: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Beams, tokens and scores [X] of the best continuations: so many that G of them do not end the sequence."""
        total_GV = self.scores_G[:, None] + log_probs_GV
        chosen_GV = self._perturbed(log_probs_GV) if self.config.do_sample else total_GV
        index_X = best_indices(chosen_GV.ravel(), (1 + len(self.stop.eos_token_ids)) * self.beams)
        return *np.divmod(index_X, log_probs_GV.shape[1]), total_GV.ravel()[index_X]

    def _perturbed(self, log_probs_GV: np.ndarray) -> np.ndarray:
        chosen_GV = np.full_like(log_probs_GV, NEVER)
        for beam, log_probs_V in enumerate(log_probs_GV / np.float32(self.config.temperature)):
            ids = self._filtered(log_probs_V)
            chosen_GV[beam, ids] = self._drawn(log_probs_V, beam, ids)
        return chosen_GV + self.scores_G[:, None]

    def _penalty(self, length: int) -> np.float32:
        """What a sequence's score is divided by (`GenerationConfig.length_penalty`)."""
        offset = np.float32(5.0 if self.config.gnmt_length else 0.0)
        return ((np.float32(length) + offset) / (1 + offset)) ** np.float32(self.config.length_penalty)

    def result(self) -> tuple[list[int], float]:
        """The best sequence of the pool, to which a search that ran out of length adds its running beams."""
        score, tokens = self.pool[0]
        running = self.scores_G[0] / self._penalty(self.step)
        if not self.ended and running > score:
            score, tokens = running, self.tokens[0].tolist()
        return tokens, float(score)


def search_of(
    config: GenerationConfig, stop: StopTokens, row: int, prompt: Sequence[int], scored: bool = True
) -> Search:
    """The search that the options ask for."""
    kind = BeamSearch if config.num_beams > 1 else Sampling
    return kind(config, stop, row, np.asarray(prompt, dtype="int64"), scored)
