"""Rows in flat arrays are the rows they were made of, at five bytes per token."""

import tracemalloc

import numpy as np
import pytest

from glm.encoding.dataset import FlatRows
from glm.encoding.examples import TrainingExample


def rows_of(count: int, length: int, seed: int = 0) -> list[TrainingExample]:
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ids = draw.integers(300, 150_000, length + number % 3).tolist()
        trained = (draw.random(len(ids)) < 0.5).tolist()
        made.append(TrainingExample(ids, trained, prefix_length=number % 4, cut=number % 2 == 0))
    return made


@pytest.fixture(scope="module")
def rows() -> list[TrainingExample]:
    return rows_of(7, 5)


@pytest.fixture(scope="module")
def flat(rows) -> FlatRows:
    flat = FlatRows()
    flat.extend(rows[:3])
    flat.extend(iter(rows[3:]))
    return flat


def test_rows_come_back(rows, flat):
    assert list(flat) == rows
    trained = [row.trained_tokens for row in rows]
    assert [row.trained_tokens for row in flat] == [flat.trained_tokens(n) for n in range(7)] == trained
    assert flat.columns.tolist() == [len(row.ids) - 1 for row in rows]
    assert flat[-1] == rows[-1] and all(type(flag) is bool for flag in flat[0].trained)
    assert flat.tokens == sum(len(row.ids) for row in rows)
    with pytest.raises(IndexError):
        flat[7]


def test_slices_are_views(rows, flat):
    for part in (slice(1, None, 2), slice(2, 5), slice(None, None, -1), slice(9, 9)):
        assert list(flat[part]) == rows[part]
    assert list(flat[1::2][1:]) == rows[1::2][1:]
    assert flat[2:5].columns.tolist() == flat.columns[2:5].tolist()
    assert flat[2:5].trained_tokens(1) == rows[3].trained_tokens
    assert flat[2:5].tokens == sum(len(row.ids) for row in rows[2:5])


def test_a_token_takes_five_bytes():
    rows = rows_of(200, 300)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    flat = FlatRows()
    flat.extend(rows)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 5 <= (after - before) / flat.tokens < 6  # arrays grow ahead by up to an eighth
