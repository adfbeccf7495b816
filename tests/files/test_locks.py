"""Directories that are held: other processes stay out until the holder ends."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glm.errors import UsageError
from glm.files.locks import hold_directory

OPEN_FILES = Path("/proc/self/fd")
OTHER = """
import sys
from pathlib import Path
from glm.files.locks import hold_directory
hold_directory(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path / "run"."""
    command = [sys.executable, "-c", OTHER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_kept_out(tmp_path, other):
    with pytest.raises(UsageError, match=r"another run is writing into .*run now"):
        hold_directory(tmp_path / "run")
    hold_directory(tmp_path / "elsewhere")


def test_a_process_that_was_killed_holds_nothing(tmp_path, other):
    other.kill()
    other.wait()
    hold_directory(tmp_path / "run")


def test_runs_of_one_process_follow_each_other(tmp_path):
    hold_directory(tmp_path / "run")
    open_files = len(list(OPEN_FILES.iterdir()))
    hold_directory(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    hold_directory(tmp_path / "run")
    assert (tmp_path / "run").is_dir() and len(list(OPEN_FILES.iterdir())) == open_files
