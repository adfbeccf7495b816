"""The tiny models that the tests of the engine share."""

import pytest
from engine_cases import NAMES, case_of


@pytest.fixture(scope="session")
def cases(tokenizer):
    return {name: case_of(name, tokenizer) for name in NAMES}
