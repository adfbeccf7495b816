"""Exports score as their model does, in every runtime, graphs of before format version 5 included."""

import math
from dataclasses import replace

import numpy as np
import pytest
from likelihood_cases import CAUSAL, NAMES, ROWS, SHOTS, assert_same
from step_graphs import GRAPHS

from glm.engine import EngineCore, EngineOptions, GenerationConfig, Request, StopTokens
from glm.errors import GLMError
from glm.evaluation.likelihood import ContextTooLong, Row
from glm.evaluation.likelihood import export as likelihood_export
from glm.evaluation.likelihood.export import export_scorer

pytestmark = pytest.mark.long

EVERY = [
    pytest.param(*graph, name, id=f"{graph[0]}-{graph[1]}-{name}", marks=[] if graph[1] == "new" else pytest.mark.slow)
    for graph in GRAPHS
    for name in NAMES
]
EVERY += [pytest.param(backend, "old", "glm4-0414", id=f"{backend}-old") for backend in ("onnx", "paddle")]
every_graph = pytest.mark.parametrize(("backend", "age", "name"), EVERY)
BACKENDS = pytest.mark.parametrize("backend", ("onnx", "paddle"))


@every_graph
def test_the_models_likelihoods(cases, runtime_of, backend, age, name):
    case, runtime = cases[name], runtime_of(backend, age, name)
    assert runtime.any_columns == (age == "new")
    scorer = export_scorer(runtime, case.processor)
    for found, row in zip(scorer(ROWS), ROWS, strict=True):
        assert_same(found, case.wanted(row), 5e-4)


@BACKENDS
@pytest.mark.parametrize("age", ("new", "old"))
def test_the_scheduler_scores_prompts_alike(cases, runtime_of, backend, age):
    """What a server tells of a prompt's tokens, several at once, also where a graph gives one column at a time."""
    case, runtime = cases["glm4-0414"], runtime_of(backend, age, "glm4-0414")
    row = export_scorer(runtime, case.processor).encode(ROWS[0])
    core = EngineCore(runtime, case.processor.positions, StopTokens((), 0), EngineOptions(interleave=True))
    core.reserve(2, 200)
    prompts = [[*row.context, *target] for target in row.targets]
    numbers = [core.submit(Request(ids, GenerationConfig(1), prompt_logprobs=0, writes=False)) for ids in prompts]
    scores = {number: [] for number in numbers}
    while not core.idle:
        for event in core.step():
            assert event.error is None
            scores[event.id] += event.prompt_logprobs
    found = [sum(each.logprob for each in scores[number][len(row.context) :]) for number in numbers]
    assert found == pytest.approx([each.log_likelihood for each in case.wanted(ROWS[0])], abs=5e-4)


@BACKENDS
@pytest.mark.parametrize("name", CAUSAL)
def test_what_rows_have_in_common_is_read_once(cases, runtime_of, backend, name):
    case, runtime = cases[name], runtime_of(backend, "new", name)
    shared, whole = (export_scorer(runtime, case.processor, reuse=reuse) for reuse in (True, False))
    for ours, theirs in zip(shared(ROWS), whole(ROWS), strict=True):
        assert_same(ours, theirs, 5e-4)
    shots = len(case.processor.tokenizer.text_ids(SHOTS))
    assert whole.tokens_read - shared.tokens_read >= 4 * shots


@BACKENDS
def test_rows_of_other_shots_between(cases, runtime_of, backend):
    """What lies at the beginning of the cache is another text then, or none."""
    case = cases["glm4"]
    rows = [ROWS[0], replace(ROWS[1], shared=SHOTS[:30]), ROWS[2], ROWS[5], ROWS[1]]
    for found, row in zip(export_scorer(runtime_of(backend, "new", "glm4"), case.processor)(rows), rows, strict=True):
        assert_same(found, case.wanted(row), 5e-4)


@BACKENDS
@pytest.mark.parametrize("name", ("glm", "glm4"))
def test_a_run_that_goes_on_has_the_same_bits(cases, runtime_of, backend, name):
    """Whatever the rows before were."""
    case, runtime = cases[name], runtime_of(backend, "new", name)
    whole = list(export_scorer(runtime, case.processor)(ROWS))
    for start in (1, 3, 5):
        assert list(export_scorer(runtime, case.processor)(ROWS[start:])) == whole[start:]


