"""Formats of data files, by their names: JSON, packed or not, and the tables of the Hugging Face Hub."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from glm.errors import GLMError
from glm.files.foreign_files import HEAD, stand_in

Progress = Callable[[int], Any]

JSON = (".json", ".jsonl", ".ndjson", ".jsonlines")
TABLES = (".parquet", ".arrow")
_ARROW_FILE = b"ARROW1"
# How files of other kinds begin, which some call .json, and what they ought to be called.
_HEADS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip"}
_HEADS |= {b"PAR1": ".parquet", _ARROW_FILE: ".arrow"}
PACKED = (".gz", ".bz2", ".xz", ".zst")
_CHUNK = 1 << 18  # bytes
_ROWS = 1024  # of a table, in memory at a time
# Data of other kinds, and what to do with it.
_CONVERT = "save its rows as JSON Lines, an object per line"
REFUSED = {
    **dict.fromkeys((".csv", ".tsv", ".xlsx", ".xls", ".pkl", ".pickle", ".msgpack", ".yaml", ".xml"), _CONVERT),
    **dict.fromkeys((".lz4", ".zip", ".tar", ".tgz", ".7z", ".rar"), "unpack it first"),
}
# What stands beside data, and holds no rows.
_NO_ROWS = frozenset(
    [
        *("dataset_infos", "dataset_info", "dataset_dict", "state", "config", "metadata", "package", "vocab"),
        *("generation_config", "tokenizer", "tokenizer_config", "special_tokens_map", "added_tokens", "adapter_config"),
        *("trainer_state", "all_results", "train_results", "eval_results", "test_results", "predict_results"),
    ]
)


def split_name(name: str) -> tuple[str, str]:
    """A file's name without its endings, and what kind of file they say it is: ".json", ".parquet"; "" for unknown."""
    stem, low = name, name.lower()
    for packed in PACKED:
        if low.endswith(packed):
            stem, low = stem[: -len(packed)], low[: -len(packed)]
    ending = next((end for end in (*JSON, *TABLES, *REFUSED) if low.endswith(end)), "")
    return stem[: len(stem) - len(ending)], ending


def holds_rows(name: str) -> bool:
    """Whether a file in a folder of data is taken for rows."""
    stem, ending = split_name(name)
    return ending in (*JSON, *TABLES) and not name.startswith((".", "~")) and stem.lower() not in _NO_ROWS


def is_data(path: Path) -> bool:
    """Whether an entry of a folder is a file of rows. Raises GLMError for a link to one that is not there."""
    if not holds_rows(path.name):
        return False
    if path.is_symlink() and not path.exists():
        raise GLMError(f"{path} is a link to {path.readlink()}, which does not exist: download it, or remove the link")
    return path.is_file()


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """Order in which part 2 stands before part 10."""
    pieces = re.split(r"(\d+)", str(path))
    return [(piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces]


def rows_in(folder: Path) -> list[Path]:
    """The data files right in a folder, in natural order. Raises GLMError where there is no such folder."""
    if not folder.is_dir():
        raise GLMError(f"{folder} does not exist; pass a JSON or JSON Lines file or a folder of them.")
    return sorted(filter(is_data, folder.iterdir()), key=natural)


def nothing_in(folder: Path) -> GLMError:
    """What to say of a folder without data."""
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    folders = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    refused = next((name for name in files if split_name(name)[1] in REFUSED), None)
    if refused:
        hint = f"{refused} is not read: {REFUSED[split_name(refused)[1]]}"
    else:
        hint = f"pass one of its folders ({folders})" if folders else "pass the folder that holds the data"
    return GLMError(f"{folder} holds no .json or .jsonl file; {hint}.")


def require_readable(path: Path) -> None:
    """Raises GLMError for a data file of a kind that is not read."""
    ending = split_name(path.name)[1]
    if ending in REFUSED:
        raise GLMError(
            f"{path} is a {ending} file, and data is read from {', '.join((*JSON, *TABLES))}: {REFUSED[ending]}"
        )


def unpacked_chunks(path: Path, progress: Progress = lambda count: None) -> Iterator[bytes]:
    """The content of a file in pieces, unpacked where its name ends in .gz, .bz2, .xz or .zst.

    Args:
        progress: is told how many bytes of the file, packed as it is, were read, each time.

    Raises:
        GLMError: a file that cannot be read or unpacked, of a kind that is not read, or not what its name says.
    """
    require_readable(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error.strerror}); check the file's permissions.") from error
    with file:
        unpack = _UNPACK.get(path.suffix.lower())
        _require_named_rightly(path, file.read(HEAD), packed=unpack is not None)
        file.seek(0)
        place = 0
        try:
            stream = unpack(file) if unpack else file
            while chunk := stream.read(_CHUNK):
                progress(file.tell() - place)
                place = file.tell()
                yield chunk
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            reason = " ".join(str(error).split())
            raise GLMError(
                f"{path} cannot be {'unpacked' if unpack else 'read'} ({reason}): download it again"
            ) from error


