"""Weight files written in place: where every tensor will lie is known first, then its tiles are put there in any order.

Formats: safetensors (huggingface/safetensors, README: eight bytes of length, a JSON header, the numbers), and what
paddle.save writes, a pickle of protocol 4 (pickletools; numpy/core/src/multiarray/methods.c, array_reduce).
"""

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from glm.checkpoint.tiles import Block, Outgoing
from glm.files.atomic import reserve

_SAFETENSORS_TYPES = {
    np.dtype(dtype): name
    for dtype, name in (
        ("float64", "F64"),
        ("float32", "F32"),
        ("float16", "F16"),
        (ml_dtypes.bfloat16, "BF16"),
        ("int64", "I64"),
        ("int32", "I32"),
        ("int16", "I16"),
        ("int8", "I8"),
        ("uint8", "U8"),
        ("bool", "BOOL"),
    )
}
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Sum:
    """The CRC-32 of a part of a file, which stands in the file, as four bytes, little endian."""

    start: int
    size: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """A file before its numbers are in it.

    Attributes:
        size: in bytes.
        pieces: (offset, bytes) of all that is not a tensor's numbers.
        places: (offset, tensor), in the order of the file.
        sums: of what is then there.
    """

    size: int
    pieces: list[tuple[int, bytes]]
    places: list[tuple[int, Outgoing]]
    sums: Sequence[Sum] = ()


def safetensors_layout(tensors: Sequence[Outgoing]) -> Layout:
    """`model.safetensors`, in the library's order: wide types first, so that all lie aligned, then by name."""
    tensors = sorted(tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.row.stored))
    ends = list(accumulate((tensor.nbytes for tensor in tensors), initial=0))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for tensor, start, end in zip(tensors, ends, ends[1:], strict=False):
        entry = {"dtype": _SAFETENSORS_TYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, end]}
        header[tensor.row.stored] = entry
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    places = [(first + start, tensor) for tensor, start in zip(tensors, ends, strict=False)]
    return Layout(first + ends[-1], [(0, struct.pack("<Q", len(text)) + text)], places)


def pdparams_layout(tensors: Sequence[Outgoing]) -> Layout:
    """`model_state.pdparams` as paddle.save writes it: a pickled dict of NumPy arrays, bfloat16 as uint16."""
    text, pieces, places, position = pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK, [], [], 0
    for tensor in tensors:
        text += _array_opening(tensor)
        pieces.append((position, text))
        places.append((position + len(text), tensor))
        position, text = position + len(text) + tensor.nbytes, pickle.TUPLE + pickle.BUILD
    text += pickle.SETITEMS + pickle.STOP
    pieces.append((position, text))
    return Layout(position + len(text), pieces, places)


def _array_opening(tensor: Outgoing) -> bytes:
    """Opcodes of an item of the dict up to the array's bytes: numpy's own way of pickling an array."""
    name = tensor.row.stored.encode()
    return b"".join(
        (
            pickle.BINUNICODE + struct.pack("<I", len(name)) + name,
            opcode_name("numpy.core.multiarray", "_reconstruct"),
            opcode_name("numpy", "ndarray") + pickle.BININT1 + b"\0" + pickle.TUPLE1,
            pickle.SHORT_BINBYTES + b"\x01b" + pickle.TUPLE3 + pickle.REDUCE,
            pickle.MARK + pickle.BININT1 + b"\x01",  # the state: version, shape, dtype, Fortran order, bytes
            pickle.MARK + b"".join(pickle.BININT + struct.pack("<i", size) for size in tensor.shape) + pickle.TUPLE,
            _dtype("u2" if tensor.dtype == ml_dtypes.bfloat16 else tensor.dtype.str[1:], tensor.dtype.itemsize),
            pickle.NEWFALSE,
            pickle.BINBYTES8 + struct.pack("<Q", tensor.nbytes),
        )
    )


def _dtype(code: str, itemsize: int) -> bytes:
    order = b"<" if itemsize > 1 else b"|"
    return b"".join(
        (
            opcode_name("numpy", "dtype") + _text(code.encode()) + pickle.NEWFALSE + pickle.NEWTRUE,
            pickle.TUPLE3 + pickle.REDUCE,
            pickle.MARK + pickle.BININT1 + b"\x03" + _text(order) + 3 * pickle.NONE,
            2 * (pickle.BININT + struct.pack("<i", -1)) + pickle.BININT1 + b"\0" + pickle.TUPLE + pickle.BUILD,
        )
    )


def _text(value: bytes) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value


def opcode_name(module: str, name: str) -> bytes:
    """The opcode that names a class or a function."""
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def write_layout(path: Path, layout: Layout, progress: Callable[[int], Any] = lambda count: None) -> None:
    """Write a file, tensor by tensor.

    Args:
        progress: is told the number of bytes each time some have been written.
    Raises:
        OSError: no room for the whole file, before anything is read.
        GLMError: as `Outgoing.tiles`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        reserve(descriptor, layout.size)
        for offset, piece in layout.pieces:
            _write_at(descriptor, piece, offset)
        for offset, tensor in layout.places:
            for block, array in tensor.tiles():
                _write_block(descriptor, offset, tensor, block, array)
                progress(array.nbytes)
                del array
                tensor.release()
        for checksum in layout.sums:
            _write_sum(descriptor, checksum)
    finally:
        os.close(descriptor)


def _write_block(descriptor: int, offset: int, tensor: Outgoing, block: Block, array: np.ndarray) -> None:
    itemsize = tensor.dtype.itemsize
    # Copying numbers that NumPy does not know itself is slow, so they are moved as plain bits.
    bits = np.ascontiguousarray(array.view(f"u{itemsize}"))
    width = tensor.shape[-1] if tensor.shape else 1
    start = block[0].start * width if len(block) > 1 else 0
    first = offset + (start + (block[-1].start if block else 0)) * itemsize
    if len(block) < 2 or array.shape[-1] == width:
        return _write_at(descriptor, bits, first)
    for number, row in enumerate(bits):
        _write_at(descriptor, row, first + number * width * itemsize)
    return None


def _write_sum(descriptor: int, checksum: Sum) -> None:
    """Tiles come in any order, so the sum is made of what was written."""
    found, end = 0, checksum.start + checksum.size
    for start in range(checksum.start, end, _CHUNK):
        found = zlib.crc32(os.pread(descriptor, min(_CHUNK, end - start), start), found)
    for place in checksum.places:
        _write_at(descriptor, struct.pack("<I", found), place)


def _write_at(descriptor: int, content: bytes | np.ndarray, offset: int) -> None:
    view = memoryview(content).cast("B")
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
