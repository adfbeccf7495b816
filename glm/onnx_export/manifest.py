"""What lies in an exported directory, for the one who writes it and the one who reads it. Imports no framework.

The manifest is written last, so a directory that a crash left between two exports has none that fits.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glm.checkpoint.atomic import atomic_write
from glm.checkpoint.stream import file_digest
from glm.errors import GLMError

FORMAT_VERSION = 1
GRAPH_SUFFIX, WEIGHTS_SUFFIX, MANIFEST_SUFFIX = ".onnx", ".onnx.data", ".onnx.json"


@dataclass(frozen=True)
class Manifest:
    """An exported step graph.

    Attributes:
        format_version: of the graph's inputs and outputs (glm/onnx_export/step_graph.py).
        source: the model that was exported, as it was named.
        weights: fp32, int8 or int4.
        block_size: numbers that share a scale, None with fp32.
        symmetric: whether blocks have no zero points, None with fp32.
        vocab_size: rows of the embedding; the tokenizer may have fewer tokens, not more.
        max_position: the largest position id.
        parameters: how many numbers the model has.
        files: name of each file of the export → its size in bytes and checksum.
    """

    format_version: int
    source: str
    weights: str
    block_size: int | None
    symmetric: bool | None
    vocab_size: int
    max_position: int
    parameters: int
    files: dict[str, dict[str, Any]]


def manifest_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}{MANIFEST_SUFFIX}")


def graph_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}{GRAPH_SUFFIX}")


def weights_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}{WEIGHTS_SUFFIX}")


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """`Manifest.files` of files in one directory, which are read for it."""
    return {path.name: {"size": path.stat().st_size, "crc32": file_digest(path)} for path in sorted(paths)}


def write_manifest(prefix: Path, manifest: Manifest) -> None:
    """Writes `prefix`.onnx.json, whole or not at all.

    Raises:
        GLMError: the disk is full.
    """
    with atomic_write(manifest_path(prefix), "w", "utf-8") as file:
        file.write(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")


def read_manifest(directory: Path, name: str, checksums: bool = True) -> Manifest:
    """The description of the step graph `name` in a directory, compared with the files that it names.

    Args:
        checksums: read every file to compare its checksum; else only sizes are compared.
    Raises:
        GLMError: a missing or damaged file, one of another export, or another version of this format.
    """
    path = manifest_path(directory / name)
    if not path.is_file():
        there = ", ".join(sorted(p.name.removesuffix(MANIFEST_SUFFIX) for p in directory.glob(f"*{MANIFEST_SUFFIX}")))
        raise GLMError(f"{path} is missing; exported models there (--model_prefix): {there or 'none'}")
    manifest = _parsed(path)
    for required in (graph_path(directory / name), weights_path(directory / name)):
        if required.name not in manifest.files:
            raise GLMError(f"{path} is damaged (it does not name {required.name}): export the model again")
    for file, expected in manifest.files.items():
        _require_file(path, directory / file, expected, checksums)
    return manifest


def _parsed(path: Path) -> Manifest:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if (version := raw["format_version"]) != FORMAT_VERSION:
            raise GLMError(f"{path} has format version {version}, this code reads {FORMAT_VERSION}: export again")
        manifest = Manifest(**{field.name: raw[field.name] for field in fields(Manifest)})
        for name, expected in manifest.files.items():
            if Path(name).name != name or not isinstance(expected["size"], int) or len(expected["crc32"]) != 8:
                raise ValueError(f"what it says of {name!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GLMError(f"{path} is damaged ({type(error).__name__}: {error}): export the model again") from None
    return manifest


def _require_file(manifest: Path, path: Path, expected: dict[str, Any], checksums: bool) -> None:
    if not path.is_file():
        raise GLMError(f"{path} is missing, which {manifest.name} names: copy the whole export, or export again")
    size = path.stat().st_size
    if size != expected["size"]:
        raise GLMError(
            f"{path} has {size:,} bytes, {manifest.name} says {expected['size']:,}: copy the whole export, or export "
            "again"
        )
    if checksums and (found := file_digest(path)) != expected["crc32"]:
        raise GLMError(
            f"{path} has the checksum {found}, {manifest.name} says {expected['crc32']}: copy the whole export, or "
            "export again"
        )
