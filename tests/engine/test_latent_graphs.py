"""The engine over graphs of latents writes what the Paddle model writes: batches, beams, prompts in chunks, and behind
what the cache holds already."""

from functools import cache

import pytest
from engine_cases import Case, case_of

from glm import GenerationConfig
from glm.engine import Engine, EngineOptions
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.runtime.onnx_columns import OnnxColumnRuntime

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
OPSETS = (None, 17)
WAYS = (
    {},
    {"do_sample": True, "top_k": 30, "top_p": 0.9, "temperature": 0.8, "min_length": 3, "seed": 1},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.7},
)


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of("glm4-moe-lite")


@pytest.fixture(scope="module")
def runtime_of(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")

    @cache
    def runtime(opset: int | None) -> OnnxColumnRuntime:
        weights = ((name, tensor.numpy()) for name, tensor in case.model.state_dict().items())
        write_step_graph(case.model.config, weights, weights_of("fp32", opset=opset), folder / f"{opset}")
        return OnnxColumnRuntime(folder / f"{opset}.onnx", 128, threads=1)

    return runtime


def engine_of(case: Case, runtime, **options) -> Engine:
    return Engine(runtime, case.processor.positions, case.stop, EngineOptions(**options))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("options", WAYS, ids=["greedy", "drawn", "beams"])
def test_tokens_and_scores_are_the_models(case, runtime_of, opset, options):
    config = GenerationConfig(9, **options)
    texts, scores = case.wanted(config)
    found = engine_of(case, runtime_of(opset), chunk=5).generate(case.prompts, config)
    assert [result.tokens for result in found] == texts
    assert [result.score for result in found] == pytest.approx(scores, rel=1e-3)


@pytest.mark.parametrize("opset", OPSETS)
def test_what_the_cache_holds_already_changes_nothing(case, runtime_of, opset):
    """Next turns, common beginnings, slots that change places, memory for three slots."""
    runtime, config = runtime_of(opset), GenerationConfig(9, min_length=2)
    engine, prompts = engine_of(case, runtime, chunk=5, memory_limit=runtime.cache_bytes(3, 64)), case.prompts
    for _ in range(3):
        texts = [result.tokens for result in engine.generate(prompts, config)]
        assert texts == case.wanted(config, prompts)[0]
        prompts = [[*prompt, *text[:4], 9, 8] for prompt, text in zip(prompts[::-1], texts[::-1], strict=True)]
    assert engine.core.stats().reused_tokens > 0
