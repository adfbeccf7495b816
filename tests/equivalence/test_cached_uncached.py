"""One result by two ways: cached and uncached decoding, batches and their rows alone, short and full padding.

The uncached way (`tiny_glm.uncached_logits`) runs the whole text through `forward` for every token.
"""

import numpy as np
import paddle
import pytest
from tiny_glm import (
    assert_begins_alike,
    make_likely,
    pair_batch,
    prompt_of,
    random_pairs,
    reference_layout,
    relative_error,
    stop_of,
    tensors,
    tiny_model,
    uncached_logits,
)

from glm import GenerationConfig
from glm.encoding.examples import IGNORED
from glm.encoding.processor import GLMProcessor
from glm.generation.search import Prompt, StopTokens
from glm.model.attention import empty_tails, scores_fp32, select_beams
from glm.model.visibility import MASKED, attention_bias, key_bias

SIZES = [(9, 7), (3, 10), (13, 2), (1, 1)]
STEPS = 8
SEARCHES = {
    "greedy": GenerationConfig(max_length=STEPS),
    "no repeats": GenerationConfig(max_length=STEPS, no_repeat_ngram_size=2),
    "beams": GenerationConfig(max_length=STEPS, num_beams=4, length_penalty=0.7, min_length=3, no_repeat_ngram_size=3),
}


@pytest.fixture(scope="module")
def model(tokenizer):
    """Large weights, and an end token likely enough for rows of a batch to end at different steps."""
    model = tiny_model(seed=8, spread=0.5)
    make_likely(model.model.embed_tokens, model.model.norm, tokenizer.eop_token_id, 12.0)
    return model


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return random_pairs(tokenizer, SIZES)


@pytest.fixture(scope="module", params=[False, True], ids=["block positions", "no block positions"])
def prompt(request, tokenizer, pairs):
    return prompt_of(GLMProcessor(tokenizer, 16, 12, request.param), pairs)


def test_greedy_search_is_the_argmax_of_forward(model, prompt):
    """With a stop token that never comes, so every step of every row is compared."""
    found, scores = model.generate(prompt, SEARCHES["greedy"], StopTokens((383,), 374))
    tokens = np.zeros([len(SIZES), 0], dtype="int64")
    total = np.zeros(len(SIZES))
    for _ in range(STEPS):
        logits = uncached_logits(model, prompt, tokens).astype("float64")
        best = logits.argmax(axis=1)
        total += logits.max(axis=1) - np.log(np.exp(logits).sum(axis=1))
        tokens = np.concatenate([tokens, best[:, None]], axis=1)
    assert np.array_equal(found.numpy(), tokens)
    assert relative_error(scores, total) < 1e-5


def test_cached_logits_of_beams_that_change_places(model, prompt):
    """Three beams per sequence with random tokens; after every step each beam continues a random one of its row."""
    rows, beams, draw = len(SIZES), 3, np.random.default_rng(5)
    prefix = model.prefill(
        prompt.input_ids[:, :-1], prompt.attention_mask[:, :-1], prompt.position_ids[:, :, :-1], prompt.prefix_length
    )
    tails = empty_tails(prefix, beams)
    tokens = np.broadcast_to(prompt.input_ids.numpy()[:, -1:, None], (rows, beams, 1))
    for step in range(5):
        position = (prompt.position_ids[:, :, -1:] + step * prompt.position_step.unsqueeze(1)).expand([-1, -1, beams])
        logits, tails = model.decode(paddle.to_tensor(tokens[:, :, -1]), position, prefix, tails)
        wanted = [uncached_logits(model, prompt, tokens[:, beam, 1:]) for beam in range(beams)]
        assert relative_error(logits, np.stack(wanted, axis=1)) < 1e-5
        chosen = draw.integers(0, beams, (rows, beams))
        tails = [select_beams(tail, paddle.to_tensor(chosen)) for tail in tails]
        new = draw.integers(5, 384, (rows, beams, 1))
        tokens = np.concatenate([np.take_along_axis(tokens, chosen[..., None], axis=1), new], axis=2)


@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "plain"])
def test_a_prompt_and_its_first_step_at_once(request, model, prompt, plain):
    """Prefix, logits and tails are those of `prefill` and `decode`, also where the prefix seems to hold all columns."""
    if plain:
        request.getfixturevalue("without_kernels")
    assert_begins_alike(model, prompt.input_ids, prompt.attention_mask, prompt.position_ids, prompt.prefix_length)
    whole = paddle.full_like(prompt.prefix_length, prompt.input_ids.shape[1])
    assert_begins_alike(model, prompt.input_ids, prompt.attention_mask, prompt.position_ids, whole)


