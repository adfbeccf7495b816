"""Searches against plain Python: exhaustive search, written-out rules, stopping; and what the options refuse."""

import numpy as np
import paddle
import pytest
from plain_search import log_softmax, plain_beam_search, plain_greedy_search, repeats
from tiny_glm import make_likely, small_prompt, tiny_model, uncached_logits

from glm import GenerationConfig
from glm.encoding.batches import BlockPositions, prompt_batch
from glm.errors import UsageError
from glm.generation.search import Prompt, StopTokens

END, OTHER_END, PAD = 1, 2, 3
STOP, NO_STOP = StopTokens((END,), PAD), StopTokens((), PAD)
ROWS = 6


def few_tokens(vocab_size: int, seed: int):
    """So few that every one comes up and texts repeat themselves, with two that often end a text."""
    model = tiny_model(seed=seed, spread=0.4, vocab_size=vocab_size)
    for token in (END, OTHER_END):
        make_likely(model.model.embed_tokens, model.model.norm, token, 2.0)
    return model


@pytest.fixture(scope="module")
def model():
    return few_tokens(12, seed=4)


@pytest.fixture(scope="module")
def prompt():
    return small_prompt(12, ROWS, seed=1)


def row_of(prompt: Prompt, row: int, copies: int = 1) -> Prompt:
    arrays = (prompt.input_ids, prompt.attention_mask, prompt.position_ids, prompt.prefix_length)
    return Prompt(*(paddle.concat([x[row : row + 1]] * copies) for x in arrays), prompt.position_step)


def following(model, prompt: Prompt, row: int):
    """Logits [N, V] of what follows row `row` of a prompt and each of N equally long texts."""

    def logits(texts: list[list[int]]) -> np.ndarray:
        tokens = np.array(texts, dtype="int64").reshape(len(texts), -1)
        return uncached_logits(model, row_of(prompt, row, len(texts)), tokens)

    return logits


def assert_result(tokens, scores, row: int, text: list[int], score: float) -> None:
    assert tokens.numpy()[row].tolist() == text + [PAD] * (tokens.shape[1] - len(text))
    assert float(scores[row]) == pytest.approx(score, rel=1e-5, abs=5e-6)


def best_of_all(logits, length: int, length_penalty: float, ends: set[int]) -> tuple[list[int], float]:
    """The best of every text that ends, or has `length` tokens without an end."""
    scores: dict[tuple[int, ...], float] = {}
    running = {(): 0.0}
    for _ in range(length):
        next_ones = log_softmax(logits([list(text) for text in running]))
        grown = {
            (*text, token): total + next_ones[row, token]
            for row, (text, total) in enumerate(running.items())
            for token in range(next_ones.shape[1])
        }
        ended = {text: total for text, total in grown.items() if text[-1] in ends}
        scores |= {text: total / ((5 + len(text) - 1) / 6) ** length_penalty for text, total in ended.items()}
        running = {text: total for text, total in grown.items() if text not in ended}
    scores |= {text: total / ((5 + length) / 6) ** length_penalty for text, total in running.items()}
    best = max(scores, key=scores.get)
    return list(best), scores[best]


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("ends", [(END,), (END, OTHER_END)])
def test_enough_beams_find_the_best_of_all_texts(length_penalty, ends):
    """Five tokens, texts of up to four: 125 beams leave nothing out."""
    model, prompt = few_tokens(5, seed=4), small_prompt(5, ROWS)
    config = GenerationConfig(max_length=4, num_beams=125, length_penalty=length_penalty)
    tokens, scores = model.generate(prompt, config, StopTokens(ends, PAD))
    lengths = set()
    for row in range(ROWS):
        best = best_of_all(following(model, prompt, row), 4, length_penalty, set(ends))
        assert_result(tokens, scores, row, *best)
        lengths.add(len(best[0]))
    assert len(lengths) > 2


