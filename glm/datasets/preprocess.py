"""Raw text to indexed data sets, and several of these to one: what `preprocess_data.py` does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from glm.datasets.documents import Documents, SampleBy, input_files
from glm.datasets.indexed import IndexedDataset, beside, id_dtype, without_ending
from glm.datasets.indexed_record import RECORD, joined, tokenizer_record
from glm.datasets.indexed_writer import IndexedDatasetWriter
from glm.datasets.tokenized import DocumentEncoder, Encoded, EncodingOptions, encoded
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer
from glm.tokenizers.calls import TokenizerCalls
from glm.tokenizers.source import tokenizer_directory


@dataclass(frozen=True)
class Preprocessing:
    """What to make of which text.

    Attributes:
        inputs: files, folders and patterns.
        output_prefix: `{output_prefix}_{key}_document.bin` and `.idx` are written for each key.
        encoding: how a document becomes ids.
        keys, sample_by, skip_bad_rows: see `Documents`.
        workers: processes that tokenize.
        overwrite: replace data of the same name, at the end.
        log_interval: documents between two lines where standard error is no terminal, which has a bar.
    """

    inputs: Sequence[str]
    output_prefix: str
    encoding: EncodingOptions
    keys: Sequence[str] = ("text",)
    sample_by: SampleBy = "document"
    skip_bad_rows: bool = False
    workers: int = 1
    overwrite: bool = False
    log_interval: int = 10_000

    def prefix(self, key: str) -> Path:
        return Path(f"{self.output_prefix}_{key}_document")


@dataclass
class Report:
    """What was done. Attributes: see `table`; `bytes` are of the text in UTF-8, of a joined data set of its ids."""

    prefixes: list[Path]
    files: int = 0
    documents: int = 0
    empty: int = 0
    skipped: int = 0
    tokens: int = 0
    dtype: str = ""
    bytes: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def table(self) -> dict[str, object]:
        """Name → value, for the person at the terminal."""
        found = {
            "files": f"{self.files:,}",
            "documents": f"{self.documents:,}",
            "empty documents, left out": f"{self.empty:,}",
            "bad rows, left out": f"{self.skipped:,}",
            "tokens": f"{self.tokens:,} ({self.dtype})",
            "speed": f"{self._rate(self.bytes) / 1e6:,.2f} MB/s, {self._rate(self.documents):,.0f} documents/s",
            "written": ", ".join(f"{prefix}.bin and .idx" for prefix in self.prefixes),
        }
        return {name: value for name, value in found.items() if value != "0"}

    def _rate(self, count: int) -> float:
        return count / max(self.seconds, 1e-9)


def preprocess(settings: Preprocessing, *, show_progress: bool = False) -> Report:
    """Writes an indexed data set for each key, all of them or none, with a record of how it was made.

    Args:
        show_progress: a bar, or lines, on standard error.

    Raises:
        GLMError: nothing to read, bad input, data of that name, or no room; nothing is written then.
    """
    files = input_files(settings.inputs)
    directory = tokenizer_directory(settings.encoding.tokenizer)  # downloaded once, not by every worker
    options, tokenizer = replace(settings.encoding, tokenizer=str(directory)), GLMTokenizer.from_pretrained(directory)
    dtype, prefixes = id_dtype(len(tokenizer)), [settings.prefix(key) for key in settings.keys]
    _require_free(prefixes, settings.overwrite)
    with ExitStack() as stack:
        writers = [stack.enter_context(IndexedDatasetWriter(prefix, dtype)) for prefix in prefixes]
        size = sum(file.stat().st_size for file in files)
        progress = stack.enter_context(Progress(size, settings.log_interval, show_progress))
        documents = Documents(files, settings.keys, settings.sample_by, settings.skip_bad_rows, progress.read)
        encoder = DocumentEncoder(tokenizer, options, dtype)
        empty = _write(writers, encoded(documents, encoder, options, dtype, settings.workers), progress)
        _require_documents(settings, writers, empty, documents.skipped)
        common = _record(settings, tokenizer, files) | {"dtype": dtype.name, "skipped_rows": documents.skipped}
        for key, writer, left_out in zip(settings.keys, writers, empty, strict=True):
            counts = {"documents": writer.document_count, "empty_documents": left_out, "tokens": writer.token_count}
            writer.finish(common | counts | {"json_key": key})
    return Report(
        prefixes=prefixes,
        files=len(files),
        documents=sum(writer.document_count for writer in writers),
        empty=sum(empty),
        skipped=documents.skipped,
        tokens=sum(writer.token_count for writer in writers),
        dtype=dtype.name,
        bytes=progress.bytes,
        seconds=progress.seconds,
    )


def _write(
    writers: Sequence[IndexedDatasetWriter], batches: Iterable[Sequence[Encoded]], progress: Progress
) -> list[int]:
    """How many documents of each key were empty."""
    empty = [0] * len(writers)
    for batch in batches:
        for number, (writer, part) in enumerate(zip(writers, batch, strict=True)):
            writer.add_documents(part.ids, part.lengths)
            empty[number] += part.empty
        progress.wrote(len(batch[0].lengths) + batch[0].empty, sum(part.bytes for part in batch))
    return empty


def _require_documents(
    settings: Preprocessing, writers: Sequence[IndexedDatasetWriter], empty: Sequence[int], skipped: int
) -> None:
    """Raises GLMError where a key has no text at all."""
    for key, writer, left_out in zip(settings.keys, writers, empty, strict=True):
        if not writer.document_count:
            raise GLMError(
                f"{' '.join(settings.inputs)}: no text for {key!r}: {left_out} documents are empty and {skipped} rows "
                "were left out; nothing was written: pass files with text, or another --json_key"
            )


def _record(settings: Preprocessing, tokenizer: TokenizerCalls, files: Sequence[Path]) -> dict:
    """What all keys have in common."""
    return {
        "tokenizer": tokenizer_record(tokenizer),
        "append_eos": settings.encoding.append_eos,
        "add_special_tokens": settings.encoding.add_special_tokens,
        "split_special_tokens": settings.encoding.split_special_tokens,
        "sample_by": settings.sample_by,
        "files": [{"name": file.name, "bytes": file.stat().st_size} for file in files],
    }


def merge(prefixes: Sequence[str], output_prefix: str, *, overwrite: bool = False) -> Report:
    """Joins data sets in the order given, without tokenizing: the same bytes as from all their text in one run.

    Raises:
        GLMError: one is damaged, was made in another way or is named twice, data of that name, or no room.
    """
    sources = [without_ending(prefix) for prefix in prefixes]
    places = [source.resolve() for source in sources]
    if len(set(places)) < len(places):
        twice = next(source for source, place in zip(sources, places, strict=True) if places.count(place) > 1)
        raise GLMError(f"{twice} is given twice: name each data set once, without .bin and .idx")
    target = Path(output_prefix)
    if target.resolve() in places:
        raise GLMError(f"{target} is one of the data sets to join: choose another --output_prefix")
    datasets = [IndexedDataset(prefix) for prefix in sources]
    record = joined(sources)
    _require_free([target], overwrite)
    report = Report([target], len(sources), dtype=datasets[0].dtype.name)
    started = time.monotonic()
    with IndexedDatasetWriter(target, datasets[0].dtype) as writer:
        for dataset in datasets:
            writer.add_dataset(dataset)
        writer.finish(record)
    report.seconds = time.monotonic() - started
    report.documents, report.tokens = writer.document_count, writer.token_count
    report.bytes = writer.token_count * writer.dtype.itemsize
    if record is None:
        report.notes.append(f"no {target}{RECORD}: not every data set has one, so nothing is known of their tokenizer")
    return report


def _require_free(prefixes: Sequence[Path], overwrite: bool) -> None:
    """Makes the directory. Raises GLMError where a data set is there already, or the directory cannot be made."""
    if len(set(prefixes)) < len(prefixes):
        raise GLMError(f"{prefixes[0].name} would be written twice: name each --json_key once")
    for prefix in prefixes:
        there = [path for ending in (".idx", ".bin") if (path := beside(prefix, ending)).exists()]
        if there and not overwrite:
            raise GLMError(f"{there[0]} exists: pass --overwrite to replace it, or choose another --output_prefix")
        try:
            prefix.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GLMError(
                f"{prefix.parent} cannot be made ({error.strerror}): choose another --output_prefix"
            ) from None


class Progress:
    """A bar on a terminal, or a line every so many documents: how much of the files is done, and how fast.

    Args:
        size: of the files, in bytes.
        log_interval: documents between two lines.
        shown: otherwise nothing is written.

    Attributes:
        bytes: of the text that was written, in UTF-8.
        seconds: from beginning to end.
    """

    def __init__(self, size: int, log_interval: int, shown: bool):
        self._size, self._interval = size, log_interval
        self._read = self._documents = self._logged = self.bytes = 0
        self.seconds = 0.0
        self._lines = shown and not sys.stderr.isatty()
        form = "{l_bar}{bar}| {n_fmt}/{total_fmt}B [{elapsed}<{remaining}{postfix}]"
        off = not shown or self._lines
        self._bar = tqdm(total=size, desc="tokenize", unit_scale=True, bar_format=form, disable=off)

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._bar.close()

    def read(self, count: int) -> None:
        """So many bytes of the files were read."""
        self._read += count

    def wrote(self, documents: int, size: int) -> None:
        """So many documents were written, so many bytes of text; what was read of the files for them counts now."""
        self._documents += documents
        self.bytes += size
        seconds = max(time.monotonic() - self._started, 1e-9)
        speed = f"{self.bytes / seconds / 1e6:.2f} MB/s, {self._documents / seconds:,.0f} documents/s"
        self._bar.set_postfix_str(speed, refresh=False)
        self._bar.update(self._read - self._bar.n)
        if self._lines and self._documents // self._interval > self._logged:
            self._logged = self._documents // self._interval
            share = 100 * self._read / max(self._size, 1)
            print(f"{self._documents:,} documents, {share:.0f} %: {speed}", file=sys.stderr, flush=True)
