"""The tiny models that the tests of likelihoods share."""

import pytest
from likelihood_cases import NAMES, case_of
from step_graphs import runtimes


@pytest.fixture(scope="session")
def cases(tokenizer):
    return {name: case_of(name, tokenizer) for name in NAMES}


@pytest.fixture(scope="session")
def runtime_of(cases, tmp_path_factory):
    return runtimes(cases, tmp_path_factory.mktemp("likelihood-graphs"))
