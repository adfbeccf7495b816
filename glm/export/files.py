"""The files of exported models, for the one who writes them and the one who reads them. Imports no framework.

An export of NAME is what its manifest NAME.FORMAT.manifest.json names. The manifest is written last and removed first,
so a directory that a crash left between two exports has none.
"""

import json
import threading
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glm.checkpoint.side_files import SIDE_FILES
from glm.errors import GLMError
from glm.files.checksum import file_digest
from glm.files.foreign_files import require_real
from glm.files.json_files import read_json

FORMAT_VERSION = 5
# Graphs of version 3 have fewer decoding options (`LoopRuntime.inputs`), and up to version 4 a step graph gives logits
# of its last column alone (`StepRuntime.any_columns`).
READABLE = (3, 4, FORMAT_VERSION)
_VERSIONS = f"{', '.join(map(str, READABLE[:-1]))} and {FORMAT_VERSION}"
SMALL_FILE = 16 << 20  # bytes; read in milliseconds
# Format → how names of graphs and weights continue after NAME: those that every export has, and those that it may have.
REQUIRED = {"paddle": (".json", ".pdiparams"), "onnx": (".onnx", ".onnx.data")}
OPTIONAL = {"paddle": (".step.json", ".step.pdiparams"), "onnx": ()}
# Format → how the decoder step graph is called, one of these.
STEP_GRAPH = {"paddle": ".step.json", "onnx": ".onnx"}
FORMATS = tuple(REQUIRED)
COUNTS = ("vocab_size", "max_position", "parameters")
OLD_SUFFIX = ".info.json"  # of the manifests of versions 1 and 2


@dataclass(frozen=True)
class Manifest:
    """An exported model.

    Attributes:
        format_version: of the graphs' inputs and outputs, and of this file.
        format: paddle or onnx.
        source: the model that was exported, as it was named, and the adapter that was merged into it.
        dtype: of the arithmetic, and of the weights that are not in blocks.
        weights: how matrices are stored: fp32, bf16, fp16, int8 or int4.
        block_size: numbers that share a scale, None without blocks.
        symmetric: whether quantized weights have no zero points, None of those that are not quantized.
        head_bits: of embedding and head, None of those that are not quantized.
        vocab_size: rows of the embedding; the tokenizer may have fewer tokens, not more.
        max_position: the largest position id.
        parameters: how many numbers the model has.
        files: name of each file of the export → its size in bytes and its CRC-32 in hexadecimal digits.
        opset: of an ONNX graph of standard operators alone; None of one with ONNX Runtime's own, and of Paddle's.
        gives_columns: whether an ONNX graph of ONNX Runtime's own operators gives new keys and values back, as those of
            standard ones do (glm/runtime/columns.py).
    """

    format_version: int
    format: str
    source: str
    dtype: str
    weights: str
    block_size: int | None
    symmetric: bool | None
    head_bits: int | None
    vocab_size: int
    max_position: int
    parameters: int
    files: dict[str, dict[str, Any]]
    opset: int | None = None  # manifests before there was one have none
    gives_columns: bool = False  # as well

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def manifest_suffix(format: str) -> str:
    return f".{format}.manifest.json"


def exported_formats(directory: Path, name: str) -> list[str]:
    """The formats in which a directory has an export of this name."""
    return [format for format in FORMATS if (directory / f"{name}{manifest_suffix(format)}").is_file()]


def read_manifest(directory: Path, name: str, format: str) -> Manifest:
    """The manifest of an export; its files are there and have the sizes that it says.

    Raises:
        GLMError: no such export, one of another version, a damaged manifest, or files that are not those it names.
    """
    if not directory.is_dir():
        raise GLMError(f"{directory} is not a directory; give the one that export_generation_model.py wrote")
    path = directory / f"{name}{manifest_suffix(format)}"
    if not path.is_file():
        raise _no_export(directory, name, path)
    manifest = parse_manifest(path)
    lacking = [suffix for suffix in REQUIRED[format] if f"{name}{suffix}" not in manifest.files]
    if manifest.format != format or lacking:
        what = f"does not name {name}{lacking[0]}" if lacking else f"is of format {manifest.format!r}, not {format!r}"
        raise GLMError(f"{path} is damaged (it {what}): export the model again")
    for file, expected in manifest.files.items():
        _require_size(path, file, expected["size"])
    if foreign := [file for file in SIDE_FILES if file not in manifest.files and (directory / file).exists()]:
        raise GLMError(
            f"{directory / foreign[0]} is not listed in {path.name}, but would be loaded with the export: remove it, "
            "or "
            "export again"
        )
    return manifest


