"""A model on many devices is the model on one: the same losses, weights, texts and checkpoints.

The runs are real ones, on the simulated NPU under Paddle's launcher, with the weights of one CPU process as the
reference. What a broken variant gives: without the sum of the gradients before a column-parallel layer (`Ranks.copy` in
the head) the losses differ by 3e-3 from step 2 on; with the ranks' label smoothing left unscaled, by 5e-2 at step 1.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_runs import NO_DROPOUT, ROOT, arguments, losses, sample_rows, train, write_model, write_rows

from glm.checkpoint import load_state
from glm.config.glm_config import GLMConfig
from glm.pickles.unpickle import load_pdparams
from tests.npu_simulator.launching import launch, needs_compiler

pytestmark = needs_compiler
SCRIPTS = Path(__file__).parent / "scripts"
# 4 does not divide 386.
MODEL = NO_DROPOUT | {"vocab_size": 386}
COMMON = {
    "max_steps": 20,
    "save_steps": 10,
    "per_device_eval_batch_size": 4,
    "do_eval": True,
    "num_beams": 1,
    "min_tgt_length": 0,
    "label_smoothing": 0.1,
}
LORA = {"lora": True, "r": 4, "lora_targets": "all", "learning_rate": 1e-2}
RUNS = {
    "full": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "LoRA": LORA,
    "recomputed, accumulated": {"recompute": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
}
DROPOUT = {"do_eval": False, "lora": True, "lora_dropout": 0.1}


class Bench:
    """Reference runs of one CPU process, and runs on many simulated devices beside them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = write_model(folder / "model", **MODEL)
        self.dropout_model = write_model(folder / "dropout_model")
        (folder / "data").mkdir()
        write_rows(folder / "data" / "train.json", sample_rows(44))
        write_rows(folder / "data" / "dev.json", sample_rows(6))

    def flags(self, name: str, **more) -> dict:
        return COMMON | RUNS.get(name.split(":")[0], {}) | more

    def reference(self, name: str) -> Path:
        output = self.folder / "reference" / name
        if not output.exists():
            train(self.model, self.folder / "data", output, **self.flags(name, device="cpu"))
        return output

    def launch(self, title: str, ranks: int, runs: dict[str, dict], script: str = "finetune_runs.py") -> Path:
        """Runs by name, one after another in each rank; returns the folder of their outputs."""
        folder = self.folder / title
        folder.mkdir()
        data, own = self.folder / "data", {"device": "npu", "bf16": False}
        lists = [
            arguments(self.model, data, folder / name, **self.flags(name, **own | more)) for name, more in runs.items()
        ]
        (folder / "runs.json").write_text(json.dumps(lists), encoding="utf-8")
        result = launch(SCRIPTS / script, ranks, folder / "logs", [str(folder / "runs.json")], seconds=400)
        assert result.code == 0, str(result)
        return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def two(bench) -> Path:
    """Tensor parallel 2: every kind of run, and one that resumes from a single device's checkpoint."""
    resumed = bench.reference("full") / "checkpoint-10"
    runs = {name: {} for name in RUNS} | {
        "full:shards": {"weight_format": "pdparams"},
        "full:resumed": {"resume_from_checkpoint": resumed},
        "full:divided": {"sequence_parallel": True},
        "recomputed, accumulated:delayed": {"tensor_parallel_config": "enable_delay_scale_loss", "save_steps": 100},
    }
    dropout = DROPOUT | {"model_name_or_path": bench.dropout_model}
    runs |= {
        "dropout": dropout,
        "dropout:recomputed": dropout | {"recompute": True},
        "dropout:resumed": dropout | {"resume_from_checkpoint": bench.folder / "two" / "dropout" / "checkpoint-10"},
    }
    return bench.launch("two", 2, {name: more | {"tensor_parallel_degree": 2} for name, more in runs.items()})


@pytest.fixture(scope="module")
def four(bench, two) -> Path:
    """Tensor parallel 4, with runs that resume from checkpoints of degree 2."""
    runs = {
        "full": {},
        "LoRA:resumed": {"resume_from_checkpoint": two / "LoRA" / "checkpoint-10"},
        "full:resumed": {"resume_from_checkpoint": two / "full:shards" / "checkpoint-10"},
    }
    return bench.launch("four", 4, {name: more | {"tensor_parallel_degree": 4} for name, more in runs.items()})


