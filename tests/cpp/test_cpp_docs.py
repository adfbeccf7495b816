"""The commands and the program of docs/cpp.md, as they stand there, on a small export."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cpp_exports import make_export

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^output/cpp/glm_infer .*$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where checkpoints/infer is an export."""
    folder = tmp_path_factory.mktemp("docs")
    export = make_export("glm4", folder)
    (folder / "checkpoints").mkdir()
    export.rename(folder / "checkpoints" / "infer")
    (folder / "sources.txt").write_text("你好\n祥信塔\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_runs(folder, programs, line):
    program, *words = shlex.split(line)
    command = [programs / Path(program).name, *words, "--tgt_length", "8"]
    run = subprocess.run(command, cwd=folder, capture_output=True, input="你好\n".encode(), timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout
    if "answers.txt" in line:
        assert len((folder / "answers.txt").read_text(encoding="utf-8").splitlines()) >= 2


def test_there_are_such_commands():
    assert len(COMMANDS) > 4


def test_the_program_compiles_and_runs(folder, programs):
    (source,) = re.findall(r"^```c\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    (folder / "own.c").write_text(source, encoding="utf-8")
    flags = ["-I", ROOT / "cpp" / "include", "-L", programs, "-lglm", f"-Wl,-rpath,{programs}", "-Wall", "-Werror"]
    subprocess.run(["cc", "own.c", *flags, "-o", "own"], cwd=folder, check=True)
    run = subprocess.run([folder / "own"], cwd=folder, capture_output=True, timeout=60)
    assert run.returncode == 0 and run.stdout, run.stderr
