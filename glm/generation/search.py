"""Text generation: greedy, sampling and beam search as tensor code that runs eagerly and traces into one graph.

Shapes: B rows, T prompt tokens, G beams per sequence (1 without beam search), X candidates, t tokens so far (the last
prompt token first), P position ids per token, V vocabulary.

The last column of a prompt is the first token that is decoded (GLM: `<|startofpiece|>`); what stands before it is read
once into the cache's prefix. Every number that steers a search is a tensor, so an exported graph takes it as an input.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from glm.generation.options import NEVER, GenerationConfig, StopTokens, control_arrays
from glm.generation.penalties import forbid, forbid_repeats, penalise_presence, penalise_repetition, real_tokens
from glm.generation.random_bits import gumbel_noise
from glm.kernels.log_softmax import log_softmax
from glm.model.attention import Prefix, empty_tails, select_beams
from glm.model.tracing import cond, dim, known, while_loop

__all__ = ["GenerationMixin", "Prompt", "StopTokens", "controls", "generate"]


@dataclass(frozen=True)
class Prompt:
    """Input tensors of a generation, as `glm.encoding.processor` builds them.

    Attributes:
        input_ids: [B, T] int64, the token to decode from in the last column.
        attention_mask: [B, T] int64, 1 = real token.
        position_ids: [B, P, T] int64.
        prefix_length: [B] int64, leading columns visible in both directions.
        position_step: [P] int64, how positions continue from token to token.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    prefix_length: Tensor
    position_step: Tensor

    @classmethod
    def of(cls, batch: dict[str, np.ndarray]) -> "Prompt":
        """A prompt of the arrays that `glm.encoding.batches.prompt_batch` gives."""
        return cls(**{name: paddle.to_tensor(array) for name, array in batch.items()})


