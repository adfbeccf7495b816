"""The numpy half of generation against the Paddle half: random numbers, truncation, repeats."""

import numpy as np
import paddle
import pytest

from glm import GenerationConfig
from glm.engine import logits as rules
from glm.engine.logits import best_indices, filtered_tokens, highest, next_log_probs, repeating_tokens
from glm.engine.random_bits import _mix, gumbel_noise
from glm.errors import GLMError
from glm.generation import random_bits
from glm.generation.penalties import forbid_repeats, penalise_presence, penalise_repetition
from glm.generation.search import NEVER, filter_logits

SEEDS = (0, 1, 42, 2**31, 2**40 + 17)


def scalar(value, dtype="int64"):
    return paddle.to_tensor(value, dtype=dtype)


def test_mixed_words_are_the_same_bits():
    words = np.random.default_rng(0).integers(0, 2**40, 5000)
    assert np.array_equal(_mix(words.astype("uint32")), random_bits._mix(paddle.to_tensor(words)).numpy())


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_that_of_the_model(seed):
    """A difference of one bit in what is drawn moves a number by 1e-7 of the range or more."""
    for step in (0, 1, 500):
        wanted = random_bits.gumbel_noise(scalar(seed), scalar(step), 5, 700).numpy()
        found = np.stack([gumbel_noise(seed, step, row, 700) for row in range(5)])
        assert found.dtype == np.float32 and found == pytest.approx(wanted, rel=2e-6, abs=2e-7)
        places = np.array([3, 699, 40])
        assert np.array_equal(gumbel_noise(seed, step, 4, places), found[4, places])


@pytest.mark.parametrize("top_k", [0, 1, 7, 600, 5000])
@pytest.mark.parametrize("top_p", [0.0, 1e-6, 0.3, 0.9, 0.9999, 1.0])
@pytest.mark.parametrize(("spread", "min_p"), [(0.05, 0.0), (1.0, 0.0), (4.0, 0.0), (1.0, 0.2), (4.0, 0.01)])
def test_filtered_tokens_are_those_of_the_model(top_k, top_p, spread, min_p):
    """Nuclei of one token and of most of 3,000: more than the search looks at first."""
    logits = (spread * np.random.default_rng(7).standard_normal(3000)).astype("float32")
    options = scalar(top_k), scalar(top_p, "float32"), scalar(min_p, "float32")
    wanted = filter_logits(paddle.to_tensor(logits)[None, None], *options).numpy()[0, 0]
    found = filtered_tokens(logits, top_k, top_p, min_p)
    assert np.array_equal(found, np.sort(found))
    other = set(found) ^ set(np.flatnonzero(wanted > NEVER))
    probabilities = np.exp(logits.astype("float64")) / np.exp(logits.astype("float64")).sum()
    # At the edge of a nucleus a float32 sum may round either way.
    assert not other or (0 < top_p < 1 and (len(other) == 1 or probabilities[list(other)].sum() < 2e-5))


def test_equal_logits_at_the_edge_stay_together():
    logits = np.array([1, 3, 3, 2, 3, 0], dtype="float32")
    assert filtered_tokens(logits, 2, 0.0).tolist() == [1, 2, 4]
    assert filtered_tokens(logits, 0, 0.5).tolist() == [1, 2, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_repeats_are_those_of_the_model(size):
    draw = np.random.default_rng(size)
    for length in range(12):
        tokens = draw.integers(0, 3, length)
        logits, history = np.zeros([1, 1, 3], "float32"), np.array([[[0, *tokens]]])
        bound = forbid_repeats(paddle.to_tensor(logits), paddle.to_tensor(history), scalar(size)).numpy()
        assert set(repeating_tokens(tokens, size)) == set(np.flatnonzero(bound[0, 0] < 0))


def test_log_probs_leave_the_logits_as_they_are():
    """A runtime's buffer is its own."""
    logits = np.random.default_rng(0).standard_normal([2, 9]).astype("float32")
    kept = logits.copy()
    config = GenerationConfig(9, min_length=2, no_repeat_ngram_size=1)
    found = next_log_probs(logits, np.array([[3], [4]]), config, (7, 8, 7))
    assert np.array_equal(logits, kept) and found.dtype == np.float32
    assert [np.flatnonzero(row < NEVER / 2).tolist() for row in found] == [[3, 7, 8], [4, 7, 8]]
    assert found.min() > 2.5 * NEVER  # an end token that is named twice is forbidden once


@pytest.mark.parametrize("kind", ["different", "few values", "all equal"])
@pytest.mark.parametrize(("size", "count"), [(160_001, 10), (5000, 513), (513, 2), (512, 600)])
def test_best_of_a_large_vocabulary(size, count, kind):
    """Looking at groups first changes nothing, ties included."""
    draw = np.random.default_rng(size)
    makers = {
        "different": draw.standard_normal(size),
        "few values": draw.integers(0, 5, size),
        "all equal": np.ones(size),
    }
    scores = makers[kind].astype("float32")
    wanted = np.argsort(-scores, kind="stable")[:count]
    assert best_indices(scores, count).tolist() == wanted.tolist()
    assert highest(scores, count).tolist() == scores[wanted].tolist()


def test_best_indices():
    scores = np.array([1, 5, 5, 0, 9], dtype="float32")
    assert best_indices(scores, 3).tolist() == [4, 1, 2]
    assert best_indices(scores, 8).tolist() == [4, 1, 2, 0, 3]


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"suppress_tokens": (7,)}], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_choose_nothing(value, options):
    logits = np.zeros([2, 50], dtype="float32")
    logits[1, 7] = value
    with pytest.raises(GLMError, match="the model's logits became nan or infinite"):
        next_log_probs(logits, np.zeros([2, 0], dtype="int64"), GenerationConfig(**options), [1], np.array([7]))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_penalties_are_those_of_the_model(num_beams):
    """Logits of either sign, tokens said once, twice, in the prompt and in both; the last column ends the prompt."""
    logits = (3 * np.random.default_rng(2).standard_normal([2, 40])).astype("float32")
    prompt, tokens = np.array([5, 6, 6, 7, 9]), np.array([[7, 8, 8, 20, 8], [5, 9, 30, 31, 30]])
    config = GenerationConfig(num_beams=num_beams, repetition_penalty=1.7, presence_penalty=0.9, frequency_penalty=-0.4)
    found = next_log_probs(logits, tokens, config, [], prompt)
    history = paddle.to_tensor(np.concatenate([[[9], [9]], tokens], axis=1)[None])

    def penalised(scores):
        scores = penalise_repetition(scores, paddle.to_tensor(prompt[None]), history, scalar(1.7, "float32"))
        return penalise_presence(scores, history, scalar(0.9, "float32"), scalar(-0.4, "float32"))

    scores = paddle.to_tensor(logits[None])
    log_softmax = paddle.nn.functional.log_softmax
    wanted = log_softmax(penalised(scores)) if num_beams == 1 else penalised(log_softmax(scores))
    assert found == pytest.approx(wanted.numpy()[0], abs=2e-5)
    free = next_log_probs(logits, tokens, GenerationConfig(num_beams=num_beams), [], prompt)
    assert np.flatnonzero(np.abs(found - free)[0] > 0.3).size >= 5


def test_neutral_penalties_read_no_tokens(monkeypatch):
    """A step pays nothing for what is off."""
    for name in ("penalise", "repeating_tokens"):
        monkeypatch.setattr(rules, name, lambda *_: pytest.fail("called"))
    next_log_probs(np.zeros([1, 9], "float32"), np.zeros([1, 3], "int64"), GenerationConfig(), [1], np.arange(5))
