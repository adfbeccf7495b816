"""Indexed data sets of token ids, `{prefix}.bin` and `{prefix}.idx`: Megatron-LM's format, byte for byte.

Source: NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py. Little-endian, nothing is aligned:

    .idx  "MMIDIDX\\0\\0" | u64 version 1 | u8 element type | u64 N sequences | u64 D | i32 lengths [N], in elements
          | i64 offsets [N], bytes into .bin | i64 document index [D], the first sequence of each document, then N
    .bin  the elements of all sequences, one after another
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from glm.errors import GLMError
from glm.files.foreign_files import HEAD, stand_in

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
# 6 and 7 are float64 and float32, no ids. PaddleNLP adds 9 (uint32) and 10 (uint64), which Megatron cannot read.
DTYPES = {
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
CHUNK = 1 << 20  # sequences that are looked at together
_AGAIN = "copy both files again, or make them anew with preprocess_data.py"


def id_dtype(vocabulary_size: int) -> np.dtype:
    """The element type for ids of a vocabulary: uint16 below 65,500 ids, else int32, as Megatron's `optimal_dtype`."""
    return np.dtype("<u2") if vocabulary_size < 65500 else np.dtype("<i4")


def without_ending(prefix: str | Path) -> Path:
    """The prefix of a data set, which may be given by the name of one of its two files."""
    path = Path(prefix)
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def beside(prefix: Path, ending: str) -> Path:
    """`{prefix}{ending}`; a prefix may have dots of its own."""
    return prefix.with_name(prefix.name + ending)


