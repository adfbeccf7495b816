"""When an export's checksums are awaited: once, before the first token is seen."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from glm.errors import GLMError
from glm.inference import exported
from glm.inference.exported import EngineGenerator, ExportOptions


def generator(tokens, awaited: list, error: GLMError | None = None) -> EngineGenerator:
    """One whose engine gives these tokens, then the error."""

    def stream(ids, config, constraint=None):
        yield from tokens
        if error:
            raise error

    made = object.__new__(EngineGenerator)
    made.engine, made._guide = SimpleNamespace(stream=stream), None
    made._require_whole = lambda: awaited.append(None)
    return made


def test_the_checksums_are_awaited_once():
    awaited = []
    tokens = generator([1, 2, 3], awaited).stream_tokens([], None)
    assert not awaited
    assert next(tokens) == 1 and len(awaited) == 1
    assert list(tokens) == [2, 3] and len(awaited) == 1


def test_damage_is_why_it_fails():
    def damaged():
        raise GLMError("the export is damaged")

    made = generator([], [], GLMError("no such token"))
    with pytest.raises(GLMError, match="no such token"):
        next(made.stream_tokens([], None))
    for tokens in ([], [1]):
        made = generator(tokens, [], GLMError("no such token"))
        made._require_whole = damaged
        with pytest.raises(GLMError, match="the export is damaged"):
            next(made.stream_tokens([], None))


def test_what_needs_a_step_graph():
    assert exported._needs_steps(ExportOptions(Path("x"), scores=True))
    assert not exported._needs_steps(ExportOptions(Path("x")))
