"""Packed rows are the rows they were made of, at five bytes per token."""

import tracemalloc

import numpy as np
import pytest

from glm.encoding.dataset import PackedRows
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
def packed(rows) -> PackedRows:
    packed = PackedRows()
    packed.extend(rows[:3])
    packed.extend(iter(rows[3:]))
    return packed


def test_rows_come_back(rows, packed):
    assert list(packed) == rows
    assert [row.trained_tokens for row in packed] == [row.trained_tokens for row in rows]
    assert packed[-1] == rows[-1] and all(type(flag) is bool for flag in packed[0].trained)
    assert packed.tokens == sum(len(row.ids) for row in rows)
    with pytest.raises(IndexError):
        packed[7]


def test_slices_are_views(rows, packed):
    for part in (slice(1, None, 2), slice(2, 5), slice(None, None, -1), slice(9, 9)):
        assert list(packed[part]) == rows[part]
    assert list(packed[1::2][1:]) == rows[1::2][1:]
    assert packed[2:5].tokens == sum(len(row.ids) for row in rows[2:5])


def test_a_token_takes_five_bytes():
    rows = rows_of(200, 300)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    packed = PackedRows()
    packed.extend(rows)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 5 <= (after - before) / packed.tokens < 6  # arrays grow ahead by up to an eighth
