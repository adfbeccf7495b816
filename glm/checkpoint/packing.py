"""Several weights in one stored tensor: query, key and value side by side, gate and up."""

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Packing:
    """How several matrices share the last axis of one stored tensor.

    The axis consists of `groups` equal blocks, and each block holds a slice of every part, with widths as `ratios`
    says. A string stands for the config attribute of that name. Fused q|k|v is (1, 1, 1) in one group; q, k, v packed
    per head is (1, 1, 1) in num_attention_heads groups; fused q|k|v with fewer key/value heads has the head counts as
    ratios.
    """

    ratios: tuple[int | str, ...] = (1,)
    groups: int | str = 1

    def widths(self, width: int, config: Any, shards: int = 1) -> tuple[list[int], int]:
        """How wide every part's slice of a block is, and how many blocks make up a last axis of this width.

        Args:
            shards: of how many tensor-parallel files the tensor is one; each has its share of the groups.
        Raises:
            ValueError: when the width cannot be divided so.
        """
        ratios, groups = self._numbers(config, shards)
        ratios = [ratio // gcd(*ratios) for ratio in ratios]  # a rank's heads may be fewer than the whole model's
        unit, rest = divmod(width, groups * sum(ratios))
        if rest or not width:
            raise ValueError(f"its last axis is not a multiple of {groups * sum(ratios)}")
        return [unit * ratio for ratio in ratios], groups

    def unpack(self, tensor: np.ndarray, config: Any) -> list[np.ndarray]:
        """The inverse of `pack`: parts [..., width] of one tensor [..., sum of widths].

        Raises:
            ValueError: when the width cannot be divided so.
        """
        widths, _ = self.widths(tensor.shape[-1], config)
        return unpack_blocks(tensor, widths)

    def pack(self, parts: list[np.ndarray], config: Any, shards: int = 1) -> np.ndarray:
        """One tensor [..., sum of widths] of its parts [..., width].

        Raises:
            ValueError: when the groups cannot be divided among so many files.
        """
        if len(parts) == 1:
            return parts[0]
        _, groups = self._numbers(config, shards)
        lead = parts[0].shape[:-1]
        blocks = [part.reshape(*lead, groups, -1) for part in parts]
        return np.concatenate(blocks, axis=-1).reshape(*lead, -1)

    def _numbers(self, config: Any, shards: int) -> tuple[list[int], int]:
        ratios = [getattr(config, ratio) if isinstance(ratio, str) else ratio for ratio in self.ratios]
        if not isinstance(self.groups, str):
            return ratios, self.groups
        groups, rest = divmod(getattr(config, self.groups), shards)
        if rest:
            raise ValueError(f"{self.groups} {getattr(config, self.groups)} cannot be divided among {shards} files")
        return ratios, groups


def unpack_blocks(tensor: np.ndarray, widths: list[int]) -> list[np.ndarray]:
    """The parts [..., blocks · width] of blocks that lie side by side: [..., blocks · sum(widths)]."""
    lead = tensor.shape[:-1]
    blocks = tensor.reshape(*lead, -1, sum(widths))
    return [part.reshape(*lead, -1) for part in np.split(blocks, np.cumsum(widths)[:-1], axis=-1)]


ALONE = Packing()
FUSED_QKV = Packing((1, 1, 1))
QKV_PER_HEAD = Packing((1, 1, 1), groups="num_attention_heads")
FUSED_GROUPS = Packing(("num_attention_heads", "num_key_value_heads", "num_key_value_heads"))
FUSED_GATE_UP = Packing((1, 1))
