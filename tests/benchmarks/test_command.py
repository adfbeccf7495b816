"""`python -m benchmarks`, as `make bench` runs it."""

import json
import subprocess
import sys

import pytest

import benchmarks.__main__ as command
from benchmarks import plan as planning
from benchmarks.processes import ROOT
from benchmarks.rows import ROWS

pytestmark = pytest.mark.process  # the benchmarks ask other programs what machine this is, and start workers


@pytest.mark.slow
def test_a_quick_run_without_the_peers_measures_ours_and_says_what_is_missing(tmp_path):
    output = tmp_path / "new" / "bench.json"
    words = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(output), "--peers_python", "/none/python"]
    words += ["--rows", "decode-int4", "decode8-fp32", "start-int4", "memory-int4", "glm-train", "glm-greedy"]
    words += ["big-prefill-1024", "big-decode-int4"]
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")], "weights were left behind"
    report = json.loads(output.read_text(encoding="utf-8"))
    assert all("/none/python cannot be started" in line and "make bench" in line for line in report["failures"])
    for row in report["rows"]:
        assert row["cells"][row["ours"]]["median"] > 0
    assert {row["row"] for row in report["rows"] if any(a["ratio"] for a in row["aims"])} >= {"glm-train", "glm-greedy"}
    assert [check["what"] for check in report["checks"]] == ["tokens", "loss", "tokens"]
    assert report["profiles"]["decode-int4"]["parts"] and "this project beside its peers" in process.stdout


def test_a_failed_worker_makes_the_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planning, "run_once", lambda *_: {"error": "RuntimeError: no"})
    output = tmp_path / "bench.json"
    assert command.main(["--quick", "--rows", "train", "--output", str(output)]) == 1
    assert "RuntimeError: no" in capsys.readouterr().out
    # A finished file can be shown again.
    assert command.main(["--from_json", str(output)]) == 1
    assert "RuntimeError: no" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["--quick", "--output", str(tmp_path / "file" / "bench.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--rows", "fly"], ["--runs", "0"]])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2 and arguments[1] in capsys.readouterr().err


def test_the_help_names_every_row(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text and row.title in text for name, row in ROWS.items())
    assert command.parse([]).runs == 5 and command.parse(["--quick"]).runs == 1


def test_large_rows_run_only_where_they_are_named_and_less_often():
    large = {name for name, row in ROWS.items() if row.large}
    assert large == {"big-prefill-128", "big-prefill-1024", "big-decode-int4", "big-decode-head4"}
    assert set(command.parse([]).rows) == set(ROWS) - large and set(command.parse(["--quick"]).rows) == set(ROWS)
    assert command.parse(["--rows", "big-decode-int4"]).runs == 3
    assert command.parse(["--rows", "big-decode-int4", "--runs", "7"]).runs == 7


def test_preparing_alone_leaves_files_that_the_next_call_opens(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(planning, "run_once", lambda words, *_: calls.append(words) or {"parameters": 7})
    directory = tmp_path / "prepared"
    (directory / "glm4").mkdir(parents=True)
    words = ["--quick", "--rows", "train", "--output", str(tmp_path / "bench.json"), "--prepared", str(directory)]
    monkeypatch.setattr(planning.shutil, "rmtree", lambda *_, **__: None)  # nothing is written here by the worker
    for _ in range(2):
        assert command.main([*words, "--prepare_only"]) == 0
    assert len(calls) == 1 and not (tmp_path / "bench.json").exists()
    assert "prepared: glm4" in capsys.readouterr().out


def test_preparing_that_fails_is_code_1_and_needs_a_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planning, "run_once", lambda *_: {"error": "OSError: the disk is full"})
    words = ["--quick", "--rows", "train", "--output", str(tmp_path / "bench.json"), "--prepare_only"]
    assert command.main([*words, "--prepared", str(tmp_path / "prepared")]) == 1
    assert "benchmarks: OSError: the disk is full" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(words)
    assert "name a directory" in capsys.readouterr().err
