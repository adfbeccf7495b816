"""Reading pickles without running them.

A pickle is a program: it names functions, and loading calls them. Here every name that a weights file needs leads to an
inert stand-in of this module, and any other name is refused. Nothing of NumPy, Paddle or torch is called with data of
the pickle: arrays are rebuilt afterwards from checked dtype, shape and bytes. (NumPy's own dtype and ndarray
`__setstate__` trust their input, so allowing the real ones would not be safe.)

What `paddle.save` writes (paddle/framework/io.py): NumPy arrays, `(name, array)` tuples for tensors in nested
containers, `GeneratorState` objects in random number states. It writes `eval` only for DenseTensor objects, which no
state_dict of a layer, optimizer, scheduler or scaler holds; `eval` is refused.
"""

import mmap
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from glm.errors import GLMError
from glm.files.foreign_files import HEAD, require_real, stand_in

_NAME_TABLE = "StructuredToParameterName@@"
_BIG_TENSORS = "UnpackBigParamInfor@@"  # Paddle's own spelling
_DTYPE_CODE = re.compile(r"f[248]|[iu][1248]|b1|c8|c16")
_DTYPE_TAIL = (None, None, None, -1, -1, 0)  # no sub-array, no field names, no fields, natural size and alignment
_VIEW_FROM = 1 << 12  # bytes; shorter reads are copied, longer ones stay in the mapped file


class StandIn:
    """A function that a pickle may call. Its state cannot be set, so a pickle cannot alter it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any] | None):
        self._make = make

    def __call__(self, *arguments):
        if self._make is None:
            raise pickle.UnpicklingError("a type is called as a function")
        return self._make(*arguments)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a function is given a state")


class StateDict(dict):
    """Stands for OrderedDict. torch hangs a `_metadata` attribute on it, which is dropped."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class StoredType:
    """A NumPy dtype as the pickle describes it: plain numbers only."""

    __slots__ = ("code", "order")

    def __init__(self, code, align, copy):
        # Without copy, NumPy would set the following state on the dtype that the whole process shares.
        if not (isinstance(code, str) and _DTYPE_CODE.fullmatch(code)) or align or not copy:
            raise pickle.UnpicklingError(f"dtype {code!r} is not a plain number type")
        self.code, self.order = code, "="

    def __setstate__(self, state):
        if len(state) != 8 or state[0] != 3 or state[1] not in ("<", ">", "|", "=") or tuple(state[2:]) != _DTYPE_TAIL:
            raise pickle.UnpicklingError(f"dtype state {state!r} is not that of a plain number type")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class StoredArray:
    """A NumPy array as the pickle describes it; `numpy()` makes it one, without a copy."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, dtype: StoredType | None = None, shape: tuple = (), data: Any = None):
        self.dtype, self.shape, self.fortran, self.data = dtype, shape, False, data

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.data = state
        self.check()

    def check(self) -> None:
        if isinstance(self.data, str):  # a byte string that Python 2 wrote
            self.data = self.data.encode("latin1")
        if not isinstance(self.dtype, StoredType) or not isinstance(self.data, bytes | bytearray | memoryview):
            raise pickle.UnpicklingError("an array without plain numbers")
        if type(self.shape) is not tuple or not all(type(size) is int and size >= 0 for size in self.shape):
            raise pickle.UnpicklingError(f"an array of shape {self.shape!r}")
        if len(self.data) != np.dtype(self.dtype.code).itemsize * _product(self.shape):
            raise pickle.UnpicklingError(f"an array of shape {self.shape} with {len(self.data)} bytes")

    def numpy(self) -> np.ndarray:
        self.check()
        flat = np.frombuffer(self.data, self.dtype.numpy())
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


class StoredGenerator:
    """Stands for paddle.base.libpaddle.GeneratorState: device, seed, offset and the engine's state as byte values."""

    __slots__ = ()

    def __setstate__(self, state):
        numbers = [item for entry in state for item in (entry if isinstance(entry, list) else (entry,))]
        if not isinstance(state, tuple) or not all(type(number) is int for number in numbers):
            raise pickle.UnpicklingError("a generator state that is not made of integers")


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _scalar(dtype, data) -> StoredArray:
    array = StoredArray(dtype, (), data)
    array.check()
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


# numpy._core is NumPy 2's name of numpy.core, __builtin__ is what protocol 2 calls builtins.
PADDLE_NAMES: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): StandIn(None),
    ("numpy", "dtype"): StandIn(StoredType),
    ("numpy.core.multiarray", "_reconstruct"): StandIn(lambda *_: StoredArray()),
    ("numpy._core.multiarray", "_reconstruct"): StandIn(lambda *_: StoredArray()),
    ("numpy.core.multiarray", "scalar"): StandIn(_scalar),
    ("numpy._core.multiarray", "scalar"): StandIn(_scalar),
    ("_codecs", "encode"): StandIn(_encode),
    ("builtins", "tuple"): StandIn(tuple),
    ("__builtin__", "tuple"): StandIn(tuple),
    ("__builtin__", "bytes"): StandIn(lambda: b""),  # protocol 2's empty byte string
    ("collections", "OrderedDict"): StandIn(StateDict),
}
TRAINING_NAMES = {**PADDLE_NAMES, ("paddle.base.libpaddle", "GeneratorState"): StoredGenerator}


class _Restricted:
    """Mixed into an unpickler: names lead to the stand-ins of `allowed` or are refused."""

    def __init__(self, file, path: Path, allowed: Mapping[tuple[str, str], Any], persistent_load=None):
        super().__init__(file, encoding="latin1")  # as paddle.load does
        self.path, self.allowed = path, allowed
        if persistent_load is not None:
            self.persistent_load = persistent_load

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise GLMError(
                f"{self.path} is refused: loading it would run {module}.{name}, which no weights or training state "
                f"needs: take the file from a source you trust, or safetensors, which cannot carry code"
            )
        return self.allowed[module, name]


