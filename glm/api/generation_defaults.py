"""What a model must know of its vocabulary to read ids alone: which token is a blank, what begins it, what ends it.

numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from glm.encoding.batches import BlockPositions, Positions, TextPositions
from glm.encoding.processor import processor_of
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer


@dataclass(frozen=True)
class GenerationDefaults:
    """Of one model.

    Attributes:
        positions: how tokens count.
        stop_token_ids: what ends a text.
        pad_token_id: what fills up a batch, None where nobody says.
        start_token_id: what the blank begins with (GLM: <|startofpiece|>, ChatGLM-6B: <sop>); None without blanks.
        gnmt_length: of `GenerationConfig`, as the model's reference implementation has it.
        known: whether the tokens above are known.
    """

    positions: Positions
    stop_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    start_token_id: int | None = None
    gnmt_length: bool = False
    known: bool = True

    def prefix(self, ids: Sequence[int]) -> int:
        """How many ids all see each other: those before the start of a blank, 0 where there is none."""
        if self.start_token_id is None or self.start_token_id not in ids or not self.has_blank(ids):
            return 0
        return list(ids).index(self.start_token_id)

    def has_blank(self, ids: Sequence[int]) -> bool:
        return bool(set(ids) & set(getattr(self.positions, "mask_token_ids", ())))

    def row_positions(self, ids: Sequence[int], prefix: int) -> np.ndarray:
        """[P, T] position ids of a row; ids without a blank count up."""
        if isinstance(self.positions, BlockPositions) and not (prefix and self.has_blank(ids)):
            return replace(self.positions, inside_blank=False).of(ids, 0)
        return self.positions.of(ids, prefix)


def generation_defaults(config: Any, tokenizer: Any, directory: Path | None, two_rows: bool) -> GenerationDefaults:
    """Defaults of generation: the tokenizer's if it has one, else config.json's, else that of its directory.

    Args:
        config: of the model; may name bos, eos, pad, mask and gmask tokens.
        tokenizer: None where nobody gave one.
        directory: where the weights come from, None where they come from nowhere.
        two_rows: whether a token has two positions.
    """
    if tokenizer is not None:
        return _of_tokenizer(tokenizer)
    stops = _listed(config.eos_token_id)
    if not two_rows:
        return GenerationDefaults(TextPositions(), stops, config.pad_token_id)
    start, blank = config.bos_token_id, getattr(config, "gmask_token_id", None)
    if start is not None and blank is not None:
        masks = [token for token in (blank, getattr(config, "mask_token_id", None)) if token is not None]
        return GenerationDefaults(BlockPositions(masks, ranked=True), stops, config.pad_token_id, start)
    try:
        return _of_tokenizer(GLMTokenizer.from_pretrained(directory)) if directory else _unknown(config)
    except GLMError:
        return _unknown(config)


def _unknown(config: Any) -> GenerationDefaults:
    return GenerationDefaults(
        BlockPositions(()), _listed(config.eos_token_id), config.pad_token_id, gnmt_length=True, known=False
    )


def _of_tokenizer(tokenizer: Any) -> GenerationDefaults:
    processor = processor_of(tokenizer)
    blanks = isinstance(processor.positions, BlockPositions)
    start = tokenizer.sop_token_id if blanks else None
    ends = tuple(tokenizer.stop_token_ids)
    return GenerationDefaults(processor.positions, ends, tokenizer.pad_token_id, start, processor.defaults.gnmt_length)


def _listed(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)
