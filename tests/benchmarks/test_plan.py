"""Which processes are started, in which environment, and what becomes of those that fail."""

import sys
from contextlib import nullcontext

import pytest

from benchmarks import plan as planning
from benchmarks.plan import Measurement, Plan, clean_environment, execute, run_worker
from benchmarks.worker import parse

PLAN = Plan("tiny", ("project", "tuned", "installed"), ("train", "greedy"), runs=2)


def test_every_task_is_measured_in_every_column():
    assert [(m.task, m.column) for m in PLAN.measurements] == [
        (task, column) for task in ("train", "greedy") for column in ("project", "tuned", "installed")
    ]


def test_the_machine_is_measured_once_an_environment():
    assert [m.column for m in PLAN.machine] == ["project", "installed"]
    assert [m.column for m in Plan("tiny", ("tuned",), ("train",), 1).machine] == ["project"]


def test_a_worker_understands_its_command(tmp_path):
    command = PLAN.command(Measurement("tuned", "greedy"), tmp_path)
    options = parse(command[command.index("benchmarks.worker") + 1 :])
    assert vars(options) == {"column": "tuned", "task": "greedy", "directory": tmp_path, "shape": "tiny", "runs": 2}


def test_what_tunes_paddle_is_not_inherited():
    environ = {"MKL_DEBUG_CPU_TYPE": "9", "OMP_NUM_THREADS": "2", "FLAGS_use_stride_kernel": "0", "PATH": "/bin"}
    assert clean_environment(environ) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended with code -9"),
        ("print('not JSON')", "ended with code 0 and no result"),
        ("import time; time.sleep(60)", "within 0.2 s"),
    ],
)
def test_a_worker_without_a_result_is_an_error_with_its_reason(tmp_path, monkeypatch, program, reason):
    monkeypatch.setattr(planning, "WORKER_LIMIT", 0.2 if "sleep" in program else 60)
    result = run_worker([sys.executable, "-c", program], {}, tmp_path / "log")
    assert reason in result["error"]


def test_a_worker_reports_its_own_error_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    command = PLAN.command(Measurement("project", "greedy"), tmp_path / "empty")
    result = run_worker(command, clean_environment({"PATH": "/bin"}), tmp_path / "log")
    assert "GLMError" in result["error"] and "\n" not in result["error"]
    assert "Traceback" in (tmp_path / "log").read_text()


def test_nothing_is_measured_when_the_weights_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "run_worker", lambda *_: {"error": "no room"})
    results = execute(PLAN, tmp_path, tmp_path / "log", lambda _: nullcontext())
    assert [m.task for m in results] == ["prepare"]
