"""Runs that must be the same run: accumulated, recomputed, in other batches; the schedule; the order of the rows."""

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from training_runs import NO_DROPOUT, encoded, history, losses, sample_rows, train, write_model, write_rows

import glm.model.network
import glm.training.trainer
from glm.encoding.dataset import EncodedDataset
from glm.encoding.examples import Example, TrainingExample
from glm.encoding.processor import GLMProcessor
from glm.errors import UsageError
from glm.training.sampler import EpochSampler
from glm.training.schedules import linear_schedule

pytestmark = pytest.mark.long
STEPS = {"max_steps": 12, "save_steps": 100}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def steady_model(tmp_path_factory) -> Path:
    """Without dropout, which draws other numbers for other batches."""
    return write_model(tmp_path_factory.mktemp("model") / "steady", **NO_DROPOUT)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", sample_rows(40))


def curve(*args, **flags) -> np.ndarray:
    output = args[2]
    train(*args, **STEPS | flags)
    return np.array(losses(output))


def test_accumulating_is_a_larger_batch(steady_model, data, tmp_path, monkeypatch):
    """Two batches of two rows, and one of four: the same losses, and so steps, though targets differ in length.

    With micro-batches that weigh the same, as PaddleNLP's Trainer has it, the losses differ by 6e-4.
    """
    whole = curve(steady_model, data, tmp_path / "whole", per_device_train_batch_size=4)
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    accumulated = curve(steady_model, data, tmp_path / "accumulated", **halves)
    assert len(accumulated) == len(whole) == 12
    assert np.abs(accumulated / whole - 1).max() < 1e-5
    smaller = curve(steady_model, data, tmp_path / "smaller", per_device_train_batch_size=2)
    assert np.abs(smaller / whole - 1).max() > 1e-3
    monkeypatch.setattr(glm.training.trainer.GLMTrainer, "compute_loss", equal_weights)
    unweighted = curve(steady_model, data, tmp_path / "unweighted", **halves)
    assert np.abs(unweighted / whole - 1).max() > 1e-4


def equal_weights(trainer, model, inputs, return_outputs=False):
    inputs.pop("token_weight")
    return model(**inputs, label_smoothing=trainer.label_smoothing)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_recomputing_changes_nothing(model, data, tmp_path, monkeypatch, lora):
    """With dropout: the second forward pass draws what the first drew. LoRA freezes what comes before the blocks."""
    plain = curve(model, data, tmp_path / "plain", lora=lora)
    calls = []
    recompute = glm.model.network.recompute
    monkeypatch.setattr(glm.model.network, "recompute", lambda *args: calls.append(args) or recompute(*args))
    again = curve(model, data, tmp_path / "again", lora=lora, recompute=True)
    assert len(calls) == 12 * 2
    assert np.abs(again / plain - 1).max() < 1e-6
    assert plain[-1] != plain[0]


def test_the_loss_falls_and_the_seed_decides(model, data, tmp_path):
    first = curve(model, data, tmp_path / "first", max_steps=40)
    again = curve(model, data, tmp_path / "again", max_steps=40)
    other = curve(model, data, tmp_path / "other", max_steps=40, seed=7)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first[-5:].mean() < first[:5].mean() - 0.3


def test_label_smoothing_reaches_the_loss(steady_model, data, tmp_path):
    """The first step, before anything was learned: the loss without smoothing, and the mean over the vocabulary."""
    runs = {e: curve(steady_model, data, tmp_path / str(e), label_smoothing=e)[0] for e in (0.0, 0.1, 0.5)}
    assert runs[0.1] - runs[0.0] == pytest.approx((runs[0.5] - runs[0.0]) / 5, rel=1e-3)
    assert runs[0.5] != runs[0.0]


