"""Writing a model so that PaddleNLP opens it, without Paddle.

A whole model is one file (`save_state`). Tensor-parallel ranks write either PaddleNLP's files, each what its rank holds
(`save_shard`, then `finish_shards` on one rank), or the parts of an ordinary Hugging Face checkpoint, each some whole
tensors (`save_part`, then `save_index`). A save takes the place of the directory's older weights of its own format,
however those were divided; the old ones go when the new ones are complete.
"""

import os
import pickle
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from glm.checkpoint.expert_stacks import stack_name
from glm.checkpoint.file_names import FILE_NAMES, INDEX_NAME, PART_NAME, SHARD_NAME, WEIGHT_FILES, remove_weights
from glm.checkpoint.files import DIGEST, DIGESTS, Safetensors
from glm.checkpoint.names import Tensors, from_memory, table_of
from glm.errors import GLMError
from glm.files.atomic import atomic_file, write_json

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def save_state(directory: str | Path, state: Tensors, config: Any, *, weight_format: str = "safetensors") -> Path:
    """Write a whole model's weights in the names and layout of config.checkpoint_table.

    The file replaces an older one only when it is complete and on the disk.

    Args:
        directory: created if need be.
        state: weights in the in-memory layout.
        config: needs checkpoint_table, num_hidden_layers, num_attention_heads.
        weight_format: "safetensors" (model.safetensors) or "pdparams" (model_state.pdparams, as paddle.save writes it).
    Returns:
        The path that was written.
    Raises:
        GLMError: when the state does not fit the table, the disk is full, or the directory holds weights of another
            format that would be read in preference to the new ones.
    """
    if weight_format not in FILE_NAMES:
        raise GLMError(f"weight format {weight_format!r} is unknown: choose one of {', '.join(FILE_NAMES)}")
    directory, name = Path(directory), FILE_NAMES[weight_format]
    torch_layout = weight_format == "safetensors" and table_of(config).torch_layout
    stored = from_memory(state, config, torch_layout=torch_layout)
    with _writing(directory, name, weight_format, stored) as temporary:
        if weight_format == "safetensors":
            _write_safetensors(temporary, stored, torch_layout)
        else:
            write_pdparams(temporary, stored)
    remove_weights(directory, weight_format, keep={name})
    return directory / name


def save_shard(directory: str | Path, state: Tensors, config: Any, *, rank: int, degree: int) -> Path:
    """Write what one tensor-parallel rank holds to PaddleNLP's `model_state.tpNN.pdparams`.

    When every rank has written, one of them calls `finish_shards`. config.json must name the degree.

    Args:
        state: the rank's parts (glm/distributed/plan.py) in the in-memory layout, with the rows that pad the
            vocabulary.
        config: as for `save_state`.
    Returns:
        The path that was written.
    Raises:
        GLMError: as `save_state`, or a degree below 2.
    """
    if not 0 <= rank < degree or degree < 2:
        raise GLMError(f"rank {rank} of {degree} has no tensor-parallel file: write a whole model with save_state")
    directory, name = Path(directory), SHARD_NAME.format(rank)
    stored = from_memory(state, config, shards=degree)
    with _writing(directory, name, "pdparams", stored) as temporary:
        write_pdparams(temporary, stored)
    return directory / name


def finish_shards(directory: str | Path, *, degree: int) -> None:
    """End a save of tensor-parallel files: remove the weights that they replace, such as those of a larger degree.

    Raises:
        GLMError: naming files of this save that are not there; nothing is then removed.
    """
    names = [SHARD_NAME.format(rank) for rank in range(degree)]
    _require_files(Path(directory), names)
    remove_weights(Path(directory), "pdparams", keep=set(names))


def assign_weights(shapes: Mapping[str, tuple[int, ...]], config: Any, parts: int) -> dict[str, int]:
    """Which of the parts of a Hugging Face checkpoint holds each weight: the same in every process.

    Weights that share a stored tensor go together. The largest tensors are given out first, each to the part that has
    least so far, so that parts differ by no more than the largest tensor.

    Args:
        shapes: of the whole weights, by in-memory name.
    Returns:
        In-memory name → part, counted from 0.
    """
    together = [tuple(map(stack_name, row.memory)) for row in table_of(config).expand(config)]
    sizes = {names: sum(prod(shapes[name]) for name in names) for names in together}
    totals, part_of = [0] * parts, {}
    for names in sorted(sizes, key=lambda names: -sizes[names]):
        part = totals.index(min(totals))
        totals[part] += sizes[names]
        part_of |= dict.fromkeys(names, part)
    return part_of


