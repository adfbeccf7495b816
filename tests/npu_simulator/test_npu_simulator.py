"""The simulated NPU: one process on it equals the CPU, its collectives equal numpy, and what goes wrong says so.

Every test runs scripts/ in fresh processes, because Paddle reads CUSTOM_DEVICE_ROOT when it is imported.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.npu_simulator import build as builder
from tests.npu_simulator.launching import ROOT, launch, needs_compiler, run_alone

CHECKS = ["settings", "copies", "creation", "streams", "memory", "averages", "in_place", "training"]


def shared_memory() -> set[str]:
    return {entry.name for entry in Path("/dev/shm").iterdir()}


@needs_compiler
def test_second_build_is_the_first():
    folder = builder.build()
    written = (folder / builder.LIBRARY).stat().st_mtime_ns
    assert builder.build() == folder
    assert (folder / builder.LIBRARY).stat().st_mtime_ns == written


def test_missing_compiler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(builder.BuildError, match=r"^The NPU simulator needs a C\+\+ compiler, and .* apt-get install"):
        builder.build(tmp_path)
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_broken_source_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "broken.cc").write_text("int broken = nowhere;\n")
    monkeypatch.setattr(builder, "SOURCES", tmp_path / "plugin")
    with pytest.raises(builder.BuildError, match=r"does not compile.*nowhere") as raised:
        builder.build(tmp_path / "cache")
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "cache").iterdir())


@needs_compiler
def test_build_prints_its_folder():
    result = subprocess.run([sys.executable, builder.__file__], capture_output=True, text=True, check=True)
    assert result.stdout == f"{builder.build()}\n"


@needs_compiler
@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
def test_make_builds_and_says_how_to_use_it(tmp_path):
    ready = tmp_path / "ready"  # newer than its sources, so make takes this Python and installs none
    ready.touch()
    command = ["make", "-C", str(ROOT), "npu-simulator", f"PY={sys.executable}", f"READY={ready}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"CUSTOM_DEVICE_ROOT={builder.build()}" in result.stdout


@needs_compiler
def test_one_process_equals_cpu():
    result = run_alone("single_process.py", NPU_SIMULATOR_DEVICES="3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == CHECKS


@needs_compiler
@pytest.mark.parametrize("ranks", [2, 4])
def test_collectives_equal_numpy(tmp_path, ranks):
    before = shared_memory()
    result = launch("collectives.py", ranks, tmp_path)
    assert result.code == 0, str(result)
    for rank, log in enumerate(result.logs):
        assert f"rank {rank} of {ranks}: all equal" in log
    assert shared_memory() <= before


@needs_compiler
def test_half_precision_is_float32_rounded():
    result = run_alone("half_precision.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["float16", "bfloat16", "float32"]


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
def test_fleet_layers_equal_one_process(tmp_path, dtype):
    result = launch("fleet_layers.py", 2, tmp_path, [dtype])
    assert result.code == 0, str(result)
    for rank, log in enumerate(result.logs):
        assert f"rank {rank} of 2: equal to one process in {dtype}" in log


def fail(how: str, folder: Path, **variables: str) -> tuple[str, list[str]]:
    """Runs failures.py; returns rank 1's process number and the logs."""
    before = shared_memory()
    result = launch("failures.py", 2, folder, [how], **variables)
    assert result.code != 0, str(result)
    assert shared_memory() <= before
    return result.logs[1].split("rank 1 is process ")[1].split()[0], result.logs


def seconds(log: str) -> float:
    return float(log.split("ended after ")[1].split()[0])


@needs_compiler
def test_disagreement_names_both_calls(tmp_path):
    process, logs = fail("disagree", tmp_path)
    assert "npu simulator: all_reduce of 10 float32 (sum) on rank 0 of group" in logs[0]
    assert f"rank 1 (trainer 1, process {process}) calls all_reduce of 12 float32 (sum)" in logs[0]


@needs_compiler
def test_missing_rank_times_out_by_name(tmp_path):
    process, logs = fail("late", tmp_path, NPU_SIMULATOR_TIMEOUT="1.5")
    assert f"waited 1.5 s (NPU_SIMULATOR_TIMEOUT) in vain for rank 1 (trainer 1, process {process})" in logs[0]
    assert 1.5 <= seconds(logs[0]) < 5


@needs_compiler
@pytest.mark.parametrize("how", ["killed", "unanswered"])
def test_killed_rank_ends_the_others(tmp_path, how):
    process, logs = fail(how, tmp_path)
    assert f"rank 1 (trainer 1, process {process}) has ended" in logs[0]
    assert seconds(logs[0]) < 5