@BACKENDS
@pytest.mark.parametrize("name", ("glm", "glm4"))
def test_parts_of_contexts_and_targets(cases, runtime_of, backend, name, monkeypatch):
    """Contexts of more than a chunk, targets of more than the logits that may exist at once."""
    monkeypatch.setattr(likelihood_export, "CHUNK", 7)
    monkeypatch.setattr(likelihood_export, "LOGITS_CHUNK", 2)
    monkeypatch.setattr(likelihood_export, "SPARE", 0)  # a longer row needs a larger cache
    case = cases[name]
    scorer = export_scorer(runtime_of(backend, "new", name), case.processor)
    rows = sorted(ROWS, key=lambda row: len(row.context))
    for found, row in zip(scorer(rows), rows, strict=True):
        assert_same(found, case.wanted(row), 5e-4)


@BACKENDS
@pytest.mark.parametrize("name", ("glm", "chatglm", "glm4"))
def test_logits_of_columns_are_those_of_the_last_one_in_turn(runtime_of, cases, backend, name):
    runtime, positions = runtime_of(backend, "new", name), cases[name].processor.positions
    tokenizer = cases[name].processor.tokenizer
    prompt = [9, 8, 7, tokenizer.gmask_token_id, tokenizer.sop_token_id]
    ids, prefix = [5, 6, 7, 8, 9, 10], positions.prompt_prefix(prompt)
    place = positions.of([*prompt, *ids], prefix)
    cache = runtime.new_cache(1, 16)

    def read(ids, start, columns):
        return runtime.read(cache, 0, ids, place[:, start : start + len(ids)], start, 0, columns).copy()

    runtime.prefill(cache, 0, prompt, place[:, :5], 0, prefix)
    several = read(ids, 5, [5, 0, 3, 3])
    runtime.prefill(cache, 0, prompt, place[:, :5], 0, prefix)
    alone = [read([token], 5 + i, [0])[0] for i, token in enumerate(ids)]
    assert several.shape == (4, runtime.vocab_size)
    assert np.allclose(several, [alone[i] for i in (5, 0, 3, 3)], atol=2e-4)
    for columns in ([], [6], [-1]):
        with pytest.raises(GLMError, match="are asked for, and the chunk has 6"):
            read(ids, 5, columns)


@BACKENDS
def test_old_graphs_have_the_last_column_alone(cases, runtime_of, backend):
    runtime = runtime_of(backend, "old", "glm4-0414")
    with pytest.raises(GLMError, match="gives logits of the last column alone: export the model again"):
        runtime.read(runtime.new_cache(1, 8), 0, [5, 6], np.arange(2)[None], 0, 0, [0, 1])


def test_a_damaged_export_is_why(cases, runtime_of):
    """Nothing of it is shown, and where the graph fails the damage is said."""
    case = cases["glm4"]

    def damaged():
        raise GLMError("glm.onnx.data has another checksum")

    scorer = export_scorer(runtime_of("onnx", "new", "glm4"), case.processor, require_whole=damaged)
    with pytest.raises(GLMError, match="another checksum"):
        next(scorer(ROWS))


def test_a_text_that_is_too_long(cases, runtime_of):
    case = cases["glm4"]
    scorer = export_scorer(runtime_of("onnx", "new", "glm4"), case.processor)
    with pytest.raises(ContextTooLong, match=f"the model ends at {case.model.config.max_position}"):
        next(scorer([Row("7" * 600, (" A",))]))


def test_log_softmax():
    logits = np.array([[0.0, math.log(3.0)], [1000.0, 1000.0]], dtype="float32")
    assert np.allclose(np.exp(likelihood_export.log_softmax(logits)), [[0.25, 0.75], [0.5, 0.5]])
    with pytest.raises(GLMError, match="nan or infinite"):
        likelihood_export.log_softmax(np.array([[0.0, np.nan]], dtype="float32"))
