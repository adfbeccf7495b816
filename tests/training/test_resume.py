"""A run that was killed, at whatever moment, and started again by the same command is the run that was never killed.

To the last digit, with dropout, across epochs: the data has ten batches per epoch, the checkpoints lie at 15, 30, 45.
"""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from attack import poison
from training_runs import ROOT, command, history, losses, sample_rows, train, write_model, write_rows

from glm.errors import GLMError, UsageError

pytestmark = pytest.mark.long
FLAGS = {"max_steps": 50, "save_steps": 15}
SECONDS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", sample_rows(39))


@pytest.fixture(scope="module")
def unbroken(model, data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train(model, data, output, **FLAGS)
    rows = history(output)
    assert [row["step"] for row in rows] == list(range(1, 51))
    assert len({row["loss"] for row in rows}) == 50
    return output


def assert_same_run(output: Path, unbroken: Path) -> None:
    """The same history, byte for byte, the same weights, and no litter."""
    for name in ("loss_history.jsonl", "model.safetensors"):
        assert (output / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert {path.name for path in output.iterdir()} == {path.name for path in unbroken.iterdir()}


def kill_at_step(step: int, arguments: list[str]) -> None:
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    next(line for line in process.stderr if f"step {step}/" in line)
    process.kill()
    process.wait()


def test_two_runs_do_not_write_into_one_directory(model, data, tmp_path):
    first = subprocess.Popen(
        command(model, data, tmp_path / "run", max_steps=5000), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    next(line for line in first.stderr if "step 2/" in line)
    second = subprocess.run(
        command(model, data, tmp_path / "run", overwrite_output_dir=True), cwd=ROOT, capture_output=True, text=True
    )
    first.kill()
    first.wait()
    assert second.returncode == 2
    assert "error: another run is writing into" in second.stderr and "Traceback" not in second.stderr


def kill_while_saving(output: Path, arguments: list[str]) -> str:
    """Kills a run between the beginning and the end of a checkpoint; returns its name."""
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        for staging in output.glob(".checkpoint-*.tmp-*"):
            name = staging.name.removeprefix(".").partition(".tmp-")[0]
            process.send_signal(signal.SIGSTOP)
            if staging.is_dir() and not (output / name).exists():
                process.kill()
                process.wait()
                return name
            process.send_signal(signal.SIGCONT)
        time.sleep(0.0005)
    process.kill()
    raise AssertionError(f"no checkpoint was seen being written, exit code {process.wait()}")


def test_killed_three_times(model, data, unbroken, tmp_path, capsys):
    """Before there is a checkpoint, in the middle of an epoch, and while a later checkpoint is written."""
    output = tmp_path / "run"
    arguments = command(model, data, output, **FLAGS)
    assert kill_while_saving(output, arguments) == "checkpoint-15"
    assert not list(output.glob("checkpoint-*"))
    kill_at_step(23, arguments)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-15"]
    assert kill_while_saving(output, arguments) == "checkpoint-30"
    train(model, data, output, **FLAGS)
    assert f"resuming from {output}/checkpoint-15" in capsys.readouterr().err
    assert_same_run(output, unbroken)


VARIANTS = {
    "accumulating": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "LoRA with dropout": {"lora": True, "lora_dropout": 0.2, "r": 4},
    "recomputing": {"recompute": True},
    "warming up, pdparams": {"warmup_ratio": 0.5, "weight_format": "pdparams"},
    "cosine": {"lr_scheduler_type": "cosine", "lora": True},
}
WEIGHTS = ("model.safetensors", "model_state.pdparams", "lora_model_state.pdparams")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_run_resumes(model, data, tmp_path, variant):
    """In one process, twice: from the first checkpoint, with a history that had continued."""
    unbroken, output, flags = tmp_path / "unbroken", tmp_path / "run", FLAGS | VARIANTS[variant]
    train(model, data, unbroken, **flags)
    shutil.copytree(unbroken, output, ignore=shutil.ignore_patterns("checkpoint-30", "checkpoint-45", *WEIGHTS[:1]))
    shutil.copytree(unbroken / "checkpoint-15", output / "checkpoint-15", dirs_exist_ok=True)
    trainer = train(model, data, output, **flags)
    assert trainer.state.global_step == 50
    weights = [name for name in WEIGHTS if (unbroken / name).is_file()]
    assert len(weights) == 1
    for name in ("loss_history.jsonl", *weights):
        assert (output / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert_figures(output, unbroken)


def assert_figures(output: Path, unbroken: Path) -> None:
    """The mean loss of all 50 steps, and the speed of the 35 since resuming."""
    whole, resumed = (json.loads((run / "train_results.json").read_text()) for run in (unbroken, output))
    assert resumed["train_loss"] == whole["train_loss"] == pytest.approx(np.mean(losses(output)), rel=1e-9)
    for results, steps in ((whole, 50), (resumed, 35)):
        seconds = results["train_runtime"]
        assert results["train_steps_per_second"] * seconds == pytest.approx(steps, rel=1e-3)
        rows = results["train_samples_per_second"] * seconds
        assert 3.85 * steps < rows <= 4 * steps * (1 + 1e-3)
        tokens = results["train_tokens_per_second"] / results["train_samples_per_second"]
        assert tokens == pytest.approx(whole["train_tokens_per_second"] / whole["train_samples_per_second"], rel=1e-3)


@pytest.fixture
def stopped(unbroken, tmp_path) -> Path:
    """A run that stopped behind its last checkpoint, checkpoint-45."""
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["optimizer.pdopt", "scheduler.pdparams", "rng_state.pth", "scaler.pdparams"])
def test_training_state_that_runs_code_is_refused(model, data, stopped, tmp_path, name):
    marker = tmp_path / "marker"
    poison(stopped / "checkpoint-45" / name, marker)
    before = contents(stopped)
    with pytest.raises(GLMError, match=rf"{name} is refused: loading it would run posix.system"):
        train(model, data, stopped, **FLAGS)
    assert not marker.exists()
    assert contents(stopped) == before


def test_training_arguments_that_run_code_are_not_read(model, data, stopped, unbroken, tmp_path):
    marker = tmp_path / "marker"
    poison(stopped / "checkpoint-45" / "training_args.bin", marker)
    train(model, data, stopped, **FLAGS)
    assert not marker.exists()
    assert (stopped / "loss_history.jsonl").read_bytes() == (unbroken / "loss_history.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", ".hidden", "runs2"])
def test_a_directory_with_something_else_is_refused(model, data, tmp_path, name):
    """By the exit code 2 and one line; nothing in it changes."""
    output = tmp_path / "run"
    output.mkdir()
    (output / name).write_text("mine")
    (output / "loss_history.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"not empty and holds no checkpoint to resume.*--overwrite_output_dir"):
        train(model, data, output, **FLAGS)
    assert contents(output) == {name: b"mine", "loss_history.jsonl": b""}


def test_overwriting_starts_anew(model, data, stopped, unbroken):
    (stopped / "notes.txt").write_text("mine")
    train(model, data, stopped, **FLAGS, max_grad_norm=0.5, overwrite_output_dir=True)
    changed = history(stopped)
    assert [row["step"] for row in changed] == list(range(1, 51))
    assert changed[0] == history(unbroken)[0] and changed[10:] != history(unbroken)[10:]
    assert (stopped / "notes.txt").read_text() == "mine"


def test_a_chosen_checkpoint(model, data, unbroken, tmp_path):
    output = tmp_path / "other"
    output.mkdir()
    shutil.copy(unbroken / "loss_history.jsonl", output)
    train(model, data, output, **FLAGS, resume_from_checkpoint=unbroken / "checkpoint-30")
    assert (output / "loss_history.jsonl").read_bytes() == (unbroken / "loss_history.jsonl").read_bytes()
    with pytest.raises(UsageError, match=f"nowhere is no checkpoint: .*leave the flag out .*newest one of .*{output}"):
        train(model, data, output, **FLAGS, resume_from_checkpoint=tmp_path / "nowhere")
