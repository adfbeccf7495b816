"""The engine over real step graphs in Paddle Inference writes what the Paddle model writes."""

import numpy as np
import pytest
from engine_cases import CAUSAL, NAMES
from test_engine_tokens import WAYS

from glm import GenerationConfig
from glm.engine import Engine, EngineOptions
from glm.errors import GLMError
from glm.paddle_step import export_step_graph
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_step import PaddleStepRuntime

CAPACITY = 128


@pytest.fixture(scope="session")
def prefixes(cases, tmp_path_factory):
    """A step graph of every tiny model."""
    folder = tmp_path_factory.mktemp("paddle-steps")
    for name, case in cases.items():
        export_step_graph(case.model, folder / name)
    return {name: folder / name for name in cases}


@pytest.fixture(scope="session")
def runtimes(prefixes):
    return {name: load(prefix) for name, prefix in prefixes.items()}


def load(prefix, **options) -> PaddleStepRuntime:
    files = (prefix.with_name(f"{prefix.name}{suffix}") for suffix in (".json", ".pdiparams"))
    return PaddleStepRuntime(RuntimeOptions(*files, **options), CAPACITY)


def engine_of(case, runtime, **options) -> Engine:
    return Engine(runtime, case.encoder.positions, case.stop, EngineOptions(**options))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_scores_are_the_models(cases, runtimes, name, way):
    case, config = cases[name], GenerationConfig(9, **WAYS[way])
    texts, scores = case.wanted(config)
    found = engine_of(case, runtimes[name], chunk=5).generate(case.prompts, config)
    assert [result.tokens for result in found] == texts
    assert [result.score for result in found] == pytest.approx(scores, rel=1e-3)