PENALTIES = {
    "repetition": {"repetition_penalty": 1.4},
    "repetition wanted": {"repetition_penalty": 0.6},
    "presence": {"presence_penalty": 1.2},
    "frequency": {"frequency_penalty": 0.7},
    "frequency wanted": {"frequency_penalty": -0.4},
    "all penalties": {
        "repetition_penalty": 1.2,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
        "min_length": 3,
        "no_repeat_ngram_size": 3,
    },
    "suppressed": {"suppress_tokens": (2, 5, 100)},
    "suppressed first": {"begin_suppress_tokens": (0, 2, 5)},
}
RULES = {
    "plain": {},
    "length penalty": {"length_penalty": 0.7},
    "min length": {"length_penalty": 0.7, "min_length": 4},
    "no repeats": {"no_repeat_ngram_size": 2},
    "all": {"length_penalty": 1.5, "min_length": 3, "no_repeat_ngram_size": 3},
    **PENALTIES,
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("ends", [(END,), (END, OTHER_END)])
@pytest.mark.parametrize("num_beams", [2, 4])
def test_beam_search_is_the_plain_one(model, prompt, num_beams, ends, rules):
    config = GenerationConfig(9, num_beams=num_beams, **RULES[rules])
    tokens, scores = model.generate(prompt, config, StopTokens(ends, PAD))
    for row in range(ROWS):
        assert_result(
            tokens, scores, row, *plain_beam_search(following(model, prompt, row), config, set(ends), said(prompt, row))
        )


@pytest.mark.parametrize("min_length", [0, 6])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_greedy_search_is_the_plain_one(model, prompt, size, min_length):
    config = GenerationConfig(10, min_length, no_repeat_ngram_size=size)
    tokens, scores = model.generate(prompt, config, STOP)
    for row in range(ROWS):
        assert_result(
            tokens, scores, row, *plain_greedy_search(following(model, prompt, row), config, {END}, said(prompt, row))
        )


@pytest.mark.parametrize("penalties", PENALTIES)
def test_greedy_search_with_penalties_is_the_plain_one(model, prompt, penalties):
    config = GenerationConfig(10, **PENALTIES[penalties])
    tokens, scores = model.generate(prompt, config, STOP)
    for row in range(ROWS):
        plain = plain_greedy_search(following(model, prompt, row), config, {END}, said(prompt, row))
        assert_result(tokens, scores, row, *plain)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_each_penalty_binds(model, prompt, num_beams):
    free = model.generate(prompt, GenerationConfig(10, num_beams=num_beams), STOP)[0].tolist()
    for options in PENALTIES.values():
        config = GenerationConfig(10, num_beams=num_beams, **options)
        assert model.generate(prompt, config, STOP)[0].tolist() != free, options


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 2}], ids=str)
def test_padding_was_not_said(model, options):
    """Prompts padded with a token that they do not hold, whichever: no penalty touches it."""
    rows, config = [[7, 8, 0], [6, 7, 6, 8, 7, 0]], GenerationConfig(10, repetition_penalty=4.0, **options)
    texts = {}
    for pad in (4, 5, 9):
        batch = prompt_batch(rows, BlockPositions((), False), pad)
        assert (batch["input_ids"][0, :3] == pad).all()
        texts[pad] = model.generate(Prompt.of(batch), config, NO_STOP)[0].tolist()
    assert texts[4] == texts[5] == texts[9]
    free = model.generate(Prompt.of(batch), GenerationConfig(10, **options), NO_STOP)[0].tolist()
    assert {4, 5, 9} & set(free[0]) and free != texts[9]


def said(prompt: Prompt, row: int) -> list[int]:
    return prompt.input_ids[row].tolist()


def ngrams_occur_twice(text: list[int], size: int) -> bool:
    return any(repeats(text[:end], text[end], size) for end in range(len(text)))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 5}], ids=str)
def test_no_repeat_ngram_size(model, prompt, size, options):
    """The rule binds, and what it forbids occurs without it; the token a text starts from is not part of it."""
    stop = NO_STOP
    free, _ = model.generate(prompt, GenerationConfig(11, **options), stop)
    bound, _ = model.generate(prompt, GenerationConfig(11, no_repeat_ngram_size=size, **options), stop)
    assert any(ngrams_occur_twice(text, size) for text in free.tolist())
    assert not any(ngrams_occur_twice(text, size) for text in bound.tolist())
    assert prompt.input_ids[:, -1].tolist() == [0] * ROWS and (size > 1 or 0 in bound.numpy())


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}], ids=str)
@pytest.mark.parametrize("min_length", [0, 3, 8])
def test_min_length(model, prompt, min_length, options):
    """No text ends before; left alone, some do."""
    tokens, _ = model.generate(prompt, GenerationConfig(8, min_length, **options), StopTokens((END, OTHER_END), PAD))
    lengths = [text_length(row, {END, OTHER_END}) for row in tokens.tolist()]
    assert min(lengths) > min_length or min(lengths) == 8
    assert min_length or min(lengths) < 3


def text_length(row: list[int], ends: set[int]) -> int:
    return next((i + 1 for i, token in enumerate(row) if token in ends), len(row))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("max_length", [1, 2, 5])
