"""`python -m benchmarks`, as `make bench` runs it."""

import json
import subprocess
import sys

import pytest

import benchmarks.__main__ as command
from benchmarks import plan as planning
from benchmarks.plan import ROOT
from benchmarks.settings import COLUMNS, TASKS


def bench(tmp_path, *arguments: str) -> tuple[subprocess.CompletedProcess, dict]:
    output = tmp_path / "new" / "bench.json"
    words = [sys.executable, "-m", "benchmarks", "--quick", "--runs", "1", "--output", str(output), *arguments]
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")], "weights were left behind"
    return process, json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_an_untuned_column_runs_untuned(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "5")
    process, report = bench(tmp_path, "--tasks", "train", "--columns", "installed")
    assert process.returncode == 0, process.stderr
    settings = {(m["column"], m["task"]): m["settings"] for m in report["measurements"]}
    assert not {"MKL_DEBUG_CPU_TYPE", "MKL_NUM_THREADS", "mallopt"} & set(settings["installed", "train"])
    assert settings["project", "machine"]["MKL_NUM_THREADS"]
    assert "training, all weights" in process.stdout and report["versions"]["paddlepaddle"]


@pytest.mark.slow
def test_the_whole_bench_on_a_small_shape(tmp_path):
    process, report = bench(tmp_path)
    assert process.returncode == 0, process.stderr
    assert report["failures"] == [] and [check["what"] for check in report["checks"]] == ["loss", "loss", "tokens"]
    assert {row["task"] for row in report["rows"]} == set(TASKS)
    for row in report["rows"]:
        assert set(row["columns"]) == set(COLUMNS) and set(row["ratios"]) == {"tuned", "installed"}
    assert all(m["peak_memory_bytes"] > 2**28 for m in report["measurements"] if m["task"] in TASKS)


def test_a_failed_worker_makes_the_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planning, "run_worker", lambda *_: {"error": "RuntimeError: no"})
    output = tmp_path / "bench.json"
    assert command.main(["--quick", "--tasks", "greedy", "--output", str(output)]) == 1
    assert "RuntimeError: no" in capsys.readouterr().out
    assert json.loads(output.read_text(encoding="utf-8"))["failures"]


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["--quick", "--output", str(tmp_path / "file" / "bench.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--tasks", "fly"], ["--columns", "others"], ["--runs", "0"]])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2 and arguments[1] in capsys.readouterr().err
