"""The layout of GLM's inputs, written out by hand on short texts, and against the reference's full-length one."""

import numpy as np
import pytest

from glm.encoding.examples import IGNORED
from glm.encoding.processor import GLMProcessor
from glm.errors import GLMError, UsageError

# Ids of the bundled vocabulary: ▁ 109, 桥 164, 建于 40, a 118, 哪一年 69, 年 132.
CLS, MASK, SMASK, GMASK, SOP, EOP, END = 376, 377, 382, 383, 380, 381, 374
BRIDGE, WHICH_YEAR, A = [109, 164, 40], [109, 69], [109, 118]


@pytest.fixture
def short(tokenizer):
    return GLMProcessor(tokenizer, src_length=8, tgt_length=6)


def test_the_ids_above(tokenizer):
    special = tokenizer.convert_tokens_to_ids(
        ["[CLS]", "[MASK]", "[sMASK]", "[gMASK]", "<|startofpiece|>", "<|endofpiece|>", "<|endoftext|>"]
    )
    assert special == [CLS, MASK, SMASK, GMASK, SOP, EOP, END]
    assert tokenizer.pad_token_id == END
    assert [tokenizer.text_ids(text) for text in ("桥建于", "哪一年", "a")] == [BRIDGE, WHICH_YEAR, A]


def test_one_pair(short):
    source, target = short.source("桥建于"), short.target("哪一年")
    assert source == [CLS, *BRIDGE, GMASK, END]
    assert target == [*WHICH_YEAR, EOP]


def test_a_training_batch(short):
    """Rows of unequal length: padding stands behind the target."""
    pairs = [(short.source("桥建于"), short.target("a")), (short.source("a"), short.target("a桥建于"))]
    assert pairs[1][1] == [109, 118, 164, 40, EOP]
    batch = short.training_batch([short.row(*pair) for pair in pairs])
    no = IGNORED
    wanted = {
        "input_ids": [
            [CLS, 109, 164, 40, GMASK, END, SOP, 109, 118, END],
            [CLS, 109, 118, GMASK, END, SOP, 109, 118, 164, 40],
        ],
        "attention_mask": [[1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [1] * 10],
        "position_ids": [
            [[0, 1, 2, 3, 4, 5, 4, 4, 4, 0], [0, 0, 0, 0, 0, 0, 1, 2, 3, 0]],
            [[0, 1, 2, 3, 4, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]],
        ],
        "prefix_length": [6, 5],
        "labels": [
            [no, no, no, no, no, no, 109, 118, EOP, no],
            [no, no, no, no, no, 109, 118, 164, 40, EOP],
        ],
    }
    assert batch.keys() == wanted.keys()
    for name, array in batch.items():
        assert array.dtype == np.int64, name
        assert array.tolist() == wanted[name], name


def test_a_prompt_batch(short):
    """Padding stands in front, so that every row's last column is the token to decode from."""
    batch = short.prompt_batch([short.text_prompt("桥建于"), short.text_prompt("a")])
    wanted = {
        "input_ids": [[CLS, 109, 164, 40, GMASK, END, SOP], [END, CLS, 109, 118, GMASK, END, SOP]],
        "attention_mask": [[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]],
        "position_ids": [
            [[0, 1, 2, 3, 4, 5, 4], [0, 0, 0, 0, 0, 0, 1]],
            [[0, 0, 1, 2, 3, 4, 3], [0, 0, 0, 0, 0, 0, 1]],
        ],
        "prefix_length": [6, 6],
        "position_step": [0, 1],
    }
    assert {name: array.tolist() for name, array in batch.items()} == wanted


def test_without_block_positions(tokenizer):
    """Targets count on from the last source token, whatever the padding of the batch."""
    processor = GLMProcessor(tokenizer, 8, 6, no_block_position=True)
    batch = processor.training_batch(
        [processor.row(processor.source(t), processor.target("哪一年")) for t in ("桥建于", "a")]
    )
    assert batch["position_ids"].tolist() == [
        [[0, 1, 2, 3, 4, 5, 6, 7, 8], [0] * 9],
        [[0, 1, 2, 3, 4, 5, 6, 7, 0], [0] * 9],
    ]
    prompt = processor.prompt_batch([processor.text_prompt(t) for t in ("桥建于", "a")])
    assert prompt["position_ids"][:, :, -1].tolist() == [[6, 0], [5, 0]]
    assert prompt["position_step"].tolist() == [1, 0]


@pytest.mark.parametrize(("text", "position"), [("a[MASK]b", 3), ("a[sMASK]b", 3), ("[sMASK]a[MASK]", 1), ("a", 3)])
def test_the_first_mask_of_any_kind_gives_the_position(short, text, position):
    source = short.source(text)
    assert source[position] in (MASK, SMASK, GMASK) and source[-2] == GMASK
    batch = short.training_batch([short.row(source, short.target("a"))])
    assert set(batch["position_ids"][0, 0, len(source) :]) == {position}


def test_long_sources_lose_their_beginning(tokenizer):
    text = "桥建于哪一年"
    ids = tokenizer.text_ids(text)
    assert len(ids) == 4
    exact, tight = GLMProcessor(tokenizer, 7, 6), GLMProcessor(tokenizer, 5, 6)
    assert exact.source(text) == [CLS, *ids, GMASK, END]
    assert tight.source(text) == [CLS, *ids[-2:], GMASK, END]
    assert len(tight.source(text)) == tight.src_length
    assert (exact.truncated, tight.truncated) == ({"source": 0, "target": 0}, {"source": 2, "target": 0})


def test_long_targets_lose_their_end(tokenizer):
    """A text keeps T - 2 tokens: its last column is the reference's, which trains nothing."""
    text = "桥建于哪一年"
    ids = tokenizer.text_ids(text)
    exact, tight = GLMProcessor(tokenizer, 8, 6), GLMProcessor(tokenizer, 8, 5)
    assert exact.target(text) == [*ids, EOP]
    assert tight.target(text) == [*ids[:3], EOP]
    assert (exact.truncated, tight.truncated) == ({"source": 0, "target": 0}, {"source": 0, "target": 1})


def test_empty_texts(short):
    assert short.source("") == [CLS, GMASK, END]
    assert short.target("") == [EOP]
    batch = short.training_batch([short.row(short.source(""), short.target(""))])
    assert batch["input_ids"].tolist() == [[CLS, GMASK, END, SOP]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, IGNORED, EOP]]