def predictions(output: Path) -> list[str]:
    lines = (output / "eval_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def assert_same_run(bench: Bench, output: Path, steps: int = 20) -> None:
    """Losses to 1e-5, and the generated texts."""
    reference = bench.reference(output.name.split(":")[0])
    found, wanted = np.array(losses(output)[-steps:]), np.array(losses(reference)[-steps:])
    assert len(found) == steps
    assert np.abs(found / wanted - 1).max() < 1e-5
    assert wanted[-1] < 0.99 * losses(reference)[0]
    assert predictions(output) == predictions(reference)
    assert len(set(predictions(output))) > 1


def test_delayed_scaling_of_the_loss_is_the_same_run(bench, two):
    """PaddleNLP then divides gradients by the accumulated micro-batches; the history divides their losses itself."""
    assert_same_run(bench, two / "recomputed, accumulated:delayed")


@pytest.mark.parametrize("name", RUNS)
def test_tensor_parallel_2_is_one_device(bench, two, name):
    assert_same_run(bench, two / name)


def test_sequence_parallel_2_is_one_device(bench, two):
    """Checkpoints say nothing of it."""
    assert_same_run(bench, two / "full:divided")
    divided = [line == "divided true" for line in (two / "logs" / "workerlog.0").read_text().splitlines()]
    assert sum(divided) == 1
    found, wanted = (sorted(path.name for path in (two / name).glob("*")) for name in ("full:divided", "full"))
    assert found == wanted
    assert_close(weights(two / "full:divided"), weights(two / "full"))
    assert (two / "full:divided" / "config.json").read_text() == (two / "full" / "config.json").read_text()


@pytest.mark.slow
def test_tensor_parallel_4_is_one_device(bench, four):
    assert_same_run(bench, four / "full")


@pytest.mark.parametrize("title", ["two", "four"])
def test_a_run_continues_at_another_degree(bench, request, title):
    """From one device to two ranks, and from two ranks to four: weights, moments, schedule and history."""
    assert_same_run(bench, request.getfixturevalue(title) / "full:resumed", steps=10)


def test_lora_continues_at_another_degree(bench, four):
    assert_same_run(bench, four / "LoRA:resumed", steps=10)


def test_one_device_continues_from_shards(bench, two, tmp_path):
    checkpoint = two / "full:shards" / "checkpoint-10"
    flags = bench.flags("full", device="cpu", resume_from_checkpoint=checkpoint)
    train(bench.model, bench.folder / "data", tmp_path / "full", **flags)
    assert_same_run(bench, tmp_path / "full", steps=10)


def test_dropout_is_drawn_again_alike(two):
    """When a block is recomputed, and in a run that resumes; heads draw on each rank for themselves."""
    unbroken, recomputed, resumed = (
        np.array(losses(two / f"dropout{kind}")) for kind in ("", ":recomputed", ":resumed")
    )
    assert np.abs(recomputed / unbroken - 1).max() < 1e-6
    assert np.array_equal(resumed[-10:], unbroken[-10:])


def weights(directory: Path) -> dict[str, np.ndarray]:
    return load_state(directory, GLMConfig.from_pretrained(str(directory)))


def assert_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() < 1e-4, name


def test_what_the_ranks_save_is_one_model(bench, two, four):
    """Shards and parts: files as expected, the same weights as each other and as one device's."""
    assert sorted(path.name for path in (two / "full:shards").glob("model*")) == [
        "model_state.tp00.pdparams",
        "model_state.tp01.pdparams",
    ]
    assert len(list((four / "full").glob("model-0000?-of-00004.safetensors"))) == 4
    shards, parts = weights(two / "full:shards"), weights(two / "full")
    assert all(np.array_equal(shards[name], parts[name]) for name in parts)
    reference = weights(bench.reference("full"))
    assert_close(parts, reference)
    assert_close(weights(four / "full"), reference)
    assert reference["model.embed_tokens.weight"].shape == (386, 32)


def test_an_adapter_has_no_degree(bench, two):
    """One file, with whole matrices and without a trace of the ranks."""
    found, wanted = (
        load_pdparams(path / "LoRA" / "lora_model_state.pdparams") for path in (two, bench.folder / "reference")
    )
    assert_close(found, wanted)
    assert json.loads((two / "LoRA" / "lora_config.json").read_text())["tensor_parallel_degree"] == 1


REPLICAS = {
    "2x2": (4, {"tensor_parallel_degree": 2}),
    "2x2 with sharding": (4, {"tensor_parallel_degree": 2, "sharding": "stage1"}),
    "data parallel 2": (2, {}),
    "sharding stage 1": (2, {"sharding": "stage1"}),
    "sharding stage 2": (2, {"sharding": "stage2"}),
}


def replicas(bench: Bench, title: str) -> Path:
    """Half the rows on each of two replicas; a run, one that resumes from its middle, and LoRA with dropout."""
    ranks, more = REPLICAS[title]
    half = more | {"per_device_train_batch_size": 2}
    runs = {
        "full": half,
        "full:resumed": half | {"resume_from_checkpoint": bench.folder / title / "full" / "checkpoint-10"},
        "dropout": half | DROPOUT | {"model_name_or_path": bench.dropout_model},
    }
    return bench.folder / title if (bench.folder / title).exists() else bench.launch(title, ranks, runs)


# What each of them does is part of another one, or takes four processes.
SLOW = ("2x2", "2x2 with sharding", "data parallel 2")


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=[pytest.mark.slow] * (title in SLOW)) for title in REPLICAS]
)
def test_replicas_are_one_device(bench, title):
    """Although their rows' targets differ in length."""
    folder = replicas(bench, title)
    assert_same_run(bench, folder / "full")
    assert_same_run(bench, folder / "full:resumed", steps=10)


def test_ranks_stay_one_model_when_dropout_continues_elsewhere(bench):
    """From two sharding replicas to two tensor-parallel ranks, which must drop the same elements.

    With the random states that the replicas saved, the ranks' adapters drift apart by 9e-3.
    """
    checkpoint = replicas(bench, "sharding stage 1") / "dropout" / "checkpoint-10"
    run = DROPOUT | {"model_name_or_path": bench.dropout_model, "tensor_parallel_degree": 2}
    runs = {"dropout": run | {"resume_from_checkpoint": checkpoint}}
    bench.launch("elsewhere", 2, runs, script="same_on_all_ranks.py")


def test_two_processes_on_the_cpu_are_one(bench):
    """Data parallel without any device, over gloo."""
    folder = bench.folder / "cpu"
    flags = bench.flags("full", device="cpu", per_device_train_batch_size=2, do_eval=False)
    script = [
        str(ROOT / "finetune_generation.py"),
        *arguments(bench.model, bench.folder / "data", folder / "full", **flags),
    ]
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(folder / "logs")]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("CUSTOM_DEVICE", "FLAGS_"))
    }
    result = subprocess.run([sys.executable, *launcher, *script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found, wanted = losses(folder / "full"), losses(bench.reference("full"))
    assert np.abs(np.array(found) / wanted - 1).max() < 1e-5
