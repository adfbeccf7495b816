"""Which attention of ONNX Runtime a step graph is opened with."""

import os
from pathlib import Path

import pytest

from glm.runtime import onnx_step
from glm.runtime.onnx_step import ALL_SCORES, ALL_SCORES_POSITIONS, OnnxStepRuntime


class Opened(Exception):
    """Ends the opening of a session where it would begin."""


@pytest.fixture
def seen(monkeypatch):
    """What the variable is while sessions are opened."""
    found = []

    def open_session(*_):
        found.append(os.environ.get(ALL_SCORES))
        raise Opened

    monkeypatch.delenv(ALL_SCORES, raising=False)
    monkeypatch.setattr(onnx_step, "open_session", open_session)
    return found


def opened(capacity: int) -> None:
    with pytest.raises(Opened):
        OnnxStepRuntime(Path("glm.onnx"), capacity)


def test_short_caches_have_all_scores_and_long_ones_tiles(seen):
    for capacity in (64, ALL_SCORES_POSITIONS, ALL_SCORES_POSITIONS + 1):
        opened(capacity)
        assert ALL_SCORES not in os.environ, "other sessions of the process would attend so, too"
    assert seen == ["1", "1", None]


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_variable_that_is_set_stays_as_it_is(seen, monkeypatch, value):
    monkeypatch.setenv(ALL_SCORES, value)
    opened(64)
    opened(ALL_SCORES_POSITIONS + 1)
    assert seen == [value, value] and os.environ[ALL_SCORES] == value
