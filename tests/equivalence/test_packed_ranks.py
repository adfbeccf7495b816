"""Runs of packs on two simulated NPUs, as replicas or sharing the model, are the run of one CPU process."""

import json
from pathlib import Path

import numpy as np
import pytest
from family_models import write_family_model
from training_runs import NO_DROPOUT, arguments, losses, sample_rows, train, write_model, write_rows

from tests.npu_simulator.launching import launch, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]
SCRIPT = Path(__file__).parent / "scripts" / "finetune_runs.py"
PACKED = {"packing": True, "max_length": 128, "save_strategy": "no", "max_steps": -1, "num_train_epochs": 3}
# Model, flags of the one process, and those of each of two ranks. A process is a replica or shares a model for good.
RUNS = {
    "shared": ("chatglm", {"lora": True}, {"lora": True, "tensor_parallel_degree": 2}),
    "replicas": ("glm", {"per_device_train_batch_size": 2}, {"per_device_train_batch_size": 1}),
    "replicas that accumulate": (
        "glm4-remote",
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    ),
}


LAUNCHES = (["shared"], ["replicas", "replicas that accumulate"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed-ranks")
    models = {name: write_family_model(folder / name, name) for name in ("chatglm", "glm4-remote")}
    models["glm"] = write_model(folder / "glm", **NO_DROPOUT)
    data, lists = write_rows(folder / "train.json", sample_rows(24)), {}
    for name, (kind, alone, two) in RUNS.items():
        own = {} if kind == "glm" else {"from_scratch": False, "tokenizer_name_or_path": models[kind]}
        train(models[kind], data, folder / "one" / name, **PACKED | own | alone, device="cpu")
        npu = {"device": "npu", "bf16": False}
        lists[name] = arguments(models[kind], data, folder / "two" / name, **PACKED | own | two | npu)
    for number, names in enumerate(LAUNCHES):
        runs = folder / f"runs{number}.json"
        runs.write_text(json.dumps([lists[name] for name in names]), encoding="utf-8")
        result = launch(SCRIPT, 2, folder / f"logs{number}", [str(runs)], seconds=400)
        assert result.code == 0, str(result)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_are_one_process(folder, name):
    one, two = (np.array(losses(folder / side / name)) for side in ("one", "two"))
    assert len(one) == len(two) >= 6 and np.abs(two / one - 1).max() < 1e-5
    assert np.abs(one / one[0] - 1).max() > 0.01
