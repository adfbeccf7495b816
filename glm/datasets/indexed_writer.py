"""Writes indexed data sets (glm/datasets/indexed.py): all files of one, or none, in bounded memory."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from glm.datasets.indexed import CHUNK, CODES, HEADER, MAGIC, VERSION, IndexedDataset, beside, chunks, offsets_of
from glm.datasets.indexed_record import RECORD
from glm.errors import GLMError
from glm.files.atomic import staged, sync

_COPY = 1 << 24  # bytes
_LONGEST = np.iinfo(np.int32).max  # ids of a sequence, by the format


class IndexedDatasetWriter:
    """A data set in the making: `with IndexedDatasetWriter("out/wiki", np.uint16) as writer: writer.add_document(ids)`.

    The files appear when the block ends without an exception; what was there before stays until then. `finish` at the
    end of the block does all that can fail, so that of several writers all files appear or none.

    Args:
        prefix: the path of the files without `.bin` and `.idx`. Its directory must exist.
        dtype: of the ids, as in `glm.datasets.indexed.DTYPES`.

    Raises:
        GLMError: the disk is full, there is no such directory or element type, or no document came.
    """

    def __init__(self, prefix: str | Path, dtype: npt.DTypeLike):
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype not in CODES:
            known = ", ".join(known.name for known in CODES)
            raise GLMError(f"{self.prefix}: {self.dtype} is no type of ids in indexed data: choose of {known}")
        self.sequence_count = self.document_count = self.token_count = 0
        self._finished = False

    def __enter__(self) -> IndexedDatasetWriter:
        with ExitStack() as stack:
            self._staging = stack.enter_context(staged(beside(self.prefix, ".idx"), None))
            self._bin, self._lengths, self._ends = (
                stack.enter_context((self._staging / name).open("wb", buffering=1 << 20))
                for name in (".bin", "lengths", "documents")
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> bool | None:
        if kind is not None:
            return self._stack.__exit__(kind, *details)
        with self._stack:
            self.finish()
            self._publish()
        return None

    def add_document(self, ids: npt.ArrayLike) -> None:
        """A document of one sequence, ids [T]."""
        ids = np.asarray(ids)
        self.add_documents(ids, np.array([len(ids)]))

    def add_documents(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Documents of one sequence each.

        Args:
            ids: of all of them, one behind another.
            lengths: of each; their sum is the number of ids.
        """
        self.add_sequences(ids, lengths)
        self._end_documents(np.arange(self.sequence_count - len(lengths), self.sequence_count, dtype=np.int64) + 1)

    def add_sequences(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Sequences of the document that `end_document` ends; as `add_documents`."""
        assert lengths.sum() == len(ids), (lengths, len(ids))
        if len(lengths) and lengths.max() > _LONGEST:
            raise GLMError(f"{self.prefix}: a document of {lengths.max():,} ids; the format holds {_LONGEST:,}: cut it")
        self._bin.write(self._checked(ids).tobytes())
        self._lengths.write(lengths.astype("<i4").tobytes())
        self.sequence_count += len(lengths)
        self.token_count += len(ids)

    def end_document(self) -> None:
        self._end_documents(np.array([self.sequence_count], np.int64))

    def add_dataset(self, other: IndexedDataset) -> None:
        """All documents of a data set of the same element type, without a look at its ids."""
        if other.dtype != self.dtype:
            both = f"{other.prefix} has ids of type {other.dtype.name}, what was joined before {self.dtype.name}"
            raise GLMError(f"{both}: join data of one tokenizer")
        with beside(other.prefix, ".bin").open("rb") as file:
            shutil.copyfileobj(file, self._bin, _COPY)
        for part in chunks(other.lengths, CHUNK):
            self._lengths.write(part.tobytes())
        for part in chunks(other.document_index[1:], CHUNK):
            self._end_documents(part + self.sequence_count)
        self.sequence_count += len(other)
        self.token_count += other.token_count

    def finish(self, record: dict[str, Any] | None = None) -> None:
        """Writes what is left to write, with `record` as `{prefix}.meta.json` beside it; nothing can be added then."""
        if self._finished:
            return
        if not self.sequence_count:
            raise GLMError(f"{self.prefix}: no document to write; nothing was written")
        for file in (self._bin, self._lengths, self._ends):
            file.close()
        with (self._staging / ".idx").open("wb") as index:
            self._write_index(index)
        if record is not None:
            (self._staging / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
        for path in self._staging.iterdir():
            sync(path)
        self._finished = True

    def _end_documents(self, ends: np.ndarray) -> None:
        self._ends.write(ends.astype("<i8").tobytes())
        self.document_count += len(ends)

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        """The ids in the element type; numpy would wrap those that do not fit."""
        if ids.dtype != self.dtype and len(ids):
            limits = np.iinfo(self.dtype)
            if ids.min() < limits.min or ids.max() > limits.max:
                both = f"ids from {ids.min()} to {ids.max()} do not fit into {self.dtype.name}, {limits.max} at most"
                raise GLMError(f"{self.prefix}: {both}: they are of another tokenizer")
        return ids.astype(self.dtype, copy=False)

    def _write_index(self, index: IO[bytes]) -> None:
        code = CODES[self.dtype]
        index.write(HEADER.pack(MAGIC, VERSION, code, self.sequence_count, self.document_count + 1))
        lengths = np.memmap(self._staging / "lengths", "<i4", mode="r")
        index.writelines(part.tobytes() for part in chunks(lengths, CHUNK))
        index.writelines(part.tobytes() for part in offsets_of(lengths, self.dtype.itemsize))
        index.write(np.zeros(1, "<i8").tobytes())
        with (self._staging / "documents").open("rb") as ends_file:
            shutil.copyfileobj(ends_file, index, _COPY)

    def _publish(self) -> None:
        # An index never lies beside the data of another: the old one goes first, the new one comes last.
        for ending in (".idx", RECORD):
            beside(self.prefix, ending).unlink(missing_ok=True)
        for ending in (".bin", RECORD, ".idx"):
            if (made := self._staging / ending).exists():
                made.replace(beside(self.prefix, ending))
        sync(self.prefix.parent)
