"""Which processes are started, in which turns, and what becomes of those that fail."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import plan as planning
from benchmarks import processes
from benchmarks.plan import Act, Measured, Plan, execute, rounds, take_turns
from benchmarks.processes import Environment, Worker, clean_environment, first_token, run_once
from benchmarks.rows import ROWS
from benchmarks.worker import parse

pytestmark = pytest.mark.process  # the benchmarks ask other programs what machine this is, and start workers


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "made", Path(sys.executable), tmp_path / "log", quick=True)


def quiet(what: str, steps: int) -> None:
    """No progress bar."""


class Told:
    """A worker that writes down when it is asked."""

    def __init__(self, side: str, calls: list, fails_at: int = 99):
        self.side, self.calls, self.fails_at = side, calls, fails_at

    def ask(self, **command) -> dict:
        self.calls.append((self.side, command["task"]))
        return {"error": "died"} if len([c for c in self.calls if c[0] == self.side]) > self.fails_at else {"marks": []}


def test_training_tasks_are_acts_of_their_own_and_the_others_share_their_sides():
    acts = Plan(("train", "lora", "decode-fp32", "decode-int4", "start-fp32", "memory-int4", "glm-beam"), 5).acts
    assert [(act.shape, act.kind, list(act.tasks)) for act in acts] == [
        ("glm4", "train", ["train"]),
        ("glm4", "train", ["lora"]),
        ("glm4", "generate", ["decode"]),
        ("glm4", "start", ["start", "memory"]),
        ("glm", "generate", ["beam-2"]),
    ]
    # Two rows of one task: a side has one turn, however many rows show it.
    assert acts[2].sides == [*ROWS["decode-fp32"].sides, "onnx-int4", "llama-q4_0", "onnx-int4-head4"]


def test_a_shape_is_prepared_for_the_sides_that_open_it():
    assert Plan(("glm-beam", "decode8-fp32"), 5).shapes == {
        "glm": ["onnx-fp32", "paddlenlp", "eager"],
        "glm4": ["onnx-fp32", "transformers", "llama-f32", "machine", "loop", "eager"],
    }


def test_sides_take_turns_and_the_first_round_does_not_count():
    calls, measured = [], Measured()
    workers = {side: Told(side, calls) for side in ("onnx-fp32", "machine")}
    rounds(Plan(("decode-fp32",), 2, quick=True), ("glm4", "decode"), workers, measured, quiet)
    assert calls == [("onnx-fp32", "decode"), ("machine", "rate")] * 3
    assert {key: len(runs) for key, runs in measured.runs.items()} == {
        ("glm4", "decode", "onnx-fp32"): 2,
        ("glm4", "decode", "machine"): 2,
    }


def test_short_runs_are_repeated_until_there_are_enough(monkeypatch):
    monkeypatch.setattr(planning, "SETTLE", 0.0)
    calls = []
    rounds(Plan((), 2), ("glm4", "decode"), {"onnx-fp32": Told("onnx-fp32", calls)}, Measured(), quiet)
    assert len(calls) == 1 + planning.MOST_RUNS
    monkeypatch.setattr(planning, "ENOUGH_SECONDS", -1.0)
    calls.clear()
    rounds(Plan((), 2), ("glm4", "decode"), {"onnx-fp32": Told("onnx-fp32", calls)}, Measured(), quiet)
    assert len(calls) == 1 + 2


@pytest.mark.parametrize(("fails_at", "kept"), [(0, 1), (2, 2)])
def test_a_side_that_fails_leaves_the_others_their_turns(fails_at, kept):
    calls, measured = [], Measured()
    workers = {"onnx-fp32": Told("onnx-fp32", calls, fails_at), "transformers": Told("transformers", calls)}
    rounds(Plan((), 3, quick=True), ("glm4", "decode"), workers, measured, quiet)
    failed = measured.runs["glm4", "decode", "onnx-fp32"]
    assert len(failed) == kept and failed[-1] == {"error": "died"}
    assert len(measured.runs["glm4", "decode", "transformers"]) == 3


def test_nothing_is_measured_when_the_weights_cannot_be_made(environment, monkeypatch):
    monkeypatch.setattr(planning, "run_once", lambda *_: {"error": "no room"})
    measured = execute(Plan(("decode-int4",), 1), environment, quiet)
    assert measured.prepared == {"glm4": {"error": "no room"}} and not measured.runs


def test_prepared_files_are_made_once_for_a_shape_and_its_sides(environment, monkeypatch):
    commands = []

    def write(command, place, side):
        commands.append(command)
        folder = environment.directory / "glm4-9b"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"made-{len(commands)}").touch()
        return {"parameters": len(commands)}

    def made(*rows: str) -> dict:
        commands.clear()
        return planning.prepare_all(Plan(rows, 1), environment, quiet)["glm4-9b"]

    monkeypatch.setattr(planning, "run_once", write)
    found = made("big-decode-int4")
    assert found["parameters"] == 1 and found["gguf"] == {"parameters": 2} and len(commands) == 2
    assert commands[1][-2:] == ["q4_0", "--remove"]
    assert made("big-prefill-128") == found and not commands  # fewer sides
    file = environment.directory / "glm4-9b" / planning.PREPARED
    note = json.loads(file.read_text())
    for other in ({"of": note["of"] | {"prompt": 3}}, {"sides": ["onnx-int4"]}):
        file.write_text(json.dumps(note | other))
        (environment.directory / "glm4-9b" / "old").touch()
        made("big-decode-int4")
        assert len(commands) == 2 and not (environment.directory / "glm4-9b" / "old").exists()


def test_what_was_not_prepared_to_the_end_is_made_again(environment, monkeypatch):
    def fail(command, place, side):
        (environment.directory / "glm4-9b").mkdir(parents=True, exist_ok=True)
        return {"error": "stopped"} if side == "gguf" else {}

    monkeypatch.setattr(planning, "run_once", fail)
    planning.prepare_all(Plan(("big-decode-int4",), 1), environment, quiet)
    assert planning.earlier(environment, "glm4-9b", ["onnx-int4"]) is None


def test_a_worker_understands_its_command(environment):
    command = environment.module("worker", "llama-q4_0", "glm4")
    options = parse(command[command.index("benchmarks.worker") + 1 :])
    assert (options.side, options.shape, options.quick) == ("llama-q4_0", "glm4", True)
    assert options.directory == environment.directory / "glm4"


def test_peers_run_in_their_own_environment(tmp_path):
    environment = Environment(tmp_path, Path("/peers/python"), tmp_path / "log", quick=False)
    assert environment.python("transformers") == "/peers/python"
    assert environment.python("paddlenlp") == environment.python("onnx-fp32") == sys.executable


def test_what_tunes_frameworks_is_not_inherited():
    environ = {"MKL_DEBUG_CPU_TYPE": "9", "OMP_NUM_THREADS": "2", "FLAGS_use_stride_kernel": "0", "PATH": "/bin"}
    assert clean_environment(environ) == {"PATH": "/bin"}


def fake(program: str):
    """`Environment.module` that starts a program of one line."""
    return lambda *_: [sys.executable, "-c", program]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended with code -9"),
        ("print('not JSON')", "and no result"),
        ("import time; time.sleep(60)", "within 0.2 s"),
    ],
)
def test_a_worker_without_a_result_is_an_error_with_its_reason(environment, monkeypatch, program, reason):
    monkeypatch.setattr(processes, "ANSWER_LIMIT", 0.2 if "sleep" in program else 60)
    monkeypatch.setattr(Environment, "module", staticmethod(fake(program)))
    worker = Worker(environment, "onnx-fp32", "glm4")
    assert reason in worker.opened["error"] and reason in worker.ask(task="decode")["error"]
    worker.close()
    assert reason in run_once(fake(program)(), environment, "prepare")["error"]


def test_a_worker_that_dies_between_runs_is_an_error(environment, monkeypatch):
    program = "import sys; print('{}', flush=True); sys.stdin.readline(); sys.exit(3)"
    monkeypatch.setattr(Environment, "module", staticmethod(fake(program)))
    worker = Worker(environment, "onnx-fp32", "glm4")
    assert worker.opened == {}
    assert "code 3" in worker.ask(task="decode")["error"] and "code 3" in worker.ask(task="decode")["error"]
    worker.close()


def test_peers_that_are_not_installed_are_an_error_that_says_what_to_do(tmp_path):
    environment = Environment(tmp_path, tmp_path / "no" / "python", tmp_path / "log", quick=True)
    measured = Measured()
    take_turns(Plan((), 1, quick=True), Act("glm4", {"decode": ("transformers",)}), environment, measured, quiet)
    assert "make bench" in measured.runs["glm4", "decode", "transformers"][0]["error"]
    assert "make bench" in first_token(environment, "transformers", "glm4")["error"]


def test_a_worker_reports_its_own_error_in_one_line(environment):
    environment.log.write_text("")
    worker = Worker(environment, "onnx-fp32", "glm4")
    worker.close()
    assert "FileNotFoundError" in worker.opened["error"] and "\n" not in worker.opened["error"]
    assert "Traceback" in environment.log.read_text()


def test_a_start_is_timed_to_its_first_token(environment, monkeypatch):
    last = json.dumps({"stages": [], "peak_memory": 5})
    program = f"import time; time.sleep(0.1); print('first token', flush=True); time.sleep(0.5); print('{last}')"
    monkeypatch.setattr(Environment, "module", staticmethod(fake(program)))
    found = first_token(environment, "onnx-fp32", "glm4")
    assert 0.1 <= found["seconds"] < 0.5 and found["peak_memory"] == 5
    monkeypatch.setattr(Environment, "module", staticmethod(fake("print('nothing')")))
    assert "no first token" in first_token(environment, "onnx-fp32", "glm4")["error"]
