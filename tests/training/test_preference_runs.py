"""Runs of preference tuning: the first step, what they write, the reference, resuming, what is refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddlenlp.trainer.trainer_callback import PrinterCallback
from preference_runs import DROPOUT, history, lines_of, tune, write_chat_model, write_data

from glm import GLMForCausalLM
from glm.encoding.processor import open_processor
from glm.errors import UsageError
from glm.model.lora import merge_adapter
from glm.training.preference_evaluation import answers_of
from glm.training.preference_loss import FIGURES
from glm.training.preference_trainer import PreferenceTrainer
from glm.training.run_directory import REFERENCE_NAME

pytestmark = pytest.mark.long
LORA = {"lora": True, "r": 4, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("model") / "chat", **DROPOUT)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def adapter(model, data, tmp_path_factory) -> Path:
    """An adapter that changes the model, and was trained with dropout."""
    output = tmp_path_factory.mktemp("adapter") / "run"
    tune(model, data, output, **LORA, lora_dropout=0.3, max_steps=4)
    assert json.loads((output / "lora_config.json").read_text())["lora_dropout"] == 0.3
    return output


@pytest.fixture(scope="module")
def kinds(adapter) -> dict[str, dict]:
    """Flags of the three kinds of run."""
    return {"full": {}, "new adapter": LORA, "old adapter": {"lora_path": adapter, "learning_rate": 1e-2}}


@pytest.fixture(scope="module")
def runs(model, data, kinds, tmp_path_factory) -> dict[str, Path]:
    """One run of each kind, evaluated at the end."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in kinds.items():
        tune(model, data, folder / name, **flags, do_eval=True)
    return {name: folder / name for name in kinds}


NAMES = ("full", "new adapter", "old adapter")


# what a run does


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_is_where_training_started_from(runs, name):
    """Loss ln 2 and margins 0, in training and in the evaluation before it; the last step has moved."""
    first, *_, last = history(runs[name])
    before = lines_of(runs[name] / "eval_history.jsonl")[0]
    assert before["step"] == 0 and before["eval_rewards/accuracies"] == 0  # to the last digit
    for loss, margin in (
        (first["loss"], first["rewards/margins"]),
        (before["eval_loss"], before["eval_rewards/margins"]),
    ):
        assert loss == pytest.approx(math.log(2), abs=1e-5) and margin == pytest.approx(0, abs=2e-5)
    assert last["loss"] < 0.69 and last["rewards/margins"] > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_writes(runs, name):
    """Figures of every step and of both evaluations, a picture; the reference's where it is not switched off."""
    output, figures = runs[name], {"sigmoid_loss", *FIGURES}
    rows = history(output)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(row.keys() == {"step", "loss", "learning_rate", *figures} for row in rows)
    for row in rows:
        assert row["rewards/margins"] == pytest.approx(row["rewards/chosen"] - row["rewards/rejected"], abs=1e-4)
    evaluations = lines_of(output / "eval_history.jsonl")
    assert [row["step"] for row in evaluations] == [0, 8]
    assert all(row.keys() == {"step", "eval_loss", *(f"eval_{name}" for name in figures)} for row in evaluations)
    assert (output / "loss.png").stat().st_size > 1000
    assert (output / REFERENCE_NAME).is_file() == (name != "new adapter")
    results = json.loads((output / "eval_results.json").read_text())
    assert evaluations[1].items() <= (results | {"step": 8}).items()


