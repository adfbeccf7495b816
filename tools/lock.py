"""Writes requirements.lock, requirements-serve.lock and requirements-bench.lock: every package that the .txt files need
in turn, for all supported Pythons at once."""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each lock, and the files whose packages are in it.
LOCKS = {
    "requirements": ("requirements", "requirements-eval", "requirements-serve", "requirements-test"),
    "requirements-serve": ("requirements-serve",),
    "requirements-bench": ("requirements-bench",),
}
HEADER = "# Made by `make lock` from {name}.txt; do not edit.\n"
PROJECT = """\
[project]
name = "glm"
version = "0"
requires-python = ">=3.10"
dependencies = {pins}

[tool.uv]
environments = ["python_version < '3.13' and sys_platform == 'linux'"]
"""
# What holds for every line of the lock need not stand in each.
ALWAYS = re.compile(
    r"(?: ;| and) python_full_version < '3\.13' and sys_platform == 'linux'$| and sys_platform == 'linux'$", re.M
)
# Only torch's CUDA build needs them, and it asks for them itself.
CUDA = re.compile(r"^(?:nvidia|cuda)-.*\n|^triton==.*\n", re.M)


def main() -> None:
    """Resolves with uv, which makes one lock for several Pythons."""
    for name in LOCKS:
        (ROOT / f"{name}.lock").write_text(HEADER.format(name=name) + resolved(name), encoding="utf-8")


def resolved(name: str) -> str:
    """The lines of a lock."""
    lines = [line for file in LOCKS[name] for line in (ROOT / f"{file}.txt").read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "pyproject.toml").write_text(PROJECT.format(pins=pins), encoding="utf-8")
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate"]
        command += ["--python-version", "3.10", "pyproject.toml"]
        lock = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=directory).stdout
    return CUDA.sub("", ALWAYS.sub("", lock))


if __name__ == "__main__":
    main()
