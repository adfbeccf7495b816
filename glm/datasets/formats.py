"""Formats of data files, by their names: JSON, packed or not, and the tables of the Hugging Face Hub."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glm.errors import GLMError
from glm.files.foreign_files import HEAD, stand_in

JSON = (".json", ".jsonl", ".ndjson", ".jsonlines")
TABLES = (".parquet", ".arrow")
_ARROW_FILE = b"ARROW1"
# How files of other kinds begin, which some call .json, and what they ought to be called.
_HEADS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"PK\x03\x04": ".zip"}
_HEADS |= {b"PAR1": ".parquet", _ARROW_FILE: ".arrow"}
_UNPACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
# Data of other kinds, and what to do with it.
_CONVERT = "save its rows as JSON Lines, an object per line"
REFUSED = {
    **dict.fromkeys((".csv", ".tsv", ".xlsx", ".xls", ".pkl", ".pickle", ".msgpack", ".yaml", ".xml"), _CONVERT),
    **dict.fromkeys((".zst", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".rar"), "unpack it first"),
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
    for packed in _UNPACK:
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


def read_unpacked(path: Path) -> bytes:
    """The content of a file, unpacked where its name ends in .gz, .bz2 or .xz. Raises GLMError."""
    require_readable(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error.strerror}); check the file's permissions.") from error
    if what := stand_in(content[:HEAD]):
        raise GLMError(f"{path} {what}")
    unpack = _UNPACK.get(path.suffix.lower())
    if not unpack and (kind := next((_HEADS[head] for head in _HEADS if content.startswith(head)), None)):
        cure = REFUSED.get(kind, f"give it a name that ends in {kind}")
        raise GLMError(f"{path} is a {kind} file by its content: {cure}")
    try:
        return unpack(content) if unpack else content
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise GLMError(f"{path} cannot be unpacked ({error}): download it again") from error


def is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .parquet or .arrow file, as Python values. Raises GLMError where it is damaged."""
    import pyarrow

    with path.open("rb") as file:
        if what := stand_in(file.read(HEAD)):
            raise GLMError(f"{path} {what}")
    try:
        for batch in _batches(path):
            yield from map(without_nulls, batch.to_pylist())
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


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow

    if path.suffix.lower() == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=1024)
        return
    with pyarrow.memory_map(str(path)) as source:
        if source.read(len(_ARROW_FILE)) == _ARROW_FILE:  # Feather; `datasets` writes streams
            file = pyarrow.ipc.open_file(source)
            yield from map(file.get_batch, range(file.num_record_batches))
            return
        source.seek(0)
        yield from pyarrow.ipc.open_stream(source)
