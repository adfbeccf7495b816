"""How runs are counted, and how a rate comes from step times."""

import pytest

from benchmarks.settings import TASKS, Shape
from benchmarks.side import Generation, projected_seconds
from benchmarks.worker import decode_rate, measure_generation, prediction, rate, repeat

SHAPE = Shape("any", batch=2, source=10, new_tokens=32)


def ends(steps: int) -> list[float]:
    """A first step of 5 s, the others of 1.5 s."""
    return [5.0 + 1.5 * step for step in range(steps)]


def test_a_whole_generation_counts_its_own_time():
    assert projected_seconds(ends(32), 32) == ends(32)[-1]
    assert rate(ends(32), SHAPE) == pytest.approx(64 / (5 + 31 * 1.5))


def test_missing_steps_go_on_at_the_pace_of_the_later_ones():
    assert rate(ends(4), SHAPE) == pytest.approx(rate(ends(32), SHAPE))
    # Dividing by the time alone would charge four tokens with the whole prompt.
    assert 2 * 4 / ends(4)[-1] < 0.7 * rate(ends(4), SHAPE)


def test_decoding_leaves_the_first_step_out():
    assert decode_rate(ends(4), SHAPE) == pytest.approx(2 / 1.5)


def test_a_prediction_is_compared_with_a_whole_run_only():
    whole = prediction([Generation([], ends(5)), Generation([], ends(32))], SHAPE)
    assert whole["predicted"] == pytest.approx(whole["measured"])
    assert prediction([Generation([], ends(5))], SHAPE) is None


@pytest.mark.parametrize(("patience", "runs"), [(60.0, 3), (-1.0, 1)])
def test_a_slow_run_is_counted_once(patience, runs):
    calls = []
    assert len(repeat(lambda: calls.append(1), 3, patience)) == len(calls) == runs


def test_generations_are_medians_behind_a_warm_up():
    class Side:
        paces = iter([9.0, 1.0, 3.0, 2.0])

        def generate(self, task, new_tokens, patience=None):
            pace = next(self.paces)
            return Generation([[7] * new_tokens] * 2, [pace * (step + 1) for step in range(new_tokens)])

    found = measure_generation(Side(), TASKS["greedy"], SHAPE, runs=3)
    assert found["tokens_per_second"] == pytest.approx(2 / 2.0)
    assert found["steps"] == [32, 32, 32] and found["generated"] == [[7] * 32] * 2
