"""Pairs of answers as the trainer takes them, with the reference's log-probabilities, and batches of them.

Shapes: N pairs of a split, B of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from glm.distributed.processes import digest
from glm.encoding.batches import Batch
from glm.encoding.preference import PreferenceRow, preference_batch
from glm.encoding.preference_dataset import PreferenceDataset
from glm.encoding.processor import Processor

Referred = tuple[PreferenceRow, np.ndarray | None]  # a pair, and the reference's sums [2] of its answers


class PreferencePairs:
    """The pairs of a split by what `EpochSampler` yields: (number, share).

    Args:
        encoded: the pairs.

    Attributes:
        reference: [N, 2] float32, the reference's log-probabilities of the chosen and of the rejected answers; None
            where there is none, or where it is computed as the pairs come.
    """

    unit = PreferenceDataset.unit

    def __init__(self, encoded: PreferenceDataset):
        self.encoded = encoded
        self.reference: np.ndarray | None = None

    @property
    def mean_tokens(self) -> float:
        return self.encoded.mean_tokens

    @property
    def sizes(self) -> np.ndarray:
        return self.encoded.sizes

    @cached_property
    def digest(self) -> str:
        """What tells these pairs, as they are encoded, from others."""
        arrays = (np.array([row.prompt_length, row.chosen_length, *row.ids], "int32") for row in self.encoded)
        return digest(*(array.tobytes() for array in arrays))

    def trained_tokens(self, index: int) -> int:
        return self.encoded.trained_tokens(index)

    def pair(self, index: int) -> Referred:
        """One of them."""
        return self.encoded[index, 1.0][0], None if self.reference is None else self.reference[index]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, key: tuple[int, float]) -> tuple[Referred, float]:
        index, share = key
        return self.pair(index), share


class PairProcessor:
    """Batches of pairs; the tokenizer is kept for the run's directories."""

    def __init__(self, processor: Processor):
        self._processor = processor

    def training_batch(self, pairs: Sequence[Referred]) -> Batch:
        """What `preference_batch` gives, and `reference` [B, 2] where the pairs have one."""
        rows, references = zip(*pairs, strict=True)
        given = {} if references[0] is None else {"reference": np.stack(references)}
        return preference_batch(self._processor, rows) | given

    def save_pretrained(self, directory: str | Path) -> None:
        self._processor.save_pretrained(directory)
