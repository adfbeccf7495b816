"""A run that resumes with changed flags: each acts from the first step on and is said, or is refused by its name."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddlenlp.trainer.trainer_utils import SchedulerType
from training_runs import NO_DROPOUT, history, sample_rows, train, write_model, write_rows

import glm.training.finetune
import glm.training.trainer
from glm.errors import GLMError, UsageError
from glm.training.run_record import RECORD_NAME
from glm.training.trainer import GLMTrainer

pytestmark = pytest.mark.long
ROWS = 39  # ten steps of four rows per epoch
FLAGS = {"num_train_epochs": 1, "max_steps": -1, "save_steps": 6, "seed": 42}
LORA = {"lora": True, "r": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small", **NO_DROPOUT)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", sample_rows(ROWS))


@pytest.fixture(scope="module")
def full(model, data, tmp_path_factory) -> Path:
    """A run of ten steps, with a checkpoint behind the sixth."""
    output = tmp_path_factory.mktemp("full") / "run"
    train(model, data, output, **FLAGS)
    return output


@pytest.fixture(scope="module")
def adapted(model, data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("adapted") / "run"
    train(model, data, output, **FLAGS | LORA)
    return output


@pytest.fixture
def stopped(full, tmp_path) -> Path:
    return Path(shutil.copytree(full, tmp_path / "run"))


@pytest.fixture
def stopped_adapted(adapted, tmp_path) -> Path:
    return Path(shutil.copytree(adapted, tmp_path / "run"))


# schedules

SCHEDULES = {
    "linear": {},
    "cosine": {},
    "constant": {},
    "constant_with_warmup": {"warmup_steps": 9},
    "polynomial": {"power": 2.0, "lr_end": 1e-5},
}
CHANGES = {
    "the same": {},
    "learning_rate": {"learning_rate": 5e-4},
    "steps": {"steps": 40},
    "warmup_steps": {"warmup_steps": 12},
    "warmup_ratio": {"warmup_steps": 0, "warmup_ratio": 0.5},
    **{f"to {name}": {"lr_scheduler_type": name} | more for name, more in SCHEDULES.items()},
}


def schedule(lr_scheduler_type: str, steps: int = 20, **flags) -> GLMTrainer:
    """A trainer that has nothing but its schedule."""
    usual = {"learning_rate": 1e-3, "warmup_steps": 0, "warmup_ratio": 0.0, "num_cycles": 0.5}
    flags = usual | {"power": 1.0, "lr_end": 1e-7, "lr_scheduler_type": SchedulerType(lr_scheduler_type)} | flags
    trainer = GLMTrainer.__new__(GLMTrainer)
    trainer.args, trainer.lr_scheduler, trainer.lr_decay_ratio = SimpleNamespace(**flags), None, 0.1
    trainer.do_grad_scaling = False
    trainer.create_scheduler(steps)
    return trainer


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_schedule_from_the_first_step_on(tmp_path, monkeypatch, kind, change):
    """Behind step 6 the rates are those of a run that had the flags from its beginning, to the last bit."""
    monkeypatch.setattr(glm.training.trainer, "load_optimizer", lambda *args: None)
    monkeypatch.setattr(GLMTrainer, "_weight_names", lambda trainer: {})
    monkeypatch.setattr(GLMTrainer, "_glm", SimpleNamespace(config=None))
    before = schedule(kind, **SCHEDULES[kind])
    flags = {"lr_scheduler_type": kind} | SCHEDULES[kind] | CHANGES[change]
    changed, unbroken = schedule(**flags), schedule(**flags)
    for trainer in (before, unbroken):
        for _ in range(6):
            trainer.lr_scheduler.step()
    paddle.save(before.lr_scheduler.state_dict(), str(tmp_path / "scheduler.pdparams"))
    changed.optimizer = None
    changed._load_optimizer_and_scheduler(tmp_path)
    for _ in range(6, 20):
        assert changed.lr_scheduler() == unbroken.lr_scheduler()
        changed.lr_scheduler.step()
        unbroken.lr_scheduler.step()


# flags of a run


def test_changed_flags_act_and_are_said(model, data, stopped, capsys):
    changes = {
        "learning_rate": 5e-4,
        "num_train_epochs": 2,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.99,
        "adam_epsilon": 1e-6,
        "max_grad_norm": 0.5,
        "label_smoothing": 0.2,
        "save_steps": 7,
    }
    trainer = train(model, data, stopped, **FLAGS | changes)
    rates = [row["learning_rate"] for row in history(stopped)]
    assert rates[:6] == pytest.approx([1e-3 * (0.1 + 0.9 * (10 - step) / 10) for step in range(6)])
    assert rates[6:] == pytest.approx([2.5e-4 * (1 + np.cos(np.pi * step / 20)) for step in range(6, 20)])
    said = capsys.readouterr().err
    old = {"learning_rate": 0.001, "num_train_epochs": 1.0, "lr_scheduler_type": "linear", "label_smoothing": None}
    for name in changes:
        (line,) = [line for line in said.splitlines() if f"--{name} " in line]
        assert line.endswith(f"→ {changes[name] if name != 'num_train_epochs' else 2.0}: from step 7 on"), line
        assert name not in old or f"--{name} {old[name]} → " in line
    optimizer = trainer.optimizer
    assert (optimizer._beta1, optimizer._beta2, optimizer._epsilon) == (0.8, 0.99, 1e-6)
    assert optimizer._grad_clip.clip_norm == 0.5 and trainer.label_smoothing == 0.2
    assert optimizer._weight_decay == 0.1
    assert sorted(path.name for path in stopped.glob("checkpoint-*")) == [
        "checkpoint-14",
        "checkpoint-6",
        "checkpoint-7",
    ]


def test_the_same_command_says_nothing(model, data, stopped, full, capsys):
    """Nor do flags that change nothing of what is trained."""
    train(
        model, data, stopped, **FLAGS, logging_steps=3, save_total_limit=2, disable_tqdm=True, weight_format="pdparams"
    )
    said = capsys.readouterr().err
    assert "→" not in said and "resuming from" in said
    assert (stopped / "loss_history.jsonl").read_bytes() == (full / "loss_history.jsonl").read_bytes()


def test_a_checkpoint_without_a_record_continues_as_before(model, data, stopped, full, capsys):
    (stopped / "checkpoint-6" / RECORD_NAME).unlink()
    train(model, data, stopped, **FLAGS)
    assert "→" not in capsys.readouterr().err
    assert (stopped / "loss_history.jsonl").read_bytes() == (full / "loss_history.jsonl").read_bytes()


def test_no_secret_lies_in_a_checkpoint(full):
    content = json.loads((full / "checkpoint-6" / RECORD_NAME).read_text(encoding="utf-8"))
    assert content["flags"]["learning_rate"] == 1e-3 and "wandb_api_key" not in content["flags"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"global_step": null}'])
def test_a_checkpoint_without_a_whole_state_is_named(model, data, stopped, content):
    """Missing or damaged: one line with what to do, and nothing is trained."""
    path = stopped / "checkpoint-6" / "trainer_state.json"
    path.write_text(content) if content else path.unlink()
    with pytest.raises(GLMError, match=r"checkpoint-6.* remove .*checkpoint-6, and the run resumes from") as error:
        train(model, data, stopped, **FLAGS)
    assert "\n" not in str(error.value)


def test_a_damaged_record_is_named(model, data, stopped):
    (stopped / "checkpoint-6" / RECORD_NAME).write_text('{"flags": 1}', encoding="utf-8")
    with pytest.raises(GLMError, match=f"{RECORD_NAME} is damaged .*: remove it"):
        train(model, data, stopped, **FLAGS)


REFUSED = {
    "r": ({"r": 8}, "--r 4, and this one has --r 8: .*pass --r 4"),
    "lora_alpha": ({"lora_alpha": 32}, "--lora_alpha 8, and this one has --lora_alpha 32.0: .*pass --lora_alpha 8"),
    "lora_targets": ({"lora_targets": "all"}, "--lora_targets attention, and this one has --lora_targets all: "),
    "full": ({"lora": False}, "a run with LoRA, and this one is with full fine-tuning: .*pass --lora True"),
    "lora_path": ({"lora_path": "{adapter}"}, "--lora_path None, and this one has --lora_path .*leave --lora_path out"),
    "base": (
        {"model_name_or_path": "{other}"},
        "--model_name_or_path .*small, .* trained on other weights; pass .*small",
    ),
    "seed": ({"seed": 7}, "--seed 42, and this one has --seed 7: the adapter .* on other weights"),
    "optim": ({"optim": "adamw_mini"}, "--optim adamw, and this one has --optim adamw_mini: .*pass --optim adamw,"),
    "task": ({"task_name": "adgen"}, "--task_name dureader_qg, and this one has --task_name adgen: .*another task"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_another_run_of_it_is_refused(model, data, stopped_adapted, adapted, tmp_path, name):
    """By its flag, with both values and what to do, before anything is written."""
    flags, message = REFUSED[name]
    places = {"adapter": adapted, "other": write_model(tmp_path / "other", **NO_DROPOUT | {"layernorm_epsilon": 1e-4})}
    flags = {key: str(value).format(**places) for key, value in flags.items()}
    if name == "task":
        (tmp_path / "rows").mkdir()
        rows = [{"content": "类型#裙", "summary": "好看的裙子"}] * ROWS
        data = write_rows(tmp_path / "rows" / "train.json", rows)
    before = {path: path.stat().st_mtime_ns for path in stopped_adapted.rglob("*")}
    with pytest.raises(UsageError, match=message):
        train(model, data, stopped_adapted, **FLAGS | LORA | flags)
    assert {path: path.stat().st_mtime_ns for path in stopped_adapted.rglob("*")} == before


def test_the_dropout_of_an_adapter_may_change(model, data, stopped_adapted, capsys):
    trainer = train(model, data, stopped_adapted, **FLAGS | LORA, lora_dropout=0.5, lora_alpha=8)
    said = capsys.readouterr().err
    assert "--lora_dropout 0.0 → 0.5: from step 7 on" in said and "lora_alpha" not in said
    assert trainer.model.lora_config.lora_dropout == 0.5


def test_a_full_run_is_of_one_model(data, stopped, full, tmp_path, capsys):
    """Its weights lie in the checkpoint: another base is nothing to it, another configuration is."""
    same = write_model(tmp_path / "moved", **NO_DROPOUT | {"output_dropout_prob": 0.5})
    train(same, data, stopped, **FLAGS)
    assert "output_dropout_prob 0.0 → 0.5 in the model's config.json" in capsys.readouterr().err
    other = write_model(tmp_path / "other", **NO_DROPOUT | {"layernorm_epsilon": 1e-4})
    with pytest.raises(
        UsageError, match=r"a model with layernorm_epsilon 1e-05, and .* layernorm_epsilon 0.0001: name the"
    ):
        train(other, data, tmp_path / "out", **FLAGS, resume_from_checkpoint=full / "checkpoint-6")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_steps": 4}, "checkpoint-6 is at step 6, and this run ends at step 4: nothing left to train"),
        ({"num_train_epochs": 0.6}, "checkpoint-6 is the last step of this run: nothing left to train"),
    ],
    ids=str,
)
def test_a_run_that_ends_before_its_checkpoint(model, data, stopped, capsys, flags, said):
    before = (stopped / "checkpoint-6" / "model.safetensors").read_bytes()
    assert train(model, data, stopped, **FLAGS | flags).state.global_step == 6
    assert said in capsys.readouterr().err
    assert (stopped / "model.safetensors").read_bytes() == before


def test_dropout_draws_by_a_new_seed(data, tmp_path, capsys):
    """From the first step on; the rows of the epoch stay those that are left, and the next is in the new order."""
    model, orders = write_model(tmp_path / "model"), {}
    train(model, data, tmp_path / "run", **FLAGS)
    for seed in (42, 7):
        output = tmp_path / str(seed)
        train(model, data, output, **FLAGS | {"seed": seed}, resume_from_checkpoint=tmp_path / "run" / "checkpoint-6")
        orders[seed] = [row["loss"] for row in history(output)]
    assert "--seed 42 → 7: the rows keep their order to the end of the epoch" in capsys.readouterr().err
    assert orders[42] == [row["loss"] for row in history(tmp_path / "run")[6:]]
    assert len(orders[7]) == 4 and all(a != b and abs(a / b - 1) < 0.1 for a, b in zip(*orders.values(), strict=True))


def test_the_directory_of_a_run_is_no_checkpoint_of_it(model, data, full, tmp_path):
    with pytest.raises(UsageError, match=f"{full} is the directory of a whole run: name {full}/checkpoint-6$"):
        train(model, data, tmp_path / "out", **FLAGS, resume_from_checkpoint=full)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ignore_load_lr_and_optim", "ignore_save_lr_and_optim"])
def test_a_run_without_its_optimizer_is_refused(model, data, stopped, name):
    with pytest.raises(UsageError, match=f"{name} is not supported: .*give it as --model_name_or_path"):
        train(model, data, stopped, **FLAGS | {name: True})


# batches and rows


def test_a_smaller_batch_ends_with_the_epochs(model, data, stopped, capsys):
    """15 of 39 rows are left of the epoch behind step 6: 8 steps of 2, and 20 of the next epoch."""
    trainer = train(model, data, stopped, **FLAGS | {"num_train_epochs": 2}, per_device_train_batch_size=2)
    said = capsys.readouterr().err
    assert "--per_device_train_batch_size 4 → 2: from step 7 on" in said
    assert "a step has 2 rows, and had 4: the run resumes in epoch 1 after its row 24, and ends at step 34" in said
    assert trainer.state.global_step == len(history(stopped)) == 34
    rates = [row["learning_rate"] for row in history(stopped)][6:]
    assert rates == pytest.approx([1e-3 * (0.1 + 0.9 * (34 - step) / 34) for step in range(6, 34)])


def test_a_larger_batch_of_a_number_of_steps(model, data, stopped):
    """Max_steps is what it says, through as many epochs as that takes."""
    trainer = train(model, data, stopped, **FLAGS | {"max_steps": 20}, per_device_train_batch_size=16)
    assert trainer.state.global_step == len(history(stopped)) == 20


def test_as_many_rows_in_other_micro_batches_are_the_same_run(model, data, stopped, full, capsys):
    train(model, data, stopped, **FLAGS, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert "--gradient_accumulation_steps 1 → 2" in capsys.readouterr().err
    found, wanted = (np.array([row["loss"] for row in history(run)]) for run in (stopped, full))
    assert np.abs(found / wanted - 1).max() < 1e-5


def test_other_rows_are_said(model, stopped, tmp_path, capsys):
    data = write_rows(tmp_path / "train.json", sample_rows(45))
    trainer = train(model, data, stopped, **FLAGS)
    said = capsys.readouterr().err
    assert (
        "the training rows are others: 39 rows (" in said and "the run resumes in epoch 1 after its row 24" not in said
    )
    assert trainer.state.global_step == 12  # 21 rows are left of the epoch