def test_max_length(model, prompt, max_length, num_beams):
    tokens, _ = model.generate(prompt, GenerationConfig(max_length, num_beams=num_beams), NO_STOP)
    assert tokens.shape == [ROWS, max_length]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_behind_any_end_token_stands_padding(model, prompt, num_beams):
    """Whatever token pads: what it is does not reach the text."""
    ends, config = (END, OTHER_END), GenerationConfig(12, num_beams=num_beams)
    padded = {pad: model.generate(prompt, config, StopTokens(ends, pad))[0].tolist() for pad in (PAD, 11)}
    lengths = [text_length(row, set(ends)) for row in padded[11]]
    assert len(set(lengths)) > 1
    for row, other, length in zip(padded[11], padded[PAD], lengths, strict=True):
        assert row[:length] == other[:length]
        assert row[length:] == [11] * (len(row) - length)


def test_a_batch_stops_when_every_row_has_ended(model, prompt):
    tokens, _ = model.generate(prompt, GenerationConfig(40), StopTokens(tuple(range(12)), PAD))
    assert tokens.shape == [ROWS, 1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "seed": 4, "top_k": 5},
        {"no_repeat_ngram_size": 2},
        {"do_sample": True, "min_p": 0.1, "repetition_penalty": 1.4, "presence_penalty": 0.3, "suppress_tokens": (4,)},
    ],
)
def test_stream_gives_the_tokens_of_generate(model, prompt, options):
    config = GenerationConfig(9, **options)
    tokens, _ = model.generate(prompt, config, STOP)
    streamed = [step.numpy() for step in model.stream(prompt, config, STOP)]
    assert np.array_equal(np.stack(streamed, axis=1), tokens.numpy())


def test_stream_comes_token_by_token(model, prompt):
    """The first token is there before the second is computed."""
    calls = []
    begin, decode = model.begin, model.decode
    model.begin = lambda *args: calls.append(1) or begin(*args)
    model.decode = lambda *args: calls.append(1) or decode(*args)
    try:
        stream = model.stream(prompt, GenerationConfig(9), NO_STOP)
        for step in range(1, 4):
            next(stream)
            assert len(calls) == step
    finally:
        del model.begin, model.decode


def test_beams_cannot_be_streamed(model, prompt):
    with pytest.raises(ValueError, match="num_beams=2 cannot be streamed"):
        next(model.stream(prompt, GenerationConfig(9, num_beams=2), STOP))


def test_scores_under_sampling_are_the_models(model, prompt):
    """Temperature and truncation choose tokens; the score says what the model thinks of them."""
    config = GenerationConfig(6, do_sample=True, temperature=3.0, top_k=6, seed=2)
    tokens, scores = model.generate(prompt, config, NO_STOP)
    for row, text in enumerate(tokens.tolist()):
        logits = following(model, prompt, row)
        total = sum(log_softmax(logits([text[:step]]))[0, token] for step, token in enumerate(text))
        assert float(scores[row]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length is 0, and must be at least 1"),
        ({"min_length": -1}, "min_length is -1, and must be at least 0"),
        ({"num_beams": 0}, "num_beams is 0, and must be at least 1"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size is -2, and must be at least 0"),
        ({"top_k": -2}, "top_k is -2, and must be at least 0"),
        ({"top_p": -0.1}, "top_p is -0.1, and must be between 0 and 1"),
        ({"top_p": 1.1}, "top_p is 1.1, and must be between 0 and 1"),
        ({"seed": -1}, "seed is -1, and must be at least 0"),
        ({"temperature": -1}, "temperature is -1, and must be at least 0"),
        ({"temperature": 1e-50}, "temperature is 1e-50, and must be at least 1e-06, or 0 for the best"),
        ({"temperature": float("nan")}, "temperature is nan, and must be at least 0"),
        ({"top_p": float("nan")}, "top_p is nan, and must be between 0 and 1"),
        ({"min_p": 1.5}, "min_p is 1.5, and must be between 0 and 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, and must be a number above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf, and must be a number above 0"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5, and must be between -2 and 2"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3, and must be between -2 and 2"),
        ({"suppress_tokens": (5, -1)}, "suppress_tokens holds -1, and token ids are at least 0"),
        ({"min_length": 30, "max_length": 20}, r"min_length \(30\) is above max_length \(20\)"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        GenerationConfig(**options)


def test_values_that_mean_off():
    """As configuration files, vLLM and PaddleNLP write them."""
    off = GenerationConfig()
    assert GenerationConfig(top_k=-1) == GenerationConfig(top_k=None) == off
    assert GenerationConfig(top_p=None, min_p=None, repetition_penalty=None, suppress_tokens=None) == off
    assert GenerationConfig(do_sample=True, temperature=0) == GenerationConfig(temperature=0.0) == off
    assert GenerationConfig(suppress_tokens=[4, 2, 4]).suppress_tokens == (2, 4)
