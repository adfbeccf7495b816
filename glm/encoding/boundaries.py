"""Rows of running text as a model takes them, and what happens where one document ends and the next begins.

Source: NVIDIA/Megatron-LM, megatron/core/datasets/gpt_dataset.py, --eod-mask-loss, --reset-position-ids and
--reset-attention-mask; all of them know a boundary by the end token that preprocess_data.py --append_eos writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glm.encoding.batches import Batch
from glm.encoding.examples import IGNORED


@dataclass(frozen=True)
class Boundaries:
    """What the end of a document changes.

    Attributes:
        end_token_id: of a document.
        mask_loss: the first token of the next document is not trained; the end token itself is.
        reset_positions: the next document's positions count from 0.
        reset_attention: tokens see their own document only.
    """

    end_token_id: int
    mask_loss: bool = False
    reset_positions: bool = False
    reset_attention: bool = False

    def trained_tokens(self, row: np.ndarray) -> int:
        """Of a row [S + 1]."""
        masked = np.count_nonzero(row[:-1] == self.end_token_id) if self.mask_loss else 0
        return len(row) - 1 - int(masked)

    def batch(self, rows: Sequence[np.ndarray]) -> Batch:
        """Inputs of `GLMForCausalLM.forward`, labels included.

        Args:
            rows: B rows of S + 1 ids; column i is trained to give id i + 1.

        Returns:
            input_ids, attention_mask, labels [B, S], position_ids [B, 1, S], prefix_length [B], all int64; with
            `reset_attention` visible_rows [B, 2, S] int32: rows from [:, 0] to before [:, 1] see a column.
        """
        ids = np.stack(rows).astype(np.int64)
        inputs, labels = ids[:, :-1], ids[:, 1:]
        ended = inputs == self.end_token_id
        batch = {
            "input_ids": inputs,
            "attention_mask": np.ones_like(inputs),
            "position_ids": self._positions(ended)[:, None],
            "prefix_length": np.zeros(len(ids), dtype=np.int64),
            "labels": np.where(ended & self.mask_loss, IGNORED, labels),
        }
        return batch | ({"visible_rows": visible_rows(ended)} if self.reset_attention else {})

    def _positions(self, ended_BS: np.ndarray) -> np.ndarray:
        """[B, S]."""
        columns = np.broadcast_to(np.arange(ended_BS.shape[1]), ended_BS.shape)
        if not self.reset_positions:
            return columns.copy()
        begins = np.where(ended_BS, columns + 1, 0)[:, :-1]  # of the document behind
        starts = np.maximum.accumulate(np.pad(begins, [(0, 0), (1, 0)]), axis=1)
        return columns - starts


def visible_rows(ended_BS: np.ndarray) -> np.ndarray:
    """Which rows of the attention matrix see each column: from its own to the last one of its document.

    Args:
        ended_BS: bool, where the last token of a document stands.

    Returns:
        [B, 2, S] int32.
    """
    width = ended_BS.shape[1]
    columns = np.broadcast_to(np.arange(width, dtype=np.int32), ended_BS.shape)
    ends = np.where(ended_BS, columns + 1, width)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return np.stack([columns, last], axis=1).astype(np.int32)
