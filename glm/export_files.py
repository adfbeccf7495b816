"""The files of an exported model, for the one who writes them and the one who reads them. Imports no framework."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from glm.errors import GLMError

FORMAT_VERSION = 2
GRAPH_SUFFIXES = (".json", ".pdiparams")


@dataclass(frozen=True)
class ExportInfo:
    """What a graph's user must know of its model.

    Attributes:
        format_version: of the graph's inputs and outputs.
        dtype: of the weights.
        vocab_size: rows of the embedding; the tokenizer may have fewer tokens, not more.
        max_position: the largest position id.
        parameters: how many numbers the model has.
    """

    format_version: int
    dtype: str
    vocab_size: int
    max_position: int
    parameters: int


def info_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.info.json")


def read_export(directory: Path, name: str) -> ExportInfo:
    """The description of the graph `name` in a directory, after a look whether its files are there.

    Raises:
        GLMError: a missing file, or one of another version of this format.
    """
    if not directory.is_dir():
        raise GLMError(f"{directory} is not a directory; give the one that export_generation_model.py wrote")
    wanted = [directory / f"{name}{suffix}" for suffix in GRAPH_SUFFIXES] + [info_path(directory / name)]
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        there = ", ".join(sorted(p.name.removesuffix(".info.json") for p in directory.glob("*.info.json"))) or "none"
        raise GLMError(f"{directory} lacks {', '.join(missing)}; exported models there (--model_prefix): {there}")
    try:
        raw = json.loads(wanted[-1].read_text(encoding="utf-8"))
        info = ExportInfo(**{field.name: raw[field.name] for field in fields(ExportInfo)})
    except (ValueError, KeyError, TypeError) as error:
        raise GLMError(f"{wanted[-1]} is damaged ({error}): export the model again") from None
    if info.format_version != FORMAT_VERSION:
        raise GLMError(
            f"{wanted[-1]} has format version {info.format_version}, this code reads {FORMAT_VERSION}: export again"
        )
    return info
