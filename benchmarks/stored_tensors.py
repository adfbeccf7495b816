"""Tensors of a checkpoint in safetensors files, mapped: whole or in shards, float32 or bfloat16. Needs numpy alone.

safetensors' own reader has no bfloat16 for numpy without ml_dtypes, which the peers' environment has not.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# As in the files → as numpy reads them; numpy has no bfloat16, so its bits are shown as they are.
TYPES = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2")}
BFLOAT16 = TYPES["BF16"]


def stored_tensors(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor by name, of all files of a directory; none is read before its numbers are.

    Raises:
        KeyError: a tensor of another type.
    """
    return {name: array for file in sorted(directory.glob("*.safetensors")) for name, array in _tensors(file)}


def _tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    content = np.memmap(file, "u1", "r", 8 + length)
    for name, entry in header.items():
        yield name, content[slice(*entry["data_offsets"])].view(TYPES[entry["dtype"]]).reshape(entry["shape"])


def as_float32(array: np.ndarray) -> np.ndarray:
    """The numbers in float32, exactly."""
    return (array.astype("<u4") << 16).view("<f4") if array.dtype == BFLOAT16 else array