class _Checker(_Restricted, pickle.Unpickler):
    """The machine that paddle.load uses too, so both read a file alike."""


class _Mapped(_Restricted, pickle._Unpickler):
    """The Python machine accepts memory views from its file, so big tensors stay in the mapped file."""


class ViewFile:
    """What an unpickler needs of a file, over a memory view; long reads are views, not copies."""

    def __init__(self, view: memoryview):
        self.view, self.position = view, 0

    def read(self, size: int) -> bytes | memoryview:
        chunk = self.view[self.position : self.position + size]
        if len(chunk) < size:
            raise EOFError(f"{size} bytes wanted, {len(chunk)} left")
        self.position += size
        return chunk if size >= _VIEW_FROM else bytes(chunk)

    def readline(self) -> bytes:
        end = self.position
        while end < len(self.view) and self.view[end] != 0x0A:
            end += 1
        return bytes(self.read(min(end + 1, len(self.view)) - self.position))


def map_file(path: Path) -> memoryview:
    """Map a file for reading.

    Raises:
        GLMError: when it is missing, unreadable or empty, or only stands in the place of another.
    """
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError as error:
        raise GLMError(f"{path} is empty: copy or download it again") from error
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    if what := stand_in(bytes(view[:HEAD])):
        raise GLMError(f"{path} {what}")
    return view


def damaged(path: Path, error: Exception) -> GLMError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return GLMError(f"{path} is damaged or cut short ({reason}): copy or download it again")


def unpickle(view: memoryview, path: Path, allowed: Mapping[tuple[str, str], Any], persistent_load=None) -> Any:
    """Run a pickle that may use only `allowed` names; arrays in the result are `StoredArray` over `view`.

    Raises:
        GLMError: naming `path` and, if that is the cause, the forbidden name.
    """
    file = ViewFile(view)
    content = unpickle_next(file, path, allowed, persistent_load)
    try:
        require_end(file)
    except pickle.UnpicklingError as error:
        raise damaged(path, error) from error
    return content


def unpickle_next(file: ViewFile, path: Path, allowed: Mapping[tuple[str, str], Any], persistent_load=None) -> Any:
    """`unpickle` for one of several pickles in a row; `file` stands behind it then."""
    try:
        return _Mapped(file, path, allowed, persistent_load).load()
    except GLMError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(path, error) from error


def require_end(file: ViewFile) -> None:
    """Raises UnpicklingError where something stands behind what was read."""
    _require_end(file.view[file.position :])


def _require_end(rest: bytes | memoryview) -> None:
    if len(rest):
        raise pickle.UnpicklingError("there is more after its end")


def verify_pickle(path: str | Path) -> None:
    """Check that a file written by `paddle.save` names only what training state needs, so `paddle.load` may open it.

    For optimizer (.pdopt), scheduler, scaler and random number states. The pickle is walked with inert stand-ins; none
    of the functions that it names is called.

    Raises:
        GLMError: naming the file and the forbidden name, or that the file is damaged.
    """
    path = Path(path)
    require_real(path)
    try:
        with path.open("rb") as file:
            _Checker(file, path, TRAINING_NAMES).load()
            _require_end(file.read(1))
    except GLMError:
        raise
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(path, error) from error


def load_pdparams(path: str | Path, view: memoryview | None = None) -> dict[str, np.ndarray]:
    """Read a state dict that `paddle.save` wrote (protocol 2, 3 or 4), in Paddle's [in, out] layout.

    uint16 is Paddle's NumPy form of bfloat16 and comes back as ml_dtypes.bfloat16. Arrays are read-only views of the
    mapped file where the protocol allows (3 and 4), so opening a big file costs no memory.

    Args:
        view: the file's bytes, if it is mapped already.
    Raises:
        GLMError: when the file is missing, damaged, forbidden, or holds something else than named arrays.
    """
    path = Path(path)
    content = unpickle(map_file(path) if view is None else view, path, PADDLE_NAMES)
    if not isinstance(content, dict):
        raise GLMError(f"{path} holds a {type(content).__name__}, expected a state dict: save model.state_dict()")
    entries = dict(content)
    entries.pop(_NAME_TABLE, None)
    big = entries.pop(_BIG_TENSORS, {})
    try:
        arrays = {name: _array(name, value, path) for name, value in entries.items()}
        _join_slices(arrays, big)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise damaged(path, error) from error
    return {name: as_bfloat16(array) for name, array in arrays.items()}


def as_bfloat16(array: np.ndarray) -> np.ndarray:
    """Paddle stores bfloat16 as NumPy's uint16: give it its type back. Other types pass unchanged."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array


def _array(name: Any, value: Any, path: Path) -> np.ndarray:
    if isinstance(value, tuple) and len(value) == 2:  # (parameter name, data)
        value = value[1]
    if not isinstance(name, str) or not isinstance(value, StoredArray):
        raise GLMError(f"{path}: {name!r} is a {type(value).__name__}, expected an array: save model.state_dict()")
    return value.numpy()


def _join_slices(arrays: dict[str, np.ndarray], big: dict[str, dict]) -> None:
    """Undo Paddle's splitting of tensors above 1 GiB in protocols 2 and 3, in place."""
    for name, info in big.items():
        parts = [arrays.pop(part) for part in info["slices"]]
        arrays[name] = np.concatenate(parts).reshape(info["OriginShape"])