def widened(prompt: Prompt, columns: int) -> Prompt:
    """The same prompts with more padding between text and start-of-piece; what stands there must not matter."""
    rows = prompt.input_ids.shape[0]
    junk = paddle.to_tensor(np.random.default_rng(1).integers(0, 384, (rows, columns)))

    def insert(x, middle):
        return paddle.concat([x[..., :-1], middle, x[..., -1:]], axis=-1)

    return Prompt(
        insert(prompt.input_ids, junk),
        insert(prompt.attention_mask, paddle.zeros([rows, columns], dtype="int64")),
        insert(prompt.position_ids, paddle.full([rows, 2, columns], 17, dtype="int64")),
        prompt.prefix_length + columns,
        prompt.position_step,
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_padding_changes_nothing(model, prompt, tokenizer, search):
    tokens, scores = model.generate(prompt, SEARCHES[search], stop_of(tokenizer))
    same, same_scores = model.generate(widened(prompt, 7), SEARCHES[search], stop_of(tokenizer))
    assert np.array_equal(same.numpy(), tokens.numpy())
    assert relative_error(same_scores, scores) < 1e-5


@pytest.mark.parametrize("search", SEARCHES)
def test_a_batch_is_its_rows(model, processor, tokenizer, pairs, search):
    tokens, scores = model.generate(prompt_of(processor, pairs), SEARCHES[search], stop_of(tokenizer))
    assert len({(row == tokenizer.eop_token_id).argmax() for row in tokens.numpy()}) > 1, "all rows end alike"
    for row, pair in enumerate(pairs):
        alone, score = model.generate(prompt_of(processor, [pair]), SEARCHES[search], stop_of(tokenizer))
        width = alone.shape[1]
        assert np.array_equal(alone.numpy()[0], tokens.numpy()[row, :width])
        assert (tokens.numpy()[row, width:] == tokenizer.pad_token_id).all()
        assert relative_error(score, scores[row]) < 1e-5


def full_length_batch(tokenizer, pairs, src_length: int, tgt_length: int) -> dict[str, np.ndarray]:
    """The reference's layout as arguments of our `forward`."""
    layout = reference_layout(tokenizer, pairs, src_length, tgt_length)
    real = layout["loss_mask"].astype("int64")
    for mask, (source, _) in zip(real, pairs, strict=True):
        mask[: len(source)] = 1
    return {
        "input_ids": layout["input_ids"],
        "attention_mask": real,
        "position_ids": layout["position_ids"],
        "prefix_length": np.full(len(pairs), src_length),
        "labels": np.where(layout["loss_mask"] > 0, layout["labels"], IGNORED),
    }


def loss_and_gradients(model, batch) -> tuple[float, dict[str, np.ndarray]]:
    model.clear_gradients()
    loss = model(**tensors(batch), label_smoothing=0.1)
    loss.backward()
    return float(loss), {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def test_short_padding_trains_as_full_length(model, processor, tokenizer, pairs):
    """Batches padded to their own longest texts, and the reference's, padded to S + T."""
    short = {name: tensor.numpy() for name, tensor in pair_batch(processor, pairs).items()}
    full = full_length_batch(tokenizer, pairs, 24, 20)
    assert short["input_ids"].shape[1] < full["input_ids"].shape[1]
    loss, gradients = loss_and_gradients(model, short)
    wanted, wanted_gradients = loss_and_gradients(model, full)
    assert loss == pytest.approx(wanted, rel=1e-6)
    for name, gradient in gradients.items():
        # A key bias moves all scores of a query alike, which softmax does not see: its gradient is rounding.
        if not name.endswith("k_proj.bias"):
            assert relative_error(gradient, wanted_gradients[name]) < 1e-5, name


def test_attention_bias_is_the_reference_mask(tokenizer, pairs):
    """Every row of the dense mask [S+T, S+T] but those of target padding, whose output nobody reads."""
    dense = reference_layout(tokenizer, pairs, 16, 12)["attention_mask"][:, 0]
    batch = full_length_batch(tokenizer, pairs, 16, 12)
    bias = attention_bias(*(paddle.to_tensor(batch[name]) for name in ("attention_mask", "prefix_length")))
    read = np.concatenate([np.ones([len(pairs), 16]), batch["attention_mask"][:, 16:]], axis=1).astype(bool)
    assert (bias.numpy() == MASKED * (1 - dense))[read].all()
    assert read.sum() == 4 * 16 + sum(len(target) for _, target in pairs)


def test_a_prefix_of_nothing_is_a_causal_mask():
    real = paddle.to_tensor([[1, 1, 1], [1, 1, 0]])
    bias = attention_bias(real, paddle.zeros([2], dtype="int64")).numpy()
    assert np.array_equal(bias == 0, [np.tril(np.ones((3, 3))), [[1, 0, 0], [1, 1, 0], [1, 1, 0]]])
    assert np.array_equal(key_bias(real).numpy(), [[[0, 0, 0]], [[0, 0, MASKED]]])


def test_scores_do_not_overflow_in_half_precision():
    """300 · 300 · 4 is beyond float16; its softmax is not."""
    queries, keys = (paddle.full([1, 2, 4], 300.0, dtype="float16") for _ in range(2))
    with paddle.amp.auto_cast(level="O2"):
        assert scores_fp32(queries, keys).numpy().tolist() == [[[180000.0] * 2] * 2]
