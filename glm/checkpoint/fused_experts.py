"""Files with all experts of a layer in one tensor, seen as one tensor an expert.

transformers 5 holds `experts.gate_up_proj` [E, 2·I, H], gate first, and `experts.down_proj` [E, H, I] in memory; its
own files have one tensor an expert, but other tools write what they hold, with `.weight` behind the name or without.
"""

import re

import numpy as np

from glm.checkpoint.files import TensorFile
from glm.errors import GLMError

_FUSED = re.compile(r"(.*\.mlp\.experts)\.(gate_up|down)_proj(?:\.weight)?")


def with_single_experts(file: TensorFile) -> TensorFile:
    """The file itself, unless it holds fused experts."""
    return SingleExperts(file) if any(map(_FUSED.fullmatch, file)) else file


class SingleExperts(TensorFile):
    """Args: file: whose fused tensors appear as those of their experts.

    Raises:
        GLMError: a fused tensor that has not three axes, or whose second one is not gate and up side by side.
    """

    def __init__(self, file: TensorFile):
        self._file, self._parts, names = file, {}, []
        for name in file:
            parts = _parts(name, file) if _FUSED.fullmatch(name) else {}
            self._parts |= parts
            names += list(parts) or [name]
        super().__init__(file.path, names, file.torch_layout)
        self.digest = file.digest

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._parts:
            return self._file.shape(name)
        fused, _, rows = self._parts[name]
        return rows.stop - rows.start, self._file.shape(fused)[2]

    def read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        if name not in self._parts:
            return self._file.read(name, block)
        fused, expert, rows = self._parts[name]
        wanted = slice(block[0].start + rows.start, block[0].stop + rows.start)
        return self._file.read(fused, (slice(expert, expert + 1), wanted, block[1]))[0]

    def release(self) -> None:
        self._file.release()


def _parts(name: str, file: TensorFile) -> dict[str, tuple[str, int, slice]]:
    """Name of an expert's tensor → the fused one, the expert, its rows."""
    match, shape = _FUSED.fullmatch(name), file.shape(name)
    halves = ["gate", "up"] if match[2] == "gate_up" else ["down"]
    if len(shape) != 3 or shape[1] % len(halves):
        raise GLMError(f"{file.path}: {name} is {list(shape)}, expected [experts, {len(halves)} x rows, columns]")
    rows = shape[1] // len(halves)
    return {
        f"{match[1]}.{expert}.{half}_proj.weight": (name, expert, slice(i * rows, (i + 1) * rows))
        for i, half in enumerate(halves)
        for expert in range(shape[0])
    }
