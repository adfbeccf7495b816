"""Boundaries of documents in rows of running text, against the literal definitions of Megatron's flags."""

import numpy as np
import pytest

from glm.encoding.boundaries import Boundaries
from glm.encoding.examples import IGNORED

END = 9
FLAGS = [(m, p, a) for m in (False, True) for p in (False, True) for a in (False, True)]


def literal(ids: list[int], mask_loss: bool, reset_positions: bool, reset_attention: bool) -> tuple:
    """Trained columns, positions, and who sees whom, token by token: get_ltor_masks_and_position_ids."""
    inputs = ids[:-1]
    trained = [not (mask_loss and token == END) for token in inputs]
    positions, sees = list(range(len(inputs))), np.tril(np.ones([len(inputs)] * 2, bool))
    before = 0
    for place, token in enumerate(inputs):
        if token != END:
            continue
        if reset_attention:
            sees[place + 1 :, : place + 1] = False
        if reset_positions:
            for later in range(place + 1, len(inputs)):
                positions[later] -= place + 1 - before
            before = place + 1
    return trained, positions, sees


@pytest.mark.parametrize("flags", FLAGS)
def test_rows_are_by_definition(flags):
    draw, boundaries = np.random.default_rng(0), Boundaries(END, *flags)
    rows = [draw.integers(5, 10, 13) for _ in range(20)] + [np.full(13, END), np.arange(5, 9).repeat(4)[:13]]
    batch = boundaries.batch(rows)
    columns = np.arange(12)
    for number, row in enumerate(rows):
        trained, positions, sees = literal(row.tolist(), *flags)
        assert batch["input_ids"][number].tolist() == row[:-1].tolist()
        wanted = [token if kept else IGNORED for token, kept in zip(row[1:].tolist(), trained, strict=True)]
        assert batch["labels"][number].tolist() == wanted
        assert boundaries.trained_tokens(row) == sum(trained)
        assert batch["position_ids"][number, 0].tolist() == positions
        if flags[2]:
            first, last = batch["visible_rows"][number]
            found = (first <= columns[:, None]) & (columns[:, None] < last)
            np.testing.assert_array_equal(found, sees)
    assert ("visible_rows" in batch) == flags[2]
    assert batch["position_ids"].shape == (22, 1, 12) and batch["prefix_length"].tolist() == [0] * 22
    assert (batch["attention_mask"] == 1).all()


def test_the_end_itself_is_trained():
    """Megatron's of before 2025 masks it where padding has the same id, as GLM-4's has."""
    batch = Boundaries(END, mask_loss=True).batch([np.array([5, END, 6, 7])])
    assert batch["labels"].tolist() == [[END, IGNORED, 7]]
