"""A run that was killed, at whatever moment, and started again by the same command is the run that was never killed.

To the last digit, with dropout, across epochs: the data has ten batches an epoch, the checkpoints lie at 15, 30, 45.
"""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from attack import poison
from training_runs import ROOT, command, history, sample_rows, train, write_model, write_rows

from glm.errors import GLMError, UsageError
from glm.trainer import STATE_NAME

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


def test_killed_three_times(model, data, unbroken, tmp_path):
    """Before there is a checkpoint, in the middle of an epoch, and while a later checkpoint is written."""
    output = tmp_path / "run"
    arguments = command(model, data, output, **FLAGS)
    assert kill_while_saving(output, arguments) == "checkpoint-15"
    assert not list(output.glob("checkpoint-*"))
    kill_at_step(23, arguments)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-15"]
    assert kill_while_saving(output, arguments) == "checkpoint-30"
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    assert f"resuming from {output}/checkpoint-15" in result.stderr
    assert_same_run(output, unbroken)


def cut_short(unbroken: Path, output: Path, step: int) -> None:
    """What an earlier kill leaves: the checkpoints up to a step, and a history that went on to a later one."""
    shutil.copytree(unbroken, output)
    for checkpoint in output.glob("checkpoint-*"):
        if int(checkpoint.name.partition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    (output / "model.safetensors").unlink()


VARIANTS = {
    "accumulating": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "LoRA with dropout": {"lora": True, "lora_dropout": 0.2, "r": 4},
    "recomputing": {"recompute": True},
    "warming up, pdparams": {"warmup_ratio": 0.5, "weight_format": "pdparams"},
    "cosine": {"lr_scheduler_type": "cosine", "lora": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_run_resumes(model, data, tmp_path, variant):
    flags = FLAGS | VARIANTS[variant]
    train(model, data, tmp_path / "unbroken", **flags)
    shutil.copytree(
        tmp_path / "unbroken", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-30", "checkpoint-45")
    )
    train(model, data, tmp_path / "run", **flags)
    assert (tmp_path / "run/loss_history.jsonl").read_bytes() == (tmp_path / "unbroken/loss_history.jsonl").read_bytes()
    name = next(
        name
        for name in ("model.safetensors", "model_state.pdparams", "lora_model_state.pdparams")
        if (tmp_path / "run" / name).is_file()
    )
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
