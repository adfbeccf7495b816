"""Runs of pretraining: resumed is unbroken, at every cut; what they write; what they refuse before they begin."""

import json
import re
import shutil
import time
from dataclasses import replace
from math import cos, exp, pi
from pathlib import Path

import numpy as np
import paddle
import pytest

import glm.training.pretrain
from glm import GLMForCausalLM
from glm.encoding.boundaries import Boundaries
from glm.errors import GLMError, UsageError
from glm.evaluation.perplexity import LossEvaluation
from glm.training.pretrain import build_in_turn
from glm.training.pretrain_rows import TrainingSamples
from glm.training.pretrain_trainer import PretrainTrainer
from glm.training.run_record import changes_since, read_record
from glm.training.trainer import GLMTrainer
from tests.indexed_text import END, TINY, history, pretrain, random_documents, write_indexed

pytestmark = pytest.mark.long
EVALUATING = {"do_eval": True, "eval_steps": 4, "per_device_eval_batch_size": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write_indexed(folder / "text", random_documents(60))


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "run"
    pretrain(data, output, **EVALUATING)
    return output


def losses(output: Path) -> np.ndarray:
    return np.array([row["loss"] for row in history(output)])


def results(output: Path, name: str) -> dict:
    return json.loads((output / f"{name}_results.json").read_text())


def stopped(unbroken: Path, output: Path) -> Path:
    """A run that stopped behind its checkpoint-5, though its history had gone on."""
    shutil.copytree(unbroken, output, ignore=shutil.ignore_patterns("checkpoint-10", "model.safetensors"))
    shutil.copytree(unbroken / "checkpoint-5", output / "checkpoint-5", dirs_exist_ok=True)
    return output


def test_what_a_run_writes(unbroken):
    assert [row["step"] for row in history(unbroken)] == list(range(1, 13))
    found = losses(unbroken)
    assert found[-3:].mean() < found[:3].mean() - 0.3
    evaluations = [json.loads(line) for line in (unbroken / "eval_history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in evaluations] == [4, 8, 12]
    for row in (*evaluations, results(unbroken, "eval")):
        assert row["eval_perplexity"] == pytest.approx(exp(row["eval_loss"]), rel=1e-12)
    figures = results(unbroken, "train")
    assert figures["train_tokens_per_second"] == pytest.approx(32 * figures["train_samples_per_second"], rel=1e-3)
    assert 0 < figures["train_mfu"] < 1
    assert {"tokenizer.model", "config.json", "model.safetensors"} <= {path.name for path in unbroken.iterdir()}


def test_a_resumed_run_is_the_unbroken_one(data, unbroken, tmp_path, capsys):
    """To the last digit: history, evaluations, weights."""
    output = stopped(unbroken, tmp_path / "run")
    pretrain(data, output, **EVALUATING)
    assert f"resuming from {output}/checkpoint-5" in capsys.readouterr().err
    for name in ("loss_history.jsonl", "eval_history.jsonl", "model.safetensors"):
        assert (output / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The samples that training reads, in their order."""
    numbers, whole = [], TrainingSamples.__getitem__
    monkeypatch.setattr(TrainingSamples, "__getitem__", lambda self, key: numbers.append(key[0]) or whole(self, key))
    return numbers


def test_accumulated_and_resumed_it_reads_the_same_samples(data, unbroken, tmp_path, read):
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    pretrain(data, tmp_path / "whole", **halves)
    assert read == list(range(48))
    assert np.abs(losses(tmp_path / "whole") / losses(unbroken) - 1).max() < 1e-5
    read.clear()
    output = stopped(unbroken, tmp_path / "run")
    pretrain(data, output, **halves)
    assert read == list(range(20, 48))
    assert np.abs(losses(output) / losses(unbroken) - 1).max() < 1e-5


def test_another_number_of_steps_with_as_many_samples_is_the_same_order(data, unbroken, tmp_path, read, capsys):
    """Behind 20 samples of 4 a step, 28 more of 7 a step."""
    pretrain(data, stopped(unbroken, tmp_path / "run"), max_steps=9, per_device_train_batch_size=7)
    assert read == list(range(20, 48))
    assert "a step has 7 rows, and had 4: the run resumes in epoch 1 after its row 20" in capsys.readouterr().err


def test_a_finished_run_trains_no_further(data, tmp_path, read, capsys):
    for _ in range(2):
        pretrain(data, tmp_path / "run", max_steps=6, save_steps=3)
    assert read == list(range(24))
    assert "checkpoint-6 is the last step of this run: nothing left to train" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"max_steps is 2, and .*-6 is at step 6: pass --max_steps 6 or more"):
        pretrain(data, tmp_path / "run", max_steps=2, per_device_train_batch_size=32)


@pytest.mark.slow
def test_speed_is_that_of_training(data, tmp_path, monkeypatch, capsys):
    """An evaluation or a checkpoint between two lines of the log takes nothing off it."""
    run, save = LossEvaluation.run, GLMTrainer._save_checkpoint
    monkeypatch.setattr(LossEvaluation, "run", lambda *args: time.sleep(0.5) or run(*args))
    monkeypatch.setattr(
        GLMTrainer, "_save_checkpoint", lambda *args, **kwargs: time.sleep(0.5) or save(*args, **kwargs)
    )
    pretrain(data, tmp_path / "run", do_eval=True, eval_steps=1, max_steps=4, save_steps=2)
    said = capsys.readouterr().err
    speeds = [int(text.replace(",", "")) for text in re.findall(r"steps/s, ([\d,]+) tokens/s, MFU", said)]
    assert len(speeds) == 4 and max(speeds[1:]) > 2 * 128 / 0.5


OTHERS = {
    "samples": ({"max_steps": 13}, "samples 48, and this one has samples 52"),
    "split": ({"split": "80,20,0"}, "split 90,10,0, and this one has split 80,20,0"),
    "max_length": ({"max_length": 16}, "max_length 32, and this one has max_length 16"),
    "seed": ({"seed": 7}, "seed 42, and this one has seed 7"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_another_order_is_refused(data, unbroken, tmp_path, name):
    flags, values = OTHERS[name]
    output = stopped(unbroken, tmp_path / "run")
    with pytest.raises(UsageError, match=f"checkpoint-5 is of a run with {values}: its samples would come in another"):
        pretrain(data, output, **flags)


def test_a_run_on_other_data_is_refused(data, unbroken, tmp_path):
    """Also where it has the same name and the same lengths; the same data elsewhere is the same run."""
    output = stopped(unbroken, tmp_path / "run")
    for ending in (".bin", ".idx"):
        shutil.copy(data.with_suffix(ending), tmp_path / f"moved{ending}")
    pretrain(tmp_path / "moved", output, max_steps=12)
    other = write_indexed(tmp_path / "text", [[*ids[:-1], ids[-1]][::-1] for ids in random_documents(60)])
    with pytest.raises(UsageError, match=r"checkpoint-10 is of a run with data \w{8}-\w{8}, and this one has data \w"):
        pretrain(other, output)


def test_a_run_of_fine_tuning_is_another_one(data, unbroken, tmp_path):
    """Either way round."""
    path = stopped(unbroken, tmp_path / "run") / "checkpoint-5" / "run_arguments.json"
    found, *_ = read_record(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"order": {}}))
    with pytest.raises(UsageError, match="checkpoint-5 is of fine-tuning, and this run is pretraining: choose another"):
        pretrain(data, tmp_path / "run")
    with pytest.raises(UsageError, match="checkpoint-5 is of pretraining, and this run is fine-tuning: choose another"):
        changes_since(unbroken / "checkpoint-5", replace(found, order={}), 5)


def test_blended_data(data, tmp_path):
    """Weights and prefixes, as words or as one; other weights are another run."""
    other = write_indexed(tmp_path / "other", random_documents(30, seed=5))
    once = {"max_steps": 2, "save_steps": 2}
    pretrain(["0.3", data, "0.7", other], tmp_path / "words", **once)
    pretrain(f"3 {data} 7 {other}", tmp_path / "one", **once)
    assert history(tmp_path / "words") == history(tmp_path / "one")
    pretrain(f"3 {data} 7 {other}", tmp_path / "words", **once)
    with pytest.raises(UsageError, match=r"a run with data 0.3 \S+, 0.7 \S+, and this one has data 0.5 \S+, 0.5 \S+:"):
        pretrain(["0.5", data, "0.5", other], tmp_path / "words", **once)


def test_passes_instead_of_steps(data, tmp_path, capsys):
    trainer = pretrain(data, tmp_path / "run", max_steps=None, num_train_epochs=0.5, save_strategy="no")
    one_pass = trainer.train_dataset.samples.samples_of_a_pass
    assert trainer.state.global_step == one_pass // 2 // 4 > 1
    assert f"0.5 passes over the data are {trainer.state.global_step} steps" in capsys.readouterr().err


def test_evaluation_alone_and_at_other_batch_sizes(data, unbroken, tmp_path):
    """The loss of the trained model, by its logits."""
    flags = {"model_name_or_path": unbroken, "do_train": None, "do_eval": True}
    wanted = results(unbroken, "eval")["eval_loss"]
    for size in (1, 3):
        trainer = pretrain(data, tmp_path / str(size), **flags, per_device_eval_batch_size=size)
        assert results(tmp_path / str(size), "eval")["eval_loss"] == pytest.approx(wanted, rel=1e-6)
    found = []
    for row in trainer.eval_dataset:
        logits = trainer.model(row[None, :-1]).numpy()[0].astype("float64")
        found += (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(32), row[1:]]).tolist()
    assert wanted == pytest.approx(np.mean(found), rel=1e-5)


def test_fewer_evaluated_samples(data, unbroken, tmp_path):
    flags = {"model_name_or_path": unbroken, "do_train": None, "do_eval": True, "do_predict": True, "split": "8,1,1"}
    trainer = pretrain(data, tmp_path / "run", **flags, max_evaluate_steps=1, per_device_eval_batch_size=2)
    assert len(trainer.eval_dataset) == 2
    assert results(tmp_path / "run", "test")["test_perplexity"] > 1


FALLING = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.25, "min_learning_rate": 1e-4}


def megatrons(kind: str, step: int, steps: int, warmup: float) -> float:
    """optimizer_param_scheduler.py, by samples."""
    done, warm, decay = 4 * step, 4 * steps * warmup, 4 * steps
    if warm and done <= warm:
        return 1e-3 * done / warm
    if done > decay:
        return 1e-4
    ratio = (done - warm) / (decay - warm)
    share = 0.5 * (1 + cos(pi * ratio)) if kind == "cosine" else 1 - ratio
    return 1e-4 + (1e-3 - 1e-4) * share


@pytest.mark.parametrize(
    ("kind", "decay_steps", "warmup"), [("cosine", None, 0.25), ("linear", 6, 0.25), ("cosine", 6, 0.0)]
)
def test_learning_rates_are_megatrons(data, tmp_path, kind, decay_steps, warmup):
    flags = FALLING | {"lr_scheduler_type": kind, "warmup_ratio": warmup, "decay_steps": decay_steps}
    pretrain(data, tmp_path / "run", **flags, max_steps=8, max_length=4, save_strategy="no")
    rates = [row["learning_rate"] for row in history(tmp_path / "run")]
    wanted = [megatrons(kind, step, decay_steps or 8, warmup) for step in range(8)]
    assert rates == pytest.approx(wanted, rel=1e-9)


def test_from_a_checkpoint_with_longer_positions(data, unbroken, tmp_path):
    """What the flags give the model stays with it: a model is used with the positions that it was trained with."""
    flags = {"model_name_or_path": unbroken / "checkpoint-10", "max_steps": 1, "save_strategy": "no"}
    pretrain(data, tmp_path / "run", **flags, rope_theta=5e6, max_position_embeddings=32768)
    config = GLMForCausalLM.from_pretrained(tmp_path / "run").config
    assert (config.rope_theta, config.max_position) == (5e6, 32768)
    assert losses(tmp_path / "run")[0] < losses(unbroken)[0] - 0.3


def test_random_weights_of_a_shape(data, unbroken, tmp_path):
    """Which the seed of the run decides; a preset that nobody trained always starts from the same."""
    starts = {}
    for name, flags in {"a": {}, "b": {}, "c": {"seed": 7}}.items():
        one = {"from_scratch": True, "model_name_or_path": unbroken, "max_steps": 1, "save_strategy": "no"}
        pretrain(data, tmp_path / name, **one | flags)
        starts[name] = losses(tmp_path / name)[0]
    assert starts["a"] == starts["b"] != starts["c"] and abs(starts["a"] - np.log(768)) < 0.3


@pytest.fixture(scope="module")
def model() -> GLMForCausalLM:
    model = GLMForCausalLM.from_pretrained(TINY, dtype="float32")
    model.eval()
    return model


def token_losses(model, row: np.ndarray, **flags) -> np.ndarray:
    batch = Boundaries(END, **flags).batch([row])
    return model(**{name: paddle.to_tensor(array) for name, array in batch.items()}, reduction="none").numpy()


def test_documents_are_independent_behind_their_boundary(model):
    """With both resets, the second document's losses are those that it has alone, whatever stands before."""
    first, second = np.arange(20, 31), np.arange(40, 56)
    both = {"reset_positions": True, "reset_attention": True}
    row = np.array([*first, END, *second])
    found = token_losses(model, row, **both)[len(first) + 1 :]
    np.testing.assert_allclose(found, token_losses(model, second), rtol=2e-5)
    other = np.array([*first[::-1], END, *second])
    np.testing.assert_array_equal(token_losses(model, other, **both)[len(first) + 1 :], found)
    # Rotary positions are relative, so the mask alone gives the same; positions alone do not hide the first document.
    alone = token_losses(model, row, reset_attention=True)[len(first) + 1 :]
    np.testing.assert_allclose(alone, found, rtol=2e-5)
    assert np.abs(token_losses(model, row, reset_positions=True)[len(first) + 1 :] - found).max() > 1e-4


def test_masked_tokens_weigh_nothing(data, tmp_path):
    """The loss of the first step, which is that of the untrained model: the mean over what is trained."""
    trainer = pretrain(data, tmp_path / "run", eod_mask_loss=True, reset_position_ids=True, reset_attention_mask=True)
    rows = [trainer.train_dataset.samples[number] for number in range(4)]
    flags = {"mask_loss": True, "reset_positions": True, "reset_attention": True}
    fresh = GLMForCausalLM.from_pretrained(TINY, dtype="float32")
    fresh.eval()
    parts = [token_losses(fresh, row, **flags) for row in rows]
    assert sum(map(len, parts)) == 4 * 32 - sum((row[:-1] == END).sum() for row in rows) < 4 * 32
    assert losses(tmp_path / "run")[0] == pytest.approx(np.concatenate(parts).mean(), rel=1e-5)


class Built:
    """A split whose building is written down, and may fail."""

    def __init__(self, happened: list[str], fails: bool = False):
        self.happened, self.fails = happened, fails

    def build(self):
        self.happened.append("build")
        if self.fails:
            raise GLMError("no room")


@pytest.mark.parametrize(("rank", "wanted"), [(0, ["build", "met", "met"]), (1, ["met", "build", "met"])])
def test_rank_0_builds_before_the_others(monkeypatch, rank, wanted):
    """Where it fails it ends before they meet, which ends those that wait (tests/scripts/test_pretrain_script.py)."""
    happened = []
    monkeypatch.setattr(glm.training.pretrain, "process_rank", lambda: rank)
    monkeypatch.setattr(glm.training.pretrain, "barrier", lambda: happened.append("met"))
    build_in_turn([Built(happened)])
    assert happened == wanted
    happened.clear()
    with pytest.raises(GLMError, match="no room"):
        build_in_turn([Built(happened, fails=True)])
    assert happened == wanted[: wanted.index("build") + 1]


REFUSED = {
    "nothing to do": ({"do_train": None}, "nothing to do: pass --do_train, --do_eval, --do_predict"),
    "no data": ({"input_dir": None}, "input_dir is missing: pass the prefix that preprocess_data.py wrote"),
    "no length": ({"max_length": 0}, "max_length is 0, and must be at least 1"),
    "too long": ({"max_length": 8193}, "max_length is 8193, and glm-4-9b-tiny has 8192 positions"),
    "GLM 2021": ({"model_name_or_path": "glm-tiny-chinese"}, "glm-tiny-chinese is of family glm, which fills blanks"),
    "ChatGLM": (
        {"model_name_or_path": "chatglm-6b-tiny"},
        "family chatglm, .* pretraining is causal: take a GLM-4",
    ),
    "lowest above highest": (
        {"min_learning_rate": 0.1},
        "min_learning_rate is 0.1, and must be between 0 and learning_rate 0.001",
    ),
    "lowest of a constant": (
        {"lr_scheduler_type": "constant", "min_learning_rate": 1e-4},
        "min_learning_rate is 0.0001, and lr_scheduler_type constant never falls",
    ),
    "schedule": ({"lr_scheduler_type": "polynomial"}, "lr_scheduler_type is polynomial, and pretraining has linear"),
    "no rate": ({"learning_rate": 0, "lr_scheduler_type": "cosine"}, "learning_rate is 0.0, and must be above 0"),
    "decay": ({"decay_steps": 0}, "decay_steps is 0, and must be above 0"),
    "peak": ({"peak_tflops": -1}, "peak_tflops is -1.0, and must be above 0"),
    "seed": ({"seed": 2**32}, "seed is 4294967296, and must be between 0 and 4294967295"),
    "best": ({"metric_for_best_model": "bleu4"}, "metric_for_best_model is bleu4, and pretraining has loss only"),
    "export": ({"do_export": True}, "--do_export belongs to fine-tuning: run export_generation_model.py"),
    "skipping": ({"ignore_data_skip": True}, "ignore_data_skip is not supported"),
    "no document": ({"do_eval": True, "split": "99,0.1,0"}, "split 99,0.1,0 leaves no document for valid of the 60"),
    "no split": ({"split": "all"}, "split is 'all', and must be shares"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_written(data, tmp_path, name):
    flags, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        pretrain(data, tmp_path / "run", **flags)
    assert not (tmp_path / "run").exists()


def test_boundaries_need_end_tokens(tmp_path):
    data = write_indexed(tmp_path / "endless", random_documents(8, end=False))
    with pytest.raises(GLMError, match=rf"none of the first 8 documents ends in the token {END}, .*--append_eos"):
        pretrain(data, tmp_path / "run", eod_mask_loss=True)


def test_data_of_another_tokenizer(data, tmp_path):
    """By the record that preprocess_data.py writes beside it."""
    copied = write_indexed(tmp_path / "text", random_documents(9))
    record = {"tokenizer": {"kind": "chatglm", "vocabulary_size": 800, "fingerprint": "0123456789abcdef"}}
    (tmp_path / "text.meta.json").write_text(json.dumps(record))
    with pytest.raises(GLMError, match=r"text is of another tokenizer \(chatglm, 800 ids, 0123456789abcdef\) than"):
        pretrain(copied, tmp_path / "run")
    (tmp_path / "text.meta.json").write_text('{"tokenizer": "glm4"}')
    with pytest.raises(GLMError, match=r"text.meta.json has the tokenizer 'glm4', and must have an object: make the"):
        pretrain(copied, tmp_path / "run")


def test_a_diverged_model_is_still_reported():
    assert PretrainTrainer._loss_metrics(None, 1e4) == {"loss": 1e4, "perplexity": float("inf")}
