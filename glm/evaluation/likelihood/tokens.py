"""Rows of texts as rows of ids: what of them is read, and what is scored. Imports no framework.

A context and a target are encoded as one text and cut where the context's ids end (as lm-evaluation-harness does, and
the letters of QwenLM/Qwen#312 ask for): " A" behind "Answer:" is the token that the whole text has there. Models that
fill a blank write the target by itself, behind the token that begins what they write (arXiv:2103.10360, 2.1).
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from glm.encoding.batches import common_prefix
from glm.encoding.processor import Processor
from glm.errors import UsageError
from glm.evaluation.likelihood.rows import ContextTooLong, Row


@dataclass(frozen=True)
class TokenRow:
    """A row as ids.

    Attributes:
        context: the model's own tokens included; the first token of each target follows its last one.
        targets: ids of each, one or more.
        prefix_length: leading ids of the context that see each other in both directions; 0 if attention is causal.
        shared: leading ids of the context that other rows have as well, never all of it.
    """

    context: list[int]
    targets: tuple[list[int], ...]
    prefix_length: int = 0
    shared: int = 0

    @property
    def length(self) -> int:
        """Tokens that are read, the shared ones included: of a target all but the last."""
        return len(self.context) + sum(len(target) - 1 for target in self.targets)


class RowEncoder:
    """Encodes the rows of one model.

    Args:
        processor: of the model; its lengths cut nothing here, and text is plain text, without a chat template's turns.
        max_position: the model's largest.

    Attributes:
        opening: the tokens that every text of the model begins with, as a text; "" if there are none.
    """

    def __init__(self, processor: Processor, max_position: int):
        self.max_position = max_position
        self._reader = copy.copy(processor)
        self._reader.src_length, self._reader.plain = sys.maxsize, True
        self.tokenizer, self.positions = processor.tokenizer, processor.positions
        self.opening = "".join(getattr(processor.tokenizer, "prefix", ()))
        # A row's text is asked for when it is checked and when it is encoded, and what rows share by each of them.
        self._encoded = lru_cache(maxsize=8)(self._encode)

    def __call__(self, row: Row) -> TokenRow:
        """The ids of a row. Raises as `Scorer.__call__`."""
        context = self.text_ids(row.context)
        prefix_length = self.positions.prompt_prefix(context)
        alone = row.alone or prefix_length > 0
        targets = tuple(self._target(row.context, context, alone, target) for target in row.targets)
        shared = 0
        if row.shared and not prefix_length:
            if not row.context.startswith(row.shared):
                raise UsageError(f"the text {row.context!r:.60} does not begin with its shared part {row.shared!r:.60}")
            shared = common_prefix(self.text_ids(row.shared), context[:-1])
        return self.fitting(TokenRow(context, targets, prefix_length, shared), row.context)

    def text_ids(self, text: str) -> list[int]:
        """Ids behind which the model goes on writing a text, its own tokens around it exactly once.

        A text that a chat template wrote has them; its special tokens are tokens, elsewhere they are text.
        """
        return list(self._encoded(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        if self.opening and text.startswith(self.opening):
            return tuple(self.tokenizer.text_ids(text))
        return tuple(self._reader.text_prompt(text))

    def target_ids(self, target: str) -> list[int]:
        """Ids of a target by itself, as it fills a blank: a text begins there without white space."""
        return self.tokenizer.text_ids(target.lstrip() or target)

    def fitting(self, row: TokenRow, text: str) -> TokenRow:
        """The row. Raises ContextTooLong where it does not fit into the model."""
        longest, most = max(map(len, row.targets), default=1), self.max_position
        read = [*row.context, *[0] * (longest - 1)]
        if len(read) > most and (needed := int(self.positions.of(read, row.prefix_length).max())) > most:
            raise ContextTooLong(needed, most, text)
        return row

    def _target(self, text: str, context: list[int], alone: bool, target: str) -> list[int]:
        if alone:
            ids = self.target_ids(target)
        else:
            whole = self.text_ids(text + target)
            if whole[: len(context)] != context:
                raise UsageError(
                    f"{target!r:.40} behind {text[-40:]!r} begins with a token that also holds the text's end: "
                    "move the blanks at the end of the text to the beginning of what follows it"
                )
            ids = whole[len(context) :]
        if not ids:
            raise UsageError(f"the target {target!r} behind {text[-40:]!r} has no tokens: give it some text")
        return ids


def by_length(rows: Sequence[TokenRow], size: int, left: Callable[[TokenRow], int]) -> list[list[int]]:
    """Places of rows in batches of at most `size`, of nearly equal length: `left` tokens of each are to be read."""
    order = sorted(range(len(rows)), key=lambda place: left(rows[place]))
    return [order[start : start + size] for start in range(0, len(order), size)]
