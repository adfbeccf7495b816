"""The engine over real step graphs, in every backend, writes what the Paddle model writes."""

import json
from functools import cache

import numpy as np
import pytest
from engine_cases import NAMES
from test_engine_tokens import WAYS
from tiny_chat import chat_model

from glm import GenerationConfig
from glm.engine import Engine, EngineOptions
from glm.errors import GLMError
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.export.paddle_step import export_step_graph
from glm.runtime.onnx_step import ALL_SCORES, OnnxStepRuntime
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_step import PaddleStepRuntime
from tests.npu_simulator.launching import needs_compiler, run_alone

pytestmark = pytest.mark.long

CAPACITY = 128


def export_onnx(model, prefix):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    weights = ((name, tensor.numpy()) for name, tensor in model.state_dict().items())
    write_step_graph(model.config, weights, weights_of("fp32"), prefix)


def open_onnx(prefix) -> OnnxStepRuntime:
    return OnnxStepRuntime(prefix.with_name(f"{prefix.name}.onnx"), CAPACITY, threads=1)


def open_paddle(prefix, **options) -> PaddleStepRuntime:
    files = (prefix.with_name(f"{prefix.name}{suffix}") for suffix in (".json", ".pdiparams"))
    return PaddleStepRuntime(RuntimeOptions(*files, capacity=CAPACITY, **options))


BACKENDS = {"onnx": (export_onnx, open_onnx), "paddle": (export_step_graph, open_paddle)}
# What may be in positions that are hidden: Paddle's matmul reads them, so its runtime writes no nan.
STALE = {"onnx": np.nan, "paddle": 10.0}


def every_graph(test):
    return pytest.mark.parametrize("name", NAMES)(pytest.mark.parametrize("backend", BACKENDS)(test))


@pytest.fixture(scope="session")
def prefix_of(cases, tmp_path_factory):
    """Writes the fp32 graph of a tiny model, once."""
    folder = tmp_path_factory.mktemp("step-graphs")

    @cache
    def write(backend, name):
        BACKENDS[backend][0](cases[name].model, folder / f"{backend}-{name}")
        return folder / f"{backend}-{name}"

    return write


@pytest.fixture(scope="session")
def runtime_of(prefix_of):
    return cache(lambda backend, name: BACKENDS[backend][1](prefix_of(backend, name)))


def engine_of(case, runtime, **options) -> Engine:
    return Engine(runtime, case.processor.positions, case.stop, EngineOptions(**options))


@pytest.mark.parametrize("way", WAYS)
@every_graph
def test_tokens_and_scores_are_the_models(cases, runtime_of, backend, name, way):
    case, config = cases[name], GenerationConfig(9, **WAYS[way])
    texts, scores = case.wanted(config)
    found = engine_of(case, runtime_of(backend, name), chunk=5).generate(case.prompts, config)
    assert [result.tokens for result in found] == texts
    assert [result.score for result in found] == pytest.approx(scores, rel=1e-3)


@every_graph
def test_stale_columns_do_not_show(cases, runtime_of, backend, name):
    """A cache that is full of something gives the texts of an empty one."""
    case, config = cases[name], GenerationConfig(9, num_beams=2)
    engine = engine_of(case, runtime_of(backend, name))
    wanted = engine.generate(case.prompts, config)
    array_of(engine)[:] = STALE[backend]
    engine.core.slots.prefixes = [[] for _ in engine.core.slots.prefixes]
    assert engine.generate(case.prompts, config) == wanted


def array_of(engine) -> np.ndarray:
    """The memory of an engine's cache."""
    cache = engine.core.slots.cache
    return cache.array if hasattr(cache, "array") else cache.store


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_is_what_the_cache_takes(cases, runtime_of, backend):
    engine = engine_of(cases["glm4"], runtime_of(backend, "glm4"))
    engine.generate(cases["glm4"].prompts, GenerationConfig(3))
    assert engine.cache_bytes == array_of(engine).nbytes > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_outside_the_cache_are_refused(runtime_of, backend):
    """Addresses are bound without a check of a backend's own."""
    runtime = runtime_of(backend, "glm4")
    cache, positions = runtime.new_cache(2, 8), np.arange(9)[None]
    for row, start in ((2, 0), (-1, 0), (0, 1), (1, -1)):
        with pytest.raises(
            GLMError, match=f"slot {row}, positions {start} to {start + 8} are outside a cache of 2 slots"
        ):
            runtime.prefill(cache, row, [5] * 8, positions[:, :8], start, 0)
    for count, length in ((3, 1), (2, 8)):
        ids = np.full([count], 5)
        with pytest.raises(
            GLMError, match=rf"{count} sequences of up to {length + 1} positions do not fit a cache of 2 sl"
        ):
            runtime.decode(cache, ids, ids[:, None], np.full([count], length))


@pytest.mark.parametrize(
    ("backend", "name", "start", "prefix"), [("onnx", "glm4", 0, 3), ("onnx", "glm", 2, 3), ("paddle", "glm", 2, 3)]
)
def test_a_prefix_that_the_graph_cannot_read_is_refused(cases, runtime_of, backend, name, start, prefix):
    runtime, step = runtime_of(backend, name), cases[name].processor.positions.step
    with pytest.raises(GLMError, match=f"prefix_length is {prefix} at position {start}"):
        runtime.prefill(runtime.new_cache(1, 8), 0, [5] * 4, np.zeros([len(step), 4]), start, prefix)


