"""Opening weight files lazily: every format becomes a mapping from stored name to array."""

import json
import mmap
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes  # also gives NumPy the bfloat16 that safetensors asks it for
import numpy as np
from safetensors import SafetensorError, safe_open

from glm.errors import GLMError
from glm.files.foreign_files import require_real
from glm.files.json_files import parse_json
from glm.pickles.torch_file import load_torch_bin
from glm.pickles.unpickle import as_bfloat16, damaged, load_pdparams, map_file

_TORCH_LAYOUT = {"pt": True, "np": False, "pd": False, "paddle": False}  # by a safetensors file's "format"
FP8_TYPE = "F8_E4M3"  # of 8-bit floating-point numbers in a safetensors file
DIGEST, DIGESTS = "digest", "digests"  # in the metadata of a part and of the index of all parts


class TensorFile(Mapping[str, np.ndarray]):
    """Arrays by stored name.

    Args:
        path: for messages.
        names: what the file holds; asking for them reads no tensor.
        torch_layout: what the format says of linear weights ([out, in] or not), None where it says nothing.

    Attributes:
        digest: of the contents, where this project wrote the file as a part of several.
    """

    digest: str | None = None

    def __init__(self, path: Path, names: Iterable[str], torch_layout: bool | None):
        self.path, self._names, self.torch_layout = path, dict.fromkeys(names), torch_layout

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name, tuple(slice(0, size) for size in self.shape(name)))

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        """A block of a tensor: one slice with start and stop for every axis. Nothing else of it is read.

        Returns:
            A view of the mapped file where the format allows it, else an array of its own.
        """

    @abstractmethod
    def release(self) -> None:
        """Give back the memory of mapped pages, which count as the process's own; they are read again when needed."""

    def stored_type(self, name: str) -> str:
        """As safetensors calls it; where a format has no type that NumPy lacks, NumPy's name."""
        return self.dtype(name).name

    def read_fp8(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        """As `read`, of a tensor of `FP8_TYPE`: numbers without their scale."""
        raise NotImplementedError

    def dtype(self, name: str) -> np.dtype:
        # Of one number: for an empty block safetensors takes memory for the whole tensor.
        return self.read(name, tuple(slice(0, min(size, 1)) for size in self.shape(name))).dtype


class MappedTensors(TensorFile):
    """A .pdparams or .bin file; its arrays are views of the mapped file."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray], torch_layout: bool, mapping: mmap.mmap | None = None):
        super().__init__(path, arrays, torch_layout)
        self._arrays, self._mapping = arrays, mapping

    @classmethod
    def open(cls, path: Path, load: Callable[..., dict[str, np.ndarray]], torch_layout: bool) -> "MappedTensors":
        """Args: load: `load_pdparams` or `load_torch_bin`."""
        view = map_file(path)
        return cls(path, load(path, view), torch_layout, view.obj)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._arrays[name].shape)

    def read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        return self._arrays[name][block]

    def release(self) -> None:
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)


class Safetensors(TensorFile):
    """A .safetensors file. PaddleNLP stores bfloat16 as U16 there too."""

    def __init__(self, path: Path):
        self._file = _open_safetensors(path)
        metadata = self._file.metadata() or {}
        self.digest = metadata.get(DIGEST)
        self._starts: dict[str, int] = {}  # of tensors in the file, once they were asked for
        super().__init__(path, self._file.keys(), _TORCH_LAYOUT.get(metadata.get("format", "")))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def stored_type(self, name: str) -> str:
        return self._slice(name).get_dtype()

    def read_fp8(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        # The library asks NumPy for the type, which has none of 8 bits.
        if not self._starts:
            with self.path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                entries = json.loads(file.read(length))
            starts = {each: entry["data_offsets"][0] for each, entry in entries.items() if "data_offsets" in entry}
            self._starts = {each: 8 + length + start for each, start in starts.items()}
        numbers = np.memmap(self.path, np.uint8, "r", self._starts[name], self.shape(name))
        return np.array(numbers[block]).view(ml_dtypes.float8_e4m3fn)

    def read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        if self.stored_type(name).startswith("F8"):
            raise GLMError(
                f"{self.path}: {name} is {self.stored_type(name)}, and config.json has no quantization_config of a "
                "known form that says how it is scaled: get config.json again, or the original weights"
            )
        # The library cannot slice a tensor without axes.
        return as_bfloat16(self._slice(name)[block] if block else self._file.get_tensor(name))

    def release(self) -> None:
        self._file = _open_safetensors(self.path)  # the library unmaps a file only when it is closed

    def _slice(self, name: str):
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_slice(name)


def _open_safetensors(path: Path):
    require_real(path)
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error}): check the path and its permissions") from error


class Joined(TensorFile):
    """Several files, each with tensors of its own.

    Args:
        path: for messages.
        part_of: stored name → the file that holds it.
    """

    def __init__(self, path: Path, part_of: dict[str, TensorFile]):
        self._part_of, self._touched = part_of, {}
        super().__init__(path, part_of, next(iter(part_of.values())).torch_layout)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._part_of[name].shape(name)

    def read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        part = self._part_of[name]
        self._touched[part.path] = part
        return part.read(name, block)

    def stored_type(self, name: str) -> str:
        return self._part_of[name].stored_type(name)

    def read_fp8(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        return self._part_of[name].read_fp8(name, block)

    def release(self) -> None:
        for part in self._touched.values():
            part.release()
        self._touched.clear()


class Indexed(Joined):
    """Several files joined by a Hugging Face style index; all are opened, so that a damaged one is found at once."""

    def __init__(self, index: Path):
        file_of, digests = _read_index(index)
        names = dict.fromkeys(file_of.values())
        missing = sorted(name for name in names if not (index.parent / name).is_file())
        if missing:
            raise GLMError(f"{index.parent} lacks {', '.join(missing[:5])}, which {index.name} names: download it")
        parts = {name: open_file(index.parent / name) for name in names}
        for part in parts.values():
            _require_fit(part, file_of, digests, index)
        super().__init__(index, {name: parts[file_name] for name, file_name in file_of.items()})


def join_parts(paths: Sequence[Path], index: Path) -> Joined:
    """All parts of a model whose index is not there.

    Raises:
        GLMError: this project wrote them, whose saves end with the index, or two of them hold one tensor.
    """
    part_of: dict[str, TensorFile] = {}
    for path in paths:
        part = open_file(path)
        if part.digest is not None:
            raise GLMError(
                f"{path.parent} holds {path.name}, but no index of the parts, which is written last: the save was not "
                f"finished, take an earlier checkpoint"
            )
        if twice := next((name for name in part if name in part_of), None):
            raise GLMError(
                f"{path} and {part_of[twice].path.name} both hold {twice}, and {index.name} is missing: download it"
            )
        part_of |= dict.fromkeys(part, part)
    if not part_of:
        raise GLMError(f"{index.parent} lacks {index.name}, and its parts hold no tensors: download all again")
    return Joined(index, part_of)


def _require_fit(part: TensorFile, file_of: dict[str, str], digests: dict[str, str], index: Path) -> None:
    """A part holds what the index places there, nothing that it places elsewhere, and is the one that was written."""
    lacking = [name for name, file_name in file_of.items() if file_name == part.path.name and name not in part]
    if lacking:
        raise GLMError(f"{part.path} lacks {lacking[0]}, which {index.name} places there: download both again")
    odd = [name for name in part if file_of.get(name, part.path.name) != part.path.name]
    if odd:
        raise GLMError(
            f"{part.path} holds {odd[0]}, which {index.name} places in {file_of[odd[0]]}: "
            f"the files come from different saves, take them from one"
        )
    wanted = digests.get(part.path.name)
    if wanted is not None and part.digest != wanted:
        raise GLMError(
            f"{part.path} is not what {index.name} was written for (digest {part.digest} instead of {wanted}): "
            f"the files come from different saves, take them from one"
        )


def _read_index(index: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The file of every tensor, and the digests of the files if this project wrote the index."""
    content = parse_json(index)
    try:
        file_of = content["weight_map"]
        digests = dict((content.get("metadata") or {}).get(DIGESTS) or {})
        names = {str(name) for name in file_of.values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(index, error) from error
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    strangers = [name for name in names if Path(name).name != name or not name.endswith(suffix)]
    if strangers or not names:
        what = repr(strangers[0]) if strangers else "no files"
        raise GLMError(f"{index} names {what}, expected {suffix} files of its own directory: download it again")
    return file_of, digests


_OPENERS: dict[str, Callable[[Path], TensorFile]] = {
    ".safetensors": Safetensors,
    ".bin": lambda path: MappedTensors.open(path, load_torch_bin, torch_layout=True),
    ".pdparams": lambda path: MappedTensors.open(path, load_pdparams, torch_layout=False),
    ".json": Indexed,
}


def open_file(path: Path) -> TensorFile:
    """Open a weight file or an index of weight files by its suffix.

    Raises:
        GLMError: when it is missing, damaged, incomplete or refused.
    """
    return _OPENERS[path.suffix](path)
