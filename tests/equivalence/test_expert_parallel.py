"""Runs whose two data-parallel ranks divide the experts, or have them all, are the run of one process.

Losses differ by 7e-8, weights from those of plain replicas by 2e-6. With the experts' gradients left undivided by the
number of ranks the losses differ by 7e-5, with a norm of gradients in which each rank counts its own experts alone by
2e-5; weights by 4e-4 and 3e-3. (Of one step, every gradient: test_sparse_sharded.py.)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from family_models import write_family_model
from training_runs import arguments, losses, sample_rows, train, write_rows

from glm import GLMForCausalLM
from glm.checkpoint import load_state
from glm.checkpoint.files import open_file
from glm.config.glm_config import GLMConfig
from glm.distributed import expert_parallel
from glm.distributed.exchange_probe import probe_exchange
from glm.distributed.expert_parallel import ExpertRanks
from glm.errors import GLMError, UsageError
from glm.pickles.unpickle import load_pdparams
from glm.training.arguments import GLMTrainingArguments, parse_arguments
from tests.indexed_text import arguments as pretraining
from tests.indexed_text import random_documents, write_indexed
from tests.npu_simulator.launching import ROOT, launch, needs_compiler

SCRIPT = Path(__file__).parent / "scripts" / "finetune_runs.py"
STEPS = 8
COMMON = {
    "from_scratch": False,
    "max_steps": STEPS,
    "save_steps": 4,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "learning_rate": 3e-3,
}
BALANCED = {"router_bias_update_rate": 1e-2, "router_balance_loss": 0.5}
LORA = {"lora": True, "r": 4, "lora_targets": "experts", "learning_rate": 1e-2}
SHARED = {"expert_parallel_degree": 2}
FLAGS = {"balanced": BALANCED, "LoRA": LORA}
# What each of two ranks has.
RUNS = {
    "replicas, balanced": BALANCED | {"per_device_train_batch_size": 2},
    "experts, balanced": BALANCED | SHARED | {"per_device_train_batch_size": 2},
    "experts, LoRA": LORA | SHARED | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
}
# Run → whose middle checkpoint goes on, and as what.
RESUMED = {
    "experts, resumed": ("experts, balanced", "experts, balanced"),
    "experts, of replicas": ("replicas, balanced", "experts, balanced"),
    "replicas, of experts": ("experts, balanced", "replicas, balanced"),
    "experts, LoRA, resumed": ("experts, LoRA", "experts, LoRA"),
}


class Bench:
    """Runs of one process under one/, of several under the number of ranks."""

    def __init__(self, folder: Path):
        self.folder, self.model = folder, write_family_model(folder / "model", "glm4-moe")
        self.data = write_rows(folder / "train.json", sample_rows(32))
        self.own = COMMON | {"tokenizer_name_or_path": self.model}

    def alone(self, name: str) -> Path:
        """The run whose flags this one has, of one process."""
        kind = "LoRA" if "LoRA" in name else "balanced"
        output = self.folder / "one" / kind
        if not output.exists():
            train(self.model, self.data, output, **self.own | FLAGS[kind], device="cpu")
        return output

    def words(self, output: Path, **flags) -> list[str]:
        return arguments(self.model, self.data, output, **self.own | {"device": "npu", "bf16": False} | flags)

    def launch(self, ranks: int, lists: list[list[str]]) -> None:
        file = self.folder / f"runs-{ranks}-{len(lists)}.json"
        file.write_text(json.dumps(lists), encoding="utf-8")
        result = launch(SCRIPT, ranks, file.with_suffix(""), [str(file)], seconds=500)
        assert result.code == 0, str(result)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    """With the runs of two ranks."""
    bench = Bench(tmp_path_factory.mktemp("experts"))
    two, lists = bench.folder / "2", []
    for name, flags in RUNS.items():
        lists.append(bench.words(two / name, **flags))
    for name, (source, kind) in RESUMED.items():
        again = {"resume_from_checkpoint": two / source / "checkpoint-4"}
        lists.append(bench.words(two / name, **RUNS[kind] | again))
    bench.launch(2, lists)
    return bench


def weights(directory: Path) -> dict[str, np.ndarray]:
    """Of a model, or of an adapter."""
    adapter = directory / "lora_model_state.pdparams"
    if adapter.is_file():
        return load_pdparams(adapter)
    return load_state(directory, GLMConfig.from_pretrained(str(directory)))


def assert_same(found: Path, wanted: Path, apart: float) -> None:
    """Losses to 1e-6, and weights, of which softmax does not see the biases of keys."""
    one, two = (np.array(losses(path)) for path in (wanted, found))
    steps = min(len(one), len(two))
    assert steps >= STEPS // 2 and np.abs(two[-steps:] / one[-steps:] - 1).max() < 1e-6
    assert one[-1] < 0.99 * one[0]
    one, two = weights(wanted), weights(found)
    assert one.keys() == two.keys()
    for name in [name for name in one if not name.endswith("k_proj.bias")]:
        assert np.abs(two[name] - one[name]).max() < apart, name


@needs_compiler
@pytest.mark.parametrize("name", [*RUNS, *RESUMED])
def test_two_ranks_are_one_process(bench, name):
    """Losses, weights, adapters, and the biases that the load of all ranks has moved."""
    assert_same(bench.folder / "2" / name, bench.alone(name), 1e-4)
    if "LoRA" not in name:
        assert_same(bench.folder / "2" / name, bench.folder / "2" / "replicas, balanced", 1e-5)
        biases = next(array for weight, array in weights(bench.alone(name)).items() if "correction_bias" in weight)
        before = next(array for weight, array in weights(bench.model).items() if "correction_bias" in weight)
        assert np.abs(biases - before).max() > BALANCED["router_bias_update_rate"] * 1.5


@needs_compiler
@pytest.mark.parametrize("name", [name for name in RESUMED if not name.startswith("replicas")])
def test_a_resumed_run_is_the_uninterrupted_one(bench, name):
    """Bit for bit where the same ranks go on, which have saved each expert's state under the expert's name."""
    source, kind = RESUMED[name]
    resumed, straight = (weights(bench.folder / "2" / run) for run in (name, kind))
    exact = source == kind
    for weight, array in straight.items():
        assert np.array_equal(resumed[weight], array) if exact else np.abs(resumed[weight] - array).max() < 1e-5
    files = sorted(path.name for path in (bench.folder / "2" / kind / "checkpoint-4").glob("optimizer*"))
    assert files == ["optimizer.shard00.pdopt", "optimizer.shard01.pdopt"]
    states = [load_pdparams(bench.folder / "2" / kind / "checkpoint-4" / file) for file in files]
    moments = [{entry for entry in state if entry.endswith("moment1_0")} for state in states]
    assert not moments[0] & moments[1] and {entry for entry in moments[1] if ".mlp.experts." not in entry} == set()
    experts = [{int(e.split(".experts.")[1].split(".")[0]) for e in own if ".experts." in e} for own in moments]
    assert experts == [{0, 1, 2, 3}, {4, 5, 6, 7}]


@needs_compiler
def test_files_are_those_of_a_whole_model(bench):
    """One tensor an expert under its published name, in as many parts as ranks."""
    whole = json.loads((bench.folder / "2" / "experts, balanced" / "model.safetensors.index.json").read_text())
    alone = open_file(bench.folder / "2" / "replicas, balanced" / "model.safetensors")
    assert set(whole["weight_map"]) == set(alone) and len(set(whole["weight_map"].values())) == 2


@needs_compiler
@pytest.mark.slow
def test_several_ranks_have_the_same_experts(bench):
    """Of four ranks, two by two: the gradients of an expert are added up over the two that have it."""
    four = bench.folder / "4"
    flags = RUNS["experts, balanced"] | {"per_device_train_batch_size": 1}
    again = {"resume_from_checkpoint": four / "straight" / "checkpoint-4"}
    bench.launch(4, [bench.words(four / "straight", **flags), bench.words(four / "resumed", **flags | again)])
    for name in ("straight", "resumed"):
        assert_same(four / name, bench.alone("balanced"), 1e-4)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("degree", [2, 4])
def test_processors_share_experts(bench, degree):
    """Over Gloo, which has no all-to-all: four processes, two sets of experts or one."""
    output = bench.folder / f"cpu-{degree}"
    words = bench.words(
        output, **FLAGS["balanced"], device="cpu", per_device_train_batch_size=1, expert_parallel_degree=degree
    )
    logs = str(bench.folder / f"logs-{degree}")
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "4", "--log_dir", logs]
    command = [sys.executable, *launcher, str(ROOT / "finetune_generation.py"), *words]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("CUSTOM_DEVICE", "FLAGS_"))}
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    assert_same(output, bench.alone("balanced"), 1e-4)


@needs_compiler
@pytest.mark.slow
def test_half_precision_and_recompute(bench):
    """In bfloat16 both ways to share a batch round otherwise, and learn the same."""
    half = FLAGS["balanced"] | {"bf16": True, "per_device_train_batch_size": 2, "recompute": True}
    ways = {"O1": {}, "O2": {"fp16_opt_level": "O2"}}
    lists = []
    for name, way in ways.items():
        for kind, degree in (("replicas", -1), ("experts", 2)):
            lists.append(bench.words(bench.folder / kind / name, **half | way, expert_parallel_degree=degree))
    bench.launch(2, lists)
    for name in ways:
        one, two = (np.array(losses(bench.folder / kind / name)) for kind in ("replicas", "experts"))
        assert np.abs(two / one - 1).max() < 0.01 and one[-1] < 0.99 * one[0]


@needs_compiler
@pytest.mark.slow
def test_pretraining(tmp_path):
    data = write_indexed(tmp_path / "text", random_documents(60))
    model = write_family_model(tmp_path / "model", "glm4-moe", vocab_size=1000)
    flags = {"save_strategy": "no", "bf16": False, "model_name_or_path": model, "from_scratch": False}
    flags |= {"tokenizer_name_or_path": model, "device": "npu", "per_device_train_batch_size": 2}
    ways = {"replicas": {}, "experts": SHARED}
    lists = [pretraining(data, tmp_path / name, **flags | way) for name, way in ways.items()]
    (tmp_path / "runs.json").write_text(json.dumps(lists), encoding="utf-8")
    result = launch(SCRIPT, 2, tmp_path / "logs", [str(tmp_path / "runs.json")], seconds=400)
    assert result.code == 0, str(result)
    one, two = (np.array(losses(tmp_path / name)) for name in ways)
    assert np.abs(two / one - 1).max() < 1e-6 and one[-1] < 0.99 * one[0]


# refused


def test_an_exchange_that_fails_is_one_line(monkeypatch):
    """On whatever device: a rank that gets the rows of another expert says so before a model is loaded."""
    monkeypatch.setattr(ExpertRanks, "parts", lambda ranks, x: [x, x])
    monkeypatch.setattr(ExpertRanks, "group", None)
    monkeypatch.setattr(expert_parallel, "_exchanged", lambda x, sizes, group: x[: int(sizes[:, 0].sum())] + 1)
    with pytest.raises(
        GLMError,
        match=r"^the exchange .* fails between 2 cpus, on rank 0: gives .* instead of [^\n]*$",
    ):
        probe_exchange(2)


def refusal(monkeypatch, **flags) -> str:
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with pytest.raises(UsageError) as error:
        parse_arguments([GLMTrainingArguments], "", ["--output_dir", "output/none", "--device", "cpu", *words])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tensor_parallel_degree": 2}, "goes without tensor_parallel_degree 2: leave one of them out"),
        ({"sharding": "stage1"}, "goes without sharding stage1: leave one of them out"),
        ({"do_eval": True}, "goes without evaluation, in which ranks have texts of different lengths"),
        ({"do_predict": True}, "goes without evaluation"),
        ({"evaluation_strategy": "steps", "eval_steps": 2}, "goes without evaluation"),
        ({"do_export": True}, "goes without do_export"),
        ({"amp_master_grad": True}, "goes without amp_master_grad"),
        ({"expert_parallel_degree": 3}, "expert_parallel_degree is 3, and 4 processes were launched"),
        ({"expert_parallel_degree": -1, "use_expert_parallel": True}, "use --expert_parallel_degree, with a number"),
        ({"expert_parallel_degree": -1, "expert_tensor_parallel_degree": 2}, "expert_tensor_parallel_degree is 2"),
    ],
)
def test_what_does_not_go_together_is_refused(monkeypatch, flags, message):
    assert message in refusal(monkeypatch, **{"do_train": True, "expert_parallel_degree": 2} | flags)


def test_a_part_of_the_experts_only_trains(tmp_path):
    """It would wait for the other ranks, which may have more texts, or shorter ones."""
    path = write_family_model(tmp_path / "model", "glm4-moe")
    model = GLMForCausalLM.from_pretrained(path, expert_parallel_degree=2, expert_parallel_rank=1)
    model.eval()
    with pytest.raises(UsageError, match=r"2 ranks share the experts of this model .* save it, and load it whole"):
        model.generate(paddle.ones([1, 4], "int64"), max_new_tokens=2)
