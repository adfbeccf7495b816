"""Samples of running text as the trainer takes them, and what it does with a tokenizer."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from paddle.io import Dataset

from glm.datasets.pretraining import Samples
from glm.encoding.batches import Batch
from glm.encoding.boundaries import Boundaries
from glm.encoding.processor import Processor


class RowProcessor:
    """Batches of rows of running text; the tokenizer is kept for the run's directories only."""

    def __init__(self, processor: Processor, boundaries: Boundaries):
        self._processor, self.boundaries = processor, boundaries

    def training_batch(self, rows: Sequence[np.ndarray]) -> Batch:
        """Inputs of `GLMForCausalLM.forward`, labels included, of rows [S + 1]."""
        return self.boundaries.batch(rows)

    def save_pretrained(self, directory: str | Path) -> None:
        self._processor.save_pretrained(directory)


class TrainingSamples(Dataset):
    """The samples of a run by what `SampleSampler` yields: (number, share)."""

    unit = "rows"  # what a batch is counted in

    def __init__(self, samples: Samples, boundaries: Boundaries):
        super().__init__()
        self.samples, self.boundaries = samples, boundaries

    @property
    def mean_tokens(self) -> float:
        """Tokens of a sample."""
        return float(self.samples.settings.max_length)

    def trained_tokens(self, rows: Iterable[int]) -> int:
        """Of these samples together; they are read only where some tokens of them are not trained."""
        if not self.boundaries.mask_loss:
            return len(list(rows)) * self.samples.settings.max_length
        return sum(self.boundaries.trained_tokens(self.samples[row]) for row in rows)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, float]) -> tuple[np.ndarray, float]:
        row, share = key
        return self.samples[row], share
