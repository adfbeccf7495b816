"""A file of torch.save in place: a zip without compression, whose tensors' numbers each are a member.

Members: `NAME/data.pkl`, a pickle of protocol 2, `NAME/byteorder`, `NAME/data/KEY`, `NAME/version`; numbers begin at
multiples of 64 bytes. Formats: PKWARE's APPNOTE 6.3.10 (4.3, and 4.5.3 of sizes beyond 4 GiB); pytorch/pytorch,
caffe2/serialize/inline_container.cc and torch/_tensor.py (`_reduce_ex_internal`).
"""

import pickle
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from glm.checkpoint.file_layout import Layout, Sum, opcode_name
from glm.checkpoint.tiles import Outgoing

_STORAGES = {
    np.dtype(dtype): name
    for dtype, name in (
        ("float64", "DoubleStorage"),
        ("float32", "FloatStorage"),
        ("float16", "HalfStorage"),
        (ml_dtypes.bfloat16, "BFloat16Storage"),
    )
}
_ALIGNMENT = 64
_LARGE = 0xFFFFFFFF  # from here on a size or an offset has a field of its own, and the usual one is full
_MANY = 0xFFFF  # the same of members
_DATE = 0x21  # 1 January 1980, the format's first day
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END_LARGE, _LOCATOR_LARGE = b"PK\x06\x06", b"PK\x06\x07"


class TorchDtype(str):
    """A dtype of torch among plain values, by its name."""

    __slots__ = ()


class Namespace(dict):
    """The fields of an argparse.Namespace among plain values."""


@dataclass(frozen=True)
class _Member:
    """Of the zip. `content` is known beforehand, or a tensor's numbers that follow."""

    name: bytes
    content: bytes | Outgoing
    offset: int

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.content, Outgoing)

    @property
    def size(self) -> int:
        return self.content.nbytes if self.is_tensor else len(self.content)

    @property
    def checksum(self) -> int:
        """Of a tensor's numbers it is written when they are."""
        return 0 if self.is_tensor else zlib.crc32(self.content)

    @property
    def header(self) -> bytes:
        """What stands before the content, filled up so that this is aligned."""
        large = struct.pack("<HHQQ", 1, 16, self.size, self.size) if self.size >= _LARGE else b""
        rest = -(self.offset + 30 + len(self.name) + len(large) + 4) % _ALIGNMENT
        extra = large + b"FB" + struct.pack("<H", rest) + b"Z" * rest
        return _LOCAL + self._fields(len(extra), _short(self.size)) + self.name + extra

    @property
    def start(self) -> int:
        return self.offset + len(self.header)

    @property
    def entry(self) -> bytes:
        """Of the directory at the end."""
        numbers = [number for number in (self.size, self.size, self.offset) if number >= _LARGE]
        extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        fields = self._fields(len(extra), _short(self.size))
        last = struct.pack("<HHHII", 0, 0, 0, 0, _short(self.offset))
        return _CENTRAL + struct.pack("<H", 45) + fields + last + self.name + extra

    def _fields(self, extra: int, size: int) -> bytes:
        return struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, _DATE, self.checksum, size, size, len(self.name), extra)


def torch_layout(root: str, content: Mapping[str, Any], tensors: Mapping[str, Sequence[Outgoing]]) -> Layout:
    """The file of a dict.

    Args:
        root: what the members' names begin with; torch takes the file's own name.
        content: plain values, dtypes and namespaces, which come first.
        tensors: dicts of named tensors, which follow.
    """
    every = [tensor for group in tensors.values() for tensor in group]
    keys = {id(tensor): str(number) for number, tensor in enumerate(every)}
    text = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK
    text += b"".join(_plain(name) + _value(value) for name, value in content.items())
    text += b"".join(_plain(name) + _state(group, keys) for name, group in tensors.items())
    text += pickle.SETITEMS + pickle.STOP
    contents: dict[str, bytes | Outgoing] = {"data.pkl": text, "byteorder": b"little"}
    contents |= {f"data/{keys[id(tensor)]}": tensor for tensor in every} | {"version": b"3\n"}
    return _zip_layout({f"{root}/{name}".encode(): content for name, content in contents.items()})


def _zip_layout(contents: Mapping[bytes, bytes | Outgoing]) -> Layout:
    members, position = [], 0
    for name, content in contents.items():
        members.append(_Member(name, content, position))
        position = members[-1].start + members[-1].size
    entries = [member.entry for member in members]
    places = list(accumulate(map(len, entries), initial=position))
    pieces = [(member.offset, member.header) for member in members]
    pieces += [(member.start, member.content) for member in members if not member.is_tensor]
    pieces += list(zip(places, entries, strict=False))
    end = _end(len(members), position, places[-1])
    pieces.append((places[-1], end))
    last = [(member, place) for member, place in zip(members, places, strict=False) if member.is_tensor]
    sums = [Sum(member.start, member.size, (member.offset + 14, place + 16)) for member, place in last]
    return Layout(places[-1] + len(end), pieces, [(member.start, member.content) for member, _ in last], sums)


def _end(count: int, start: int, end: int) -> bytes:
    """What ends the zip, after its directory from `start` to `end`."""
    text = b""
    if max(start, end - start) >= _LARGE or count >= _MANY:
        fields = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, end - start, start)
        text = _END_LARGE + fields + _LOCATOR_LARGE + struct.pack("<IQI", 0, end, 1)
    few = min(count, 0xFFFF)
    return text + _END + struct.pack("<HHHHIIH", 0, 0, few, few, _short(end - start), _short(start), 0)


def _short(number: int) -> int:
    """What the usual field says of a size or an offset."""
    return number if number < _LARGE else 0xFFFFFFFF


def _plain(value: Any) -> bytes:
    """The opcodes of a plain value, without the pickle around it."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _value(value: Any) -> bytes:
    if isinstance(value, TorchDtype):
        return opcode_name("torch", value)
    if isinstance(value, Namespace):
        fields = b"".join(_plain(name) + _value(field) for name, field in value.items())
        made = opcode_name("argparse", "Namespace") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
        return made + pickle.EMPTY_DICT + pickle.MARK + fields + pickle.SETITEMS + pickle.BUILD
    return _plain(value)


def _state(tensors: Sequence[Outgoing], keys: Mapping[int, str]) -> bytes:
    items = b"".join(_plain(tensor.row.stored) + _tensor(tensor, keys[id(tensor)]) for tensor in tensors)
    return _ordered() + pickle.MARK + items + pickle.SETITEMS


def _ordered() -> bytes:
    return opcode_name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _tensor(tensor: Outgoing, key: str) -> bytes:
    """A call of torch's: storage, offset, shape, strides, whether it has a gradient, hooks."""
    strides = tuple(prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
    storage = _plain("storage") + opcode_name("torch", _STORAGES[tensor.dtype])
    storage += b"".join(map(_plain, (key, "cpu", prod(tensor.shape))))
    arguments = b"".join(
        (
            pickle.MARK + storage + pickle.TUPLE + pickle.BINPERSID,
            *map(_plain, (0, tensor.shape, strides, False)),
            _ordered(),
        )
    )
    return opcode_name("torch._utils", "_rebuild_tensor_v2") + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE
