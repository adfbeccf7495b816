"""The C++ programs, built once into output/cpp-tests; skipped where something to build them is missing."""

import os
from pathlib import Path

import pytest
from building import BUILD, build, fastdeploy, missing


@pytest.fixture(scope="session")
def programs() -> Path:
    """The directory of the programs: what GLM_CPP_BUILD names is taken as it is."""
    if built := os.environ.get("GLM_CPP_BUILD"):
        return Path(built)
    if reason := missing():
        pytest.skip(reason)
    return build(BUILD, "-DCMAKE_BUILD_TYPE=Release", *fastdeploy())
