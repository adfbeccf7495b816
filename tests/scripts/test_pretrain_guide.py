"""docs/pretraining.md: its six commands, as they stand there, from a folder of text to a running export."""

import json

import pytest
from commands import ROOT, commands_of, run_guide


def commands() -> list[list[str]]:
    """Words without the interpreter, of the section that leads from text to an export."""
    return commands_of(
        (ROOT / "docs/pretraining.md").read_text("utf-8").split("\nA model of this size says little.")[0]
    )


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """The folder that the commands wrote into, and how each ended."""
    return run_guide(run, commands(), tmp_path_factory.mktemp("guide"))


@pytest.mark.slow
def test_every_command_runs(done):
    assert [script for script, *_ in commands()] == [
        "preprocess_data.py",
        "pretrain_generation.py",
        "pretrain_generation.py",
        "predict_generation.py",
        "export_generation_model.py",
        "infer_generation.py",
    ]
    assert len(done[1]) == 6


@pytest.mark.slow
def test_it_learns_and_is_measured(done):
    """Perplexity far below that of random weights, 768, on validation and on the documents that are left."""
    output, _ = done
    evaluations = [json.loads(line) for line in (output / "pretrained/eval_history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in evaluations] == [50, 100]
    assert evaluations[1]["eval_perplexity"] < evaluations[0]["eval_perplexity"] < 200
    left = json.loads((output / "pretrained-test/test_results.json").read_text())
    assert left["test_perplexity"] < 100


@pytest.mark.slow
def test_the_export_continues_as_the_model_does(done):
    *_, model, _, export = done[1]
    assert model.texts and export.texts == model.texts
