"""Text pairs as model inputs: token ids, positions, what sees what, and labels. numpy only.

GLM's layout of a generation task (arXiv:2103.10360, 2.1; the numbers of PaddleNLP's example suite):

    column    0      1 … n     n+1      n+2              S …          S+T
    input   [CLS]    text    [gMASK]  <|endoftext|> pad  <|startofpiece|> target …
    row 0     0      1 … n     n+1      n+2         …    position of [gMASK], repeated
    row 1     0      0 …                                 1, 2, 3 …
    label    none                                        target … <|endofpiece|>

A batch is padded to its own longest source and target, not to `src_length` and `tgt_length`: padding is invisible, and
target positions count from the mask, so the loss is the same and the time is not spent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from glm.errors import GLMError, UsageError

IGNORED = -100  # label of a column that is not trained
Batch = dict[str, np.ndarray]


@dataclass
class GLMEncoder:
    """Encodes for GLM (2021).

    Args:
        tokenizer: a `GLMChineseTokenizer`.
        src_length: S, most source tokens, [CLS], [gMASK] and the end token included.
        tgt_length: T, most target tokens, the end-of-piece included, plus one as in the reference: a text keeps T - 2.
        no_block_position: target tokens go on counting positions in the text instead of inside the blank.

    Attributes:
        truncated: how many sources and targets were cut so far.
    """

    tokenizer: object
    src_length: int = 608
    tgt_length: int = 160
    no_block_position: bool = False
    truncated: dict[str, int] = field(default_factory=lambda: {"source": 0, "target": 0})

    def __post_init__(self):
        if self.src_length < 4:
            raise UsageError(f"src_length is {self.src_length}; three tokens of frame and some text need at least 4")
        if self.tgt_length < 3:
            raise UsageError(f"tgt_length is {self.tgt_length}; some text and the end token need at least 3")

    def check_fits(self, vocab_size: int, max_position: int) -> None:
        """Raises GLMError where the vocabulary or the lengths do not fit a model."""
        if len(self.tokenizer) > vocab_size:
            raise GLMError(
                f"the tokenizer has {len(self.tokenizer):,} tokens and the model's vocabulary {vocab_size:,} rows: "
                "take both from the same directory"
            )
        longest = max(self.src_length - 1, self.tgt_length)
        if self.no_block_position:
            longest = self.src_length - 1 + self.tgt_length
        if longest > max_position:
            raise UsageError(
                f"src_length {self.src_length} and tgt_length {self.tgt_length} need position {longest}, and the model "
                f"ends at {max_position}: choose shorter ones"
            )

    @property
    def position_step(self) -> np.ndarray:
        """How positions [P] go on from one generated token to the next."""
        return np.array([1, 0] if self.no_block_position else [0, 1], dtype="int64")

    def source(self, text: str) -> list[int]:
        """[CLS] text [gMASK] <|endoftext|>; a long text loses its beginning, as the reference truncates left."""
        ids = self.tokenizer.encode(text)
        room = self.src_length - 3
        self.truncated["source"] += len(ids) > room
        ids = ids[-room:]
        return [self.tokenizer.cls_token_id, *ids, self.tokenizer.gmask_token_id, self.tokenizer.eos_token_id]

    def target(self, text: str) -> list[int]:
        """text <|endofpiece|>; a long text loses its end."""
        ids = self.tokenizer.encode(text)
        room = self.tgt_length - 2
        self.truncated["target"] += len(ids) > room
        return [*ids[:room], self.tokenizer.eop_token_id]

    def training_batch(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Batch:
        """Encoded (source, target) pairs as inputs of `GLMForCausalLM.forward`, labels included."""
        sources, targets = zip(*pairs, strict=True)
        source_width, target_width = max(map(len, sources)), max(map(len, targets))
        started = [[self.tokenizer.sop_token_id, *target[:-1]] for target in targets]
        batch = self._batch(sources, source_width, started, target_width)
        labels = np.full_like(batch["input_ids"], IGNORED)
        labels[:, source_width:] = _pad(targets, target_width, IGNORED)
        return batch | {"labels": labels}

    def prompt_batch(self, sources: Sequence[list[int]]) -> Batch:
        """Encoded sources as the fields of `glm.generation.Prompt`: the start-of-piece stands in the last column."""
        start = [[self.tokenizer.sop_token_id]] * len(sources)
        return self._batch(sources, max(map(len, sources)), start, 1) | {"position_step": self.position_step}

    def _batch(self, sources, source_width: int, targets, target_width: int) -> Batch:
        pad = self.tokenizer.pad_token_id
        rows = [self._positions(source, source_width, target_width) for source in sources]
        columns = ((sources, source_width), (targets, target_width))
        real = [_pad([[1] * len(row) for row in part], width, 0) for part, width in columns]
        return {
            "input_ids": np.concatenate([_pad(part, width, pad) for part, width in columns], axis=1),
            "attention_mask": np.concatenate(real, axis=1),
            "position_ids": np.stack(rows),
            "prefix_length": np.full(len(sources), source_width, dtype="int64"),
        }

    def _positions(self, source: list[int], source_width: int, target_width: int) -> np.ndarray:
        """[2, T] position ids of one row."""
        count = np.arange(1, target_width + 1)
        mask_position = next(i for i, token in enumerate(source) if token in self.tokenizer.mask_token_ids)
        in_text = len(source) - 1 + count if self.no_block_position else np.full(target_width, mask_position)
        in_blank = np.zeros(target_width) if self.no_block_position else count
        first = np.concatenate([np.arange(source_width), in_text])
        second = np.concatenate([np.zeros(source_width), in_blank])
        return np.stack([first, second]).astype("int64")


def _pad(rows: Sequence[list[int]], width: int, value: int) -> np.ndarray:
    """[B, width] int64, filled up on the right."""
    return np.array([[*row, *[value] * (width - len(row))] for row in rows], dtype="int64")
