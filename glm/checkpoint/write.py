"""Writing a model so that PaddleNLP opens it, without Paddle."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from glm.checkpoint.atomic import atomic_file
from glm.checkpoint.names import Tensors, from_memory
from glm.checkpoint.read import WEIGHT_FILES
from glm.errors import GLMError

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
        GLMError: when the state does not fit the table, the disk is full, or the directory holds weights that would be
            read in preference to the new ones.
    """
    if weight_format not in _WRITERS:
        raise GLMError(f"weight format {weight_format!r} is unknown: choose one of {', '.join(_WRITERS)}")
    name, write = FILE_NAMES[weight_format], _WRITERS[weight_format]
    directory = Path(directory)
    _refuse_shadowed(directory, name)
    stored = from_memory(state, config)
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(array.nbytes for array in stored.values())
    with atomic_file(directory / name, needed) as temporary:
        write(temporary, stored)
    return directory / name


def _refuse_shadowed(directory: Path, name: str) -> None:
    preferred = [other for other in WEIGHT_FILES[: WEIGHT_FILES.index(name)] if (directory / other).exists()]
    if preferred:
        raise GLMError(
            f"{directory} already holds {preferred[0]}, which is read in preference to {name}: "
            f"remove it or choose another directory"
        )


def _write_safetensors(path: Path, stored: Tensors) -> None:
    # The library writes an array's memory as it lies, so it must be C-contiguous. PaddleNLP opens "np", not "pd".
    arrays = {name: np.ascontiguousarray(array) for name, array in stored.items()}
    try:
        save_file(arrays, path, metadata={"format": "np"})
    except SafetensorError as error:
        code = _OS_ERROR.search(str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def write_pdparams(path: Path, stored: Tensors) -> None:
    arrays = {name: _as_paddle(array) for name, array in stored.items()}
    with path.open("wb") as file:
        pickler = pickle.Pickler(file, protocol=4)  # the newest that paddle.load promises to read
        pickler.fast = True  # keep no reference to written tensors: the model would lie in memory twice
        pickler.dump(arrays)


def _as_paddle(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


FILE_NAMES = {"safetensors": "model.safetensors", "pdparams": "model_state.pdparams"}
_WRITERS = {"safetensors": _write_safetensors, "pdparams": write_pdparams}
