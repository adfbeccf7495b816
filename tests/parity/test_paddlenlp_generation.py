"""PaddleNLP's generate(), on the same random weights: greedy and beam search give the same tokens and scores.

PaddleNLP gets the reference's full-length layout. Its n-gram rule also counts the prompt, ours the generated text
only, so that rule is off here.
"""

import numpy as np
import paddle
import pytest
from paddlenlp_reference import load_ours, reference_model
from tiny_glm import prompt_of, random_pairs, reference_layout, relative_error, stop_of, tensors

from glm import GenerationConfig

SRC_LENGTH, NEW_TOKENS = 16, 12
SIZES = [(9, 7), (3, 10), (13, 2), (6, 4), (11, 9), (1, 1)]


@pytest.fixture(scope="module", params=[0.6, 1.0])
def theirs(request):
    """Large weights, so that texts end early, late and never."""
    return reference_model(spread=request.param)


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    return load_ours(theirs, tmp_path_factory.mktemp("paddlenlp"))


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return random_pairs(tokenizer, SIZES, seed=3)


def reference_generate(model, tokenizer, pairs, **options) -> tuple[np.ndarray, np.ndarray]:
    """Row by row: PaddleNLP's cache of a batch cuts rows off where there are more than tokens."""
    rows = [_generate_row(model, tokenizer, [pair], **options) for pair in pairs]
    width = max(len(tokens) for tokens, _ in rows)
    padded = [np.pad(tokens, (0, width - len(tokens)), constant_values=tokenizer.pad_token_id) for tokens, _ in rows]
    return np.stack(padded), np.array([score for _, score in rows])


def _generate_row(model, tokenizer, pair, **options) -> tuple[np.ndarray, float]:
    layout = tensors(reference_layout(tokenizer, pair, SRC_LENGTH, NEW_TOKENS))
    ends = {"eos_token_id": tokenizer.eop_token_id, "pad_token_id": tokenizer.pad_token_id}
    tokens, scores = model.generate(
        layout["input_ids"][:, : SRC_LENGTH + 1],
        position_ids=layout["position_ids"],
        attention_mask=layout["attention_mask"],
        max_new_tokens=NEW_TOKENS,
        **ends,
        **options,
    )
    return tokens.numpy()[0], float(scores)


def assert_same_tokens(found: np.ndarray, wanted: np.ndarray, pad: int) -> None:
    """Equal but for columns of padding at the end."""
    width = max(found.shape[1], wanted.shape[1])
    padded = [np.pad(x, [(0, 0), (0, width - x.shape[1])], constant_values=pad) for x in (found, wanted)]
    assert np.array_equal(*padded), padded


@pytest.mark.parametrize("min_length", [0, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_beam_search(theirs, ours, encoder, tokenizer, pairs, num_beams, length_penalty, min_length):
    options = {"num_beams": num_beams, "length_penalty": length_penalty}
    wanted, their_scores = reference_generate(
        theirs, tokenizer, pairs, decode_strategy="beam_search", min_new_tokens=min_length, **options
    )
    config = GenerationConfig(max_length=NEW_TOKENS, min_length=min_length, **options)
    found, our_scores = ours.generate(prompt_of(encoder, pairs), config, stop_of(tokenizer))

    assert_same_tokens(found.numpy(), wanted, tokenizer.pad_token_id)
    assert relative_error(our_scores, their_scores) < 1e-5
