"""glm_infer and libglm as sides of the benchmarks: they write the Python engine's tokens, with figures of their own."""

import time
from pathlib import Path

import pytest

from benchmarks.cpp import _peak, cpp_first_token, missing
from benchmarks.plan import buildable
from benchmarks.prepare import prepare
from benchmarks.processes import Environment
from benchmarks.settings import QUICK_SHAPES, SIDES, TASKS
from benchmarks.side import Place
from benchmarks.sides import cpp, onnx

pytestmark = [pytest.mark.long, pytest.mark.process]  # programs are started by the benchmarks
SHAPE = QUICK_SHAPES["glm4"]


@pytest.fixture
def built(programs, monkeypatch):
    monkeypatch.setenv("GLM_CPP_BUILD", str(programs))


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A folder of shapes."""
    found = tmp_path_factory.mktemp("bench")
    prepare(found / "glm4", SHAPE, ["cpp-fp32", "cpp-int4", "onnx-fp32", "onnx-int4"])
    return found


@pytest.fixture
def environment(directory, tmp_path) -> Environment:
    return Environment(directory, Path("/none/python"), tmp_path / "log", quick=True)


@pytest.mark.parametrize("task", ["decode", "decode-8"])
@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_its_tokens_are_those_of_the_python_engine(built, directory, weights, task):
    ours, theirs = (
        module.Side(Place(directory / "glm4", SHAPE, SIDES[f"{name}-{weights}"])).generate(TASKS[task], 60.0)
        for name, module in (("cpp", cpp), ("onnx", onnx))
    )
    assert ours.tokens == theirs.tokens and len(ours.tokens) == TASKS[task].batch
    assert [count for count, _ in ours.marks] == [1, SHAPE.new_tokens] and 0 < ours.marks[0][1] < ours.marks[1][1]


def test_a_fresh_start_has_its_time_and_its_memory(built, environment):
    ballast = bytearray(400 << 20)  # of this process, which is not to be counted
    ballast[::4096] = b"x" * len(ballast[::4096])
    found = cpp_first_token(environment, "cpp-int4", "glm4")
    assert 0.01 < found["seconds"] < 60
    assert found["weights"] == (environment.directory / "glm4" / "onnx-int4" / "glm.onnx.data").stat().st_size
    assert 10 << 20 < found["peak_memory"] < 300 << 20


def test_a_program_that_fails_is_an_error(built, environment):
    weights = environment.directory / "glm4" / "onnx-fp32" / "glm.onnx.data"
    weights.rename(weights.with_suffix(".away"))
    try:
        found = cpp_first_token(environment, "cpp-fp32", "glm4")
        assert "ended with code 1" in found["error"] and "glm.onnx.data is missing" in environment.log.read_text()
    finally:
        weights.with_suffix(".away").rename(weights)


def test_a_program_that_hangs_is_ended_with_what_it_started(environment, tmp_path, monkeypatch):
    (tmp_path / "glm_infer").write_text("#!/bin/sh\nsleep 60\n")
    (tmp_path / "glm_infer").chmod(0o755)
    monkeypatch.setenv("GLM_CPP_BUILD", str(tmp_path))
    monkeypatch.setattr("benchmarks.cpp.ANSWER_LIMIT", 0.5)
    begin = time.perf_counter()
    assert "ended with code -9" in cpp_first_token(environment, "cpp-fp32", "glm4")["error"]
    with pytest.raises(RuntimeError, match="ended with code -9"):
        _peak(["/bin/sleep", "60"], environment, "cpp-fp32")
    assert time.perf_counter() - begin < 30


def test_without_the_programs_their_rows_are_skipped_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("GLM_CPP_BUILD", str(tmp_path))
    rows, skipped = buildable(["decode-int4", "cpp-start-int4", "cpp-decode-int4"])
    assert rows == ("decode-int4",) and len(skipped) == 2
    assert all(f"{tmp_path / 'glm_infer'} is not built: make cpp" in line for line in skipped)
    for name in ("glm_infer", "libglm.so"):
        (tmp_path / name).write_text("")
    assert not missing() and buildable(["cpp-start-int4"]) == (("cpp-start-int4",), [])
