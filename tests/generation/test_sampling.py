"""Sampling: how often tokens are drawn against their probabilities, what truncation keeps, and the random numbers."""

import numpy as np
import paddle
import pytest
from plain_search import kept_probabilities
from tiny_glm import small_prompt, tiny_model, uncached_logits

from glm import GenerationConfig
from glm.generation.random_bits import gumbel_noise
from glm.generation.search import Prompt, StopTokens

DRAWS, VOCAB = 8000, 8
NO_STOP = StopTokens((), 0)


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3, spread=0.25, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def prompt():
    """One prompt, as many rows as draws."""
    one = small_prompt(VOCAB, rows=1)
    arrays = (one.input_ids, one.attention_mask, one.position_ids, one.prefix_length)
    return Prompt(*(paddle.concat([x] * DRAWS) for x in arrays), one.position_step)


@pytest.fixture(scope="module")
def logits(model):
    """Of the first token [V], and of the second behind each first one [V, V]."""
    rows = small_prompt(VOCAB, rows=1)
    arrays = (rows.input_ids, rows.attention_mask, rows.position_ids, rows.prefix_length)
    each = Prompt(*(paddle.concat([x] * VOCAB) for x in arrays), rows.position_step)
    first = uncached_logits(model, each, np.zeros([VOCAB, 0], dtype="int64"))[0]
    return first, uncached_logits(model, each, np.arange(VOCAB)[:, None])


def expected(logits, temperature: float = 1.0, **truncation) -> np.ndarray:
    return kept_probabilities(logits.astype("float64") / temperature, **truncation)


def frequencies(model, prompt, length: int = 1, **options) -> np.ndarray:
    tokens, _ = model.generate(prompt, GenerationConfig(length, do_sample=True, **options), NO_STOP)
    counts = np.zeros([VOCAB] * length)
    np.add.at(counts, tuple(tokens.numpy().T), 1)
    return counts / DRAWS


def assert_drawn_from(found: np.ndarray, probabilities: np.ndarray) -> None:
    """Pearson's chi-square below its mean plus five standard deviations, and nothing impossible drawn."""
    possible = probabilities > 0
    assert not found[~possible].any()
    difference = (found - probabilities)[possible]
    statistic = DRAWS * (difference**2 / probabilities[possible]).sum()
    freedom = possible.sum() - 1
    assert statistic <= freedom + 5 * np.sqrt(2 * freedom), statistic


WAYS = {
    "all tokens": {},
    "hot": {"temperature": 2.5},
    "cold": {"temperature": 0.4},
    "top 1": {"top_k": 1},
    "top 3": {"top_k": 3},
    "more than there are": {"top_k": 100},
    "nucleus 0.5": {"top_p": 0.5},
    "nucleus 0.9": {"top_p": 0.9},
    "nucleus 1.0": {"top_p": 1.0},
    "tiny nucleus": {"top_p": 1e-6},
    "both": {"top_k": 4, "top_p": 0.8, "temperature": 1.5},
    "near the best": {"min_p": 0.13, "temperature": 1.3},
    "all three": {"top_k": 6, "top_p": 0.9, "min_p": 0.25, "temperature": 2.0},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_draws_follow_the_probabilities(model, prompt, logits, options):
    assert_drawn_from(frequencies(model, prompt, **options), expected(logits[0], **options))


def test_the_ways_differ(logits):
    """Every one above would be told from the next: half a percent of the draws is 25 in chi-square at least."""
    ways = {name: expected(logits[0], **options) for name, options in WAYS.items()}
    same = {"all tokens", "more than there are", "nucleus 1.0"}, {"top 1", "tiny nucleus"}
    for name, probabilities in ways.items():
        for other in set(ways) - next((group for group in same if name in group), {name}):
            assert np.abs(probabilities - ways[other]).sum() > 0.05, (name, other)


def test_two_steps_are_drawn_independently(model, prompt, logits):
    first, second = logits
    joint = expected(first)[:, None] * np.stack([expected(row) for row in second])
    assert_drawn_from(frequencies(model, prompt, length=2, seed=9), joint)


def test_truncation_is_made_anew_at_every_step(model, prompt, logits):
    first, second = logits
    joint = expected(first, top_k=2)[:, None] * np.stack([expected(row, top_k=2) for row in second])
    assert_drawn_from(frequencies(model, prompt, length=2, top_k=2), joint)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"top_p": 0.9, "temperature": 2.0}], ids=str)
