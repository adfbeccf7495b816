"""Writing an export, of any format, whole or not at all. Imports no framework.

Everything is built in a staging directory beside the export. Then the manifest of an earlier export of that name and
format is removed, its files are replaced, and the new manifest comes last. Configuration and tokenizer belong to all
exports of a directory: one that would change them for another is refused before its weights are read.
"""

import glob
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glm.checkpoint.file_names import CONFIG_NAME, weight_names
from glm.config.config_json import config_json
from glm.encoding.processor import Processor
from glm.errors import GLMError
from glm.export.files import FORMATS, OLD_SUFFIX, OPTIONAL, REQUIRED, Manifest, manifest_suffix, parse_manifest
from glm.export.tokenizer_file import NAME as TOKENIZER_FILE
from glm.export.tokenizer_file import tokenizer_file
from glm.files.atomic import staged, sync, write_bytes, write_json
from glm.files.checksum import file_digest
from glm.files.json_files import read_json
from glm.generation.config_json import NAME as GENERATION_NAME

BAR_DELAY = 2.0  # seconds of work that need no bar


def write_export(
    prefix: Path, draft: Manifest, needed: int, text: Callable[[Path], Any], graphs: Callable[[Path], Any]
) -> Manifest:
    """Writes an export in the place of an earlier one of its name and format.

    Args:
        prefix: path and common beginning of its files' names, such as checkpoints/infer/glm.
        draft: its manifest without files.
        needed: bytes that the graphs will take, about.
        text: writes configuration and tokenizer into a directory.
        graphs: writes graphs and weights, given their prefix.
    Returns:
        The manifest.
    Raises:
        GLMError: no place for the directory, a directory of something else, files there that another export needs as
            they are, or a full disk; nothing that was there has then changed.
    """
    directory, name = prefix.parent, prefix.name
    if prefix.is_dir():
        raise GLMError(f"{prefix} is a directory; output_path needs a name in it as well, such as {prefix / 'glm'}")
    interrupted = _was_interrupted(prefix, draft.format)
    with _made(directory):
        others = _other_manifests(directory, f"{name}{manifest_suffix(draft.format)}")
        with staged(prefix.with_name(f"{name}.{draft.format}"), needed) as staging:
            text(staging)
            if taken := [file for file in _graph_names(name, draft.format) if (staging / file).exists()]:
                raise GLMError(f"{taken[0]} is a file of configuration or tokenizer: give the export another name")
            _refuse_changes(directory, staging, name, draft.format, others)
            if not interrupted:
                named = {file for manifest in others.values() for file in manifest.files}
                _refuse_strays(directory, staging, name, draft.format, named)
            graphs(staging / name)
            manifest = replace(draft, files=_described(sorted(staging.iterdir())))
            for path in staging.iterdir():
                sync(path)
            _move(staging, prefix, manifest, {file for other in others.values() for file in other.files})
    return manifest


def write_side_files(config: Any, processor: Processor, directory: Path) -> None:
    """Writes what a runtime needs besides graphs: configuration, tokenizer, and generation_config.json if there is one.

    The tokenizer stands there twice: as it was, and in one flat file for programs without Python (cpp/).

    The configuration says nothing of a dtype, so that exports of one model in several can share it.
    """
    fields = {name: value for name, value in config_json(config).items() if name not in ("dtype", "torch_dtype")}
    write_json(directory / CONFIG_NAME, fields)
    processor.save_pretrained(directory)
    if content := tokenizer_file(processor):
        write_bytes(directory / TOKENIZER_FILE, content)


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """The directory of an export; if that fails, no new one is left."""
    if directory.exists() and not directory.is_dir():
        raise GLMError(f"{directory} is a file; output_path needs a directory and a name in it, such as infer/glm")
    if weights := weight_names(directory):
        raise GLMError(
            f"{directory} holds the checkpoint {weights[0]}, whose config.json an export would replace: give "
            f"--output_path a directory of its own, such as {directory}/export/glm"
        )
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # something else may lie there by now
                folder.rmdir()
        raise


def _other_manifests(directory: Path, own: str) -> dict[str, Manifest]:
    """By file name; one that cannot be read protects nothing."""
    found = {}
    for path in sorted(path for format in FORMATS for path in directory.glob(f"*{manifest_suffix(format)}")):
        manifest = None if path.name == own else _parsed(path)
        found |= {path.name: manifest} if manifest else {}
    return found


