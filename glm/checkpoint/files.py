"""Opening weight files lazily: every format becomes a mapping from stored name to array."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (gives NumPy the bfloat16 that safetensors asks it for)
import numpy as np
from safetensors import SafetensorError, safe_open

from glm.checkpoint.torch_file import load_torch_bin
from glm.checkpoint.unpickle import as_bfloat16, damaged, load_pdparams
from glm.errors import GLMError

_TORCH_LAYOUT = {"pt": True, "np": False, "pd": False, "paddle": False}  # by a safetensors file's "format"


class TensorFile(Mapping[str, np.ndarray]):
    """Arrays by stored name.

    Args:
        names: what the file holds; asking for them reads no tensor.
        torch_layout: what the format says of linear weights ([out, in] or not), None where it says nothing.
    """

    def __init__(self, names: Iterable[str], torch_layout: bool | None):
        self._names, self.torch_layout = dict.fromkeys(names), torch_layout

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)


class MappedTensors(TensorFile):
    """A .pdparams or .bin file; its arrays are views of the mapped file."""

    def __init__(self, arrays: dict[str, np.ndarray], torch_layout: bool):
        super().__init__(arrays, torch_layout)
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]


class Safetensors(TensorFile):
    """A .safetensors file; a tensor is read when it is asked for. PaddleNLP stores bfloat16 as U16 there too."""

    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, framework="np")
        except SafetensorError as error:
            raise damaged(path, error) from error
        except OSError as error:
            raise GLMError(f"{path} cannot be read ({error}): check the path and its permissions") from error
        label = (self._file.metadata() or {}).get("format", "")
        super().__init__(self._file.keys(), _TORCH_LAYOUT.get(label))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return as_bfloat16(self._file.get_tensor(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())


class Indexed(TensorFile):
    """Several files joined by a Hugging Face style index; each is opened when its first tensor is asked for."""

    def __init__(self, index: Path):
        self._index = index
        self._file_of = _read_index(index)
        self._open: dict[str, TensorFile] = {}
        missing = sorted({name for name in self._file_of.values() if not (index.parent / name).is_file()})
        if missing:
            raise GLMError(f"{index.parent} lacks {', '.join(missing[:5])}, which {index.name} names: download it")
        super().__init__(self._file_of, self._part(next(iter(self._file_of))).torch_layout)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._part(name)[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._part(name).shape(name)

    def _part(self, name: str) -> TensorFile:
        file_name = self._file_of[name]
        if file_name not in self._open:
            self._open[file_name] = open_file(self._index.parent / file_name)
        part = self._open[file_name]
        if name not in part:
            path = self._index.parent / file_name
            raise GLMError(f"{path} lacks {name}, which {self._index.name} places there: download both again")
        return part


def _read_index(index: Path) -> dict[str, str]:
    try:
        file_of = json.loads(index.read_text("utf-8"))["weight_map"]
        names = {str(name) for name in file_of.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(index, error) from error
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    strangers = [name for name in names if Path(name).name != name or not name.endswith(suffix)]
    if strangers or not names:
        what = repr(strangers[0]) if strangers else "no files"
        raise GLMError(f"{index} names {what}, expected {suffix} files of its own directory: download it again")
    return file_of


_OPENERS: dict[str, Callable[[Path], TensorFile]] = {
    ".safetensors": Safetensors,
    ".bin": lambda path: MappedTensors(load_torch_bin(path), torch_layout=True),
    ".pdparams": lambda path: MappedTensors(load_pdparams(path), torch_layout=False),
    ".json": Indexed,
}


def open_file(path: Path) -> TensorFile:
    """Open a weight file or an index of weight files by its suffix.

    Raises:
        GLMError: when it is missing, damaged, incomplete or refused.
    """
    return _OPENERS[path.suffix](path)
