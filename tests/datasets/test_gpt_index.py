"""The indices of pretraining's samples: written-down values, PaddleNLP's functions, and the definition."""

import numpy as np
import pytest
from paddlenlp.data import causal_dataset as paddlenlp

from glm.datasets.gpt_index import EpochPlan, build_index, sample_index, shuffle_dtype, split_ranges
from glm.errors import UsageError

GOLDENS = {
    (3, 1234): ([0, 1, 2], [[0, 0], [0, 4], [2, 0], [2, 4]], [1, 2, 0]),
    (9, 1234): (
        [2, 2, 1, 0, 1, 1, 2, 0, 0],
        [[0, 0], [0, 4], [1, 1], [1, 5], [2, 2], [3, 3], [4, 2], [6, 0], [6, 4], [7, 1], [8, 0], [8, 4]],
        [9, 3, 5, 10, 4, 8, 0, 2, 6, 7, 1],
    ),
    (20, 42): (
        [0, 1, 2, 2, 0, 1, 1, 0, 2, 2, 0, 2, 1, 0, 1, 1, 2, 0],
        None,
        [17, 13, 4, 10, 14, 7, 6, 3, 2, 16, 8, 15, 12, 18, 9, 19, 0, 21, 5, 11, 1, 20],
    ),
}


@pytest.mark.parametrize(("wanted", "seed"), GOLDENS)
def test_written_down_values(wanted, seed):
    """Documents of 5, 3 and 7 tokens, samples of 4."""
    document, sample, shuffle = GOLDENS[wanted, seed]
    index = build_index(np.array([5, 3, 7], np.int32), range(3), 4, wanted, seed)
    assert index.document.tolist() == document
    assert index.shuffle.tolist() == shuffle
    assert len(index.sample) == len(shuffle) + 1
    assert sample is None or index.sample.tolist() == sample
    assert (index.document.dtype, index.sample.dtype, index.shuffle.dtype) == (np.int32, np.int32, np.uint32)


def paddlenlps(lengths: np.ndarray, documents: np.ndarray, max_length: int, wanted: int, seed: int) -> tuple:
    """Whether its last epoch is separate, and its three indices."""
    tokens = paddlenlp._num_tokens(documents, lengths)
    epochs = paddlenlp._num_epochs(tokens, max_length, wanted)
    before = ((epochs - 1) * tokens - 1) // max_length
    separate = epochs > 1 and wanted - before < int(0.80 * ((tokens - 1) // max_length))
    draw = np.random.RandomState(seed)
    document = paddlenlp._build_doc_idx(documents, epochs, draw, separate)
    sample = paddlenlp._build_sample_idx(lengths, document, max_length, epochs, tokens)
    count = len(sample) - 1
    shuffle = paddlenlp._build_shuffle_idx(before if separate else count, count, draw)
    return separate, document, sample, shuffle


def test_paddlenlps_functions_give_the_same():
    """Documents shorter than a sample, of one token and of none, a part of the data set, several epochs."""
    draw, kinds = np.random.default_rng(0), set()
    for case in range(300):
        lengths = draw.integers(draw.integers(0, 2), draw.integers(2, 40), draw.integers(1, 30)).astype(np.int32)
        first = int(draw.integers(0, len(lengths)))
        sequences = range(first, int(draw.integers(first, len(lengths))) + 1)
        if lengths[sequences.start : sequences.stop].sum() < 2:
            continue
        max_length, wanted = int(draw.integers(1, 50)), int(draw.integers(1, 60))
        documents = np.arange(sequences.start, sequences.stop, dtype=np.int32)
        separate, *theirs = paddlenlps(lengths, documents, max_length, wanted, case)
        ours = build_index(lengths, sequences, max_length, wanted, case)
        for name, array in zip(("document", "sample", "shuffle"), theirs, strict=True):
            np.testing.assert_array_equal(getattr(ours, name), array, err_msg=f"{name} of case {case}")
        plan = EpochPlan(int(lengths[documents].sum()), max_length, wanted)
        kinds.add((plan.epochs > 1, separate))
        assert plan.separate_last == separate
    assert kinds == {(False, False), (True, False), (True, True)}


def test_samples_are_the_tokens_behind_one_another():
    """By the definition: sample i is tokens i·S to (i + 1)·S of the sequences, and every sample comes once."""
    lengths = np.array([3, 0, 1, 9, 0, 2], np.int32)
    index = build_index(lengths, range(1, 6), 4, 13, 7)
    row = [(place, at) for place, number in enumerate(index.document) for at in range(lengths[number])]
    assert sorted(index.shuffle) == list(range(len(index.sample) - 1))
    assert [tuple(begin) for begin in index.sample[1:].tolist()] == [row[4 * i] for i in range(1, len(index.sample))]
    assert set(index.document) == set(range(1, 6))


def test_beyond_two_to_the_31_tokens():
    """By arithmetic: sequences of 2³¹ − 1 tokens, so that places and sums need 64 bits."""
    longest = np.iinfo(np.int32).max
    lengths, document = np.array([longest, 5, longest], np.int32), np.array([2, 1, 0, 2], np.int32)
    max_length = 1 << 22
    samples = EpochPlan(3 * longest + 5, max_length, 1).samples(1)
    assert samples * max_length > 2**32
    index = sample_index(lengths, document, max_length, samples)
    ends = [longest, longest + 5, 2 * longest + 5, 3 * longest + 5]
    for number in (0, 1, 511, 512, 513, 1023, 1024, 1025, samples):
        token = number * max_length
        place = next(place for place, end in enumerate(ends) if token < end)
        assert index[number].tolist() == [place, token - (ends[place - 1] if place else 0)], number
    assert EpochPlan(3 << 40, 8192, 1 << 40).epochs == -(-((1 << 53) + 1) // (3 << 40))
    assert shuffle_dtype(2**32 - 3) is np.uint32 and shuffle_dtype(2**32 - 2) is np.int64


@pytest.mark.parametrize(
    ("split", "count", "ends"),
    [
        ("949,50,1", 1000, [949, 999, 1000]),
        ("949,50,1", 7, [7, 7, 7]),
        ("1,0,0", 5, [5, 5, 5]),
        ("0.8 0.1 0.1", 15, [12, 14, 15]),
        ("1/1", 5, [2, 5, 5]),
        ("100", 3, [3, 3, 3]),
    ],
)
def test_splits(split, count, ends):
    ranges = split_ranges(split, count)
    assert list(ranges) == ["train", "valid", "test"]
    assert [part.stop for part in ranges.values()] == ends
    assert [part.start for part in ranges.values()] == [0, *ends[:-1]]


@pytest.mark.parametrize("split", ["", "a,b", "1,2,3,4", "0,0,0", "-1,2", "inf", "1,,2"])
def test_splits_that_are_none(split):
    with pytest.raises(UsageError, match="and must be shares of training, validation and test"):
        split_ranges(split, 10)
