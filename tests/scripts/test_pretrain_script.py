"""pretrain_generation.py as its users start it: alone, and in two processes, which are one run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, Result, rank_variables

from tests.indexed_text import arguments, history, random_documents, write_indexed
from tests.npu_simulator.launching import needs_compiler

SCRIPT = "pretrain_generation.py"
# Documents end within samples, and the token behind an end does not count.
FLAGS = {"do_eval": True, "per_device_eval_batch_size": 4, "eod_mask_loss": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_indexed(tmp_path_factory.mktemp("data") / "text", random_documents(60))


@pytest.fixture(scope="module")
def alone(run, data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "run"
    result = run(SCRIPT, *arguments(data, output, **FLAGS))
    assert result.code == 0, result.err
    (output.parent / "said").write_text(result.err, encoding="utf-8")
    return output


def on_two(run, *words) -> list[Result]:
    """Two processes on the CPU, as Paddle's launcher starts them there: data parallel over gloo."""
    variables = [own | {"PADDLE_DISTRI_BACKEND": "gloo", "PADDLE_XCCL_BACKEND": ""} for own in rank_variables(2)]
    return run._run_together([[SCRIPT, *words]] * 2, variables, ROOT, "")


def losses(output: Path) -> np.ndarray:
    return np.array([row["loss"] for row in history(output)])


def evaluation(output: Path) -> float:
    return json.loads((output / "eval_results.json").read_text())["eval_perplexity"]


@pytest.fixture(scope="module")
def two(run, data, tmp_path_factory) -> Path:
    """The same run in two processes, of which each has two samples of a step."""
    output = tmp_path_factory.mktemp("two") / "run"
    for result in on_two(run, *arguments(data, output, **FLAGS | {"per_device_train_batch_size": 2})):
        assert result.code == 0, result.err
    return output


def test_two_processes_are_one_run(alone, two):
    """Losses of every step, and the trained model's perplexity, though samples differ in how many tokens count."""
    assert len(losses(alone)) == 12 and "MFU" in (alone.parent / "said").read_text()
    assert np.abs(losses(two) / losses(alone) - 1).max() < 1e-5
    assert evaluation(two) == pytest.approx(evaluation(alone), rel=1e-4)


def stopped(whole: Path, output: Path) -> Path:
    """A run that stopped behind its checkpoint-5."""
    shutil.copytree(whole / "checkpoint-5", output / "checkpoint-5")
    shutil.copy(whole / "loss_history.jsonl", output)
    return output


@pytest.mark.slow
def test_it_resumes_in_another_number_of_processes(run, data, alone, two, tmp_path):
    """In two what one began, accumulating, and in one what two began."""
    output, cut = stopped(alone, tmp_path / "two"), {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    for result in on_two(run, *arguments(data, output, **FLAGS | cut)):
        assert result.code == 0, result.err
    assert np.abs(losses(output) / losses(alone) - 1).max() < 1e-5
    output = stopped(two, tmp_path / "one")
    result = run(SCRIPT, *arguments(data, output, **FLAGS))
    assert result.code == 0 and f"resuming from {output}/checkpoint-5" in result.err
    assert np.abs(losses(output) / losses(alone) - 1).max() < 1e-5


def test_a_failed_build_ends_every_process(run, data, tmp_path):
    """Rank 0 says why, the other one that rank 0 has ended."""
    (tmp_path / "file").write_text("")
    flags = {"data_cache": tmp_path / "file" / "cache"}
    first, second = on_two(run, *arguments(data, tmp_path / "out", **flags))
    assert (first.code, second.code) == (1, 1)
    assert first.error.startswith(f"error: {tmp_path}/file/cache cannot be written (")
    assert "rank 0" in second.error and "cannot be written" in second.error


@pytest.mark.slow
def test_processes_with_other_data_end(run, data, tmp_path):
    other = write_indexed(tmp_path / "text", random_documents(60, seed=1))
    variables = [own | {"PADDLE_DISTRI_BACKEND": "gloo"} for own in rank_variables(2)]
    commands = [[SCRIPT, *arguments(each, tmp_path / "out", data_cache=tmp_path)] for each in (data, other)]
    for result in run._run_together(commands, variables, ROOT, ""):
        assert result.code == 1 and "the processes of this launch differ in" in result.error


# Of the many in tests/training/test_pretrain.py those that need the command line, and one of its data.
BAD = {
    "split": ({"split": "1000,1,0", "do_eval": True}, 2, "leaves no document for valid of the 60 in"),
    "no data": ({"input_dir": "nowhere/at all"}, 2, "has 'nowhere/at' in the place of a weight"),
    "a flag of fine-tuning": ({"src_length": 3}, 2, "unknown argument --src_length"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(run, data, tmp_path, name):
    flags, code, message = BAD[name]
    result = run(SCRIPT, *arguments(data, tmp_path / "out", **flags))
    assert (result.code, result.out) == (code, "") and result.err.count("\n") == 1
    assert result.error.startswith("error: ") and message in result.error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "flags",
    [
        {"tensor_parallel_degree": 2},
        {"sharding": "stage1", "sharding_parallel_degree": 2, "per_device_train_batch_size": 2},
    ],
    ids=["tensor parallel", "sharding"],
)
def test_two_devices_are_one_run(run_npu, data, alone, tmp_path, flags):
    """On the simulated NPU, in float32: whether they share the model or the optimizer's state."""
    words = arguments(data, tmp_path / "out", **FLAGS | {"device": "npu", "bf16": False} | flags)
    for result in run_npu.ranks(2, SCRIPT, *words):
        assert result.code == 0, result.err
    assert np.abs(losses(tmp_path / "out") / losses(alone) - 1).max() < 1e-5
    assert evaluation(tmp_path / "out") == pytest.approx(evaluation(alone), rel=1e-4)