def test_the_seed_decides(model, options):
    prompt = small_prompt(VOCAB, rows=4)
    texts = []
    for seed in (0, 1, 2, 0):
        config = GenerationConfig(10, do_sample=True, seed=seed, **options)
        texts.append(model.generate(prompt, config, NO_STOP)[0].numpy())
    assert np.array_equal(texts[0], texts[3])
    assert not np.array_equal(texts[0], texts[1])
    assert not np.array_equal(texts[1], texts[2])


def test_paddles_own_random_state_has_no_part(model):
    prompt, config = small_prompt(VOCAB, rows=4), GenerationConfig(10, do_sample=True, seed=1)
    paddle.seed(1)
    before = paddle.get_rng_state()[0].current_seed()
    first = model.generate(prompt, config, NO_STOP)[0].numpy()
    paddle.seed(2)
    assert np.array_equal(model.generate(prompt, config, NO_STOP)[0].numpy(), first)
    assert before == 1


def test_rows_of_a_batch_are_drawn_apart(model, prompt):
    tokens, _ = model.generate(prompt, GenerationConfig(10, do_sample=True), NO_STOP)
    assert len(np.unique(tokens.numpy()[:100], axis=0)) > 90


def uniform(seed: int = 0, step: int = 0, rows: int = 300, columns: int = 400) -> np.ndarray:
    """The numbers in 0..1 that the noise is made of."""
    noise = gumbel_noise(*(paddle.to_tensor(x, dtype="int64") for x in (seed, step)), rows, columns)
    assert noise.shape == [rows, columns] and noise.dtype == paddle.float32
    return np.exp(-np.exp(-noise.numpy().astype("float64")))


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**40])
def test_random_numbers_are_uniform(seed):
    """Chi-square over 100 bins of 120,000 numbers; the first and last bin as full as the others."""
    numbers = uniform(seed)
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    assert ((counts - 1200) ** 2 / 1200).sum() < 99 + 5 * np.sqrt(2 * 99)


@pytest.mark.parametrize(("seed", "column"), [(11386, 988), (17809, 102), (37891, 97), (38097, 794)])
def test_the_largest_number_is_below_one(seed, column):
    """Places where every bit is set, found by search: rounded up to 1, they would draw a token of no probability."""
    noise = gumbel_noise(paddle.to_tensor(seed), paddle.to_tensor(0), 1, column + 1).numpy()[0]
    assert noise.argmax() == column
    assert noise[column] == pytest.approx(-np.log(2.0**-24), rel=1e-6)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return abs(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def test_random_numbers_of_neighbours_are_unrelated():
    """120,000 pairs: a correlation of 0.015 is five standard deviations."""
    numbers = uniform()
    pairs = {
        "columns": (numbers[:, 1:], numbers[:, :-1]),
        "rows": (numbers[1:], numbers[:-1]),
        "transposed": (numbers[:, :300], numbers[:, :300].T),
        "steps": (numbers, uniform(step=1)),
        "seeds": (numbers, uniform(seed=1)),
        "a row and a step on": (numbers[1:], uniform(step=1)[:-1]),
    }
    for name, (x, y) in pairs.items():
        assert correlation(x, y) < 0.015, name


def test_no_number_comes_twice_in_a_row_of_places():
    """Rows and steps mix without meeting: 16 steps of 64 rows give 1,024 different rows."""
    rows = np.concatenate([uniform(step=step, rows=64, columns=20) for step in range(16)])
    assert len(np.unique(rows, axis=0)) == 1024


def test_a_number_depends_on_its_place_alone():
    assert np.array_equal(uniform(5, 3, rows=7, columns=9), uniform(5, 3)[:7, :9])
