"""Where in its data a run resumes: with the same steps exactly, with others after the same row."""

from itertools import pairwise

import pytest
from training_runs import encoded

from glm.encoding.examples import TrainingExample
from glm.training.sampler import EpochSampler, Place


def sampler(
    rows: int = 37, size: int = 4, accumulation: int = 1, ranks: int = 1, rank: int = 0, **more
) -> EpochSampler:
    more = {"seed": 42} | more
    dataset = encoded([TrainingExample([0, 1], [False, True])] * rows)
    return EpochSampler(dataset, size, num_replicas=ranks, rank=rank, accumulation=accumulation, **more)


def steps(cut: dict, first: int, last: int, **more) -> list[list[int]]:
    """The rows of each step as PaddleNLP's loop goes through them: by epochs in steps, what is done passed over."""
    parts = []
    for rank in range(cut.get("ranks", 1)):
        own = sampler(**cut, rank=rank, **more)
        an_epoch, found = len(own) // own.accumulation, []
        for epoch in range(first // an_epoch, 1000):
            own.set_epoch(epoch)
            batches = list(own)
            found += batches[(first % an_epoch) * own.accumulation if epoch == first // an_epoch else 0 :]
            if len(found) >= (last - first) * own.accumulation:
                break
        parts.append(found[: (last - first) * own.accumulation])
    joined = [[row for rank in batch for row, _ in rank] for batch in zip(*parts, strict=True)]
    count = own.accumulation
    return [sorted(row for batch in joined[i : i + count] for row in batch) for i in range(0, len(joined), count)]


@pytest.mark.parametrize(
    "cut", [{}, {"size": 2, "accumulation": 2}, {"size": 2, "ranks": 2}, {"rows": 5, "size": 8}], ids=str
)
def test_the_same_cut_continues_exactly(cut):
    whole = steps(cut, 0, 40)
    for step in (1, 5, 9, 10, 17, 30):
        place = sampler(**cut).place_after(step)
        assert steps(cut, step, 40, step=step, place=place) == whole[step:]
        assert steps(cut, step, 40, step=step) == whole[step:]
        assert sampler(**cut, step=step, place=place).added_steps == 0


@pytest.mark.parametrize(
    "after", [{"size": 2}, {"size": 8}, {"size": 2, "accumulation": 2}, {"size": 3, "ranks": 2}], ids=str
)
@pytest.mark.parametrize("step", [1, 6, 9, 10, 14])
def test_another_cut_continues_after_the_same_row(step, after):
    """Every row of the epoch is trained once, but those of its end that fill no step; then whole epochs follow."""
    place = sampler().place_after(step)
    resumed = sampler(**after, step=step, place=place)
    ends = step + resumed._steps(place.row)
    before = [row for rows in steps({}, 0, step) for row in rows][place.epoch * 37 :]
    rest = [row for rows in steps(after, step, ends, step=step, place=place) for row in rows]
    assert set(before) | set(rest) <= set(range(37))
    left_out = 37 - len({*before, *rest})
    assert left_out < resumed.rows_per_step and (left_out == 0 or after.get("accumulation"))
    assert len(rest) - len(set(rest)) < after.get("ranks", 1)
    epoch = len(resumed) // resumed.accumulation
    assert resumed.place_after(ends) == Place(place.epoch + 1, 0, 42)
    fresh = steps(after, step, ends + epoch, step=step, place=place)[ends - step :]
    assert fresh == steps(after, (place.epoch + 1) * epoch, (place.epoch + 2) * epoch)
    assert resumed.added_steps == ends - (place.epoch + 1) * epoch


def test_the_place_is_kept_through_several_changes():
    places = [sampler().place_after(6)]
    places.append(sampler(size=2, step=6, place=places[-1]).place_after(9))
    places.append(sampler(size=5, step=9, place=places[-1]).place_after(10))
    assert [(place.epoch, place.row) for place in places] == [(0, 24), (0, 30), (0, 35)]
    last = sampler(size=4, seed=7, step=10, place=places[-1])
    assert last.place_after(10) == Place(0, 35, 42) and last.place_after(11) == Place(1, 0, 7)
    assert all(second.row > first.row for first, second in pairwise(places))


def test_fewer_rows_than_were_trained_begin_an_epoch():
    assert sampler(rows=20, step=6, place=Place(0, 24, 42)).start == Place(1, 0, 42)
