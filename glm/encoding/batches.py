"""Rows of token ids as the arrays a model takes: padding, positions, what sees what, labels. numpy only.

A batch is padded to its own longest row, and positions are written out, so padding is invisible: training rows are
filled up on the right, prompts on the left, where the token to decode from stands in the last column of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glm.encoding.examples import IGNORED, TrainingExample

Batch = dict[str, np.ndarray]


class TextPositions:
    """Tokens count up from 0 and see what stands before them (GLM-4)."""

    step = np.array([1], dtype="int64")

    def of(self, ids: Sequence[int], prefix_length: int) -> np.ndarray:
        """[1, T] position ids of a row."""
        return np.arange(len(ids), dtype="int64")[None]

    def prompt_prefix(self, ids: Sequence[int]) -> int:
        """How many ids of a prompt all see each other."""
        return 0

    def longest(self, src_length: int, tgt_length: int) -> int:
        """The largest position of a prompt and a text that fill their lengths."""
        return src_length + tgt_length - 1

    def columns(self, max_position: int) -> int:
        """Most tokens of a prompt and its text in a model whose positions end there."""
        return max_position + 1


@dataclass(frozen=True)
class BlockPositions:
    """Two positions per token: in the text, and inside the blank that the answer fills (arXiv:2103.10360, 2.1).

    The prefix counts up from 0 in the first row. Behind it the first row repeats the position of the prefix's
    mask, and the second one counts from 1. GLM (2021) and ChatGLM-6B.

    Args:
        mask_token_ids: what stands for the blank in a prefix.
        inside_blank: False counts on in the text instead.
        ranked: of several masks the one whose token comes first in `mask_token_ids` is the blank (ChatGLM-6B), instead
            of the one that stands first in the prefix (GLM).
    """

    mask_token_ids: Sequence[int]
    inside_blank: bool = True
    ranked: bool = False

    @property
    def step(self) -> np.ndarray:
        return np.array([0, 1] if self.inside_blank else [1, 0], dtype="int64")

    def of(self, ids: Sequence[int], prefix_length: int) -> np.ndarray:
        """[2, T] position ids of a row."""
        positions = np.zeros([2, len(ids)], dtype="int64")
        positions[0] = np.arange(len(ids))
        if self.inside_blank:
            positions[0, prefix_length:] = self.blank(ids)
            positions[1, prefix_length:] = np.arange(1, len(ids) - prefix_length + 1)
        return positions

    def blank(self, ids: Sequence[int]) -> int:
        """The column of the mask that the answer fills. Raises ValueError without one."""
        ids = list(ids)
        columns = [ids.index(token) for token in self.mask_token_ids if token in ids]
        if not columns:
            raise ValueError("a prompt without mask token")
        return columns[0] if self.ranked else min(columns)

    def prompt_prefix(self, ids: Sequence[int]) -> int:
        """All but the token to decode from."""
        return len(ids) - 1

    def longest(self, src_length: int, tgt_length: int) -> int:
        return max(src_length - 1, tgt_length) if self.inside_blank else src_length - 1 + tgt_length

    def columns(self, max_position: int) -> int:
        return (1 + self.inside_blank) * (max_position + 1)


Positions = TextPositions | BlockPositions


def training_batch(rows: Sequence[TrainingExample], positions: Positions, pad_token_id: int) -> Batch:
    """Inputs of `GLMForCausalLM.forward`, labels included: column i is trained to give token i + 1."""
    inputs = [row.ids[:-1] for row in rows]
    width = max(map(len, inputs))
    prefix = [row.prefix_length for row in rows]
    return {
        "input_ids": _stack([_right(ids, width, pad_token_id) for ids in inputs]),
        "attention_mask": _stack([_right([1] * len(ids), width, 0) for ids in inputs]),
        "position_ids": _padded_positions(inputs, prefix, positions, width, left=False),
        "prefix_length": np.array(prefix, dtype="int64"),
        "labels": _stack([_right(row.labels[1:], width, IGNORED) for row in rows]),
    }


def packed_batch(packs: Sequence[Sequence[TrainingExample]], positions: Positions, pad_token_id: int) -> Batch:
    """The same of rows in packs, each pack a row [T] of the batch, and what keeps its rows apart.

    Positions begin anew in every row, and no column is trained to give the first token of the next row.

    Returns:
        The arrays of `training_batch`, and visible_rows [B, 2, T] int32: column j is visible to the queries i with
        visible_rows[b, 0, j] <= i < visible_rows[b, 1, j], padding to none. `prefix_length` is 0: what is read in both
        directions, visible_rows says alone; `attention_mask` is 1 for the tokens of all rows of a pack.
    """
    return stacked([_pack(rows, positions) for rows in packs], pad_token_id)


def stacked(made: Sequence[Batch], pad_token_id: int) -> Batch:
    """A batch of arrays [..., T] as `packed_batch` returns it, of rows that may be of several lengths."""
    width = max(row["input_ids"].shape[-1] for row in made)
    fill = {"input_ids": pad_token_id, "labels": IGNORED}
    batch = {name: np.stack([_widened(row[name], width, fill.get(name, 0)) for row in made]) for name in made[0]}
    return batch | {"prefix_length": np.zeros(len(made), dtype="int64")}


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading ids are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _pack(rows: Sequence[TrainingExample], positions: Positions) -> Batch:
    """Arrays [..., T] of rows behind each other."""
    parts, start = [], 0
    for row in rows:
        inputs = row.ids[:-1]
        parts.append(
            {
                "input_ids": np.array(inputs, dtype="int64"),
                "attention_mask": np.ones(len(inputs), dtype="int64"),
                "position_ids": positions.of(inputs, row.prefix_length),
                "labels": np.array(row.labels[1:], dtype="int64"),
                "visible_rows": visible_rows(start, start + len(inputs), row.prefix_length),
            }
        )
        start += len(inputs)
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def visible_rows(start: int, end: int, prefix_length: int) -> np.ndarray:
    """[2, end - start] int32 of a row in these columns: all of it sees its prefix, the rest what stands before."""
    first = np.arange(start, end, dtype="int32")
    first[:prefix_length] = start
    return np.stack([first, np.full_like(first, end)])


def _widened(array: np.ndarray, width: int, value: int) -> np.ndarray:
    sides = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return np.pad(array, sides, constant_values=value)


def prompt_batch(prompts: Sequence[Sequence[int]], positions: Positions, pad_token_id: int) -> Batch:
    """Encoded prompts as the fields of `glm.generation.search.Prompt`."""
    width = max(map(len, prompts))
    prefix = [positions.prompt_prefix(ids) for ids in prompts]
    return {
        "input_ids": _stack([_left(ids, width, pad_token_id) for ids in prompts]),
        "attention_mask": _stack([_left([1] * len(ids), width, 0) for ids in prompts]),
        "position_ids": _padded_positions(prompts, prefix, positions, width, left=True),
        # Padding in front of a prefix is hidden by the mask.
        "prefix_length": _stack([p and p + width - len(ids) for p, ids in zip(prefix, prompts, strict=True)]),
        "position_step": positions.step,
    }


def _padded_positions(rows, prefix, positions: Positions, width: int, left: bool) -> np.ndarray:
    found = [positions.of(ids, length) for ids, length in zip(rows, prefix, strict=True)]
    sides = [(width - row.shape[1], 0) if left else (0, width - row.shape[1]) for row in found]
    return np.stack([np.pad(row, [(0, 0), side]) for row, side in zip(found, sides, strict=True)])


def _right(row: Sequence[int], width: int, value: int) -> list[int]:
    return [*row, *[value] * (width - len(row))]


def _left(row: Sequence[int], width: int, value: int) -> list[int]:
    return [*[value] * (width - len(row)), *row]


def _stack(rows: list) -> np.ndarray:
    return np.array(rows, dtype="int64")
