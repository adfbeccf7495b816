"""Reading what torch.save wrote, pytorch_model.bin above all, without torch and without running its pickle.

torch.save (1.6 and later) writes an uncompressed zip: `NAME/data.pkl`, a pickle of protocol 2 whose tensors point to
storages by persistent ids, `NAME/data/KEY`, the storages' bytes, and `NAME/byteorder`. Before 1.6 it wrote pickles in a
row (a magic number, a version, the machine, the tensors, the storages' keys in order), then of each storage its number
of elements, int64, and its bytes, both little endian.
Format: torch/serialization.py (`_legacy_save`, `_legacy_load`), torch/_utils.py.
"""

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from glm.errors import GLMError
from glm.pickles.unpickle import (
    StandIn,
    StateDict,
    ViewFile,
    damaged,
    map_file,
    require_end,
    unpickle,
    unpickle_next,
)

_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of the magic number of torch < 1.6
_STORAGE_TYPES = {
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
}


class _StorageType(StandIn):
    """Stands for torch.FloatStorage and its kin; never called, only compared by the persistent id's reader."""

    __slots__ = ("dtype",)

    def __init__(self, dtype):
        super().__init__(None)
        self.dtype = np.dtype(dtype)


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int  # in elements
    start: int = 0  # in elements, of a storage that is a part of another, which torch before 0.4 had


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # in elements, as are the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    plain = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
    if not isinstance(storage, _Storage) or not plain or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor without storage, or of impossible shape")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_TENSOR = StandIn(_rebuild_tensor)
TORCH_NAMES: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): StandIn(StateDict),
    ("torch._utils", "_rebuild_tensor"): _TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): _TENSOR,
    ("torch._utils", "_rebuild_parameter"): StandIn(lambda data, *_: data),
    # An Ascend device's tensor, whose numbers were copied to the host in plain order before they were stored.
    ("torch_npu.utils.storage", "_rebuild_npu_tensor"): _TENSOR,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_TYPES.items()},
}


def load_torch_bin(path: str | Path, view: memoryview | None = None) -> dict[str, np.ndarray]:
    """Read a state dict that `torch.save` wrote, in torch's [out, in] layout.

    Args:
        view: the file's bytes, if it is mapped already.
    Returns:
        Read-only views of the mapped file; bfloat16 as ml_dtypes.bfloat16.
    Raises:
        GLMError: when the file is missing, damaged, names anything but tensors, or holds something else than named
            tensors.
    """
    path = Path(path)
    file = open_torch(path, view)
    if not isinstance(file.content, dict):
        raise GLMError(f"{path} holds a {type(file.content).__name__}, expected a state dict: save model.state_dict()")
    return {name: file.array(name, value) for name, value in file.content.items()}


@dataclass(frozen=True)
class TorchFile:
    """What a file holds, with inert stand-ins for tensors, of which `array` makes arrays.

    Attributes:
        storages: the bytes of the tensors' numbers, by key.
    """

    path: Path
    content: Any
    storages: dict[str, memoryview]
    big_endian: bool

    def array(self, name: Any, tensor: Any) -> np.ndarray:
        """A read-only view of the mapped file. Raises GLMError where it is no tensor, or beyond its storage."""
        return _view(name, tensor, self.storages, self.big_endian, self.path)


def open_torch(
    path: Path,
    view: memoryview | None = None,
    names: Mapping[tuple[str, str], Any] = TORCH_NAMES,
    persistent_load: Callable[[Any], Any] | None = None,
) -> TorchFile:
    """Unpickle a file of torch.save, whatever it holds.

    Args:
        view: the file's bytes, if it is mapped already.
        names: what the pickle may name.
        persistent_load: reads a persistent id; by default one of a tensor's storage.
    Raises:
        GLMError: as `load_torch_bin`.
    """
    view = map_file(path) if view is None else view
    legacy = bytes(view[: len(_LEGACY_START)]) == _LEGACY_START
    read = _read_legacy if legacy else _read_zip
    return TorchFile(path, *read(view, path, names, persistent_load or storage_of))