def test_the_reference_layout(tokenizer):
    """Every column of a real token holds what the reference's layout, padded to S + T, has there."""
    from tiny_glm import random_pairs, reference_layout

    pairs = random_pairs(tokenizer, [(5, 3), (1, 8), (12, 1), (7, 7)])
    processor = GLMProcessor(tokenizer, 20, 14)
    batch = processor.training_batch([processor.row(*pair) for pair in pairs])
    wanted = reference_layout(tokenizer, pairs, 20, 14)
    for row, (source, target) in enumerate(pairs):
        ours = [*range(len(source) + len(target))]
        theirs = [*range(len(source)), *range(20, 20 + len(target))]
        assert np.array_equal(batch["input_ids"][row, ours], wanted["input_ids"][row, theirs])
        assert np.array_equal(batch["position_ids"][row][:, ours], wanted["position_ids"][row][:, theirs])
        trained = batch["labels"][row] >= 0
        assert np.flatnonzero(trained).tolist() == ours[len(source) :]
        assert np.array_equal(batch["labels"][row][trained], wanted["labels"][row][wanted["loss_mask"][row] > 0])


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((3, 10), "src_length is 3; three tokens of frame and some text need at least 4"),
        ((10, 2), "tgt_length is 2; some text and the end token need at least 3"),
    ],
)
def test_lengths_that_are_too_short(tokenizer, lengths, message):
    with pytest.raises(UsageError, match=message):
        GLMProcessor(tokenizer, *lengths)


def largest_position(processor: GLMProcessor) -> int:
    """Of a source that fills src_length: in training, and after tgt_length generated tokens."""
    source, target = processor.source("a" * 50), processor.target("a" * 50)
    trained = processor.training_batch([processor.row(source, target)])["position_ids"].max()
    prompt = processor.prompt_batch([processor.text_prompt("a" * 50)])
    generated = prompt["position_ids"][0, :, -1] + prompt["position_step"] * (processor.tgt_length - 1)
    return int(max(trained, prompt["position_ids"].max(), generated.max()))


@pytest.mark.parametrize("no_block_position", [False, True])
@pytest.mark.parametrize("lengths", [(12, 7), (7, 12)])
def test_lengths_beyond_the_models_positions(tokenizer, lengths, no_block_position):
    """Refused as soon as one position would not fit, and no earlier."""
    processor = GLMProcessor(tokenizer, *lengths, no_block_position)
    largest = largest_position(processor)
    processor.check_fits(384, largest)
    message = f"src_length {lengths[0]} and tgt_length {lengths[1]} need position {largest}, and the model ends at"
    with pytest.raises(UsageError, match=message):
        processor.check_fits(384, largest - 1)


def test_a_tokenizer_larger_than_the_model(tokenizer, short):
    short.check_fits(384, 1024)
    with pytest.raises(GLMError, match="the tokenizer has 384 tokens and the model's vocabulary 383 rows"):
        short.check_fits(383, 1024)
