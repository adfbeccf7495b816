"""The Python that has FastDeploy 1.0.7, for tests: an environment of its own, which `make fastdeploy` builds."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-fastdeploy" / "bin" / "python"


def fastdeploy_python() -> Path:
    """Skips the test where there is none."""
    if not PYTHON.is_file():
        pytest.skip("no .venv-fastdeploy: make fastdeploy builds it where there is a Python 3.10")
    return PYTHON
