"""The engine over real step graphs in ONNX Runtime writes what the Paddle model writes."""

import numpy as np
import pytest
from engine_cases import NAMES
from test_engine_tokens import WAYS

from glm import GenerationConfig
from glm.engine import Engine, EngineOptions
from glm.errors import GLMError
from glm.onnx_export.weights import weights_of
from glm.onnx_export.write import write_step_graph
from glm.runtime.onnx_step import OnnxStepRuntime

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
CAPACITY = 128


@pytest.fixture(scope="module")
def runtimes(cases, tmp_path_factory):
    """A loaded fp32 graph of every tiny model."""
    folder = tmp_path_factory.mktemp("step-graphs")
    return {name: load(case, folder / name) for name, case in cases.items()}


def load(case, prefix) -> OnnxStepRuntime:
    weights = ((name, tensor.numpy()) for name, tensor in case.model.state_dict().items())
    write_step_graph(case.model.config, weights, weights_of("fp32"), prefix)
    return OnnxStepRuntime(prefix.with_name(f"{prefix.name}.onnx"), CAPACITY, threads=1)


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


@pytest.mark.parametrize("name", NAMES)
def test_stale_columns_do_not_show(cases, runtimes, name):
    """A cache that is full of nan gives the texts of an empty one."""
    case, runtime, config = cases[name], runtimes[name], GenerationConfig(9, num_beams=2)
    engine = engine_of(case, runtime)
    wanted = engine.generate(case.prompts, config)
    engine._slots.cache.array[:] = np.nan
    engine._slots.texts = [[] for _ in engine._slots.texts]
    assert engine.generate(case.prompts, config) == wanted


def test_memory_is_what_the_cache_takes(cases, runtimes):
    engine = engine_of(cases["glm4"], runtimes["glm4"])
    engine.generate(cases["glm4"].prompts, GenerationConfig(3))
    assert engine.cache_bytes == engine._slots.cache.array.nbytes > 0


def test_columns_outside_the_cache_are_refused(runtimes):
    """Addresses are bound without a check of ONNX Runtime's own."""
    runtime = runtimes["glm4"]
    cache, positions = runtime.new_cache(2, 8), np.arange(9)[None]
    for row, start in ((2, 0), (-1, 0), (0, 1), (1, -1)):
        with pytest.raises(GLMError, match=f"row {row}, columns {start} to {start + 8} lie outside a cache of 2 rows"):
            runtime.prefill(cache, row, [5] * 8, positions[:, :8], start, 0)
    for count, length in ((3, 1), (2, 8)):
        ids = np.full([count], 5)
        with pytest.raises(GLMError, match=rf"{count} rows with up to {length + 1} columns do not fit a cache of 2 ro"):
            runtime.decode(cache, ids, ids[:, None], np.full([count], length))


@pytest.mark.parametrize(("name", "start", "prefix"), [("glm4", 0, 3), ("glm", 2, 3)])
def test_a_prefix_that_the_graph_cannot_read_is_refused(cases, runtimes, name, start, prefix):
    runtime, step = runtimes[name], cases[name].encoder.positions.step
    with pytest.raises(GLMError, match=f"prefix_length is {prefix} at column {start}"):
        runtime.prefill(runtime.new_cache(1, 8), 0, [5] * 4, np.zeros([len(step), 4]), start, prefix)


def test_files_that_are_no_step_graph(tmp_path):
    file = tmp_path / "glm.onnx"
    with pytest.raises(GLMError, match=r"glm.onnx is missing: export the model with --format onnx"):
        OnnxStepRuntime(file, CAPACITY)
    file.write_bytes(b"no graph")
    with pytest.raises(GLMError, match=r"ONNX Runtime cannot load .*glm.onnx: "):
        OnnxStepRuntime(file, CAPACITY)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_cache_holds_already_changes_nothing(cases, runtimes, name):
    """Next turns, common beginnings, rows that change places, memory for three rows: with a graph's own cache."""
    case, runtime, config = cases[name], runtimes[name], GenerationConfig(9, min_length=2)
    engine = engine_of(case, runtime, chunk=5, memory_limit=runtime.cache_bytes(3, 64))
    prompts = case.prompts
    for _ in range(3):
        texts = [result.tokens for result in engine.generate(prompts, config)]
        assert texts == case.wanted(config, prompts)[0]
        prompts = [[*prompt, *text[:4], 9, 8] for prompt, text in zip(prompts[::-1], texts[::-1], strict=True)]
    assert 0 < engine.cache_bytes <= engine.options.memory_limit