class GenerationMixin:
    """`generate_batch` and `stream` for a model with `prefill` and `decode`."""

    @paddle.no_grad()
    def generate_batch(
        self, prompt: Prompt, config: GenerationConfig, stop: StopTokens, returned: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Generates for a batch of prompts.

        Args:
            returned: how many of a row's beams come back, the best first; B is then so many times the rows.

        Returns:
            Token ids [B, t] int64 without the prompt, padded behind the end token, and scores [B] float32: the sum
            of the tokens' log-probabilities, penalties included, with beams under the length penalty.
        """
        return generate(self, prompt, controls(config), stop, returned)

    @paddle.no_grad()
    def stream(self, prompt: Prompt, config: GenerationConfig, stop: StopTokens) -> Iterator[Tensor]:
        """Yields the new tokens [B] of each step as soon as they are chosen; the same as `generate_batch`'s."""
        yield from self.steps(prompt, config, stop)

    def steps(
        self, prompt: Prompt, config: GenerationConfig, stop: StopTokens
    ) -> Generator[Tensor, None, tuple[Tensor, Tensor]]:
        """`stream`, which gives what `generate_batch` does when it is over."""
        if config.num_beams > 1:
            raise ValueError(f"beams are chosen at the end, so num_beams={config.num_beams} cannot be streamed")
        search = _Sampling(self, prompt, controls(config), stop)
        state = search.start()
        while search.continues(*state):
            state = search.step(*state)
            yield state[1][:, 0, -1]
        return search.result(state)


def controls(config: GenerationConfig) -> SimpleNamespace:
    """The options as 0-D tensors, those that are lists of ids as 1-D tensors, and which processors are on."""
    tensors = {name: paddle.to_tensor(array) for name, array in control_arrays(config).items()}
    processors = _Processors(
        repetition=config.repetition_penalty != 1.0,
        counts=bool(config.presence_penalty or config.frequency_penalty),
        suppression=bool(config.suppress_tokens or config.begin_suppress_tokens),
    )
    return SimpleNamespace(**tensors, processors=processors)


class _Processors(NamedTuple):
    """What is on: known in Python, so that no device is asked, or in a graph 0-D tensors."""

    repetition: bool | Tensor
    counts: bool | Tensor
    suppression: bool | Tensor

    @classmethod
    def of(cls, control: SimpleNamespace) -> "_Processors":
        ids = paddle.concat([control.suppress_tokens, control.begin_suppress_tokens])
        counts = (control.presence_penalty != 0.0) | (control.frequency_penalty != 0.0)
        return cls(control.repetition_penalty != 1.0, counts, ids.max() >= 0)


def generate(
    model, prompt: Prompt, control: SimpleNamespace, stop: StopTokens, returned: int = 1
) -> tuple[Tensor, Tensor]:
    """Beam search where more than one beam is asked for, else greedy search or sampling."""
    beginning = _read_prompt(model, prompt)

    def run(search_class):
        search = search_class(model, prompt, control, stop, beginning)
        search.returned = returned
        state = while_loop(search.continues, search.step, search.start(), control.max_length, search.kept)
        return search.result(state)

    return cond(known(control.num_beams) > 1, lambda: run(_BeamSearch), lambda: run(_Sampling))


class _Beginning(NamedTuple):
    """A prompt that was read; where that gave it, what its first step decodes, until that step takes it out of the
    list: logits [B, 1, V] and tails of one beam.
    """

    prefix: Prefix
    first: list[tuple[Tensor, list[Tensor]]]


def _read_prompt(model, prompt: Prompt) -> _Beginning:
    inputs = prompt.input_ids, prompt.attention_mask, prompt.position_ids
    if paddle.in_dynamic_mode() and not model.training and prompt.input_ids.shape[1] > 1:
        prefix, *first = model.begin(*inputs, prompt.prefix_length)
        return _Beginning(prefix, [tuple(first)])
    # The loop of a graph has all steps alike; in training a rank may have a share of the tokens alone.
    return _Beginning(model.prefill(*(x[..., :-1] for x in inputs), prompt.prefix_length), [])


class _Search:
    """What both searches share. A state is a flat list of tensors: step, tokens, scores, …, and the cache's tails."""

    returned = 1

    def __init__(
        self, model, prompt: Prompt, control: SimpleNamespace, stop: StopTokens, read: _Beginning | None = None
    ):
        self.model, self.prompt, self.control, self.stop = model, prompt, control, stop
        self.prefix, self.first = read or _read_prompt(model, prompt)
        self.vocab_size = model.config.vocab_size
        self.beams, self.sampled, self.ngram = (
            known(x) for x in (control.num_beams, control.do_sample, control.no_repeat_ngram_size)
        )
        self.processors = getattr(control, "processors", None) or _Processors.of(control)
        self.prompt_Bn = real_tokens(prompt.input_ids, prompt.attention_mask)
        self.eos_E = paddle.to_tensor(stop.eos_token_ids, dtype="int64")
        self.eos_V = F.one_hot(self.eos_E, self.vocab_size).sum(axis=0).clip(max=1.0)

    def start_tokens(self, beams: int | Tensor) -> Tensor:
        return self.prompt.input_ids[:, -1:].unsqueeze(1) + paddle.zeros([1, beams, 1], dtype="int64")

    def next_log_probs(self, step: Tensor, tokens_BGt: Tensor, tails: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities [B, G, V] of the next token of every beam, under the logits processors, and the grown
        tails.
        """
        position_BP = self.prompt.position_ids[:, :, -1] + step * self.prompt.position_step
        position_BPG = position_BP.unsqueeze(-1) + paddle.zeros_like(tokens_BGt[:, :, -1]).unsqueeze(1)
        logits_BGV, tails = self.decoded(tokens_BGt[:, :, -1], position_BPG, tails)
        log_probs_BGV = self.log_probs(logits_BGV.astype("float32"), tokens_BGt)
        # The rules come after the softmax: what they forbid must not make a beam's other tokens likelier.
        too_early = (step < self.control.min_length).astype("float32")
        allowed_BGV = log_probs_BGV + NEVER * too_early * self.eos_V
        fresh_BGV = cond(
            self.ngram > 0, lambda: forbid_repeats(allowed_BGV, tokens_BGt, self.ngram), lambda: allowed_BGV
        )
        return cond(self.processors.suppression, lambda: self.suppressed(fresh_BGV, step), lambda: fresh_BGV), tails

    def decoded(self, token_BG: Tensor, position_BPG: Tensor, tails: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`model.decode`; in the first step what came of the prompt, alike for all beams."""
        if not self.first:
            return self.model.decode(token_BG, position_BPG, self.prefix, tails)
        logits_B1V, tails = self.first.pop()
        logits_BGV, *tails = (paddle.concat([x_B1] * self.beams, axis=1) for x_B1 in (logits_B1V, *tails))
        return logits_BGV, tails

    def log_probs(self, logits_BGV: Tensor, tokens_BGt: Tensor) -> Tensor:
        """Log-probabilities under penalties: those change logits, but where beams are ranked log-probabilities."""
        raise NotImplementedError

    def penalised(self, scores_BGV: Tensor, tokens_BGt: Tensor) -> Tensor:
        control = self.control
        fresh_BGV = cond(
            self.processors.repetition,
            lambda: penalise_repetition(scores_BGV, self.prompt_Bn, tokens_BGt, control.repetition_penalty),
            lambda: scores_BGV,
        )
        return cond(
            self.processors.counts,
            lambda: penalise_presence(fresh_BGV, tokens_BGt, control.presence_penalty, control.frequency_penalty),
            lambda: fresh_BGV,
        )

    def suppressed(self, log_probs_BGV: Tensor, step: Tensor) -> Tensor:
        log_probs_BGV = forbid(log_probs_BGV, self.control.suppress_tokens)
        return forbid(log_probs_BGV, self.control.begin_suppress_tokens, (step == 0).astype("float32"))

    def perturbed(self, before_BG1: Tensor, log_probs_BGV: Tensor, step: Tensor) -> Tensor:
        """The scores that choose: as they are, or with noise that makes the best one a random draw.

        Args:
            before_BG1: score of each text so far.
        """
        scores_BGV = before_BG1 + log_probs_BGV

        def drawn():
            control = self.control
            warped = filter_logits(log_probs_BGV / control.temperature, control.top_k, control.top_p, control.min_p)
            rows = dim(scores_BGV, 0) * dim(scores_BGV, 1)
            noise = gumbel_noise(self.control.seed, step, rows, self.vocab_size)
            return before_BG1 + warped + noise.reshape(paddle.shape(scores_BGV))

        return cond(self.sampled, drawn, lambda: scores_BGV)

    def is_end(self, tokens: Tensor) -> Tensor:
        return (tokens.unsqueeze(-1) == self.eos_E).any(axis=-1)


class _Sampling(_Search):
    """Greedy search and sampling: one beam. State: step, tokens [B, 1, t], scores [B, 1], finished [B, 1], tails."""

    kept = 4

    def log_probs(self, logits_BGV: Tensor, tokens_BGt: Tensor) -> Tensor:
        return log_softmax(self.penalised(logits_BGV, tokens_BGt))

    def start(self) -> list[Tensor]:
        tokens_B1t = self.start_tokens(1)
        scores_B1 = paddle.zeros_like(tokens_B1t[:, :, 0]).astype("float32")
        return [paddle.zeros([], "int64"), tokens_B1t, scores_B1, scores_B1 > 0, *empty_tails(self.prefix, 1)]

    def continues(self, step, tokens_B1t, scores_B1, finished_B1, *tails) -> Tensor:
        return paddle.logical_and(step < self.control.max_length, paddle.logical_not(finished_B1.all()))

    def step(self, step, tokens_B1t, scores_B1, finished_B1, *tails) -> list[Tensor]:
        log_probs_B1V, tails = self.next_log_probs(step, tokens_B1t, list(tails))
        next_B1 = self.perturbed(paddle.zeros_like(log_probs_B1V[:, :, :1]), log_probs_B1V, step).argmax(axis=-1)
        gain_B1 = _take(log_probs_B1V, next_B1.unsqueeze(-1)).squeeze(-1)
        scores_B1 = scores_B1 + paddle.where(finished_B1, paddle.zeros_like(gain_B1), gain_B1)
        next_B1 = paddle.where(finished_B1, paddle.full_like(next_B1, self.stop.pad_token_id), next_B1)
        tokens_B1t = paddle.concat([tokens_B1t, next_B1.unsqueeze(-1)], axis=-1)
        return [step + 1, tokens_B1t, scores_B1, paddle.logical_or(finished_B1, self.is_end(next_B1)), *tails]

    def result(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        return state[1][:, 0, 1:], state[2][:, 0]


class _BeamSearch(_Search):
    """Beam search with a pool of the G best finished sequences per row.

    State: step, tokens [B, G, t], scores [B, G], pool tokens [B, G, t], pool scores [B, G], done [B], tails. A row is
    done when no running beam can beat the worst text of its full pool. Semantics of PaddleNLP's and Hugging Face's
    BeamSearchScorer without early stopping.
    """

    kept = 6

    def log_probs(self, logits_BGV: Tensor, tokens_BGt: Tensor) -> Tensor:
        return self.penalised(log_softmax(logits_BGV), tokens_BGt)

    def start(self) -> list[Tensor]:
        tokens_BGt = self.start_tokens(self.beams)
        none_BG = paddle.full_like(tokens_BGt[:, :, 0], NEVER, dtype="float32")
        # All beams start alike, so only the first may bring candidates into the first step.
        first_G = paddle.arange(self.beams, dtype="int64") > 0
        scores_BG = none_BG * first_G.astype("float32")
        pool_tokens = paddle.full_like(tokens_BGt, self.stop.pad_token_id)
        done_B = scores_BG[:, 0] < 0
        tails = empty_tails(self.prefix, self.beams)
        return [paddle.zeros([], "int64"), tokens_BGt, scores_BG, pool_tokens, none_BG, done_B, *tails]

    def continues(self, step, tokens, scores, pool_tokens, pool_scores, done_B, *tails) -> Tensor:
        return paddle.logical_and(step < self.control.max_length, paddle.logical_not(done_B.all()))

    def step(self, step, tokens_BGt, scores_BG, pool_tokens, pool_scores, done_B, *tails) -> list[Tensor]:
        log_probs_BGV, tails = self.next_log_probs(step, tokens_BGt, list(tails))
        beam_BX, token_BX, score_BX = self.candidates(scores_BG, log_probs_BGV, step)
        grown_BXt = paddle.concat([select_beams(tokens_BGt, beam_BX), token_BX.unsqueeze(-1)], axis=-1)
        end_BX = self.is_end(token_BX)

        rank_X = paddle.arange(self.candidate_count, dtype="int64")
        ends_well_BX = end_BX & (rank_X < self.beams) & paddle.logical_not(done_B).unsqueeze(1)
        end = 1 - self.gnmt.astype("int64")  # whether the stop token counts as part of the text
        finished_BX = score_BX / self.penalty(step + end) + NEVER * (1.0 - ends_well_BX.astype("float32"))
        pool_tokens, pool_scores = self.pooled(pool_tokens, pool_scores, grown_BXt, finished_BX)

        running_BX = score_BX + NEVER * end_BX.astype("float32")
        scores_BG, kept_BG = paddle.topk(running_BX, self.beams, axis=1)
        tokens_BGt = select_beams(grown_BXt, kept_BG)
        best_B = paddle.where(self.gnmt, score_BX.max(axis=1), scores_BG[:, 0]) / self.penalty(step + end)
        done_B = done_B | (pool_scores[:, -1] >= best_B)
        from_BG = _take(beam_BX, kept_BG)
        tails = [select_beams(tail, from_BG) for tail in tails]
        return [step + 1, tokens_BGt, scores_BG, pool_tokens, pool_scores, done_B, *tails]

    @property
    def candidate_count(self) -> int | Tensor:
        """So many that G of them do not end a text: every beam can end with every stop token."""
        return (1 + len(self.stop.eos_token_ids)) * self.beams

    def candidates(self, scores_BG: Tensor, log_probs_BGV: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The X best continuations of a row: their beams, tokens and scores, [B, X] each."""
        total_BGV = scores_BG.unsqueeze(-1) + log_probs_BGV
        chosen_BGV = self.perturbed(scores_BG.unsqueeze(-1), log_probs_BGV, step)
        _, index_BX = paddle.topk(chosen_BGV.flatten(1), self.candidate_count, axis=1)
        score_BX = _take(total_BGV.flatten(1), index_BX)
        return index_BX // self.vocab_size, index_BX % self.vocab_size, score_BX

    def pooled(self, pool_tokens, pool_scores, tokens_BXt, scores_BX) -> tuple[Tensor, Tensor]:
        """The G best of a pool [B, G, t] and new texts [B, X, t + 1]."""
        padding = paddle.full_like(pool_tokens[:, :, :1], self.stop.pad_token_id)
        tokens = paddle.concat([paddle.concat([pool_tokens, padding], axis=-1), tokens_BXt], axis=1)
        pool_scores, index_BG = paddle.topk(paddle.concat([pool_scores, scores_BX], axis=1), self.beams, axis=1)
        return select_beams(tokens, index_BG), pool_scores

    def penalty(self, length: Tensor) -> Tensor:
        """What a text's score is divided by: Wu et al.'s (arXiv:1609.08144, eq. 14) or, as in transformers, a power."""
        offset = 5.0 * self.gnmt.astype("float32")
        return ((length.astype("float32") + offset) / (1.0 + offset)) ** self.control.length_penalty

    @property
    def gnmt(self) -> Tensor:
        return self.control.gnmt_length

    def result(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The best text of each pool, to which rows that ran out of length add their running beams."""
        step, tokens_BGt, scores_BG, pool_tokens, pool_scores, done_B, *_ = state
        running_BG = scores_BG / self.penalty(step) + NEVER * done_B.astype("float32").unsqueeze(1)
        best_BG, index_BG = paddle.topk(paddle.concat([pool_scores, running_BG], axis=1), self.beams, axis=1)
        tokens = select_beams(paddle.concat([pool_tokens, tokens_BGt], axis=1), index_BG)
        if self.returned > 1:
            return tokens[:, : self.returned, 1:].flatten(0, 1), best_BG[:, : self.returned].flatten()
        return tokens[:, 0, 1:], best_BG[:, 0]


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Elements along the last axis, an index for each; shapes differ in that axis only."""
    return paddle.take_along_axis(x, index, axis=-1, broadcast=False)


def filter_logits(logits_BGV: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor | None = None) -> Tensor:
    """Forbids what is outside the `top_k` best, or outside the nucleus of mass `top_p` (arXiv:1904.09751, 3.1).

    The nucleus is measured over what top_k left. Then min_p (arXiv:2407.01082) forbids what is far from the best.
    """
    size = logits_BGV.shape[-1]
    sorted_BGV = paddle.sort(logits_BGV, axis=-1, descending=True)
    k = paddle.where(top_k > 0, top_k, paddle.full_like(top_k, size))
    mass = paddle.where(top_p > 0, top_p, paddle.ones_like(top_p))
    inside_BGV = sorted_BGV >= _least(sorted_BGV, paddle.arange(size, dtype="int64") < k)
    probs_BGV = F.softmax(paddle.where(inside_BGV, sorted_BGV, paddle.full_like(sorted_BGV, 2 * NEVER)), axis=-1)
    before_BGV = probs_BGV.cumsum(axis=-1) - probs_BGV
    least_BG1 = _least(sorted_BGV, inside_BGV & ((before_BGV < mass) | (mass >= 1.0)))
    if min_p is not None:
        share = paddle.where(min_p > 0, min_p.log(), paddle.full_like(min_p, 2 * NEVER))
        least_BG1 = paddle.maximum(least_BG1, sorted_BGV[:, :, :1] + share)
    return paddle.where(logits_BGV >= least_BG1, logits_BGV, paddle.full_like(logits_BGV, NEVER))


def _least(sorted_BGV: Tensor, keep: Tensor) -> Tensor:
    """The lowest score [B, G, 1] of those to keep."""
    return paddle.where(keep, sorted_BGV, paddle.full_like(sorted_BGV, -NEVER)).min(axis=-1, keepdim=True)