def _require_named_rightly(path: Path, head: bytes, packed: bool) -> None:
    if what := stand_in(head):
        raise GLMError(f"{path} {what}")
    if not packed and (kind := next((_HEADS[start] for start in _HEADS if head.startswith(start)), None)):
        cure = REFUSED.get(kind, f"give it a name that ends in {kind}")
        raise GLMError(f"{path} is a {kind} file by its content: {cure}")


def _open_zstd(file: BinaryIO) -> BinaryIO:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


# How packed files are opened.
_UNPACK: dict[str, Callable[[BinaryIO], BinaryIO]]
_UNPACK = dict(zip(PACKED, (gzip.open, bz2.open, lzma.open, _open_zstd), strict=True))


def is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES


def table_rows(
    path: Path, columns: Sequence[str] = (), progress: Progress = lambda count: None
) -> Iterator[dict[str, Any]]:
    """Rows of a .parquet or .arrow file, as Python values. Raises GLMError where it is damaged.

    Args:
        columns: to read no others where all of these are there.
        progress: is told of bytes of the file, as many as its rows have on average.
    """
    import pyarrow

    with path.open("rb") as file:
        if what := stand_in(file.read(HEAD)):
            raise GLMError(f"{path} {what}")
    size, told = path.stat().st_size, 0
    try:
        for batch, share in _batches(path, columns):
            wanted = _chosen(batch.schema, columns)
            yield from map(without_nulls, (batch.select(wanted) if wanted else batch).to_pylist())
            progress(int(size * share) - told)
            told = int(size * share)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GLMError(f"{path} is damaged or cut short ({reason}): download it again") from error


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A table's row, whose objects have null under the names that only others of their column have."""
    return {name: _pruned(value) for name, value in row.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(part) for name, part in value.items() if part is not None}
    return list(map(_pruned, value)) if isinstance(value, list) else value


def _chosen(schema: Any, columns: Sequence[str]) -> list[str] | None:
    """The columns to read, None for all."""
    return list(columns) if columns and set(columns) <= set(schema.names) else None


def _batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, float]]:
    """Record batches, and how much of the file, 0 to 1, is read with each."""
    import pyarrow

    if path.suffix.lower() == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            seen = 0
            for batch in file.iter_batches(_ROWS, columns=_chosen(file.schema_arrow, columns)):
                seen += batch.num_rows
                yield batch, seen / file.metadata.num_rows
        return
    with pyarrow.memory_map(str(path)) as source:
        if source.read(len(_ARROW_FILE)) == _ARROW_FILE:  # Feather; `datasets` writes streams
            file = pyarrow.ipc.open_file(source)
            count = file.num_record_batches
            yield from ((file.get_batch(number), (number + 1) / count) for number in range(count))
            return
        source.seek(0)
        yield from ((batch, source.tell() / source.size()) for batch in pyarrow.ipc.open_stream(source))
