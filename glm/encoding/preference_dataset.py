"""Pairs of answers as a run keeps them: encoded, in arrays instead of lists. Needs no framework."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from glm.encoding.dataset import FlatRows, encode_each
from glm.encoding.examples import TrainingExample
from glm.encoding.preference import PreferenceExample, PreferenceRow, encode_preference
from glm.encoding.processor import Processor
from glm.errors import GLMError, UsageError

SharedPreference = tuple[PreferenceRow, float]  # a pair, and its share in its step's loss


class PreferenceRows(Sequence[PreferenceRow]):
    """Encoded pairs behind each other in flat arrays (glm/encoding/dataset.py)."""

    def __init__(self):
        self._rows, self._lengths = FlatRows(), array("i")

    def append(self, row: PreferenceRow) -> None:
        self._rows.extend([TrainingExample(row.ids, row.trained, row.prefix_length)])
        self._lengths.extend((row.prompt_length, row.chosen_length))

    @property
    def columns(self) -> np.ndarray:
        """[pairs] int64, columns that each takes in a batch."""
        return self._rows.columns

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PreferenceRow:
        place = range(len(self))[index]
        row, (prompt, chosen) = self._rows[place], self._lengths[2 * place : 2 * place + 2]
        return PreferenceRow(row.ids, row.trained, prompt, chosen, row.prefix_length)


class PreferenceDataset:
    """Encoded pairs; in the place of an `EncodedDataset`, whose row is a pair here.

    Attributes:
        rows: those that the lengths leave whole.
        left_out: why pairs were left out, in words; empty if none were.
        counts: what else was left out of the answers, by its name in words (glm/encoding/examples.py).

    Args:
        max_length: most columns of prompt and both answers together, None for as many as src_length and tgt_length
            allow.
        skip_bad_rows: leave out bad pairs, such as those whose prompt leaves no room for an answer.

    Raises:
        GLMError: a bad pair, or nothing is left to train.
    """

    unit = "pairs"

    def __init__(
        self,
        examples: Sequence[PreferenceExample],
        processor: Processor,
        max_length: int | None = None,
        skip_bad_rows: bool = False,
    ):
        self.rows, bad, before = PreferenceRows(), [], Counter(processor.counts)

        def encode(example: PreferenceExample) -> PreferenceRow | None:
            try:
                return encode_preference(processor, example)
            except GLMError as error:
                raise type(error)(f"{example.place}: {error}" if example.place else str(error)) from None

        cut, long = 0, []
        for _, row in encode_each(examples, encode, skip_bad_rows, bad):
            if row is None:
                cut += 1
            elif max_length is not None and row.columns > max_length:
                long.append(row.columns)
            else:
                self.rows.append(row)
        lengths = f"src_length {processor.src_length} and tgt_length {processor.tgt_length}"
        reasons = [
            *([f"{len(bad)} bad, the first is {bad[0]}"] if bad else []),
            *([f"{cut} that {lengths} would cut"] if cut else []),
            *([f"{len(long)} longer than max_length {max_length}, the longest has {max(long)} tokens"] if long else []),
        ]
        self.left_out, self.counts = reasons, processor.counts - before
        if not self.rows:
            raise UsageError(f"nothing is left to train of {len(examples)} pairs: {'; '.join(reasons)}")

    @property
    def mean_tokens(self) -> float:
        """Tokens of a pair, on average, the prompt counted once."""
        return float((self.rows.columns + 1).mean())

    @property
    def sizes(self) -> np.ndarray:
        """[pairs] int64, ones: no packs."""
        return np.ones(len(self.rows), dtype="int64")

    def trained_tokens(self, index: int) -> int:
        """What a pair counts in the mean of its step, as a row counts its tokens: every pair the same."""
        return 1

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PreferenceRow]:
        return iter(self.rows)

    def __getitem__(self, key: tuple[int, float]) -> SharedPreference:
        """A pair by what `EpochSampler` yields: its number and its share."""
        index, share = key
        return self.rows[index], share
