"""evaluate_generation.py in several processes gives the table of one: shared models, and questions shared out."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, run_launched

from tests.npu_simulator.launching import needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]
SHARED_BY_TWO = ["--tensor_parallel_degree", "2"]
DATA = ["--task", "mmlu", "--data_path", ROOT / "data" / "exam_en", "--num_shots", "2", "--batch_size", "4"]


def results(directory: Path) -> dict:
    return json.loads((directory / "results.json").read_text("utf-8"))


def assert_same(found: dict, wanted: dict) -> None:
    """Everything but the last bits of the scores; the processes are no part of what a run is."""
    for name in ("run", "total", "macro", "categories", "subjects", "notes"):
        assert found[name] == wanted[name]
    pairs = list(zip(found["questions"], wanted["questions"], strict=True))
    assert all(a["letter"] == b["letter"] and a["id"] == b["id"] for a, b in pairs)
    if "scores" in wanted["questions"][0]:
        assert np.allclose(*([each[i]["scores"] for each in pairs] for i in (0, 1)), atol=1e-3)
    else:
        assert all(a["text"] == b["text"] for a, b in pairs)


@pytest.fixture(scope="module")
def model(chat_models) -> Path:
    return chat_models["glm4"]


@pytest.fixture(scope="module")
def whole(run, model, tmp_path_factory):
    """What one process finds, by the flags."""
    found = {}

    def evaluated(*flags: str) -> dict:
        if flags not in found:
            directory = tmp_path_factory.mktemp("whole")
            where = ["--model_name_or_path", model, "--output_dir", directory, "--device", "cpu"]
            result = run("evaluate_generation.py", *DATA, *where, *flags)
            assert result.code == 0, result.err
            found[flags] = results(directory)
        return found[flags]

    return evaluated


def run_of(model: Path, directory: Path) -> list:
    return ["evaluate_generation.py", *DATA, "--model_name_or_path", model, "--output_dir", directory]


@pytest.mark.parametrize(
    ("ranks", "flags"),
    [(2, SHARED_BY_TWO), (2, []), (4, SHARED_BY_TWO), (3, [])],
    ids=["two share a model", "two copies", "two copies of two", "three copies, and fewer parts left over"],
)
@pytest.mark.parametrize("way", [(), ("--generate", "--tgt_length", "4", "--limit", "18")], ids=["scored", "written"])
def test_ranks_find_what_one_process_finds(run_npu, model, whole, tmp_path, ranks, flags, way):
    found = run_npu.ranks(ranks, *run_of(model, tmp_path), *flags, *way)
    assert [result.code for result in found] == [0] * ranks, [result.err for result in found]
    assert_same(results(tmp_path), whole(*way))
    assert all(result.out == "" for result in found[1:])
    assert "mmlu acc = " in found[0].out


def test_copies_on_a_cpu(run, model, whole, tmp_path):
    """Nothing but answers goes from one to the other."""
    found = run.ranks(2, *run_of(model, tmp_path), "--device", "cpu")
    assert [result.code for result in found] == [0, 0], [result.err for result in found]
    assert_same(results(tmp_path), whole())


def test_through_the_launcher(model, whole, tmp_path):
    arguments = [*run_of(model, tmp_path / "out")[1:], *SHARED_BY_TWO]
    result = run_launched(["--devices", "0,1"], "evaluate_generation.py", *arguments, cwd=tmp_path)
    assert result.code == 0, str(result)
    assert_same(results(tmp_path / "out"), whole())


def test_what_cannot_be_shared_out(run_npu, model, tmp_path):
    for result in run_npu.ranks(3, *run_of(model, tmp_path), *SHARED_BY_TWO):
        assert result.code == 2, str(result)  # before any of them is started
        assert "tensor_parallel_degree is 2, and 3 processes were launched: start with" in result.err


def test_ranks_of_different_data(run_npu, model, tmp_path):
    own = [["--limit", "3"], ["--limit", "4"]]
    for result in run_npu.ranks(2, *run_of(model, tmp_path), own=own):
        assert result.code == 1 and "differ in the arguments (--limit 3 in rank 0, --limit 4 in rank 1)" in result.err


def test_an_export_runs_in_one_process(run, tmp_path):
    for result in run.ranks(2, "evaluate_generation.py", *DATA, "--model_path", tmp_path):
        assert result.code == 2
        assert "an export runs in one process, and 2 were launched: leave the launcher out" in result.err
