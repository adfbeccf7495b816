"""What a tokenizer's call gives: rows of ids and what belongs to them, padded and as arrays where that is asked for.

Imports no framework; "pd" imports Paddle when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glm.errors import UsageError

Row = Mapping[str, np.ndarray]
# What stands on padding; ids get the tokenizer's padding token, and other fields are left as they are.
_FILL = {"attention_mask": 0, "position_ids": 0, "token_type_ids": 0, "special_tokens_mask": 1}
PADDED = ("input_ids", *_FILL)
_PADDING = {True: "longest", False: "do_not_pad", None: "do_not_pad", "no": "do_not_pad"}
_PADDINGS = ("longest", "max_length", "do_not_pad")
_TENSORS = ("np", "pd")


class BatchEncoding(dict):
    """A dictionary whose entries are attributes as well: `inputs.input_ids` is `inputs["input_ids"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this encoding has no {name}, only {', '.join(self)}") from None

    @property
    def data(self) -> dict[str, Any]:
        """The entries as a plain dictionary."""
        return dict(self)

    def to(self, device: str) -> BatchEncoding:
        """The same with its Paddle tensors on `device`."""
        return BatchEncoding({k: v.to(device) if hasattr(v, "to") else v for k, v in self.items()})

    def convert_to_tensors(self, tensor_type: str | None) -> BatchEncoding:
        """The same with numpy arrays ("np") or Paddle tensors ("pd"), int64; None gives it back.

        Raises:
            UsageError: another type, or rows of several lengths.
        """
        if tensor_type is None:
            return self
        return BatchEncoding({name: _tensor(rows, tensor_type, name) for name, rows in self.items()})


def padding_strategy(padding: bool | str | None) -> str:
    """Raises UsageError for a value that neither Hugging Face nor PaddleNLP has."""
    strategy = _PADDING.get(padding, padding) if isinstance(padding, (bool, str, type(None))) else padding
    if strategy not in _PADDINGS:
        raise UsageError(f"padding is {padding!r}, and must be True, False, 'longest' or 'max_length'")
    return strategy


def check_tensors(return_tensors: str | None) -> None:
    if return_tensors not in (None, *_TENSORS):
        raise UsageError(f"return_tensors is {return_tensors!r}, and must be 'np' (numpy) or 'pd' (Paddle)")


def pad_rows(
    rows: Sequence[Row], width: int | None, pad_token_id: int, side: str, multiple: int | None = None
) -> list[Row]:
    """Rows of one length.

    Args:
        rows: fields [..., T] each; `attention_mask` may be [1, T, T], which is padded on both axes.
        width: columns; None for the longest row's. Longer rows stay as they are.
        side: "left" or "right".
        multiple: the width becomes a multiple of it.
    """
    if side not in ("left", "right"):
        raise UsageError(f"padding_side is {side!r}, and must be 'left' or 'right'")
    width = max(len(row["input_ids"]) for row in rows) if width is None else width
    if multiple:
        width = -(-width // multiple) * multiple
    fill = {"input_ids": pad_token_id, **_FILL}
    return [
        {name: _padded(value, name, width, fill[name], side) if name in fill else value for name, value in row.items()}
        for row in rows
    ]


def _padded(value: np.ndarray, name: str, width: int, fill: int, side: str) -> np.ndarray:
    missing = max(0, width - value.shape[-1])
    amount = (missing, 0) if side == "left" else (0, missing)
    axes = 2 if name == "attention_mask" and value.ndim > 1 else 1
    pads = [(0, 0)] * (value.ndim - axes) + [amount] * axes
    return np.pad(value, pads, constant_values=fill)


def collated(rows: Sequence[Row], batched: bool, return_tensors: str | None) -> BatchEncoding:
    """Rows as one encoding: lists, or arrays with an axis of rows; one row on its own where it is no batch."""
    names = rows[0].keys() if rows else ("input_ids",)
    encoding = BatchEncoding({name: [as_plain(row[name]) for row in rows] for name in names})
    if return_tensors is None and not batched:
        return BatchEncoding({name: values[0] for name, values in encoding.items()})
    return encoding.convert_to_tensors(return_tensors)


def _tensor(rows: Any, tensor_type: str, name: str) -> Any:
    check_tensors(tensor_type)
    try:
        array = np.array(rows, dtype="int64")
    except (TypeError, ValueError):
        if not all(isinstance(row, list) for row in rows):
            raise UsageError(f"{name} holds {rows!r:.60}, which makes no array of whole numbers") from None
        lengths = sorted({len(row) for row in rows})
        raise UsageError(f"{name}: rows of {lengths[0]} to {lengths[-1]} make no array: pass padding=True") from None
    if tensor_type == "np":
        return array
    import paddle

    return paddle.to_tensor(array)


def as_plain(value: Any) -> Any:
    """Arrays and tensors as lists; other values as they are."""
    return value.tolist() if hasattr(value, "tolist") else value


def as_lists(values: Any) -> Any:
    """Ids of any kind, numpy arrays and Paddle tensors among them, as (lists of) whole numbers.

    Raises UsageError for a text.
    """
    if isinstance(values, (str, bytes)):
        raise UsageError(f"token ids are whole numbers, and {values!r:.40} is a text")
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, (list, tuple)):
        return [as_lists(value) for value in values]
    return int(values)
