"""Random checkpoints larger than the memory: bfloat16, written in shards, a few rows of a weight at a time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from glm.checkpoint.file_layout import safetensors_layout, write_layout
from glm.checkpoint.names import TensorEntry, table_of
from glm.checkpoint.tiles import Block
from glm.config.shapes import Shapes, parameter_shapes

SHARD = 2 * 10**9  # bytes
ROWS = 512  # of a tensor that are made or compared at a time
FINITE = np.uint16(0xBFFF)  # bfloat16 without the exponent's highest bit: below 2, never infinite


@dataclass(frozen=True)
class MadeTensor:
    """A tensor of random bits that follow from its number; what `safetensors_layout` needs of one."""

    row: TensorEntry
    shape: tuple[int, ...]
    number: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def tiles(self) -> Iterator[tuple[Block, np.ndarray]]:
        draw = np.random.Generator(np.random.SFC64(self.number))
        for start in range(0, self.shape[0], ROWS):
            rows = slice(start, min(start + ROWS, self.shape[0]))
            shape = (rows.stop - rows.start, *self.shape[1:])
            bits = np.frombuffer(draw.bytes(2 * prod(shape)), np.uint16) & FINITE
            yield (rows, *(slice(0, size) for size in self.shape[1:])), bits.view(self.dtype).reshape(shape)

    def release(self) -> None:
        """Nothing is mapped."""


def made_tensors(config: Any) -> list[MadeTensor]:
    """All tensors of the files that a family's checkpoints consist of, in torch's layout."""
    shapes = parameter_shapes(config)
    rows = table_of(config).expand(config)
    return [MadeTensor(row, stored_shape(row, shapes), number) for number, row in enumerate(rows)]


def stored_shape(row: TensorEntry, shapes: Shapes) -> tuple[int, ...]:
    """[out, in] of a matrix; what shares a tensor lies one above the other."""
    parts = [shapes[name][::-1] if row.linear else shapes[name] for name in row.memory]
    return (sum(part[0] for part in parts), *parts[0][1:])


def write_shards(directory: Path, tensors: Sequence[MadeTensor], most: int = SHARD) -> int:
    """Files of at most so many bytes and their index, as the hub has them; gives the bytes of all tensors."""
    parts: list[list[MadeTensor]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(other.nbytes for other in parts[-1]) + tensor.nbytes > most:
            parts.append([])
        parts[-1].append(tensor)
    weight_map = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_layout(directory / name, safetensors_layout(part))
        weight_map |= {tensor.row.stored: name for tensor in part}
    size = sum(tensor.nbytes for tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return size
