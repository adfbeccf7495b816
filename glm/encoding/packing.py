"""Several encoded rows in one: packs for training. Needs no framework.

Rows of a pack do not see each other and count their positions from 0 (`glm.encoding.batches.packed_batch`), so a pack
trains what its rows train by themselves. Only less of a batch is padding.
"""

from collections.abc import Sequence

import numpy as np

from glm.encoding.dataset import FlatRows
from glm.encoding.examples import TrainingExample
from glm.encoding.processor import Processor
from glm.errors import UsageError

DEFAULT_LENGTH = 2048  # PaddleNLP's
OPEN_PACKS = 256  # that a row may go into; a full buffer gives up the fullest
SharedPack = tuple[list[TrainingExample], float]  # rows, and the share of each trained token in its step's loss


def default_max_length(processor: Processor) -> int:
    """2,048, or the positions of a smaller model, and at least the longest row that src_length and tgt_length allow."""
    longest = processor.src_length + processor.tgt_length
    return max(longest, min(DEFAULT_LENGTH, processor.max_position))


def first_fit(columns: Sequence[int], max_length: int) -> list[list[int]]:
    """Packs of rows by their numbers: each row goes into the first open pack that has room for it.

    Rows come in an order that is drawn, always the same one: a file may be sorted, and packs should differ in what they
    hold as little as batches do.

    Args:
        columns: of each row, 1 to `max_length`.
    """
    packs, room = [[] for _ in range(OPEN_PACKS)], np.full(OPEN_PACKS, max_length)
    full = []
    for row in np.random.default_rng(0).permutation(len(columns)).tolist():
        needed = columns[row]
        slot = int((room >= needed).argmax())
        if room[slot] < needed:
            slot = int(room.argmin())
            full.append(packs[slot])
            packs[slot], room[slot] = [], max_length
        packs[slot].append(row)
        room[slot] -= needed
    return full + [pack for pack in packs if pack]


class PackedDataset:
    """Encoded rows in packs; in the place of an `EncodedDataset`, whose row is a pack here.

    The packs depend on the rows and `max_length` alone: they are the same in every epoch, at every number of replicas
    and in a run that resumes.

    Args:
        rows: those of an `EncodedDataset`.
        max_length: most columns of a pack.
        skip_bad_rows: leave out rows that are longer.

    Attributes:
        left_out: why rows were left out, in words; empty if none were.

    Raises:
        UsageError: rows are longer than `max_length`, all of them where `skip_bad_rows`.
    """

    unit = "packs"

    def __init__(self, rows: FlatRows, max_length: int, skip_bad_rows: bool = False):
        columns = rows.columns
        fitting, longest = np.flatnonzero(columns <= max_length), columns.max()
        long = len(columns) - len(fitting)
        too_long = f"longer than max_length {max_length}, the longest has {longest} tokens"
        if long and not (skip_bad_rows and len(fitting)):
            cure = f"choose --max_length {longest}, or a shorter --src_length or --tgt_length"
            skip = ", or pass --skip_bad_rows" if len(fitting) else ""
            verb = "is" if long == 1 else "are"
            raise UsageError(f"{long} of {len(columns)} rows {verb} {too_long}: {cure}{skip}")
        self.left_out = [f"{long} {too_long}"] if long else []
        self._rows, self.max_length = rows, max_length
        packs = first_fit(columns[fitting].tolist(), max_length)
        self.sizes = np.array([len(pack) for pack in packs])
        self._numbers, self._ends = fitting[np.concatenate(packs)], np.cumsum(self.sizes)
        self._columns = columns

    @property
    def real_share(self) -> float:
        """Of the packs' columns, if each had `max_length`, those of real tokens."""
        return float(self._columns[self._numbers].sum() / (len(self) * self.max_length))

    @property
    def mean_tokens(self) -> float:
        """Tokens of a pack, on average."""
        return float((self._columns[self._numbers] + 1).sum() / len(self))

    def rows(self, index: int) -> np.ndarray:
        """The numbers of a pack's rows."""
        if not 0 <= index < len(self):
            raise IndexError(f"pack {index} of {len(self)}")
        end = self._ends[index]
        return self._numbers[end - self.sizes[index] : end]

    def trained_tokens(self, index: int) -> int:
        """Of a pack."""
        return sum(self._rows.trained_tokens(row) for row in self.rows(index).tolist())

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, key: tuple[int, float]) -> SharedPack:
        """A pack by what `EpochSampler` yields: its number and its tokens' share."""
        index, share = key
        # A pack without a share is one that a resumed run passes over: a row of it will do.
        rows = self.rows(index)[: None if share else 1]
        return [self._rows[row] for row in rows.tolist()], share