def save_part(directory: str | Path, state: Tensors, config: Any, *, part: int, parts: int) -> Path:
    """Write one part of a Hugging Face checkpoint: `model-0000K-of-0000N.safetensors`, some of the model's tensors.

    An older index is removed before an older part is replaced, so that it never names a mixture. When every part is
    written, one process calls `save_index`; parts without an index are not read.

    Args:
        state: the whole weights of this part (see `assign_weights`) in the in-memory layout.
        config: as for `save_state`.
        part: counted from 0.
    Returns:
        The path that was written.
    Raises:
        GLMError: as `save_state`.
    """
    torch_layout = table_of(config).torch_layout
    stored = from_memory(state, config, torch_layout=torch_layout, partial=True)
    directory = Path(directory)
    with _writing(directory, PART_NAME.format(part + 1, parts), "safetensors", stored) as temporary:
        _write_safetensors(temporary, stored, torch_layout, **{DIGEST: _digest(stored)})
        (directory / INDEX_NAME).unlink(missing_ok=True)
    return directory / PART_NAME.format(part + 1, parts)


def save_index(directory: str | Path, config: Any, *, parts: int) -> Path:
    """Write `model.safetensors.index.json` over the parts of `save_part`, and remove the weights that they replace.

    Returns:
        The path that was written.
    Raises:
        GLMError: a part is missing, or the parts do not hold every tensor of the model once; nothing is then changed.
    """
    directory = Path(directory)
    names = [PART_NAME.format(part + 1, parts) for part in range(parts)]
    _require_files(directory, names)
    files = [Safetensors(directory / name) for name in names]
    _require_every_tensor(directory, files, config)
    size = sum(prod(file.shape(name)) * file.dtype(name).itemsize for file in files for name in file)
    metadata = {"total_size": size, DIGESTS: {file.path.name: file.digest for file in files}}
    weight_map = {name: file.path.name for file in files for name in file}
    write_json(directory / INDEX_NAME, {"metadata": metadata, "weight_map": weight_map}, sort_keys=True)
    remove_weights(directory, "safetensors", keep={INDEX_NAME, *names})
    return directory / INDEX_NAME


def _require_files(directory: Path, names: list[str]) -> None:
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise GLMError(f"{directory} lacks {', '.join(missing[:5])} of {len(names)} files: not every rank has written")


def _require_every_tensor(directory: Path, files: list[Safetensors], config: Any) -> None:
    found = [name for file in files for name in file]
    expected = {row.stored for row in table_of(config).expand(config)}
    problems = {
        "lack": expected.difference(found),
        "should not have": set(found) - expected,
        "have twice": {name for name in found if found.count(name) > 1},
    }
    texts = [f"{word} {', '.join(sorted(names)[:5])}" for word, names in problems.items() if names]
    if texts:
        raise GLMError(
            f"the {len(files)} parts in {directory} {' and '.join(texts)}: every rank must write what assign_weights "
            "says"
        )


@contextmanager
def _writing(directory: Path, name: str, weight_format: str, stored: Tensors) -> Iterator[Path]:
    """Yield a temporary path for these tensors, as `atomic_file` does."""
    _refuse_shadowed(directory, weight_format)
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / name, sum(array.nbytes for array in stored.values())) as temporary:
        yield temporary


def _refuse_shadowed(directory: Path, weight_format: str) -> None:
    """Weights of another format may be somebody's download, so they are not removed; but they would be read."""
    name = FILE_NAMES[weight_format]
    own = {name, f"{name}.index.json"}
    preferred = [other for other in WEIGHT_FILES[: WEIGHT_FILES.index(name)] if other not in own]
    there = [other for other in preferred if (directory / other).exists()]
    if there:
        raise GLMError(
            f"{directory} already holds {there[0]}, which is read in preference to {name}: "
            f"remove it or choose another directory"
        )


def _write_safetensors(path: Path, stored: Tensors, torch_layout: bool, **metadata: str) -> None:
    # The library writes an array's memory as it lies, so it must be C-contiguous. PaddleNLP opens "np", not "pd".
    arrays = {name: np.ascontiguousarray(array) for name, array in stored.items()}
    try:
        save_file(arrays, path, metadata={"format": "pt" if torch_layout else "np", **metadata})
    except SafetensorError as error:
        code = _OS_ERROR.search(str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _digest(stored: Tensors) -> str:
    """A checksum of all numbers: it tells two saves of one model apart."""
    checksum = 0
    for array in stored.values():
        checksum = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), checksum)
    return f"{checksum:08x}"


def write_pdparams(path: Path, stored: Tensors) -> None:
    """Write named arrays as `paddle.save` does: a pickle of protocol 4, bfloat16 as uint16."""
    arrays = {name: _as_paddle(array) for name, array in stored.items()}
    with path.open("wb") as file:
        pickler = pickle.Pickler(file, protocol=4)  # the newest that paddle.load promises to read
        pickler.fast = True  # keep no reference to written tensors: the model would lie in memory twice
        pickler.dump(arrays)


def _as_paddle(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