def test_the_log_has_the_steps_since_the_line_before(model, data, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(PrinterCallback, "on_log", lambda self, *_, logs, **__: logged.append(dict(logs)))
    tune(model, data, tmp_path / "run", logging_steps=4)
    rows, logged = history(tmp_path / "run"), {line["global_step"]: line for line in logged if "loss" in line}
    assert logged.keys() == {4, 8}
    for line, part in zip(logged.values(), (rows[:4], rows[4:]), strict=True):
        for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen"):
            assert line[name] == pytest.approx(np.mean([row[name] for row in part]), abs=1e-5)


def test_dropout_is_off(runs):
    """That of the model, and that of an adapter that is trained further, but for --lora_dropout."""
    config = json.loads((runs["full"] / "config.json").read_text())
    assert not any(value for name, value in config.items() if "dropout" in name)
    assert json.loads((runs["old adapter"] / "lora_config.json").read_text())["lora_dropout"] == 0.0


# the reference


def sums_of(model, trainer: PreferenceTrainer) -> np.ndarray:
    """[N, 2] of the evaluation pairs, one by one."""
    model.eval()
    pairs = trainer.eval_dataset
    found = []
    for number in range(len(pairs)):
        batch = trainer.evaluation.processor.training_batch([(pairs.pair(number)[0], None)])
        with paddle.no_grad():
            found += answers_of(model, {name: paddle.to_tensor(value) for name, value in batch.items()}).sums.tolist()
    return np.array(found)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_the_start(model, data, adapter, kinds, tmp_path, name):
    """Whether it was kept or the adapter is off: the base model, or the base model with the adapter as it was."""
    trainer = tune(model, data, tmp_path / "run", **kinds[name], do_eval=True)
    start = GLMForCausalLM.from_pretrained(model)
    if name == "old adapter":
        merge_adapter(start, adapter)
    wanted = sums_of(start, trainer)
    assert trainer.eval_dataset.reference == pytest.approx(wanted, rel=1e-4)
    assert np.abs(sums_of(trainer.model, trainer) - wanted).max() > 0.1
    if name == "new adapter":
        rows = [trainer.eval_dataset.pair(number)[0] for number in range(len(wanted))]
        batch = trainer.evaluation.processor.training_batch([(row, None) for row in rows])
        found = trainer._reference({name: paddle.to_tensor(value) for name, value in batch.items()})
        assert found.numpy() == pytest.approx(wanted, rel=1e-4) and found.stop_gradient
        assert trainer.model.training and not any(
            getattr(layer, "disable_lora", False) for layer in trainer.model.sublayers()
        )


@pytest.fixture
def stopped(runs, tmp_path) -> dict[str, Path]:
    """Runs behind their third step, as a kill leaves them."""
    found = {}
    for name, run in runs.items():
        found[name] = Path(shutil.copytree(run, tmp_path / name))
        for path in (*found[name].glob("checkpoint-[68]"), *found[name].glob("model.*"), found[name] / "loss.png"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_unbroken_one(model, data, kinds, runs, stopped, name, monkeypatch, capsys):
    """To the last digit; what was computed of the reference is read."""
    if name != "new adapter":
        monkeypatch.setattr(PreferenceTrainer, "reference_of", None)
    trainer = tune(model, data, stopped[name], **kinds[name], do_eval=True)
    said = capsys.readouterr().err
    assert "resuming from" in said and "→" not in said and "a step has" not in said
    assert trainer.state.global_step == 8
    weights = "model.safetensors" if name == "full" else "lora_model_state.pdparams"
    for file in ("loss_history.jsonl", "eval_history.jsonl", weights):
        assert (stopped[name] / file).read_bytes() == (runs[name] / file).read_bytes(), file


def test_other_rows_get_another_reference(model, stopped, tmp_path, capsys):
    """The training rows changed, the evaluation rows did not: one is computed, the other read."""
    other = write_data(tmp_path / "other", train=48)
    lines = (other / "train.json").read_text("utf-8").splitlines(keepends=True)
    (other / "train.json").write_text("".join(lines[24:]), encoding="utf-8")  # as many
    tune(model, other, stopped["full"], do_eval=True)
    said = capsys.readouterr().err
    assert said.count("reference is computed anew") == 1
    assert f"{REFERENCE_NAME} is of other train pairs, or another dtype: their reference is computed anew" in said
    assert "the training rows are others: 24 rows" in said


def test_a_damaged_reference_is_computed_anew(model, data, runs, stopped, capsys):
    path = stopped["full"] / REFERENCE_NAME
    path.write_bytes(path.read_bytes()[:100])
    tune(model, data, stopped["full"])
    assert f"{path} is damaged" in capsys.readouterr().err
    assert (stopped["full"] / "loss_history.jsonl").read_bytes() == (runs["full"] / "loss_history.jsonl").read_bytes()


def test_another_start_is_refused(model, data, adapter, kinds, stopped, tmp_path):
    """Another model, the adapter left out, and one that was trained in the meantime."""
    other = write_chat_model(tmp_path / "other", spread=0.3)
    with pytest.raises(UsageError, match=r"checkpoint-3 is of a run that started from --model_name_or_path"):
        tune(other, data, stopped["full"])
    with pytest.raises(UsageError, match=r"started from --lora_path \['.*run'\], and this one has None: the start is"):
        tune(model, data, stopped["old adapter"], lora=True, r=4)
    again = Path(shutil.copytree(adapter, tmp_path / "again"))
    kept = (adapter / "lora_model_state.pdparams").read_bytes()
    try:
        tune(model, data, again, **LORA, lora_dropout=0.3, max_steps=6)
        shutil.copy(again / "lora_model_state.pdparams", adapter)
        with pytest.raises(
            UsageError, match=f"{REFERENCE_NAME} is of a run that started from another model or adapter"
        ):
            tune(model, data, stopped["old adapter"], **kinds["old adapter"])
    finally:
        (adapter / "lora_model_state.pdparams").write_bytes(kept)


def test_a_new_run_in_the_directory_of_another_model(model, data, stopped, tmp_path, capsys):
    other = write_chat_model(tmp_path / "other", spread=0.3)
    tune(other, data, stopped["full"], overwrite_output_dir=True, max_steps=1)
    assert "is of another model" in capsys.readouterr().err
    assert history(stopped["full"])[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("kind", ["simpo", "orpo"])
def test_a_loss_without_reference_computes_none(model, data, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(PreferenceTrainer, "reference_of", None)
    tune(model, data, tmp_path / "run", loss_type=kind, max_steps=2, do_eval=True)
    assert not (tmp_path / "run" / REFERENCE_NAME).exists()


def test_evaluation_alone(model, data, tmp_path, capsys):
    tune(model, data, tmp_path / "run", do_train=False, do_eval=True, prediction_loss_only=True)
    streams = capsys.readouterr()
    assert "without --do_train the reference is the model itself" in streams.err and "now" in streams.out
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"eval_results.json", "all_results.json", "runs"}
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text()).keys() == {"eval_loss"}


# what is refused

REFUSED = {
    "GLM": ({"model_name_or_path": "glm-tiny-chinese"}, "glm-tiny-chinese is a glm-chinese model, which answers no"),
    "loss": ({"beta": -1.0}, "beta is -1.0, and must be above 0"),
    "smoothing": (
        {"loss_type": "ipo", "dpo_label_smoothing": 0.1},
        "dpo_label_smoothing is 0.1, and loss_type ipo has",
    ),
    "length": ({"max_length": 0}, "max_length is 0, and must be at least 1"),
    "too short": ({"max_length": 5}, r"train: nothing is left to train of 24 pairs: 24 longer than max_length 5"),
    "figure": ({"metric_for_best_model": "bleu"}, "metric_for_best_model bleu is none of the figures of an evaluation"),
    "nothing": ({"do_train": False}, "nothing to do: pass --do_train"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(model, data, tmp_path, name):
    flags, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as error:
        tune(model, data, tmp_path / "run", **flags)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_checkpoint_of_fine_tuning_is_refused(model, data, stopped):
    """And the other way round."""
    record = stopped["full"] / "checkpoint-3" / "run_arguments.json"
    content = json.loads(record.read_text())
    del content["flags"]["loss_type"]
    record.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError, match="is of fine-tuning, and this run is preference tuning: choose another"):
        tune(model, data, stopped["full"])


def test_the_best_model_is_chosen_by_a_figure(model, data, tmp_path):
    flags = {"evaluation_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    best = {"metric_for_best_model": "rewards/margins", "do_eval": True, "max_steps": 6}
    trainer = tune(model, data, tmp_path / "run", **flags, **best)
    margins = {row["step"]: row["eval_rewards/margins"] for row in lines_of(tmp_path / "run" / "eval_history.jsonl")}
    assert set(margins) == {0, 2, 4, 6}
    assert trainer.state.best_metric == pytest.approx(max(margins[step] for step in (2, 4, 6)), rel=1e-6)


def test_long_pairs_are_left_out_and_counted(model, data, tmp_path, capsys):
    columns = sorted(
        tune(model, data, tmp_path / "all", max_steps=1, save_strategy="no").train_dataset.encoded.rows.columns
    )
    most = int(columns[len(columns) // 2])
    capsys.readouterr()
    trainer = tune(model, data, tmp_path / "some", max_steps=1, save_strategy="no", max_length=most)
    left = sum(columns <= np.int64(most))
    assert len(trainer.train_dataset) == left < 24
    assert f"train: pairs left out: {24 - left} longer than max_length {most}" in capsys.readouterr().err


def test_the_result_is_a_model_like_any_other(runs, model):
    """The files of a fine-tuning run: they load, and generate."""
    tuned = GLMForCausalLM.from_pretrained(runs["full"])
    processor = open_processor(runs["full"])
    ids = paddle.to_tensor([processor.text_prompt("大门是什么颜色？")])
    written, _ = tuned.generate(ids, max_new_tokens=4)
    assert written.shape == [1, 4]
    merged = merge_adapter(GLMForCausalLM.from_pretrained(model), runs["new adapter"])
    assert merged.generate(ids, max_new_tokens=4)[0].shape == [1, 4]