def _read_zip(view: memoryview, path: Path, names: Mapping, load: Callable) -> tuple[Any, dict[str, memoryview], bool]:
    """What the file holds, its storages by key, and whether their numbers are big endian."""
    try:
        members = _members(view, path)
        root = next(name for name in members if name.endswith("data.pkl")).removesuffix("data.pkl")
    except (StopIteration, struct.error, zipfile.BadZipFile, ValueError, OSError) as error:
        raise damaged(path, error) from error
    content = unpickle(members[f"{root}data.pkl"], path, names, persistent_load=load)
    data = f"{root}data/"
    storages = {name.removeprefix(data): member for name, member in members.items() if name.startswith(data)}
    return content, storages, bytes(members.get(f"{root}byteorder", b"little")) == b"big"


def _read_legacy(
    view: memoryview, path: Path, names: Mapping, load: Callable
) -> tuple[Any, dict[str, memoryview], bool]:
    """The same of torch's form before 1.6."""
    file, widths = ViewFile(view), {}

    def storage(identifier) -> Any:
        found = load(identifier)
        if isinstance(found, _Storage) and widths.setdefault(found.key, found.dtype.itemsize) != found.dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {found.key} is of two types")
        return found

    for _ in ("magic number", "version of the form", "byte order and sizes of the machine"):
        unpickle_next(file, path, {})
    content = unpickle_next(file, path, names, persistent_load=storage)
    keys = unpickle_next(file, path, {})
    try:
        storages = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little", signed=True)
            if count < 0:
                raise ValueError(f"storage {key} has {count} elements")
            storages[key] = memoryview(file.read(count * widths[key]))
        require_end(file)
    except (TypeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise damaged(path, error) from error
    return content, storages, False


def storage_of(identifier) -> _Storage:
    """Read a persistent id ("storage", type, key, location, size); the location (cpu, cuda:0) does not matter.

    Before torch 1.6 a sixth entry is None, or (key, start, size) of the part that is meant.
    """
    kind, storage_type, key, _, size, *more = identifier
    part = more[0] if more and more[0] is not None else (key, 0, size)
    numbers = (size, *part[1:])
    if kind != "storage" or not isinstance(storage_type, _StorageType) or type(key) is not str or len(more) > 1:
        raise pickle.UnpicklingError(f"a persistent id of kind {kind!r}")
    if not all(type(number) is int and number >= 0 for number in numbers) or len(part) != 3:
        raise pickle.UnpicklingError(f"a storage of impossible size {numbers!r}")
    return _Storage(storage_type.dtype, key, min(part[2], size - part[1]), part[1])


def _members(view: memoryview, path: Path) -> dict[str, memoryview]:
    """The bytes of every zip member, in place: a local header is 30 bytes, then the name, then the extra field."""
    members = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"member {info.filename} is compressed, torch does not do that")
            name_length, extra_length = struct.unpack_from("<HH", view, info.header_offset + 26)
            start = info.header_offset + 30 + name_length + extra_length
            members[info.filename] = view[start : start + info.file_size]
    return members


def _view(name, tensor, storages: dict[str, memoryview], big_endian: bool, path: Path) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(tensor, _Tensor):
        raise GLMError(f"{path}: {name!r} is a {type(tensor).__name__}, expected a tensor: save model.state_dict()")
    dtype = tensor.storage.dtype
    data = storages.get(tensor.storage.key, b"")[tensor.storage.start * dtype.itemsize :]
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    available = min(tensor.storage.size, len(data) // dtype.itemsize)
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype)
    if last >= available:
        raise GLMError(
            f"{path} is damaged: {name} needs {last + 1} elements of storage {tensor.storage.key}, "
            f"which has {available}: copy or download it again"
        )
    flat = _numbers(data, dtype, available, big_endian)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


def _numbers(data: memoryview, dtype: np.dtype, count: int, big_endian: bool) -> np.ndarray:
    if not big_endian:
        return np.frombuffer(data, dtype, count)
    bits = np.frombuffer(data, f">u{dtype.itemsize}", count)
    return bits.astype(f"=u{dtype.itemsize}").view(dtype)  # ml_dtypes' bfloat16 has no byte order of its own