def test_learning_rates_of_a_run(model, data, tmp_path):
    """Ten per cent of 20 steps up, then down to a tenth, which a step 20 would have."""
    train(model, data, tmp_path / "run", max_steps=20, save_steps=100, warmup_ratio=0.1, lr_decay_ratio=0.1)
    rates = [row["learning_rate"] for row in history(tmp_path / "run")]
    wanted = [0.0, 0.5, *(0.1 + 0.9 * (20 - step) / 18 for step in range(2, 20))]
    assert rates == pytest.approx([1e-3 * factor for factor in wanted], rel=1e-6)


@pytest.mark.parametrize("flags", [{"lr_scheduler_type": "constant"}, {"lr_scheduler_type": "cosine"}], ids=str)
def test_other_schedules_are_paddlenlps(model, data, tmp_path, flags):
    train(model, data, tmp_path / "run", max_steps=10, save_steps=100, **flags)
    rates = [row["learning_rate"] for row in history(tmp_path / "run")]
    cosine = [5e-4 * (1 + np.cos(np.pi * step / 10)) for step in range(10)]
    assert rates == pytest.approx(cosine if "cosine" in flags.values() else [1e-3] * 10, rel=1e-6)


@pytest.mark.parametrize(
    ("warmup", "steps", "ratio", "wanted"),
    [
        (4, 10, 0.1, {0: 0.0, 1: 0.25, 3: 0.75, 4: 1.0, 7: 0.55, 10: 0.1, 99: 0.1}),
        (0, 10, 0.0, {0: 1.0, 5: 0.5, 10: 0.0, 11: 0.0}),
        (0, 10, 1.0, {0: 1.0, 5: 1.0, 10: 1.0}),
        (10, 10, 0.1, {0: 0.0, 9: 0.9, 10: 0.1}),
    ],
)
def test_the_linear_schedule(warmup, steps, ratio, wanted):
    schedule = linear_schedule(2.0, warmup, steps, ratio)
    for step, factor in wanted.items():
        schedule.step(step)
        assert schedule.get_lr() == pytest.approx(2.0 * factor, abs=1e-12), step


def test_copies_of_key_value_heads_are_not_trained(model, data, tmp_path):
    trainer = train(model, data, tmp_path / "run", max_steps=1)
    trainer.model.config.tensor_parallel_degree = 8
    with pytest.raises(UsageError, match="degree 8 predicts but does not train with 4 key/value heads"):
        trainer.train()


def order(epoch: int, seed: int = 42, rank: int = 0, ranks: int = 1, size: int = 3, rows: int = 10) -> list[list[int]]:
    return [[row for row, _ in batch] for batch in shares(epoch, seed, rank, ranks, size, rows)]


def shares(epoch=0, seed=42, rank=0, ranks=1, size=3, rows=10, accumulation=1) -> list[list[tuple[int, float]]]:
    """Row i has i + 1 target tokens."""
    dataset = encoded(TrainingExample([0] * (2 + row), [False] + [True] * (1 + row)) for row in range(rows))
    sampler = EpochSampler(dataset, size, num_replicas=ranks, rank=rank, seed=seed, accumulation=accumulation)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize(("ranks", "size", "accumulation"), [(1, 3, 1), (1, 2, 2), (2, 2, 1), (2, 1, 2), (4, 1, 1)])
def test_every_target_token_of_a_step_weighs_the_same(ranks, size, accumulation):
    """The mean over replicas and micro-batches of (share · tokens) is 1, and the share is one number per step."""
    replicas = [shares(rank=rank, ranks=ranks, size=size, accumulation=accumulation) for rank in range(ranks)]
    for start in range(0, len(replicas[0]), accumulation):
        step = [row for batches in replicas for batch in batches[start : start + accumulation] for row in batch]
        assert len({share for _, share in step}) == 1
        weight = sum(share * (1 + row) for row, share in step) / (ranks * accumulation)
        assert weight == pytest.approx(1.0)


