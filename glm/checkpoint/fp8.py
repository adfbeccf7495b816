"""8-bit floating-point weights, dequantised when they are read: float32 products, rounded to bfloat16."""

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from glm.checkpoint.files import FP8_TYPE, TensorFile
from glm.config.quantization import Fp8Form
from glm.errors import GLMError


class Dequantised(TensorFile):
    """A file whose 8-bit weights appear as bfloat16, and their scales not at all.

    Args:
        file: whose weights are stored [out, in].
        form: how they are scaled.
    Raises:
        GLMError: an 8-bit weight without a scale, or with one of another shape.
    """

    def __init__(self, file: TensorFile, form: Fp8Form):
        self._file, self._form = file, form
        self._scales = dict(self._find_scales())
        hidden = set(self._scales.values())
        super().__init__(file.path, [name for name in file if name not in hidden], file.torch_layout)
        self.digest = file.digest

    def _find_scales(self) -> Iterator[tuple[str, str]]:
        for name in self._file:
            if self._file.stored_type(name) != FP8_TYPE:
                continue
            scale = name.removesuffix("weight") + self._form.scale
            if scale not in self._file:
                raise GLMError(f"{self._file.path}: {name} is {FP8_TYPE}, and {scale} is missing: get the files again")
            self._check_shape(name, scale)
            yield name, scale

    def _check_shape(self, name: str, scale: str) -> None:
        shape, found = self._file.shape(name), self._file.shape(scale)
        if self._form.block is None:
            wanted = [shape[:1], (*shape[:1], 1)]
        else:
            wanted = [tuple(-(-size // block) for size, block in zip(shape, self._form.block, strict=True))]
        if len(shape) != 2 or found not in wanted:
            raise GLMError(
                f"{self._file.path}: {scale} is {list(found)}, expected {list(wanted[-1])} for {name} {list(shape)}"
            )

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(name)

    def stored_type(self, name: str) -> str:
        return "BF16" if name in self._scales else self._file.stored_type(name)

    def read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        if name not in self._scales:
            return self._file.read(name, block)
        numbers = self._file.read_fp8(name, block).astype("float32")
        return (numbers * self._scale(self._scales[name], block)).astype(ml_dtypes.bfloat16)

    def _scale(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        """[rows, columns] of the block, or [rows, 1]; float32."""
        rows, columns = block
        if self._form.block is None:
            inner = [slice(0, size) for size in self._file.shape(name)[1:]]
            return self._file.read(name, (rows, *inner)).reshape(-1, 1).astype("float32")
        sizes = self._form.block
        parts = [slice(where.start // size, -(-where.stop // size)) for where, size in zip(block, sizes, strict=True)]
        scales = self._file.read(name, tuple(parts)).astype("float32")
        for axis, (where, size) in enumerate(zip((rows, columns), sizes, strict=True)):
            scales = scales.repeat(size, axis=axis)
            first = where.start % size
            scales = scales.take(range(first, first + where.stop - where.start), axis=axis)
        return scales

    def release(self) -> None:
        self._file.release()
