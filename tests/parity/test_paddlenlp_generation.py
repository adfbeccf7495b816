"""PaddleNLP's generate(), on the same random weights: greedy and beam search give the same tokens and scores.

PaddleNLP gets the reference's full-length layout. Its n-gram rule also counts the prompt, ours the generated text
only, so that rule is off here.
"""

import numpy as np
import paddle.nn.functional as F
import pytest
from paddlenlp_reference import load_ours, reference_model
from tiny_glm import make_likely, prompt_of, random_pairs, reference_layout, relative_error, stop_of, tensors

from glm import GenerationConfig

SRC_LENGTH, NEW_TOKENS = 16, 12
# No more than three: PaddleNLP's cache loses rows where there are more of them, times beams, than tokens.
SIZES = [(9, 1), (3, 1), (13, 1)]
# (length_penalty, min_length); each has cost us an equality once.
RULES = [(0.7, 0), (0.7, 5), (1.0, 5), (2.0, 0), (2.0, 5)]


@pytest.fixture(scope="module", params=[(0.5, 10.0), (0.6, 12.0)], ids=str)
def theirs(request, tokenizer):
    """Large weights, and an end token that is likely enough for texts to end early, late and never."""
    spread, amount = request.param
    model = reference_model(spread=spread)
    make_likely(model.glm.word_embeddings, model.glm.transformer.final_layernorm, tokenizer.eop_token_id, amount)
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    return load_ours(theirs, tmp_path_factory.mktemp("paddlenlp"))


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return random_pairs(tokenizer, SIZES, seed=3)


def reference_generate(model, tokenizer, pairs, **options) -> tuple[np.ndarray, np.ndarray]:
    layout = tensors(reference_layout(tokenizer, pairs, SRC_LENGTH, NEW_TOKENS))
    tokens, scores = model.generate(
        layout["input_ids"][:, : SRC_LENGTH + 1],
        position_ids=layout["position_ids"],
        attention_mask=layout["attention_mask"],
        max_new_tokens=NEW_TOKENS,
        eos_token_id=tokenizer.eop_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    return tokens.numpy(), scores.numpy().flatten()


def assert_same_tokens(found: np.ndarray, wanted: np.ndarray, pad: int) -> None:
    """Equal, and behind PaddleNLP's last column nothing but padding."""
    width = wanted.shape[1]
    assert np.array_equal(found[:, :width], wanted)
    assert (found[:, width:] == pad).all()


@pytest.mark.parametrize(("length_penalty", "min_length"), RULES)
@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_beam_search(theirs, ours, processor, tokenizer, pairs, num_beams, length_penalty, min_length):
    """PaddleNLP counts a text's length without its end token; its scores are penalised as they come out."""
    options = {"num_beams": num_beams, "length_penalty": length_penalty}
    wanted, their_scores = reference_generate(
        theirs, tokenizer, pairs, decode_strategy="beam_search", min_new_tokens=min_length, **options
    )
    config = GenerationConfig(max_length=NEW_TOKENS, min_length=min_length, **options)
    found, our_scores = ours.generate(prompt_of(processor, pairs), config, stop_of(tokenizer))
    assert_same_tokens(found.numpy(), wanted, tokenizer.pad_token_id)
    assert relative_error(our_scores, their_scores) < 1e-5


@pytest.mark.parametrize("min_length", [0, 5])
def test_greedy_search(theirs, ours, processor, tokenizer, pairs, min_length):
    """PaddleNLP scores a greedy text by the mean of its logits; the sum of log-probabilities comes from its model."""
    wanted, _ = reference_generate(theirs, tokenizer, pairs, decode_strategy="greedy_search", min_new_tokens=min_length)
    config = GenerationConfig(max_length=NEW_TOKENS, min_length=min_length)
    found, our_scores = ours.generate(prompt_of(processor, pairs), config, stop_of(tokenizer))
    assert_same_tokens(found.numpy(), wanted, tokenizer.pad_token_id)
    assert relative_error(our_scores, reference_log_probs(theirs, tokenizer, pairs, wanted)) < 1e-5


def reference_log_probs(model, tokenizer, pairs, tokens: np.ndarray) -> np.ndarray:
    """Sum over each row's tokens up to its end token."""
    ends = [row.index(tokenizer.eop_token_id) + 1 if tokenizer.eop_token_id in row else None for row in tokens.tolist()]
    texts = [row[:end] for row, end in zip(tokens.tolist(), ends, strict=True)]
    filled = [(source, text) for (source, _), text in zip(pairs, texts, strict=True)]
    layout = tensors(reference_layout(tokenizer, filled, SRC_LENGTH, NEW_TOKENS))
    logits = model(layout["input_ids"], layout["position_ids"], layout["attention_mask"])[0]
    log_probs = F.log_softmax(logits, axis=-1).numpy()
    chosen = np.take_along_axis(log_probs, layout["labels"].numpy()[..., None], axis=-1)[..., 0]
    return (chosen * layout["loss_mask"].numpy()).sum(axis=1)


def test_the_texts_end_at_different_steps(theirs, tokenizer, pairs):
    """So the searches above were told apart."""
    tokens, _ = reference_generate(theirs, tokenizer, pairs, decode_strategy="beam_search", num_beams=5)
    ends = [row.tolist().index(tokenizer.eop_token_id) if tokenizer.eop_token_id in row else None for row in tokens]
    assert len(set(ends)) > 1, ends
