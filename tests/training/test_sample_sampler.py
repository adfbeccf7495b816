"""Which samples each step of pretraining has: consecutive ones, at any cut, and the same ones in a run that resumes."""

import pytest

from glm.errors import UsageError
from glm.training.sample_sampler import SampleSampler
from glm.training.sampler import Place


class Rows:
    """Row i has i % 5 + 1 trained tokens."""

    unit = "rows"

    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def trained_tokens(self, rows):
        return sum(row % 5 + 1 for row in rows)


CUTS = [(1, 8, 1), (1, 4, 2), (2, 4, 1), (2, 2, 2), (4, 2, 1), (4, 1, 2)]  # replicas, rows, accumulation


def sampler(cut, rank: int = 0, count: int = 80, **more) -> SampleSampler:
    ranks, size, accumulation = cut
    return SampleSampler(Rows(count), size, num_replicas=ranks, rank=rank, seed=42, accumulation=accumulation, **more)


def steps(cut, count: int = 80, **more) -> list[list[int]]:
    """The samples of each step, of all replicas."""
    ranks, _, accumulation = cut
    parts = [list(sampler(cut, rank, count, **more)) for rank in range(ranks)]
    found = []
    for start in range(0, len(parts[0]), accumulation):
        micro = [parts[rank][start + number] for number in range(accumulation) for rank in range(ranks)]
        found.append([row for batch in micro for row, _ in batch])
    return found


@pytest.mark.parametrize("cut", CUTS)
def test_steps_have_consecutive_samples(cut):
    """In Megatron's order too: micro-batch by micro-batch, replica by replica."""
    assert steps(cut) == [list(range(8 * step, 8 * step + 8)) for step in range(10)]
    assert len(sampler(cut)) == 10 * cut[2]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_resumed_run_has_those_that_follow(cut, step):
    for before in CUTS:
        place = sampler(before).place_after(step)
        assert steps(cut, step=step, place=place) == steps(cut)[step:] == steps(cut, step=step)
    assert len(sampler(cut, step=step)) == len(sampler(cut))  # the Trainer counts epochs by it
    assert sampler(cut, step=step).place_after(step + 2) == Place(0, 8 * (step + 2), 42)


def test_with_other_rows_a_step_it_goes_on_behind_the_same_sample():
    place = sampler((1, 8, 1)).place_after(4)
    resumed = steps((1, 16, 1), step=4, place=place)
    assert [row for step in resumed for row in step] == list(range(32, 80))
    assert len(sampler((1, 16, 1), step=4, place=place)) == 4 + 3


@pytest.mark.parametrize("cut", CUTS)
def test_every_trained_token_of_a_step_weighs_the_same(cut):
    """The mean over replicas and micro-batches of (share · tokens) is 1."""
    ranks, _, accumulation = cut
    parts = [list(sampler(cut, rank)) for rank in range(ranks)]
    for start in range(0, len(parts[0]), accumulation):
        step = [row for part in parts for batch in part[start : start + accumulation] for row in batch]
        assert len({share for _, share in step}) == 1
        assert sum(share * (row % 5 + 1) for row, share in step) / (ranks * accumulation) == pytest.approx(1.0)


def test_too_few_samples():
    with pytest.raises(UsageError, match="7 rows fill no step of 8"):
        sampler((1, 8, 1), count=7)
    assert list(sampler((1, 8, 1), count=80, step=10)) == []
