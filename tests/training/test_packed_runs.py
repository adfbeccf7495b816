"""Runs of packs: the same order everywhere, resumed exactly, and told where other packs go on."""

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from training_runs import NO_DROPOUT, encoded, history, losses, sample_rows, train, write_model, write_rows

from glm.encoding.examples import TrainingExample
from glm.encoding.packing import PackedDataset
from glm.errors import UsageError
from glm.training.run_record import RECORD_NAME
from glm.training.sampler import EpochSampler, Place

pytestmark = pytest.mark.long
ROWS = 39
FLAGS = {"max_steps": 15, "save_steps": 6, "packing": True, "max_length": 128, "per_device_train_batch_size": 4}


def dataset(rows: int = 60, max_length: int = 40) -> PackedDataset:
    lengths = np.random.default_rng(0).integers(2, 20, rows).tolist()
    return PackedDataset(
        encoded(TrainingExample([5] * (n + 1), [False] + [True] * n) for n in lengths).rows, max_length
    )


def sampler(rank: int = 0, ranks: int = 1, size: int = 4, accumulation: int = 1, packs=None, **more) -> EpochSampler:
    packs = packs or dataset()
    return EpochSampler(packs, size, num_replicas=ranks, rank=rank, accumulation=accumulation, **{"seed": 42} | more)


def steps(epoch: int, **cut) -> list[dict[int, float]]:
    """Pack → share of each step, over all replicas."""
    replicas = []
    for rank in range(cut.get("ranks", 1)):
        one = sampler(**cut, rank=rank)
        one.set_epoch(epoch)
        replicas.append(list(one))
    count = cut.get("accumulation", 1)
    batches = [[key for batch in together for key in batch] for together in zip(*replicas, strict=True)]
    return [dict(chain(*batches[i : i + count])) for i in range(0, len(batches), count)]


