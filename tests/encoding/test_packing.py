"""Packs hold every row once, by first-fit; their arrays keep the rows apart, by a literal definition."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_chat import processor_of_tiny
from training_runs import encoded

from glm.encoding import packing
from glm.encoding.examples import IGNORED, Example, TrainingExample
from glm.encoding.packing import PackedDataset, default_max_length, first_fit
from glm.encoding.processor import GLMProcessor
from glm.errors import UsageError

# Ids of the bundled vocabulary: ▁ 109, 桥 164, 建于 40, a 118.
CLS, GMASK, SOP, EOP, END = 376, 383, 380, 381, 374


def plain_first_fit(columns: list[int], max_length: int, open_packs: int) -> list[list[int]]:
    """As the words say it; an empty pack of the buffer is an open one."""
    packs, closed = [[] for _ in range(open_packs)], []

    def room(pack: list[int]) -> int:
        return max_length - sum(columns[row] for row in pack)

    for row in np.random.default_rng(0).permutation(len(columns)):
        with_room = [pack for pack in packs if room(pack) >= columns[row]]
        if not with_room:
            fullest = min(packs, key=room)
            closed.append(list(fullest))
            fullest.clear()
            with_room = [fullest]
        with_room[0].append(row)
    return closed + [pack for pack in packs if pack]


@pytest.mark.parametrize("open_packs", [1, 3, 256])
def test_first_fit(open_packs, monkeypatch):
    monkeypatch.setattr(packing, "OPEN_PACKS", open_packs)
    columns = np.random.default_rng(1).integers(1, 65, 300).tolist()
    packs = first_fit(columns, 64)
    assert packs == plain_first_fit(columns, 64, open_packs) == first_fit(columns, 64)
    assert sorted(row for pack in packs for row in pack) == list(range(300))
    assert max(sum(columns[row] for row in pack) for pack in packs) <= 64


def test_packs_are_full_and_mixed():
    """Of rows in the order of their lengths, as a sorted file has them."""
    columns = np.sort(np.random.default_rng(2).integers(1, 500, 3000))
    packs = first_fit(columns.tolist(), 2048)
    assert columns.sum() / (len(packs) * 2048) > 0.99
    means = [np.mean(columns[pack]) for pack in packs[:-1]]
    assert min(means) > 100 and max(means) < 420  # consecutive rows have means from 10 to 490


def rows_of(*lengths: int) -> list[TrainingExample]:
    """Rows of so many columns, of which all but the first train."""
    return [TrainingExample([5] * (n + 1), [False, False, *[True] * (n - 1)]) for n in lengths]


def test_a_packed_dataset():
    rows = encoded(rows_of(4, 2, 7, 3)).rows
    packed = PackedDataset(rows, 8)
    found = [sorted(packed.rows(pack).tolist()) for pack in range(len(packed))]
    assert sorted(row for pack in found for row in pack) == [0, 1, 2, 3] and packed.left_out == []
    for pack, numbers in enumerate(packed.rows(pack) for pack in range(len(packed))):
        assert packed[pack, 0.25] == ([rows[row] for row in numbers.tolist()], 0.25)
        assert packed.trained_tokens(pack) == sum(rows[row].trained_tokens for row in numbers.tolist())
        assert packed.sizes[pack] == len(numbers)
        assert packed[pack, 0.0] == ([rows[int(numbers[0])]], 0.0)  # passed over
    assert packed.real_share == 16 / (8 * len(packed)) and packed.mean_tokens == 20 / len(packed)
    with pytest.raises(IndexError):
        packed.rows(len(packed))


def test_rows_that_are_too_long():
    rows = encoded(rows_of(4, 9, 7, 12)).rows
    message = "2 of 4 rows are longer than max_length 8, the longest has 12 tokens: choose --max_length 12, or"
    with pytest.raises(UsageError, match=rf"{message} .*, or pass --skip_bad_rows$"):
        PackedDataset(rows, 8)
    packed = PackedDataset(rows, 8, skip_bad_rows=True)
    assert packed.left_out == ["2 longer than max_length 8, the longest has 12 tokens"]
    assert sorted(np.concatenate([packed.rows(pack) for pack in range(len(packed))]).tolist()) == [0, 2]
    for skip in (False, True):  # which would leave nothing
        with pytest.raises(UsageError, match=r"4 of 4 rows are longer than max_length 3, .*--tgt_length$"):
            PackedDataset(rows, 3, skip_bad_rows=skip)
    assert len(PackedDataset(rows, 12)) == 3


@pytest.mark.parametrize(
    ("src_length", "tgt_length", "max_position", "wanted"),
    [(608, 160, 8192, 2048), (608, 160, 1024, 1024), (900, 400, 1024, 1300), (4000, 96, 8192, 4096)],
)
def test_the_default_length(src_length, tgt_length, max_position, wanted):
    lengths = {"src_length": src_length, "tgt_length": tgt_length, "max_position": max_position}
    assert default_max_length(SimpleNamespace(**lengths)) == wanted


def test_a_packed_batch(tokenizer):
    """Two rows of GLM in one, and one by itself: positions begin anew, and no row is trained to begin the next one."""
    processor = GLMProcessor(tokenizer, 8, 6)
    first, second = (
        processor.row(processor.source(source), processor.target(target)) for source, target in (("a", "a"), ("", "桥"))
    )
    assert first.ids == [CLS, 109, 118, GMASK, END, SOP, 109, 118, EOP]
    assert second.ids == [CLS, GMASK, END, SOP, 109, 164, EOP]
    no, batch = IGNORED, processor.packed_batch([[first, second], [second]])
    wanted = {
        "input_ids": [
            [CLS, 109, 118, GMASK, END, SOP, 109, 118, CLS, GMASK, END, SOP, 109, 164],
            [CLS, GMASK, END, SOP, 109, 164, *[END] * 8],
        ],
        "attention_mask": [[1] * 14, [1] * 6 + [0] * 8],
        "position_ids": [
            [[0, 1, 2, 3, 4, 3, 3, 3, 0, 1, 2, 1, 1, 1], [0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 1, 2, 3]],
            [[0, 1, 2, 1, 1, 1, *[0] * 8], [0, 0, 0, 1, 2, 3, *[0] * 8]],
        ],
        "labels": [
            [*[no] * 5, 109, 118, EOP, no, no, no, 109, 164, EOP],
            [no, no, no, 109, 164, EOP, *[no] * 8],
        ],
        "visible_rows": [
            [[0, 0, 0, 0, 0, 5, 6, 7, 8, 8, 8, 11, 12, 13], [8] * 8 + [14] * 6],
            [[0, 0, 0, 3, 4, 5, *[0] * 8], [6] * 6 + [0] * 8],
        ],
        "prefix_length": [0, 0],
    }
    assert {name: array.tolist() for name, array in batch.items()} == wanted
    assert {name: str(array.dtype) for name, array in batch.items()} == dict.fromkeys(wanted, "int64") | {
        "visible_rows": "int32"
    }


@pytest.mark.parametrize("kind", ["glm", "chatglm", "glm4", "glm4-0414"])
def test_who_sees_whom(kind, tokenizer):
    """[T, T] from rows and prefixes, by definition: of the same row, and before it or in the prefix."""
    processor = GLMProcessor(tokenizer, 20, 14) if kind == "glm" else processor_of_tiny(kind)
    rows = [row for text in ("桥", "云溪桥建于", "a") for row in processor.rows(Example.of_pair(text, text * 2))]
    assert all((row.prefix_length > 0) == (kind in ("glm", "chatglm")) for row in rows)
    packs = [[rows[0], rows[1]], [rows[2], rows[0], rows[1]], [rows[2]]]
    batch = processor.packed_batch(packs)
    width = batch["input_ids"].shape[1]
    for pack, (first, end) in zip(packs, batch["visible_rows"], strict=True):
        columns = [(number, i, row) for number, row in enumerate(pack) for i in range(len(row.ids) - 1)]
        wanted = np.zeros([width, width], dtype=bool)
        for i, (row, place, _) in enumerate(columns):
            for j, (other, before, of) in enumerate(columns):
                wanted[i, j] = row == other and (before <= place or before < of.prefix_length)
        query = np.arange(width)[:, None]
        assert np.array_equal((first <= query) & (query < end), wanted)
