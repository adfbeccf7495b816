"""The sides that score a test's questions: the same log-likelihoods, and a check that would see others."""

import sys

import numpy as np
import pytest

import glm  # noqa: F401
from benchmarks.checks import score_check
from benchmarks.plan import Measured as Runs
from benchmarks.plan import Plan
from benchmarks.prepare import HUGGING_FACE, prepare
from benchmarks.rows import ROWS
from benchmarks.settings import QUICK_SHAPES, SHAPES, SIDES, TASKS
from benchmarks.side import Place
from benchmarks.sides import scorer, scorer_onnx
from benchmarks.values import build_row, value_of
from benchmarks.worker import Measured

pytestmark = pytest.mark.long

MODULES = {"scorer": scorer, "scorer-whole": scorer, "scorer-onnx": scorer_onnx}
SHAPE, TASK = QUICK_SHAPES["glm4"], TASKS["score"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "glm4"
    prepare(folder, SHAPE, [*MODULES, "harness"])
    return folder


@pytest.fixture(scope="module")
def runs(directory):
    """Of every side two runs, as a worker gives them."""
    opened = {name: module.Side(Place(directory, SHAPE, SIDES[name])) for name, module in MODULES.items()}
    return {name: [Measured(side, SHAPE).answer({"task": "score"}) for _ in range(2)] for name, side in opened.items()}


def test_all_sides_find_the_same(runs):
    found = {name: run[0]["log_likelihoods"] for name, run in runs.items()}
    assert np.array(found["scorer"]).shape == (SHAPE.questions, 4)
    assert len({tuple(row) for row in found["scorer"]}) == SHAPE.questions
    check = score_check("glm4 score", found)
    assert check["agree"], check["line"]
    found["scorer-whole"] = [row[::-1] for row in found["scorer-whole"]]
    assert not score_check("glm4 score", found)["agree"]


def test_every_run_reads_the_shots(directory):
    """Nothing is kept from the run before: what is shared is shared within a run."""
    counts = {}
    for name, module in MODULES.items():
        side, made = module.Side(Place(directory, SHAPE, SIDES[name])), []
        side.scorer = lambda task, of=side.scorer, made=made: made.append(of(task)) or made[-1]
        for _ in range(2):
            side.score(TASK)
        counts[name] = {each.tokens_read for each in made}
    once, whole = SHAPE.shots + SHAPE.questions * SHAPE.question, SHAPE.questions * (SHAPE.shots + SHAPE.question)
    assert counts == {"scorer": {once}, "scorer-whole": {whole}, "scorer-onnx": {once}}


def test_a_row_of_questions(runs):
    plan = Plan(("mmlu",), 1, quick=True)
    measured = Runs(runs={("glm4", "score", side): run for side, run in runs.items()})
    row = build_row("mmlu", plan, measured)
    assert row["unit"] == "questions/s" and row["cells"]["harness"] == {"error": "was not run"}
    values = [SHAPE.questions / run["seconds"] for run in runs["scorer"]]
    assert row["cells"]["scorer"]["values"] == values == [value_of(TASK, SHAPE, run) for run in runs["scorer"]]
    assert {aim["side"] for aim in row["aims"]} == {"harness", "scorer-whole"}


def test_the_sides_of_the_row_open_what_is_prepared(directory):
    assert set(ROWS["mmlu"].sides) == {*MODULES, "harness"}
    assert (directory / HUGGING_FACE / "config.json").is_file()
    real = SHAPES["glm4"]
    assert real.shots + real.question < real.config["max_position_embeddings"]


def test_the_peer_imports_nothing_of_this_project():
    """It may run where this project is not installed."""
    import ast
    from pathlib import Path

    source = Path(scorer.__file__).with_name("harness.py").read_text(encoding="utf-8")
    modules = [node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    assert "lm_eval.models.huggingface" in modules and not any(name.split(".")[0] == "glm" for name in modules)
    assert "benchmarks.sides.harness" not in sys.modules
