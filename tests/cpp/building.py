"""Builds the C++ programs for tests, once, and says what there is not to build them with."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "output" / "cpp-tests"
HEADERS = {
    "sentencepiece_processor.h": "libsentencepiece-dev",
    "nlohmann/json.hpp": "nlohmann-json3-dev",
}


def missing() -> str:
    """What there is not, and how to get it."""
    for program, package in (("cmake", "cmake"), ("g++", "g++")):
        if shutil.which(program) is None:
            return f"no {program}: apt-get install {package}"
    for header, package in HEADERS.items():
        if not any((Path(folder) / header).is_file() for folder in ("/usr/include", "/usr/local/include")):
            return f"no {header}: apt-get install {package}"
    return ""


def fastdeploy() -> list[str]:
    """Options for the libraries of FastDeploy 1.0.7, where `make fastdeploy` has installed them."""
    found = sorted((ROOT / ".venv-fastdeploy").glob("lib/python3*/site-packages/fastdeploy/libs"))
    return [f"-DGLM_FASTDEPLOY={found[0] if found else ''}"]


def built_programs() -> Path:
    """The directory of the programs: what GLM_CPP_BUILD names is taken as it is. Skips where they cannot be built."""
    if built := os.environ.get("GLM_CPP_BUILD"):
        return Path(built)
    if reason := missing():
        pytest.skip(reason)
    return build(BUILD, "-DCMAKE_BUILD_TYPE=Release", *fastdeploy())


def build(folder: Path, *options: str) -> Path:
    """Builds the programs, or what changed of them. Several processes of tests wait for one another."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-S", ROOT / "cpp", "-B", folder, "-DGLM_TESTS=ON", f"-DGLM_PYTHON={sys.executable}", *options],
            ["cmake", "--build", folder, "--parallel"],
        ):
            run = subprocess.run(command, capture_output=True, text=True)
            assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
            assert "warning:" not in run.stderr, run.stderr[-3000:]
    return folder
