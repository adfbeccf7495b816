"""The kernels are built once, safely, or not at all, with one line that says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm.kernels import build, library

ROOT = Path(__file__).resolve().parents[2]
COMPUTES = """
import glm, paddle
from glm import kernels
from glm.kernels.activations import gelu_tanh
print(kernels.fault(), round(float(gelu_tanh(paddle.ones([1]))), 5))
"""
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")
OPENMP = Path(library.paddle.__file__).parent / "libs" / library.OPENMP
needs_openmp = pytest.mark.skipif(not OPENMP.is_file(), reason="not a wheel for x86")


def in_processes(count: int = 1, **environment: str) -> list[str]:
    """What `COMPUTES` prints in so many processes at once."""
    command, env = [sys.executable, "-c", COMPUTES], os.environ | environment
    running = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(count)
    ]
    return [process.communicate(timeout=120)[0].strip().splitlines()[-1] for process in running]


@needs_compiler
@needs_openmp
def test_several_processes_build_once(tmp_path):
    assert in_processes(2, XDG_CACHE_HOME=str(tmp_path)) == ["None 0.84119"] * 2
    (folder,) = (tmp_path / "glm" / "kernels").iterdir()
    assert [file.name for file in folder.iterdir()] == [build.LIBRARY]
    # Found without a compiler from now on.
    assert in_processes(XDG_CACHE_HOME=str(tmp_path), PATH="/nowhere") == ["None 0.84119"]


@pytest.mark.parametrize("switch", ["GLM_KERNELS", "GLM_TUNE"])
def test_a_variable_switches_them_off(switch):
    assert in_processes(**{switch: "0"}) == [f"{switch} switches them off 0.84119"]


@needs_openmp
def test_without_a_compiler_the_plain_operators_compute(tmp_path):
    (line,) = in_processes(XDG_CACHE_HOME=str(tmp_path), PATH="/nowhere")
    assert line == "no C++ compiler is installed (CXX, c++, g++, clang++) 0.84119"


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@needs_openmp
@pytest.mark.process
def test_a_compiler_that_fails(tmp_path, monkeypatch):
    """Nothing is left, and the next process tries again."""
    broken = script(tmp_path / "broken", "echo warning: odd >&2; echo 'x.cc:1: error: no such header' >&2; exit 1\n")
    monkeypatch.setenv("CXX", broken)
    with pytest.raises(build.BuildError, match=r"broken failed: x\.cc:1: error: no such header"):
        build.built(OPENMP, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@needs_openmp
@pytest.mark.process
def test_a_compiler_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", script(tmp_path / "sleeping", "exec sleep 60\n"))
    monkeypatch.setattr(build, "LIMIT", 0.1)
    with pytest.raises(build.BuildError, match=r"sleeping failed: no end within 0\.1 s"):
        build.built(OPENMP, tmp_path / "cache")


@needs_openmp
def test_a_cache_that_is_no_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", script(tmp_path / "unused", "exit 1\n"))
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(build.BuildError, match="cannot be written: Not a directory"):
        build.built(OPENMP, tmp_path / "cache")


def test_another_processor_or_compiler_is_another_library(tmp_path, monkeypatch):
    (tmp_path / "openmp").write_bytes(b"1")
    first = build._fingerprint(tmp_path / "openmp")
    monkeypatch.setenv("CXX", "another")
    second = build._fingerprint(tmp_path / "openmp")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(build, "FLAGS", ["-O0"])
    assert len({first, second, build._fingerprint(tmp_path / "openmp")}) == 3