class IndexedDataset(Sequence):
    """A data set on the disk, mapped into memory: only what is asked for is read.

    Args:
        prefix: the path of the two files without `.bin` and `.idx`.

    Attributes:
        prefix: the same, without an ending.
        dtype: of the ids.
        lengths: int32 [N], tokens of each sequence.
        offsets: int64 [N], where in `.bin` each begins, in bytes.
        document_index: int64 [D], the first sequence of each document, and N.
        token_count: of all sequences.

    Raises:
        GLMError: a file is missing, is of another kind, version or element type, is cut short, or belongs to another.
    """

    def __init__(self, prefix: str | Path):
        self.prefix = without_ending(prefix)
        self._index, self._bin = beside(self.prefix, ".idx"), beside(self.prefix, ".bin")
        self._require_files()
        self.dtype, count, documents = self._read_header()
        arrays = np.memmap(self._index, np.uint8, mode="r")
        self.lengths = np.frombuffer(arrays, "<i4", count, HEADER.size)
        self.offsets = np.frombuffer(arrays, "<i8", count, HEADER.size + 4 * count)
        self.document_index = np.frombuffer(arrays, "<i8", documents, HEADER.size + 12 * count)
        self._check_documents()
        size = self._check_offsets()
        if (found := self._bin.stat().st_size) != size:
            raise GLMError(f"{self._bin} has {found:,} bytes, {self._index.name} describes {size:,}: {_AGAIN}")
        self.token_count = size // self.dtype.itemsize
        self._ids = np.memmap(self._bin, self.dtype, mode="r") if size else np.empty(0, self.dtype)

    def __reduce__(self):
        return IndexedDataset, (self.prefix,)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        """The ids of a sequence, [T] of `dtype`. Raises IndexError."""
        return self.read(number)

    def read(self, number: int, offset: int = 0, length: int | None = None) -> np.ndarray:
        """`length` ids of a sequence from `offset` on, or all that follow; [T] of `dtype`, a view of the file.

        Raises:
            IndexError: there is no such sequence, or it has not that many ids.
        """
        have = int(self.lengths[number])
        length = have - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > have:
            raise IndexError(f"{self.prefix}: sequence {number} has {have} ids, not {length} from {offset} on")
        start = int(self.offsets[number]) // self.dtype.itemsize + offset
        return self._ids[start : start + length]

    def _require_files(self) -> None:
        for path, other in ((self._index, self._bin), (self._bin, self._index)):
            if path.is_file():
                continue
            if other.is_file():
                raise GLMError(f"{path} does not exist, though {other.name} does: {_AGAIN}")
            raise GLMError(f"{path} does not exist: pass the path of {{prefix}}.bin and {{prefix}}.idx without ending")
        if (mask := beside(self.prefix, ".lsm")).exists():
            raise GLMError(f"{mask} is PaddleNLP's loss mask, which is not read: move it away to train on every token")

    def _read_header(self) -> tuple[np.dtype, int, int]:
        with self._index.open("rb") as file:
            head = file.read(HEAD)
        if what := stand_in(head):
            raise GLMError(f"{self._index} {what}")
        if not head.startswith(MAGIC):
            raise GLMError(f"{self._index} begins with {head[:9]!r}, an indexed data set with {MAGIC!r}: {_AGAIN}")
        if len(head) < HEADER.size:
            raise GLMError(f"{self._index} has {len(head)} bytes, its header alone has {HEADER.size}: {_AGAIN}")
        _, version, code, count, documents = HEADER.unpack_from(head)
        if version != VERSION:
            raise GLMError(f"{self._index} is of version {version}, only version {VERSION} is known: make it anew")
        if code not in DTYPES:
            known = ", ".join(f"{code} {dtype.name}" for code, dtype in DTYPES.items())
            raise GLMError(f"{self._index} has elements of type {code}, ids are {known}: make it anew")
        self._check_index_size(count, documents)
        return DTYPES[code], count, documents

    def _check_index_size(self, count: int, documents: int) -> None:
        if not count:
            raise GLMError(f"{self._index} has no sequences: make it from data that holds text")
        want, found = HEADER.size + 12 * count + 8 * documents, self._index.stat().st_size
        if found == want + count:
            raise GLMError(f"{self._index} has modes, so it holds images beside text: only text is read")
        if found != want:
            sizes = f"{found:,} bytes; {count:,} sequences and {documents:,} entries of documents need {want:,}"
            raise GLMError(f"{self._index} has {sizes}: {_AGAIN}")

    def _check_documents(self) -> None:
        first, last = (int(self.document_index[at]) for at in (0, -1)) if len(self.document_index) else (None, None)
        if (first, last) != (0, len(self)):
            raise GLMError(f"{self._index}: documents from {first} to {last}, not 0 to {len(self):,}: {_AGAIN}")
        for part in chunks(self.document_index, CHUNK, overlap=1):
            if (part[1:] < part[:-1]).any():
                raise GLMError(f"{self._index}: the documents are not in order: {_AGAIN}")

    def _check_offsets(self) -> int:
        """The bytes that `.bin` must have. Old Megatron's merge wrote wrong offsets behind 2 GiB (its issue 1672)."""
        for lengths in chunks(self.lengths, CHUNK):
            if (lengths < 0).any():
                raise GLMError(f"{self._index}: a sequence has {lengths.min()} ids: {_AGAIN}")
        found = chunks(self.offsets, CHUNK)
        for number, wanted in enumerate(offsets_of(self.lengths, self.dtype.itemsize)):
            if (wrong := np.flatnonzero(next(found) != wanted)).size:
                place = number * CHUNK + int(wrong[0])
                both = f"{self.offsets[place]:,}, its place is {wanted[wrong[0]]:,}"
                raise GLMError(f"{self._index}: sequence {place:,} is said to begin at byte {both}: {_AGAIN}")
        return int(self.offsets[-1]) + int(self.lengths[-1]) * self.dtype.itemsize


def offsets_of(lengths: np.ndarray, itemsize: int) -> Iterator[np.ndarray]:
    """Where each sequence begins in `.bin`, in bytes: int64 in pieces of CHUNK, of lengths int32 [N]."""
    end = 0
    for part in chunks(lengths, CHUNK):
        ends = end + np.cumsum(part.astype(np.int64) * itemsize)
        yield np.concatenate((np.array([end], "<i8"), ends[:-1]))
        end = int(ends[-1])


def chunks(array: np.ndarray, size: int, overlap: int = 0) -> Iterator[np.ndarray]:
    """Pieces of an array, each beginning with the last `overlap` entries of the one before."""
    for start in range(0, max(len(array) - overlap, 1), size):
        yield array[start : start + size + overlap]
