"""Indexed data sets as samples to pretrain on: which files, which split of them, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from glm.datasets.blend import blend_index, member_samples, normalised
from glm.datasets.gpt_index import EpochPlan, GPTIndex, build_index, split_ranges
from glm.datasets.index_cache import IndexCache
from glm.datasets.indexed import IndexedDataset, beside, without_ending
from glm.errors import GLMError, UsageError
from glm.files.checksum import sample, sha256

CACHE_FOLDER = "index-cache"
_FORMS = "one prefix, a folder, or a weight before each prefix"


class Source:
    """One indexed data set of a run.

    Args:
        prefix: the path of its two files without ending.
        weight: its share of a blend; None for a data set alone, whose samples are not blended.
    """

    def __init__(self, prefix: str | Path, weight: float | None = None):
        self.data, self.weight = IndexedDataset(prefix), weight

    @property
    def prefix(self) -> Path:
        return self.data.prefix

    @cached_property
    def index_file(self) -> dict[str, Any]:
        """What tells its .idx from another, and from an earlier one of the same name."""
        path = beside(self.prefix, ".idx")
        stat = path.stat()
        return {"bytes": stat.st_size, "changed": stat.st_mtime_ns, "sha256": sha256(path)}

    @cached_property
    def digest(self) -> str:
        """Of all of .idx, and of the size and samples of .bin: the same wherever the files lie."""
        ids = hashlib.sha256(sample(beside(self.prefix, ".bin"))).hexdigest()
        return f"{self.index_file['sha256'][:8]}-{ids[:8]}"


def open_sources(words: Sequence[str]) -> list[Source]:
    """The data sets that --input_dir names.

    Args:
        words: one prefix; a folder, of which every prefix has the same weight; or weights and prefixes by turns. One
            word may hold all, with blanks between them.

    Raises:
        UsageError: something else.
        GLMError: no such data set, or one that is damaged.
    """
    words = list(words)
    if len(words) == 1 and not _exists(words[0]):
        words = words[0].split() or words
    if len(words) > 1:
        return _weighted(words)
    if not Path(words[0]).is_dir():
        return [Source(words[0])]
    prefixes = sorted(without_ending(path) for path in Path(words[0]).glob("*.idx"))
    if not prefixes:
        raise GLMError(f"input_dir {words[0]} holds no .idx file: make one there with preprocess_data.py")
    return [Source(prefix, 1.0) for prefix in prefixes] if len(prefixes) > 1 else [Source(prefixes[0])]


def content_of(sources: Sequence[Source]) -> str:
    """What samples are made of: the data sets' digests, with their shares where they are blended."""
    if sources[0].weight is None:
        return sources[0].digest
    shares = normalised([source.weight for source in sources])
    return ", ".join(f"{share:g} {source.digest}" for share, source in zip(shares, sources, strict=True))


def _exists(word: str) -> bool:
    return Path(word).is_dir() or beside(without_ending(word), ".idx").is_file()


def _weighted(words: Sequence[str]) -> list[Source]:
    if len(words) % 2:
        raise UsageError(f"input_dir has {len(words)} words ({' '.join(words)}), and must be {_FORMS}")
    sources = []
    for weight, prefix in zip(words[::2], words[1::2], strict=True):
        try:
            sources.append(Source(prefix, float(weight)))
        except ValueError:
            raise UsageError(f"input_dir has {weight!r} in the place of a weight, and must be {_FORMS}") from None
    normalised([source.weight for source in sources])
    return sources


@dataclass(frozen=True)
class SampleSettings:
    """What the samples of a split are made with.

    Attributes:
        split: shares of training, validation and test.
        max_length: S, tokens of a sample that are trained.
        seed: of the order.
        vocab_size: ids of the model; others are refused when they are read.
        cache: the folder of the indices; beside each data set unless given.
    """

    split: str
    max_length: int
    seed: int
    vocab_size: int
    cache: str | None = None


