"""Which tokens make a sample of pretraining, and in which order: Megatron's document, sample and shuffle indices.

Source: NVIDIA/Megatron-LM, megatron/core/datasets/gpt_dataset.py and helpers.cpp; PaddleNLP's causal_dataset gives the
same. The sequences of a split, E times, in a drawn order, are one row of tokens; a sample is S + 1 of them, the last of
which is the first of the next sample. The order depends on lengths, split, S, the number of samples and the seed alone.
"""

import re
from dataclasses import dataclass
from itertools import accumulate
from math import inf

import numpy as np

from glm.errors import UsageError

SPLITS = ("train", "valid", "test")
SEPARATE_BELOW = 0.80  # of an epoch's samples: a last epoch of which less is needed is shuffled by itself
_SAMPLES_AT_ONCE = 1 << 22


def split_ranges(split: str, count: int) -> dict[str, range]:
    """The sequences of each split: shares such as "949,50,1", rounded where they end.

    Args:
        count: sequences of the data set.

    Raises:
        UsageError: shares that are no numbers, more than three, or nothing.
    """
    shares = _shares(split)
    whole = sum(shares)
    ends = [round(share * count) for share in accumulate(share / whole for share in shares)]
    ends += [ends[-1]] * (len(SPLITS) - len(ends))
    return dict(zip(SPLITS, map(range, [0, *ends], ends), strict=False))


def _shares(split: str) -> list[float]:
    words = re.split(r"\s*[,/]\s*|\s+", split.strip())
    try:
        shares = [float(word) for word in words]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= len(SPLITS) or min(shares) < 0 or not 0 < sum(shares) < inf:
        raise UsageError(f"split is {split!r}, and must be shares of training, validation and test, such as 949,50,1")
    return shares


@dataclass(frozen=True)
class EpochPlan:
    """How often sequences are repeated for so many samples.

    Args:
        tokens: of all sequences of the split together, T.
        max_length: S, tokens of a sample that are trained; it has one more.
        wanted: samples, N.
    """

    tokens: int
    max_length: int
    wanted: int

    @property
    def epochs(self) -> int:
        """E, the fewest with E·T ≥ N·S + 1."""
        return -(-(self.wanted * self.max_length + 1) // self.tokens)

    def samples(self, epochs: int | None = None) -> int:
        """Whole samples of so many epochs; of all unless given."""
        epochs = self.epochs if epochs is None else epochs
        return max(0, (epochs * self.tokens - 1) // self.max_length)

    @property
    def separate_last(self) -> bool:
        """Whether the last epoch is shuffled by itself."""
        last = self.wanted - self.samples(self.epochs - 1)
        return self.epochs > 1 and last < int(SEPARATE_BELOW * self.samples(1))


@dataclass(frozen=True)
class GPTIndex:
    """The order of the samples.

    Attributes:
        document: int32 [E · sequences], sequences behind one another.
        sample: int32 or int64 [samples + 1, 2], the place in `document` and the token of it where each sample begins;
            it ends where the next one begins, that token included.
        shuffle: uint32 or int64 [samples], the samples in the order in which they are trained.
    """

    document: np.ndarray
    sample: np.ndarray
    shuffle: np.ndarray


def build_index(lengths: np.ndarray, sequences: range, max_length: int, wanted: int, seed: int) -> GPTIndex:
    """The index of at least `wanted` samples.

    Args:
        lengths: [N] int32, tokens of each sequence of the data set.
        sequences: those of the split; they have tokens.
        max_length: S.
        seed: of the order, 0 to 2³² − 1.
    """
    tokens = int(lengths[sequences.start : sequences.stop].sum(dtype=np.int64))
    plan, random = EpochPlan(tokens, max_length, wanted), np.random.RandomState(seed)
    document = document_index(sequences, plan, random)
    sample = sample_index(lengths, document, max_length, plan.samples())
    return GPTIndex(document, sample, shuffle_index(plan, random))


def document_index(sequences: range, plan: EpochPlan, random: np.random.RandomState) -> np.ndarray:
    """[E · sequences] int32."""
    parts = [plan.epochs - 1, 1] if plan.separate_last else [plan.epochs]
    ids = np.arange(sequences.start, sequences.stop, dtype=np.int32)
    drawn = [np.tile(ids, epochs) for epochs in parts]
    for part in drawn:
        random.shuffle(part)
    return np.concatenate(drawn)


def sample_index(lengths: np.ndarray, document: np.ndarray, max_length: int, samples: int) -> np.ndarray:
    """[samples + 1, 2]: sample i begins with token i·S of the sequences behind one another."""
    ends = np.cumsum(lengths[document], dtype=np.int64)
    dtype = np.int32 if max(len(document), int(lengths.max())) <= np.iinfo(np.int32).max else np.int64
    index = np.zeros([samples + 1, 2], dtype=dtype)
    for first in range(1, samples + 1, _SAMPLES_AT_ONCE):  # the first row is [0, 0] even if that sequence is empty
        tokens = np.arange(first, min(first + _SAMPLES_AT_ONCE, samples + 1), dtype=np.int64) * max_length
        places = np.searchsorted(ends, tokens, side="right")
        rows = index[first : first + len(tokens)]
        rows[:, 0], rows[:, 1] = places, tokens - np.where(places, ends[places - 1], 0)
    return index


def shuffle_index(plan: EpochPlan, random: np.random.RandomState) -> np.ndarray:
    """[samples]; the separate last epoch's behind the others."""
    samples = plan.samples()
    dtype = shuffle_dtype(samples)
    cut = plan.samples(plan.epochs - 1) if plan.separate_last else samples
    parts = [np.arange(cut, dtype=dtype), np.arange(cut, samples, dtype=dtype)]
    for part in parts:
        random.shuffle(part)
    return np.concatenate(parts)


def shuffle_dtype(samples: int) -> type:
    """Of the shuffle index."""
    return np.int64 if samples >= np.iinfo(np.uint32).max - 1 else np.uint32
