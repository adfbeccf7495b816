"""The figure that the best model is chosen by, the model that is loaded for it, and the logged training loss."""

import json
import re
import shutil
from pathlib import Path

import paddle
import pytest
from training_runs import NO_DROPOUT, history, sample_rows, train, write_model, write_rows

import glm.training.finetune
from glm.errors import UsageError
from glm.training.trainer import GLMTrainer

pytestmark = pytest.mark.long
FLAGS = {"num_train_epochs": 1, "max_steps": -1, "save_steps": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small", **NO_DROPOUT)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", sample_rows(39))


@pytest.fixture(scope="module")
def judged(data, tmp_path_factory) -> Path:
    """A folder with evaluation rows."""
    folder = tmp_path_factory.mktemp("judged")
    shutil.copy(data, folder / "train.json")
    write_rows(folder / "dev.json", sample_rows(2))
    return folder


EVALUATES = FLAGS | {
    "save_steps": 2,
    "max_steps": 6,
    "evaluation_strategy": "steps",
    "eval_steps": 2,
    "do_eval": True,
    "load_best_model_at_end": True,
    "num_beams": 1,
    "min_tgt_length": 0,
    "tgt_length": 8,
}
WEIGHTS = {False: "model.safetensors", True: "lora_model_state.pdparams"}


def scripted(monkeypatch, *figures: float) -> None:
    """Evaluations that give these figures one after another, the last one again and again."""
    left = list(figures)
    names = glm.training.finetune.METRIC_NAMES["characters"]

    def score(predictions, references):
        return dict.fromkeys(names, left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setitem(glm.training.finetune.METRICS, "characters", score)


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ({"metric_for_best_model": "bleu4"}, 4),
        ({"metric_for_best_model": "eval_rougeL"}, 4),
        ({"metric_for_best_model": "rouge1", "lora": True}, 4),
        ({"metric_for_best_model": "rouge1", "greater_is_better": False}, 2),
    ],
    ids=str,
)
def test_the_best_model_is_loaded(model, judged, tmp_path, monkeypatch, flags, best):
    """Figures of texts are better the greater they are, unless the flag says otherwise; full and LoRA."""
    scripted(monkeypatch, 0.1, 0.5, 0.3)
    trainer = train(model, judged, tmp_path / "run", **EVALUATES | flags)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / f"checkpoint-{best}")
    name = WEIGHTS[bool(flags.get("lora"))]
    checkpoints = {step: (tmp_path / "run" / f"checkpoint-{step}" / name).read_bytes() for step in (2, 4, 6)}
    assert (tmp_path / "run" / name).read_bytes() == checkpoints[best]
    assert len(set(checkpoints.values())) == 3


@pytest.mark.parametrize("flags", [{}, {"metric_for_best_model": "eval_loss"}], ids=str)
def test_the_lowest_loss_is_the_best(model, judged, tmp_path, flags):
    """By default as well; with steps that grow like this it rises."""
    output = tmp_path / "run"
    rising = {"learning_rate": 1.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 6}
    best = train(model, judged, output, **EVALUATES | rising | flags, prediction_loss_only=True).state
    rows = [json.loads(line) for line in (output / "eval_history.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = {row["step"]: row["eval_loss"] for row in rows}
    lowest = min((2, 4, 6), key=figures.get)
    assert lowest != 6 and best.best_model_checkpoint == str(output / f"checkpoint-{lowest}")
    assert (output / "model.safetensors").read_bytes() == (
        output / f"checkpoint-{lowest}" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"metric_for_best_model": "accuracy"},
            "accuracy is none .*: choose loss, exact_match, bleu4, rouge1, rouge2 or rou",
        ),
        ({"metric_for_best_model": "eval_rouge-l"}, "eval_rouge-l is none .* on dureader_qg: choose loss"),
        (
            {"metric_for_best_model": "rougeL", "task_name": "adgen"},
            "choose loss, rouge-1, rouge-2, rouge-l or bleu-4$",
        ),
        ({"metric_for_best_model": "eval_eval_loss", "load_best_model_at_end": False}, "eval_eval_loss is none"),
    ],
    ids=str,
)
def test_a_figure_that_no_evaluation_gives(model, judged, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        train(model, judged, tmp_path / "run", **EVALUATES | flags)
    assert not (tmp_path / "run").exists()


def test_a_figure_without_evaluations_is_said_to_act_on_none(model, data, tmp_path, capsys):
    train(model, data, tmp_path / "run", **FLAGS | {"max_steps": 1}, metric_for_best_model="bleu4")
    assert "pass --evaluation_strategy steps" in capsys.readouterr().err


def test_the_best_of_another_figure_is_forgotten(model, judged, tmp_path, monkeypatch, capsys):
    """And that of the same one is kept, in a directory that was moved as well."""
    scripted(monkeypatch, 0.9, 0.1)
    flags = EVALUATES | {"metric_for_best_model": "bleu4", "save_total_limit": 2}
    train(model, judged, tmp_path / "first", **flags | {"max_steps": 4})
    for name, more in (("moved", {}), ("other", {"metric_for_best_model": "loss"})):
        output = tmp_path / name
        shutil.copytree(tmp_path / "first", output)
        if name == "other":
            shutil.rmtree(tmp_path / "first")
        state = train(model, judged, output, **flags | {"max_steps": 8} | more).state
        best = 2 if name == "moved" else state.best_model_checkpoint[-1]
        assert Path(state.best_model_checkpoint).name == f"checkpoint-{best}"
        assert (state.best_metric == 0.9) == (name == "moved") and state.best_metric != 0.1
    assert "the best checkpoint is sought from step 5 on" in capsys.readouterr().err


# the scaling of the loss


def test_a_delayed_scaling_of_the_loss_is_the_same_history(model, data, tmp_path, monkeypatch, capsys):
    """PaddleNLP divides the gradients of a step instead, and the sum of the logged losses at every step."""
    flags = FLAGS | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 5}
    train(model, data, tmp_path / "usual", **flags)
    usual = capsys.readouterr().err
    monkeypatch.setattr(GLMTrainer, "_enable_delay_scale_loss", lambda trainer: True)
    wrap = GLMTrainer._wrap_model

    def wrapped(trainer, *args, **kwargs):
        model = wrap(trainer, *args, **kwargs)
        object.__setattr__(model, "_layers", model)  # as PaddleNLP's wrapper of a tensor-parallel model has it
        return model

    monkeypatch.setattr(GLMTrainer, "_wrap_model", wrapped)
    monkeypatch.setattr(paddle.device, "synchronize", lambda: None)  # there is none of a CPU
    train(model, data, tmp_path / "delayed", **flags)
    found, wanted = ([row["loss"] for row in history(tmp_path / name)] for name in ("delayed", "usual"))
    assert found == pytest.approx(wanted, rel=1e-5)
    logged = [re.findall(r"step (?:5|10)/10: loss ([\d.]+)", said) for said in (usual, capsys.readouterr().err)]
    assert len(logged[0]) == 2 and logged[0] == logged[1]