def test_micro_batches_that_fill_no_step_are_left_out():
    """Their gradients would otherwise be added to the next epoch's first step."""
    assert [len(shares(size=3, accumulation=a)) for a in (1, 2, 3, 4, 9)] == [4, 4, 3, 4, 4]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_the_order_of_the_rows():
    """Every row once an epoch; another order in the next; what it is, depends on nothing that ran before."""
    first = order(0)
    assert [len(batch) for batch in first] == [3, 3, 3, 1]
    assert sorted(flat(first)) == list(range(10))
    paddle.seed(5)
    np.random.seed(5)
    assert order(0) == first
    assert order(1) != first and order(0, seed=1) != first
    assert flat(order(0, size=2)) == flat(first)


def test_ranks_share_the_rows():
    """Each rank gets as many; the two rows that are short come from the beginning."""
    parts = [flat(order(0, rank=rank, ranks=4)) for rank in range(4)]
    assert [len(part) for part in parts] == [3] * 4
    assert set(flat(parts)) == set(range(10))


def test_the_evaluation_loss_is_the_mean_over_tokens(model, data, tmp_path):
    """Whatever the batches, without dropout and without label smoothing."""
    flags = {"do_eval": True, "num_beams": 1, "min_tgt_length": 0, "max_steps": 1}
    dev = write_rows(tmp_path / "dev.json", sample_rows(7))
    (tmp_path / "train.json").write_bytes(data.read_bytes())
    results, trainers = {}, {}
    for size in (1, 3, 7):
        output = tmp_path / str(size)
        trainers[size] = train(model, tmp_path, output, **flags, per_device_eval_batch_size=size)
        results[size] = json.loads((output / "eval_results.json").read_text())["eval_loss"]
    assert results[1] == pytest.approx(results[7], rel=1e-6) and results[3] == pytest.approx(results[7], rel=1e-6)
    assert results[7] == pytest.approx(mean_token_loss(trainers[7], dev), rel=1e-5)


def mean_token_loss(trainer, path: Path) -> float:
    """From the logits of the rows one by one."""
    processor, model = trainer.evaluation.processor, trainer.model
    model.eval()
    found = []
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        source = processor.source(f"答案：{row['answer']}，上下文：{row['context']}")
        target = processor.target(f" 在已知答案的前提下，问题：{row['question']}")
        batch = processor.training_batch([processor.row(source, target)])
        labels = batch.pop("labels")[0]
        logits = model(**{name: paddle.to_tensor(array) for name, array in batch.items()}).numpy()[0].astype("float64")
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        found += [-log_probs[column, label] for column, label in enumerate(labels) if label >= 0]
    return float(np.mean(found))


def test_an_encoded_dataset(tokenizer):
    processor = GLMProcessor(tokenizer, 8, 6)
    dataset = EncodedDataset([Example.of_pair("桥建于", "a"), Example.of_pair("a", "桥建于")], processor)
    assert len(dataset) == 2
    assert dataset[1, 0.5] == (processor.row(processor.source("a"), processor.target("桥建于")), 0.5)
    assert dataset.mean_tokens == (6 + 1 + 3 + 5 + 1 + 4) / 2


def test_a_package_that_scoring_lacks_is_said_before_anything_is_trained(model, tmp_path, monkeypatch):
    """Where only the loss is evaluated, or nothing is, it is not needed."""
    data = write_rows(tmp_path / "rows.json", sample_rows(4))
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UsageError, match=r"^scoring generated texts needs sacrebleu: "):
        train(model, data, tmp_path / "run", do_eval=True, max_steps=1)
    assert not (tmp_path / "run" / "loss_history.jsonl").exists()
    train(model, data, tmp_path / "run", do_eval=True, prediction_loss_only=True, max_steps=1)


def test_no_steps_are_none_of_an_epoch(steady_model, data, tmp_path):
    """PaddleNLP would take 0 for the whole of --num_train_epochs."""
    with pytest.raises(UsageError, match="max_steps is 0, and must be at least 1"):
        train(steady_model, data, tmp_path / "run", max_steps=0)