@every_graph
def test_what_the_cache_holds_already_changes_nothing(cases, runtime_of, backend, name):
    """Next turns, common beginnings, slots that change places, memory for three slots: with a graph's own cache."""
    case, runtime, config = cases[name], runtime_of(backend, name), GenerationConfig(9, min_length=2)
    engine = engine_of(case, runtime, chunk=5, memory_limit=runtime.cache_bytes(3, 64))
    prompts = case.prompts
    for _ in range(3):
        texts = [result.tokens for result in engine.generate(prompts, config)]
        assert texts == case.wanted(config, prompts)[0]
        prompts = [[*prompt, *text[:4], 9, 8] for prompt, text in zip(prompts[::-1], texts[::-1], strict=True)]
    assert 0 < engine.cache_bytes <= engine.options.memory_limit


@pytest.mark.parametrize("name", NAMES)
def test_all_scores_and_tiles_are_the_same_attention(prefix_of, cases, name, monkeypatch):
    prefix, case = prefix_of("onnx", name), cases[name]

    def logits(all_scores: str) -> np.ndarray:
        monkeypatch.setenv(ALL_SCORES, all_scores)
        runtime, ids, positions = open_onnx(prefix), case.prompts[0], case.processor.positions
        whole = positions.prompt_prefix(ids)
        cache, places = runtime.new_cache(1, CAPACITY), positions.of(ids, whole)
        first = runtime.prefill(cache, 0, ids, places, 0, whole).copy()
        following = (places[:, -1] + positions.step)[None]
        return np.stack([first, runtime.decode(cache, np.array([5]), following, np.array([len(ids)]))[0]])

    np.testing.assert_allclose(logits("0"), logits("1"), rtol=1e-4, atol=1e-4)


def test_onnx_files_that_are_no_step_graph(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    file = tmp_path / "glm.onnx"
    with pytest.raises(GLMError, match=r"glm.onnx is missing: export the model with --format onnx"):
        OnnxStepRuntime(file, CAPACITY)
    file.write_bytes(b"no graph")
    with pytest.raises(GLMError, match=r"ONNX Runtime cannot load .*glm.onnx: "):
        OnnxStepRuntime(file, CAPACITY)


def test_paddle_files_that_are_no_step_graph(prefix_of, tmp_path):
    whole = prefix_of("paddle", "glm4").with_name("paddle-glm4.json").read_text(encoding="utf-8")
    weights = prefix_of("paddle", "glm4").with_name("paddle-glm4.pdiparams").read_bytes()
    prefix, graph, parameters = tmp_path / "a", tmp_path / "a.json", tmp_path / "a.pdiparams"

    def refused(reason):
        with pytest.raises(GLMError, match=reason) as error:
            open_paddle(prefix)
        assert "\n" not in str(error.value)

    refused(r"a\.json is missing: export the model with --format paddle")
    for damaged in (whole[: len(whole) // 2], "{}", "[]"):
        graph.write_text(damaged, encoding="utf-8")
        refused(r"a\.json (is damaged|is not valid JSON|holds a JSON list).*: export the model again")
    graph.write_text(whole.replace("past_", "other_"), encoding="utf-8")
    refused(r"a\.json is no step graph: give the file whose name ends in \.step\.json")
    graph.write_text(whole, encoding="utf-8")
    refused(r"a\.pdiparams is missing: export the model again")
    parameters.write_bytes(weights[: len(weights) // 2])
    refused(r"Paddle Inference cannot load .*a\.json: ")


def test_nan_is_refused_and_leaves_nothing_behind(cases, tmp_path):
    """One token of the vocabulary makes everything nan that sees it."""
    case, config, model = cases["glm4"], GenerationConfig(9), chat_model("glm4")
    wanted = case.wanted(config)[0]
    used = {token for row in [*case.prompts, *wanted] for token in row}
    poison = next(token for token in range(9, 999) if token not in used)
    rows = model.model.embed_tokens.weight.numpy()
    rows[poison] = np.nan
    model.model.embed_tokens.weight.set_value(rows)
    export_step_graph(model, tmp_path / "glm")
    engine = engine_of(case, open_paddle(tmp_path / "glm"))
    with pytest.raises(GLMError, match=r"keys or values became nan or infinite \(float32\): .* --dtype bfloat16 or"):
        engine.generate([[*prompt, poison] for prompt in case.prompts], config)
    assert [result.tokens for result in engine.generate(case.prompts, config)] == wanted


@pytest.mark.slow
@needs_compiler
def test_the_same_texts_on_the_simulated_npu(prefix_of):
    done = run_alone("step_runtime.py", str(prefix_of("paddle", "glm4")))
    assert done.returncode == 0, done.stderr
    (on_cpu, place), (on_npu, npu) = json.loads(done.stdout).values()
    assert on_npu == on_cpu
    assert (place, npu) == ("host", "Place(npu:1)")
