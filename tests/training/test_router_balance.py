"""Runs with a balanced load: what the flags do, what a resumed run continues, and what they are refused for."""

from pathlib import Path

import numpy as np
import pytest
from family_models import write_family_model
from training_runs import losses, sample_rows, train, write_rows

from glm.checkpoint import load_state
from glm.config.glm_config import GLMConfig
from glm.errors import UsageError

pytestmark = pytest.mark.long
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
COMMON = {"from_scratch": False, "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "device": "cpu"}
RATE = 1e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_family_model(tmp_path_factory.mktemp("model") / "sparse", "glm4-moe")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", sample_rows(12))


def run(model: Path, data: Path, output: Path, **flags):
    return train(model, data, output, **COMMON | {"tokenizer_name_or_path": model} | flags)


def bias(directory: Path) -> np.ndarray:
    return load_state(directory, GLMConfig.from_pretrained(str(directory)))[BIAS]


def test_by_default_biases_stay(model, data, tmp_path):
    run(model, data, tmp_path / "run")
    assert np.array_equal(bias(tmp_path / "run"), bias(model))


@pytest.mark.parametrize("flags", [{}, {"gradient_accumulation_steps": 2, "recompute": True}], ids=["plain", "cut"])
def test_biases_move_once_a_step(flags, model, data, tmp_path):
    """By the rate, up or down: however many micro-batches a step has, and however often a block runs."""
    run(model, data, tmp_path / "run", router_bias_update_rate=RATE, **flags)
    steps = (bias(tmp_path / "run") - bias(model)) / RATE
    assert np.abs(steps - steps.round()).max() < 1e-2
    assert np.abs(steps).max() <= 4.01
    assert np.abs(steps).max() >= 1.99


def test_a_resumed_run_ends_where_it_would_have(model, data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = {"router_bias_update_rate": RATE, "router_balance_loss": 0.1, "lr_scheduler_type": "constant"}
    run(model, data, whole, **flags)
    run(model, data, parts, **flags | {"max_steps": 2})
    run(model, data, parts, **flags)
    assert np.array_equal(bias(parts), bias(whole))
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-6)


def test_the_loss_is_part_of_what_is_reported(model, data, tmp_path):
    run(model, data, tmp_path / "plain")
    run(model, data, tmp_path / "even", router_balance_loss=0.1)
    more = losses(tmp_path / "even")[0] - losses(tmp_path / "plain")[0]
    assert 0.09 < more < 0.3  # Σ f·P is 1 where all is even


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"router_bias_update_rate": -1.0}, "router_bias_update_rate is -1.0, and must be at least 0"),
        ({"router_balance_loss": -0.5}, r"router_balance_loss is -0.5, and must be at least 0"),
        ({"router_bias_update_rate": RATE, "lora": True}, "LoRA leaves the routers alone: leave it out"),
    ],
)
def test_what_is_refused(flags, message, model, data, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(model, data, tmp_path / "run", **flags)


def test_a_model_without_experts(data, tmp_path):
    dense = write_family_model(tmp_path / "dense", "glm4-0414")
    with pytest.raises(UsageError, match=r"router_balance_loss is 0.1, and this model has no experts: leave it out"):
        run(dense, data, tmp_path / "run", router_balance_loss=0.1)