def parse_manifest(path: Path) -> Manifest:
    """The content of a manifest, which is not compared with any file.

    Raises:
        GLMError: it is damaged, or of another version.
    """
    raw = read_json(path, "export the model again")
    try:
        if (version := raw["format_version"]) not in READABLE:
            raise GLMError(f"{path} has format version {version}, this code reads {_VERSIONS}: export again")
        known = [field.name for field in fields(Manifest) if field.default is MISSING or field.name in raw]
        manifest = Manifest(**{name: raw[name] for name in known})
        for name, expected in manifest.files.items():
            plain = name not in ("", "..") and Path(name).name == name
            if not plain or type(expected["size"]) is not int or len(expected["crc32"]) != 8:
                raise ValueError(f"what it says of {name!r}")
        optional = ("opset",) if manifest.opset is not None else ()
        if wrong := [name for name in (*COUNTS, *optional) if type(getattr(manifest, name)) is not int]:
            raise ValueError(f"{wrong[0]} is {getattr(manifest, wrong[0])!r}")
        if type(manifest.gives_columns) is not bool:
            raise ValueError(f"gives_columns is {manifest.gives_columns!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GLMError(f"{path} is damaged ({type(error).__name__}: {error}): export the model again") from None
    return manifest


class Check:
    """A comparison of files with a manifest's checksums: small ones at once, the weights on a thread of their own.

    Args:
        directory: of the export.
        manifest: of the export.
        weights: whether they are compared as well.

    Raises:
        GLMError: a small file differs from what was exported, or is gone. What it holds is never parsed.
    """

    def __init__(self, directory: Path, manifest: Manifest, weights: bool = True):
        self._directory, self._manifest = directory, manifest
        self._error: Exception | None = None
        small = [name for name, expected in manifest.files.items() if expected["size"] <= SMALL_FILE]
        self._compare(small)
        # A program that ends meanwhile does not wait for it.
        rest = [name for name in manifest.files if name not in small] if weights else []
        self._thread = threading.Thread(target=self._run, args=(rest,), name="checksums", daemon=True)
        self._thread.start()

    def result(self) -> None:
        """Waits for the comparison.

        Raises:
            GLMError: a file differs from what was exported, or is gone. OSError: it cannot be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _compare(self, names: Iterable[str]) -> None:
        for name in names:
            _require_checksum(self._directory / name, self._manifest.files[name]["crc32"])

    def _run(self, names: Iterable[str]) -> None:
        try:
            self._compare(names)
        except Exception as error:  # raised again by `result`
            self._error = error


def start_check(directory: Path, manifest: Manifest, weights: bool = True) -> Check:
    """Begins to read every file of an export in the background; zlib does its sums without Python's lock."""
    return Check(directory, manifest, weights)


def _no_export(directory: Path, name: str, path: Path) -> GLMError:
    old = directory / f"{name}{OLD_SUFFIX}"
    if old.is_file() and not exported_formats(directory, name):
        return GLMError(f"{old} has format version {_version(old)}, this code reads {_VERSIONS}: export again")
    there = sorted(
        f"{manifest.name.removesuffix(manifest_suffix(format))} ({format})"
        for format in FORMATS
        for manifest in directory.glob(f"*{manifest_suffix(format)}")
    )
    return GLMError(
        f"{directory} holds no whole export {path.name.removesuffix('.manifest.json')}: {path.name} is missing; "
        f"exported models there (--model_prefix): {', '.join(there) or 'none'}"
    )


def _version(path: Path) -> Any:
    try:
        return read_json(path)["format_version"]
    except (GLMError, KeyError):
        return "1 or 2"


def _require_size(manifest: Path, name: str, expected: int) -> None:
    path = manifest.with_name(name)
    if not path.is_file():
        raise GLMError(f"{path} is missing, which {manifest.name} names: copy the whole export, or export again")
    if (size := path.stat().st_size) != expected:
        require_real(path)
        raise GLMError(
            f"{path} has {size:,} bytes, {manifest.name} says {expected:,}: copy the whole export, or export again"
        )


def _require_checksum(path: Path, expected: str) -> None:
    try:
        found = file_digest(path)
    except FileNotFoundError:
        raise GLMError(f"{path} is gone since it was opened: copy the whole export, or export again") from None
    if found != expected:
        raise GLMError(
            f"{path} has the checksum {found}, its manifest says {expected}: copy the whole export, or export again"
        )
