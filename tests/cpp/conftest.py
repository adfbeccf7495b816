"""The C++ programs, built once into output/cpp-tests; skipped where something to build them is missing."""

from pathlib import Path

import pytest
from building import built_programs


@pytest.fixture(scope="session")
def programs() -> Path:
    return built_programs()