@pytest.mark.parametrize("cut", [(1, 4, 1), (1, 1, 4), (1, 2, 2), (2, 2, 1), (2, 1, 2), (4, 1, 1)], ids=str)
@pytest.mark.parametrize("epoch", [0, 1])
def test_the_packs_of_a_step_are_the_same_on_any_number_of_replicas(cut, epoch):
    """Every pack once an epoch; the shares of a step's tokens add up to one."""
    ranks, size, accumulation = cut
    packs, whole = dataset(), steps(epoch)
    found = steps(epoch, ranks=ranks, size=size, accumulation=accumulation)
    assert [sorted(step) for step in found[: len(packs) // 4]] == [sorted(step) for step in whole[: len(packs) // 4]]
    assert sorted(pack for step in whole for pack in step) == list(range(len(packs))) and len(packs) > 12
    for step in found[: len(packs) // 4]:
        weight = sum(share * packs.trained_tokens(pack) for pack, share in step.items()) / (ranks * accumulation)
        assert weight == pytest.approx(1.0)
    assert whole != steps(1 - epoch)


def test_the_tokens_of_a_step_are_counted_once(monkeypatch):
    """However many micro-batches it has."""
    packs, counted = dataset(), []
    count = packs.trained_tokens
    monkeypatch.setattr(packs, "trained_tokens", lambda pack: counted.append(pack) or count(pack))
    seen = [pack for batch in sampler(packs=packs, size=1, accumulation=4) for pack, _ in batch]
    assert counted == seen and len(seen) > 8


def test_a_place_counts_rows():
    """Behind so many packs of an epoch stand the rows that they hold; the same packs go on exactly."""
    packs = dataset()
    one = sampler(packs=packs)
    assert one.added_steps == 0
    an_epoch = len(one)
    for step in (1, 2, an_epoch - 1, an_epoch, an_epoch + 3):
        place = one.place_after(step)
        epoch, done = divmod(step, an_epoch)
        order = [pack for batch in steps(epoch, packs=packs)[:done] for pack in batch]
        assert place == Place(epoch, int(packs.sizes[order].sum()), 42)
        resumed = sampler(packs=packs, step=step, place=place)
        assert resumed.place_after(step) == place and resumed.added_steps == 0
        resumed.set_epoch(epoch)
        one.set_epoch(epoch)
        assert list(resumed)[done:] == list(one)[done:]


def test_other_packs_go_on_behind_as_many_rows():
    before = sampler(packs=dataset(max_length=40))
    place = before.place_after(2)
    after = dataset(max_length=20)
    resumed = sampler(packs=after, step=2, place=place)
    left = [pack for batch in list(resumed)[2:] for pack, _ in batch]
    rows = int(after.sizes[left].sum())
    assert 60 - place.row - after.sizes.max() < rows <= 60 - place.row
    one_by_one = encoded([TrainingExample([5, 5], [False, True])] * 60)
    plain = EpochSampler(one_by_one, 4, num_replicas=1, rank=0, seed=42, step=2, place=place)
    assert sum(len(batch) for batch in list(plain)[2:]) == 60 - place.row


# runs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", sample_rows(ROWS))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """With dropout."""
    return write_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def unbroken(model, data, tmp_path_factory):
    """Through several epochs."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    trainer = train(model, data, output, **FLAGS)
    assert 3 <= len(trainer._sampler) <= 5 and len(losses(output)) == 15
    return output, trainer


@pytest.fixture
def stopped(unbroken, tmp_path) -> Path:
    """The run behind its sixth step."""
    output = Path(shutil.copytree(unbroken[0], tmp_path / "run"))
    for path in (output / "checkpoint-12", output / "checkpoint-15"):
        shutil.rmtree(path, ignore_errors=True)
    return output


def test_a_resumed_run_is_the_unbroken_one(model, data, unbroken, stopped, capsys):
    train(model, data, stopped, **FLAGS)
    assert "→" not in capsys.readouterr().err
    for name in ("loss_history.jsonl", "model.safetensors"):
        assert (stopped / name).read_bytes() == (unbroken[0] / name).read_bytes(), name


def test_the_figures_of_a_run(unbroken):
    """Samples are packs, tokens are real ones."""
    output, trainer = unbroken
    results, packs = json.loads((output / "train_results.json").read_text()), trainer.train_dataset
    tokens = results["train_tokens_per_second"] / results["train_samples_per_second"]
    assert tokens == pytest.approx(packs.mean_tokens, rel=1e-3)
    assert packs.mean_tokens * len(packs) == sum(len(packs._rows[row].ids) for row in range(ROWS))
    assert 0.8 < packs.real_share <= results["train_real_token_share"] < 1


def test_packing_pays(model, data, unbroken, tmp_path):
    train(model, data, tmp_path / "run", max_steps=20, save_steps=100)
    alone, packed = (
        json.loads((run / "train_results.json").read_text())["train_real_token_share"]
        for run in (tmp_path / "run", unbroken[0])
    )
    assert alone < packed


def test_another_length_is_said(model, data, unbroken, stopped, capsys):
    trainer = train(model, data, stopped, **FLAGS | {"max_length": 256, "max_steps": 12})
    said = capsys.readouterr().err
    row = json.loads((stopped / "checkpoint-6" / RECORD_NAME).read_text())["place"]["row"]
    assert "--max_length 128 → 256: from step 7 on" in said
    assert f"the run resumes in epoch 2 after its row {row}, and ends at step 12" in said and row > 4
    assert trainer.state.global_step == 12 and "39 rows in" in said


def test_packs_after_rows_are_said(model, data, tmp_path, capsys):
    train(model, data, tmp_path / "run", max_steps=6, save_steps=6)
    packed = FLAGS | {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 1}
    trainer = train(model, data, tmp_path / "run", **packed)
    said, ends = capsys.readouterr().err, trainer.state.global_step
    assert "--packing False → True: from step 7 on" in said and "--max_length None → 128: from step 7 on" in said
    place = "the run resumes in epoch 1 after its row 24"
    assert f"a step has 1 pack, and had 4 rows: {place}, and ends at step {ends}" in said
    held = [pack for batch in list(trainer._sampler)[-(ends - 6) :] for pack, _ in batch]
    assert 9 <= trainer.train_dataset.sizes[held].sum() <= 15
    assert [row["step"] for row in history(tmp_path / "run")] == list(range(1, ends + 1))


REFUSED = {
    "without packing": ({"packing": False}, "max_length is 128, and is the length of a pack: pass --packing True"),
    "nothing": ({"max_length": 0}, "max_length is 0, and must be at least 1"),
    "too short": (
        {"max_length": 38},
        r"train: \d+ of 39 rows are longer than max_length 38, the longest has \d+ tokens",
    ),
    "positions": ({"src_length": 200}, "src_length 200 and tgt_length 24 need position 199, and the model ends at 128"),
    "no batch": (
        {"dataloader_drop_last": True, "per_device_train_batch_size": 64},
        r"\d+ packs fill no batch of 64 on 1 replicas",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(model, data, tmp_path, name):
    flags, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as error:
        train(model, data, tmp_path / "run", **FLAGS | flags)
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("model.safetensors"))


def test_rows_that_are_too_long_are_left_out_and_said(model, data, tmp_path, capsys):
    trainer = train(model, data, tmp_path / "run", **FLAGS | {"max_length": 38, "max_steps": 1, "skip_bad_rows": True})
    kept = int(trainer.train_dataset.sizes.sum())
    said = capsys.readouterr().err
    assert 0 < kept < ROWS and f"{kept} rows in" in said
    assert f"train: rows left out: {ROWS - kept} longer than max_length 38, the longest has " in said


def test_a_pack_is_longer_than_the_learned_positions(model, data, tmp_path):
    """Positions are those of a row: the model has 128, and trains packs of 400."""
    trainer = train(model, data, tmp_path / "run", **FLAGS | {"max_length": 400, "max_steps": 2})
    assert max(len(trainer.train_dataset[pack, 1.0][0]) for pack in range(len(trainer.train_dataset))) > 5
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_packs_that_fill_no_step_are_said(model, data, tmp_path, capsys):
    """Thirteen packs are two steps of five, or four of four, of which the last is smaller."""
    cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 5, "max_steps": 2}
    trainer = train(model, data, tmp_path / "run", **FLAGS | cut)
    assert len(trainer.train_dataset) == 13
    said = "each epoch leaves out 3 of 13 packs, which fill no step of 5: choose smaller steps"
    assert said in capsys.readouterr().err
    train(model, data, tmp_path / "other", **FLAGS | {"max_steps": 1})
    assert "leaves out" not in capsys.readouterr().err


def test_evaluation_keeps_rows_apart(data, tmp_path, capsys):
    """Its loss is that of a run without packing whose weights are the same: of none that learns."""
    model = write_model(tmp_path / "steady", **NO_DROPOUT)
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "dev.json", sample_rows(7))
    shutil.copy(data, tmp_path / "data" / "train.json")
    flags = {"max_steps": 1, "do_eval": True, "num_beams": 1, "min_tgt_length": 0, "learning_rate": 0.0}
    found = []
    for packing in ({}, {"packing": True}):
        train(model, tmp_path / "data", tmp_path / f"run{len(found)}", **flags | packing)
        found.append(json.loads((tmp_path / f"run{len(found)}" / "eval_results.json").read_text()))
    assert found[0]["eval_loss"] == found[1]["eval_loss"] > 1
    streams = capsys.readouterr()
    assert "evaluation on 7 held-out rows" in streams.out and "packing acts" not in streams.err
    train(model, tmp_path / "data", tmp_path / "only", **flags | {"packing": True, "do_train": False})
    assert "packing acts in training alone: evaluation keeps rows apart" in capsys.readouterr().err
