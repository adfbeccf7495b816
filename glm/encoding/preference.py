"""A prompt with a better and a worse answer, in one row that reads the prompt once. Needs no framework.

The prompt has P tokens, the chosen answer C and the rejected one R, the token that ends each included:

    column     0 … P-2   P-1           P … P+C-2     P+C-1              P+C …
    input      prompt    its last one  chosen …      the prompt's last  rejected …
    position   0 …       P-1           P …           P-1                P …
    label      none      chosen …      … and its end rejected …         … and its end
    seen by    itself and all behind   the chosen    none               itself and all behind

The chosen answer's end would be nothing's context. In its place stands the token that the rejected answer follows: it
sees the prompt and is seen by no column, so it predicts what the last token of the prompt does, and every label is the
label of one column, as in any other row. What a model reads both ways (ChatGLM-6B) is part of the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from glm.encoding.batches import Batch, Positions, stacked, visible_rows
from glm.encoding.examples import IGNORED, Example, TrainingExample
from glm.encoding.processor import Processor
from glm.errors import GLMError


@dataclass(frozen=True)
class PreferenceExample:
    """A prompt with two answers.

    Attributes:
        chosen, rejected: the better and the worse answer; the messages before them are the same, and not trained.
        place: file and line, or row, for messages; "" for none.
    """

    chosen: Example
    rejected: Example
    place: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class PreferenceRow:
    """An encoded prompt and both answers.

    Attributes:
        ids: P + C + R token ids, of the prompt, the chosen and the rejected answer.
        trained: P + C + R flags: which of them the model writes. All of an answer, unless it has several messages.
        prompt_length, chosen_length: P and C, at least 1.
        prefix_length: ids at the start that all see each other; 0 if attention is causal.
    """

    ids: list[int]
    trained: list[bool]
    prompt_length: int
    chosen_length: int
    prefix_length: int = 0

    @property
    def columns(self) -> int:
        """Of the row in a batch: P + C + R - 1."""
        return len(self.ids) - 1


def encode_preference(processor: Processor, example: PreferenceExample) -> PreferenceRow | None:
    """Prompt and answers as fine-tuning encodes them, or None where the lengths cut them: an answer that is cut has no
    end, and would be preferred without one.

    Raises:
        GLMError: messages that the model has no place for, an answer in which nothing is trained, answers of the same
            tokens, or a prompt that leaves no room for them.
    """
    counted = dict(processor.truncated)
    chosen, rejected = _encoded(processor, "chosen", example.chosen), _encoded(processor, "rejected", example.rejected)
    if chosen.cut or rejected.cut:
        processor.truncated = counted  # the pair is left out, not truncated
        return None
    prompt_length = chosen.trained.index(True)
    prompt = chosen.ids[:prompt_length]
    if rejected.trained.index(True) != prompt_length or rejected.ids[:prompt_length] != prompt:
        raise GLMError("what stands before the chosen answer differs from what stands before the rejected one")
    if chosen.ids == rejected.ids:
        raise GLMError("the chosen and the rejected answer have the same tokens: they differ in what no token has")
    return PreferenceRow(
        chosen.ids + rejected.ids[prompt_length:],
        chosen.trained + rejected.trained[prompt_length:],
        prompt_length,
        len(chosen.ids) - prompt_length,
        chosen.prefix_length,
    )


def _encoded(processor: Processor, name: str, example: Example) -> TrainingExample:
    """Prompt and one answer."""
    rows = processor.rows(example)
    if not rows:
        raise GLMError(f"the {name} answer is empty")
    if len(rows) > 1:
        raise GLMError(
            f"the {name} answer has {len(rows)} turns that this model does not write in one row: compare the last alone"
        )
    if not any(rows[0].trained):
        lengths = f"src_length {processor.src_length} and tgt_length {processor.tgt_length}"
        raise GLMError(f"the prompt fills all tokens of {lengths}, which leaves no room for an answer: raise them")
    return rows[0]


def preference_batch(processor: Processor, rows: Sequence[PreferenceRow]) -> Batch:
    """Inputs of `GLMForCausalLM.forward`, labels included, and whose each of them is.

    Returns:
        The arrays of `packed_batch` (glm/encoding/batches.py), and answer_of [M] int64, of the M labels in their order,
        in which the model returns its losses: 2·i of the chosen answer of row i, 2·i + 1 of the rejected one.
    """
    answer_of = [2 * number + side for number, row in enumerate(rows) for side in _sides(row)]
    made = [_columns(row, processor.positions) for row in rows]
    return stacked(made, processor.tokenizer.pad_token_id) | {"answer_of": np.array(answer_of, dtype="int64")}


def _sides(row: PreferenceRow) -> list[int]:
    """Of each trained token: 0 in the chosen answer, 1 in the rejected one."""
    chosen_end = row.prompt_length + row.chosen_length
    return [int(place >= chosen_end) for place, trained in enumerate(row.trained) if trained]


def _columns(row: PreferenceRow, positions: Positions) -> Batch:
    """Arrays [..., T]."""
    prompt, copy = row.prompt_length, row.prompt_length + row.chosen_length - 1
    ids = np.array(row.ids, dtype="int64")
    inputs = ids[:-1].copy()
    inputs[copy] = ids[prompt - 1]
    places = [
        positions.of(row.ids[:copy], row.prefix_length),
        positions.of([*row.ids[:prompt], *row.ids[copy + 1 : -1]], row.prefix_length)[:, prompt - 1 :],
    ]
    seen = visible_rows(0, row.columns, row.prefix_length)
    seen[1, prompt:copy] = copy
    seen[:, copy] = 0
    return {
        "input_ids": inputs,
        "attention_mask": np.ones(row.columns, dtype="int64"),
        "position_ids": np.concatenate(places, axis=1),
        "labels": np.where(row.trained[1:], ids[1:], IGNORED),
        "visible_rows": seen,
    }
