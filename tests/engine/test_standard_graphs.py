"""The engine over step graphs of standard operators writes what the Paddle model writes: every generation, in float32
and 8 bits, in ONNX Runtime, OpenVINO and FastDeploy 1.0.7."""

import json
import subprocess
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from engine_cases import CAUSAL, EXPERTS, NAMES, Case, case_of
from fastdeploy_python import ROOT, fastdeploy_python
from openvino_runtime import OpenVinoRuntime
from quantized_model import in_8_bits

from glm import GenerationConfig
from glm.encoding.batches import BlockPositions
from glm.engine import Engine, EngineOptions, Request, StopTokens
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.runtime.onnx_columns import OnnxColumnRuntime

CAPACITY = 128
KINDS = ("fp32", "int8")
# In 8 bits the matrices of heads over latents are cut as the graph multiplies them, which the model does not.
EXPERT_GRAPHS = [("glm4-moe", "fp32"), ("glm4-moe", "int8"), ("glm4-moe-lite", "fp32")]
GRAPHS = [*product(NAMES, KINDS), *EXPERT_GRAPHS]
WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 3},
    "all of it": {"do_sample": True, "top_k": 30, "top_p": 0.9, "temperature": 0.8, "min_length": 3, "seed": 1},
    "beams": {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.7},
}


def onnx_runtime(path: Path) -> OnnxColumnRuntime:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    return OnnxColumnRuntime(path, CAPACITY, threads=1)


RUNTIMES = {"onnx_runtime": onnx_runtime, "openvino": lambda path: OpenVinoRuntime(path, CAPACITY)}
EVERY_RUNTIME = [
    pytest.param("onnx_runtime", marks=pytest.mark.long),
    pytest.param("openvino", marks=pytest.mark.slow),  # it compiles a tiny graph for seconds
]


def every_graph(test):
    for mark in (pytest.mark.parametrize(("name", "kind"), GRAPHS), pytest.mark.parametrize("runtime", EVERY_RUNTIME)):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def every_case(cases):
    return cases | {name: case_of(name) for name in EXPERTS}


@pytest.fixture(scope="module")
def kinds_of(every_case):
    """A case by its name and the kind of its weights, and its reference: the model, in 8 bits where the export is."""
    return cache(lambda name, kind: every_case[name] if kind == "fp32" else quantized(every_case[name]))


def quantized(case: Case) -> Case:
    return replace(case, model=in_8_bits(case.model))


@pytest.fixture(scope="module")
def graph_of(every_case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("standard")

    @cache
    def graph(name: str, kind: str) -> Path:
        model, prefix = every_case[name].model, folder / f"{name}-{kind}"
        weights = ((name, tensor.numpy()) for name, tensor in model.state_dict().items())
        write_step_graph(model.config, weights, weights_of(kind, opset=17), prefix)
        return prefix.with_name(f"{prefix.name}.onnx")

    return graph


@pytest.fixture(scope="module")
def runtime_of(graph_of):
    return cache(lambda runtime, name, kind: RUNTIMES[runtime](graph_of(name, kind)))


def assert_same(found: list[list[int]], wanted: list[list[int]], kind: str) -> None:
    """Texts are equal; in 8 bits but one of a batch, for a number that is half way between two bytes may round to
    either, and such models are chaotic."""
    assert len(found) == len(wanted)
    differ = [pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]]
    assert len(differ) <= (kind == "int8"), differ


def engine_of(case: Case, runtime, **options) -> Engine:
    return Engine(runtime, case.processor.positions, case.stop, EngineOptions(**options))


@every_graph
def test_tokens_and_scores_are_the_models(kinds_of, runtime_of, runtime, name, kind):
    """Texts of a batch, greedy, drawn, and of beams, their prompts read in chunks."""
    case = kinds_of(name, kind)
    for options in WAYS.values():
        config = GenerationConfig(9, **options)
        texts, scores = case.wanted(config)
        found = engine_of(case, runtime_of(runtime, name, kind), chunk=5).generate(case.prompts, config)
        assert_same([result.tokens for result in found], texts, kind)
        if kind == "fp32":
            assert [result.score for result in found] == pytest.approx(scores, rel=1e-3)


@every_graph
def test_what_the_cache_holds_already_changes_nothing(kinds_of, runtime_of, runtime, name, kind):
    """Next turns, common beginnings, slots that change places, memory for three slots."""
    case, graph, config = kinds_of(name, kind), runtime_of(runtime, name, kind), GenerationConfig(9, min_length=2)
    engine = engine_of(case, graph, chunk=5, memory_limit=graph.cache_bytes(3, 64))
    prompts, reused = case.prompts, 0
    for _ in range(3):
        texts = [result.tokens for result in engine.generate(prompts, config)]
        assert_same(texts, case.wanted(config, prompts)[0], kind)
        prompts = [[*prompt, *text[:4], 9, 8] for prompt, text in zip(prompts[::-1], texts[::-1], strict=True)]
        reused = engine.core.stats().reused_tokens
    assert reused > 0 or name not in (*CAUSAL, *EXPERTS)  # prompts that are read in both directions are read anew


@every_graph
def test_prompt_lookup_writes_the_same(kinds_of, runtime_of, runtime, name, kind):
    """Several columns in one call."""
    case, graph, draw = kinds_of(name, kind), runtime_of(runtime, name, kind), np.random.default_rng(4)
    ends = StopTokens((), case.stop.pad_token_id)
    plain = Engine(graph, case.processor.positions, ends)
    guessing = Engine(graph, case.processor.positions, ends, EngineOptions(prompt_lookup=5))
    texts = [], []
    for number in range(8):
        base = case.prompts[number % len(case.prompts)]
        piece = draw.integers(20, 300, 6).tolist()
        ids = [*base[:1], *piece, *piece, *base[1:]]
        for options in ({}, {"do_sample": True, "seed": number, "temperature": 0.3}):
            requests = [Request(ids, GenerationConfig(16, **options))]
            (wanted,), (found,) = plain.finish(requests), guessing.finish(requests)
            for side, result in zip(texts, (found, wanted), strict=True):
                side.append(result.tokens)
    assert_same(*texts, kind)
    # In 8 bits the random model of ChatGLM2's vocabulary repeats nothing that stands in these prompts.
    assert guessing.core.stats().drafts > 0 or (kind == "int8" and name in ("chatglm2", "chatglm3"))


@pytest.mark.slow
def test_fastdeploy_writes_the_models_tokens(kinds_of, graph_of):
    """The real package, in a Python that has it: batches, chunks, and what the cache holds from earlier prompts."""
    python, wanted, asked = fastdeploy_python(), {}, {}
    for name, kind in GRAPHS:
        case = kinds_of(name, kind)
        positions = case.processor.positions
        blocks = vars(positions) if isinstance(positions, BlockPositions) else None
        asked[f"{name}, {kind}"] = {
            "file": str(graph_of(name, kind)),
            "capacity": CAPACITY,
            "prompts": case.prompts,
            "blocks": blocks,
            "stop": [list(case.stop.eos_token_ids), case.stop.pad_token_id],
            "ways": WAYS,
        }
        wanted[f"{name}, {kind}"] = {way: case.wanted(GenerationConfig(9, **WAYS[way]))[0] for way in WAYS}
    script = Path(__file__).with_name("fastdeploy_tokens.py")
    done = subprocess.run(
        [python, script], input=json.dumps(asked), capture_output=True, text=True, cwd=ROOT, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for case, ways in wanted.items():
        for way, texts in ways.items():
            assert_same(found[case][way], texts, "int8" if case.endswith("int8") else "fp32")