def _parsed(path: Path) -> Manifest | None:
    try:
        return parse_manifest(path)
    except (GLMError, OSError):
        return None


def _graph_names(name: str, format: str) -> list[str]:
    return [f"{name}{suffix}" for suffix in (*REQUIRED[format], *OPTIONAL[format])]


def _refuse_changes(directory: Path, staging: Path, name: str, format: str, others: dict[str, Manifest]) -> None:
    """Compares the side files, which are staged, with what the directory's other exports need them to be."""
    texts = {path.name: file_digest(path) for path in staging.iterdir()}
    for other, manifest in others.items():
        owner = other.removesuffix(manifest_suffix(manifest.format))
        foreign = {file: part["crc32"] for file, part in manifest.files.items()}
        if taken := [file for file in _graph_names(name, format) if file in foreign]:
            raise GLMError(f"{directory / taken[0]} belongs to {other}: give --output_path another name or directory")
        shared = foreign.keys() - set(_graph_names(owner, manifest.format))
        # Python reads the other form of the tokenizer: exports of versions without the flat file have none.
        shared |= texts.keys() - ({TOKENIZER_FILE} - foreign.keys())
        for file in sorted(shared):
            if texts.get(file) != foreign.get(file):
                raise GLMError(
                    f"{directory / file} has the checksum {foreign.get(file)} in {other} and {texts.get(file)} in this "
                    "export (None: it has no such file), and both would read one file: give --output_path another "
                    "directory"
                )


def _was_interrupted(prefix: Path, format: str) -> bool:
    """Whether an export of this name was killed while it moved its files; only then its staging holds a manifest."""
    staging = f".{glob.escape(prefix.name)}.{format}.tmp-*"
    return any(prefix.parent.glob(f"{staging}/{glob.escape(prefix.name)}{manifest_suffix(format)}"))


def _refuse_strays(directory: Path, staging: Path, name: str, format: str, named: set[str]) -> None:
    """Looks for files that no export has written, neither another one nor an earlier one of this name and format.

    Args:
        staging: holds the side files.
        named: files of the other exports.
    """
    target, written = directory / f"{name}{manifest_suffix(format)}", {path.name for path in staging.iterdir()}
    earlier = _parsed(target)
    stray = directory / GENERATION_NAME
    if stray.is_file() and stray.name not in written and not (earlier and stray.name in earlier.files):
        raise GLMError(f"{stray} is not of this model and would be read with it: remove it, or give another directory")
    if target.is_file() or _is_old_manifest(directory / f"{name}{OLD_SUFFIX}"):
        return
    for file in sorted({*written, *_graph_names(name, format)} - named):
        if (directory / file).exists() and not _are_equal(directory / file, staging / file):
            raise GLMError(
                f"{directory / file} is of no export and would be replaced: remove it, or give --output_path another "
                f"directory, such as {directory}/export/{name}"
            )


def _are_equal(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and file_digest(one) == file_digest(other)


def _is_old_manifest(path: Path) -> bool:
    """Whether a file is the manifest of an earlier version of this project, not just called like one."""
    try:
        return "format_version" in read_json(path)
    except GLMError:
        return False


def _described(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """`Manifest.files` of files, which are read for it."""
    sizes = {path: path.stat().st_size for path in paths}
    with tqdm(
        total=sum(sizes.values()), desc="checksums", unit="B", unit_scale=True, delay=BAR_DELAY, leave=False
    ) as bar:
        return {path.name: {"size": size, "crc32": file_digest(path, bar.update)} for path, size in sizes.items()}


def _move(staging: Path, prefix: Path, manifest: Manifest, kept: set[str]) -> None:
    """Puts staged files in their place; between the two manifests the directory has no export of this name."""
    directory, target = prefix.parent, prefix.with_name(f"{prefix.name}{manifest_suffix(manifest.format)}")
    written = staging / target.name
    written.write_text(manifest.to_json(), encoding="utf-8")
    sync(written)
    earlier = _parsed(target)
    target.unlink(missing_ok=True)
    sync(directory)
    for file in manifest.files:
        (staging / file).replace(directory / file)
    gone = set(earlier.files if earlier else ()) | set(_graph_names(prefix.name, manifest.format))
    old = f"{prefix.name}{OLD_SUFFIX}"
    gone |= {old} if manifest.format == FORMATS[0] and _is_old_manifest(directory / old) else set()
    for file in gone - manifest.files.keys() - kept:
        (directory / file).unlink(missing_ok=True)
    written.replace(target)
    sync(directory)