class Member:
    """The samples of a split of one data set, endlessly: its sequences are repeated as often as they are needed."""

    def __init__(self, source: Source, name: str, settings: SampleSettings):
        self.source, self.name, self.settings = source, name, settings
        self.sequences = split_ranges(settings.split, len(source.data))[name]
        if not self.sequences:
            raise UsageError(
                f"split {settings.split} leaves no document for {name} of the {len(source.data)} in {source.prefix}: "
                "choose other shares, or data with more documents"
            )
        lengths = source.data.lengths[self.sequences.start : self.sequences.stop]
        self.tokens = int(lengths.sum(dtype=np.int64))
        if not self.tokens:
            raise GLMError(f"{source.prefix}: the {len(self.sequences)} documents for {name} hold 0 tokens")
        self.index: GPTIndex | None = None

    @property
    def samples_of_a_pass(self) -> int:
        """Samples that read every token once; 1 where the tokens fill none."""
        return max(1, EpochPlan(self.tokens, self.settings.max_length, 1).samples(1))

    def build(self, wanted: int) -> None:
        """Opens its index, which is built where the cache has none."""
        settings, sequences = self.settings, self.sequences
        what = {
            "kind": "GPTDataset 1",
            "prefix": self.source.prefix.name,
            "index_file": self.source.index_file,
            "split": self.name,
            "sequences": [sequences.start, sequences.stop],
            "max_length": settings.max_length,
            "samples": wanted,
            "seed": settings.seed,
        }
        lengths = self.source.data.lengths
        folder = Path(settings.cache) if settings.cache else self.source.prefix.parent / CACHE_FOLDER
        arrays = IndexCache(folder).arrays(
            what, lambda: vars(build_index(lengths, sequences, settings.max_length, wanted, settings.seed))
        )
        self.index = GPTIndex(**arrays)

    def __getitem__(self, number: int) -> np.ndarray:
        """[S + 1] int64, the sample in this place of the order. Raises GLMError for ids that the model lacks."""
        index = self.index
        row = int(index.shuffle[number])
        (first, offset), (last, end) = index.sample[row].tolist(), index.sample[row + 1].tolist()
        places = index.document[first : last + 1].tolist()
        parts = [self.source.data.read(place) for place in places]
        parts[-1] = parts[-1][: end + 1]
        parts[0] = parts[0][offset:]
        ids = np.concatenate(parts).astype(np.int64)
        self._check(ids, places)
        return ids

    def _check(self, ids: np.ndarray, places: Sequence[int]) -> None:
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= self.settings.vocab_size:
            wrong = highest if highest >= self.settings.vocab_size else lowest
            raise GLMError(
                f"{self.source.prefix} has the token id {wrong} in its sequences {places[0]} to {places[-1]}, and the "
                f"model has the ids 0 to {self.settings.vocab_size - 1}: make the data with the model's tokenizer"
            )


class Samples(Sequence[np.ndarray]):
    """So many samples of a split, of one data set or blended of several.

    Attributes:
        tokens: of the split, in all data sets together.

    Args:
        sources: the data sets.
        name: train, valid or test.
        wanted: how many samples; unless given those that read every token of the split once.

    Raises:
        UsageError: a split without a document.
        GLMError: of the indices' cache.
    """

    def __init__(self, sources: Sequence[Source], name: str, settings: SampleSettings, wanted: int | None = None):
        self.members = [Member(source, name, settings) for source in sources]
        self.name, self.settings = name, settings
        self.tokens = sum(member.tokens for member in self.members)
        self.samples_of_a_pass = sum(member.samples_of_a_pass for member in self.members)
        self._count = self.samples_of_a_pass if wanted is None else wanted
        self._blend = None

    def take(self, count: int) -> Samples:
        """So many samples instead, before they are built."""
        self._count = count
        return self

    def build(self) -> Samples:
        """Opens the indices, and builds those that are not there; errors of `IndexCache`."""
        counts = [len(self)]
        if self.members[0].source.weight is not None:
            self._blend, counts = self._blended()
        for member, count in zip(self.members, counts, strict=True):
            member.build(count)
        return self

    def _blended(self) -> tuple[tuple[np.ndarray, np.ndarray], list[int]]:
        weights = normalised([member.source.weight for member in self.members])
        what = {"kind": "blend 1", "weights": weights, "samples": len(self)}
        first, settings = self.members[0].source.prefix.parent, self.settings
        cache = IndexCache(Path(settings.cache) if settings.cache else first / CACHE_FOLDER)
        arrays = cache.arrays(what, lambda: blend_index(weights, len(self)))
        blend = arrays["dataset"], arrays["sample"]
        return blend, member_samples(weights, len(self), blend[0])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> np.ndarray:
        """[S + 1] int64."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        if self._blend is None:
            return self.members[0][number]
        dataset, sample = self._blend
        return self.members[int(dataset[number])][int(sample[number])]
