"""A split of a data set as a run keeps it: encoded, in arrays instead of lists. Needs no framework."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from glm.encoding.examples import Example, TrainingExample
from glm.encoding.processor import Processor
from glm.errors import GLMError

T, Encoded = TypeVar("T"), TypeVar("Encoded")
SharedExample = tuple[TrainingExample, float]  # a row, and the share of each of its trained tokens in its step's loss


class FlatRows(Sequence[TrainingExample]):
    """Rows behind each other in flat arrays, five bytes per token: an int32 id and a flag. As lists it is 44.

    A slice is a view of the same arrays.
    """

    def __init__(self):
        self._ids, self._trained = array("i"), bytearray()
        self._ends, self._prefixes, self._cut = array("q", [0]), array("i"), bytearray()
        self._places = range(0)

    def extend(self, rows: Iterable[TrainingExample]) -> None:
        """Adds rows; not to a slice."""
        for row in rows:
            self._ids.extend(row.ids)
            self._trained.extend(row.trained)
            self._ends.append(len(self._ids))
            self._prefixes.append(row.prefix_length)
            self._cut.append(row.cut)
        self._places = range(len(self._prefixes))

    @property
    def tokens(self) -> int:
        """Of all rows together."""
        return sum(self._ends[place + 1] - self._ends[place] for place in self._places)

    @property
    def columns(self) -> np.ndarray:
        """[rows] int64, columns that each row takes in a batch: all tokens but the last, which is nothing's context."""
        return np.diff(np.frombuffer(self._ends, dtype="int64"))[self._places] - 1

    def trained_tokens(self, index: int) -> int:
        """Those of a row, without making it."""
        place = self._places[index]
        return self._trained.count(1, self._ends[place] + 1, self._ends[place + 1])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int | slice) -> TrainingExample | FlatRows:
        if isinstance(index, slice):
            view = copy(self)
            view._places = self._places[index]
            return view
        place = self._places[index]
        part = slice(self._ends[place], self._ends[place + 1])
        trained = list(map(bool, self._trained[part]))
        return TrainingExample(self._ids[part].tolist(), trained, self._prefixes[place], bool(self._cut[place]))


def encode_each(
    examples: Sequence[T], encode: Callable[[T], Encoded], skip_bad_rows: bool, bad: list[str]
) -> Iterator[tuple[T, Encoded]]:
    """Examples and what `encode` makes of them; what is wrong with those that it refuses goes to `bad`.

    Raises:
        GLMError: the first refusal, unless `skip_bad_rows` leaves others over.
    """
    some = tqdm(examples, desc="encode", unit=" rows", leave=False, disable=len(examples) < 20000)
    for number, example in enumerate(some, 1):
        try:
            encoded = encode(example)
        except GLMError as error:
            bad.append(f"row {number} of {len(examples)}: {error}")
            if skip_bad_rows and len(bad) < len(examples):
                continue
            raise type(error)(bad[0] + ("" if skip_bad_rows else " (or pass --skip_bad_rows)")) from None
        yield example, encoded


class EncodedDataset:
    """Encoded rows, beside the examples they come from; a conversation may give several rows.

    Attributes:
        examples: all that the model has a place for.
        rows: those in which something is trained, in flat arrays; src_length and tgt_length cut others too short.
        prompts: what the model reads to answer each example; [] if they were not asked for.
        left_out: why examples or rows were left out, in words; empty if none were.
        counts: what else was left out of the examples, by its name in words (glm/encoding/examples.py).

    Args:
        skip_bad_rows: leave out examples that the model has no place for, such as those with a role it does not know.

    Raises:
        GLMError: such an example, or nothing is left to train.
    """

    unit = "rows"  # what a batch is counted in

    def __init__(
        self, examples: Sequence[Example], processor: Processor, with_prompts: bool = False, skip_bad_rows: bool = False
    ):
        self.examples: list[Example] = []
        self.prompts: list[list[int]] = []
        self.rows, count = FlatRows(), 0
        bad: list[str] = []
        before, without_answer = Counter(processor.counts), 0

        def encode(example: Example) -> tuple[list[TrainingExample], list[int]]:
            rows = processor.rows(example)
            return rows, processor.prompt(example) if with_prompts and rows else []

        for example, (encoded, prompt) in encode_each(examples, encode, skip_bad_rows, bad):
            without_answer += not encoded
            if encoded:
                count += len(encoded)
                self.rows.extend(row for row in encoded if row.trained_tokens)
                self.prompts.append(prompt)
                self.examples.append(example)
        lengths = f"src_length {processor.src_length} and tgt_length {processor.tgt_length}"
        if not count:
            why = f"{len(bad)} bad, {without_answer} whose answers are empty"
            raise GLMError(f"nothing is left to train of {len(examples)} rows: {why}")
        if not self.rows:
            raise GLMError(f"{lengths} leave no trained token in any of {count} rows: choose longer ones")
        short = count - len(self.rows)
        self.left_out = [f"{len(bad)} bad, the first is {why}" for why in bad[:1]]
        self.left_out += [f"{without_answer} whose answers are empty"] if without_answer else []
        self.left_out += [f"{short} in which {lengths} leave no trained token"] if short else []
        self.counts = processor.counts - before

    @property
    def mean_tokens(self) -> float:
        """Tokens of a row, on average."""
        return self.rows.tokens / len(self.rows)

    @property
    def sizes(self) -> np.ndarray:
        """[rows] int64, rows in each row, which are more in a pack (glm/encoding/packing.py)."""
        return np.ones(len(self.rows), dtype="int64")

    def trained_tokens(self, index: int) -> int:
        """Of a row."""
        return self.rows.trained_tokens(index)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, float]) -> SharedExample:
        """A row by what `EpochSampler` yields: its number and its tokens' share."""
        index, share = key
        return self.rows[index], share
