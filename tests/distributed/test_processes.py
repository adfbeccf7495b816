"""What the processes of a launch compare, and how a script ends whose launch went wrong; launches: distributed/."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glm.cli import script as cli
from glm.cli.argument_file import command_line
from glm.distributed.processes import difference

ROOT = Path(__file__).resolve().parents[2]
REPORT = """(External) {

============================ Error message in backward of GradNodePyLayer ============================

OSError: (External)  CustomDevice error, the error code is : 2.
  [Hint: Please search for the error code.] (at /paddle/paddle/phi/backends/custom/custom_device.cc:799)

At:
  mp_ops.py(54): backward
========
} (at /paddle/paddle/fluid/eager/pylayer/py_layer_node.cc:177)"""


@pytest.fixture
def launch(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")


def run(main, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.run_script(main)
    return end.value.code, capsys.readouterr().err


def fail(error: Exception):
    raise error


@pytest.mark.parametrize("kind", [OSError, RuntimeError, ValueError])
def test_an_error_of_paddle_is_one_line_in_a_launch(launch, capsys, kind):
    code, err = run(lambda: fail(kind(REPORT)), capsys)
    assert (code, err) == (
        1,
        "error: rank 0 failed in Paddle: CustomDevice error, the error code is : 2; --debug shows where; "
        "no other rank of the 2 is known to have ended\n",
    )


def test_an_ended_rank_is_the_cause(launch, capsys, monkeypatch):
    monkeypatch.setattr(cli, "ended_process", lambda: "rank 1 has ended")
    assert run(lambda: fail(OSError(REPORT)), capsys) == (1, "error: rank 1 has ended\n")
    assert run(lambda: fail(OSError(2, "No such file", "x")), capsys) == (1, "error: [Errno 2] No such file: 'x'\n")


def test_other_errors_keep_their_traceback(launch):
    for error in (KeyError("x"), RuntimeError("no report")):
        with pytest.raises(type(error)):
            cli.run_script(lambda error=error: fail(error))


def test_alone_an_error_of_paddle_keeps_its_traceback():
    with pytest.raises(RuntimeError):
        cli.run_script(lambda: fail(RuntimeError(REPORT)))


DIFFERENCES = {
    "nothing": (["a\nb", "a\nb"], None),
    "a line": (["a 1\nb 2", "a 1\nb 2", "a 1\nb 3"], "b 2 in rank 0, b 3 in rank 2"),
    "a line more": (["a", "a\nb"], "nothing in rank 0, b in rank 1"),
    "a line less": (["a\nb", "b"], "a in rank 0, nothing in rank 1"),
    "the order": (["a\nb", "b\na"], "another order in rank 0, another order in rank 1"),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_what_differs_is_shown(what):
    values, shown = DIFFERENCES[what]
    assert difference(values) == shown


def test_arguments_are_compared_by_flags(tmp_path):
    assert command_line(["--a", "1", "2", "--b=3", "--c"]) == "--a 1 2\n--b=3\n--c"
    file = tmp_path / "arguments.json"
    file.write_text('{\n "a": 1\n}')
    assert command_line([str(file)]) == '{\n "a": 1\n}'
    assert command_line(["nowhere.json"]) == "nowhere.json"


ENDING = """
import os, sys
from glm.cli.script import run_script

class Store:
    def __del__(self):
        os.abort()

store = Store()

def main():
    print("done")
    sys.exit({code})

if __name__ == "__main__":
    run_script(main)
"""


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize(("ranks", "aborts"), [(1, True), (2, False)])
def test_what_a_process_of_a_launch_tears_down_does_not_fail_it(tmp_path, ranks, aborts, code):
    """Alone, the interpreter tears everything down as always."""
    script = tmp_path / "ending.py"
    script.write_text(ENDING.format(code=code))
    environ = os.environ | {"PADDLE_TRAINERS_NUM": str(ranks), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGABRT if aborts else code, "done\n")
