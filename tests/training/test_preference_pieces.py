"""Preference tuning in other pieces is the same run: accumulated, recomputed, the head in chunks; every loss trains."""

import math
from pathlib import Path

import numpy as np
import pytest
from preference_runs import history, tune, write_chat_model, write_data

from glm.config import chunks
from glm.training.preference_loss import FIGURES, KINDS

pytestmark = pytest.mark.long
LORA = {"lora": True, "r": 4, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("model") / "chat")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


# Where `curve` has it, behind the loss.
ACCURACY = 1 + FIGURES.index("rewards/accuracies")


def curve(*args, **flags) -> np.ndarray:
    tune(*args, **flags, save_strategy="no")
    return np.array([[row[name] for name in ("loss", *FIGURES)] for row in history(args[2])])


@pytest.mark.parametrize("flags", [{}, LORA], ids=["full", "LoRA"])
def test_accumulating_is_a_larger_batch(model, data, tmp_path, flags):
    """Pairs of different lengths, each of which weighs the same."""
    whole = curve(model, data, tmp_path / "whole", **flags)
    halves = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    again = curve(model, data, tmp_path / "halves", **flags, **halves)
    # At the first step the policy is its reference: which of two equal rewards is larger is rounding.
    again[0, ACCURACY] = whole[0, ACCURACY]
    assert again == pytest.approx(whole, rel=2e-3, abs=2e-3)
    smaller = curve(model, data, tmp_path / "smaller", **flags, per_device_train_batch_size=2)
    assert np.abs(smaller[:, 0] / whole[:, 0] - 1).max() > 1e-2


def test_recomputing_changes_nothing(model, data, tmp_path):
    whole = curve(model, data, tmp_path / "whole", **LORA)
    assert curve(model, data, tmp_path / "again", **LORA, recompute=True) == pytest.approx(whole, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("flags", [{}, LORA], ids=["full", "LoRA"])
def test_a_head_in_chunks_changes_nothing(model, data, tmp_path, monkeypatch, flags):
    whole = curve(model, data, tmp_path / "whole", **flags)
    monkeypatch.setattr(chunks, "LOGITS", 5 * 768)  # five tokens at a time
    assert curve(model, data, tmp_path / "again", **flags) == pytest.approx(whole, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("family", ["chatglm", "glm4-remote"])
def test_the_other_generations(data, tmp_path, family):
    model = write_chat_model(tmp_path / "model", family)
    tune(model, data, tmp_path / "run", **LORA)
    first, *_, last = history(tmp_path / "run")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and last["loss"] < 0.69


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_trains(model, data, tmp_path, kind):
    flags = {"loss_type": kind, "sft_loss_ratio": 0.1, "beta": 0.5}
    trainer = tune(model, data, tmp_path / "run", **LORA, **flags, save_strategy="no", do_eval=True)
    rows = history(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"] and all(np.isfinite(row["loss"]) for row in rows)
    for row in rows:
        assert row["loss"] == pytest.approx(row[f"{kind}_loss"] + 0.1 * row["sft_loss"], rel=1e-5)
    assert trainer.loss.kind == kind and trainer.evaluated_before["eval_loss"] > 0
