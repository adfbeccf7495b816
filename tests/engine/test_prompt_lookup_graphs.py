"""Prompt lookup over real step graphs: the same texts with and without."""

import numpy as np
import pytest
from engine_cases import NAMES

from glm import GenerationConfig
from glm.engine import Engine, EngineOptions, Request, StopTokens
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.runtime.onnx_step import OnnxStepRuntime


@pytest.fixture(scope="module")
def runtime_of(cases, tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")

    def opened(name: str) -> OnnxStepRuntime:
        folder, model = tmp_path_factory.mktemp(name), cases[name].model
        weights = ((name, tensor.numpy()) for name, tensor in model.state_dict().items())
        write_step_graph(model.config, weights, weights_of("fp32"), folder / "glm")
        return OnnxStepRuntime(folder / "glm.onnx", 128, threads=1)

    return opened


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_prompts_on_a_real_graph(cases, runtime_of, name):
    """float32, greedy and drawn with seeds: the same texts with and without."""
    case, runtime, draw, accepted = cases[name], runtime_of(name), np.random.default_rng(4), 0
    ends = StopTokens((), case.stop.pad_token_id)
    plain = Engine(runtime, case.processor.positions, ends)
    guessing = Engine(runtime, case.processor.positions, ends, EngineOptions(prompt_lookup=5))
    for number in range(50):
        base = case.prompts[number % len(case.prompts)]
        # What is repeated stands in front of the tokens that every prompt of this family ends with.
        piece = draw.integers(20, 300, int(draw.integers(3, 9))).tolist()
        ids = [*base[:1], *piece, *piece, *base[1:]]
        for options in ({}, {"do_sample": True, "seed": number, "temperature": 0.3}):
            requests = [Request(ids, GenerationConfig(24, **options))]
            (wanted,), (found,) = plain.finish(requests), guessing.finish(requests)
            assert found.tokens == wanted.tokens
            assert found.score == pytest.approx(wanted.score, rel=1e-4)
    accepted = guessing.core.stats().accepted_tokens
    assert accepted > 0  # how many depends on the clock as well
