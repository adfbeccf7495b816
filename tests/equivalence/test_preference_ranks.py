"""Preference tuning on two simulated NPUs, as replicas, sharing the model or its tokens, is the run of one process.

The first run of each launch is resumed from its middle, so its history is that of the resumed one.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from preference_runs import history, lines_of, preference_arguments, tune, write_chat_model, write_data

from glm.training.preference_loss import FIGURES
from glm.training.run_directory import REFERENCE_NAME
from tests.npu_simulator.launching import launch, needs_compiler, run_alone

pytestmark = [needs_compiler, pytest.mark.slow]
SCRIPT = Path(__file__).parent / "scripts" / "finetune_runs.py"
LORA = {"lora": True, "r": 4, "lora_targets": "all", "learning_rate": 1e-2}
SHARED = {"tensor_parallel_degree": 2}
# Family, flags of the one process, and those that each of two ranks has besides. A launch has one way to be grouped.
RUNS = {
    "shared, full": ("glm4-0414", {}, SHARED),
    "shared, new adapter": ("glm4-remote", LORA, SHARED),
    "shared, old adapter": ("glm4-0414", {"lora_path": "old", "learning_rate": 1e-2}, SHARED),
    "tokens divided": ("glm4-0414", LORA, SHARED | {"sequence_parallel": True, "recompute": True}),
    "tokens divided, full": ("chatglm", {"loss_type": "orpo"}, SHARED | {"sequence_parallel": True}),
    "replicas, full": ("glm4-0414", {}, {"per_device_train_batch_size": 2}),
    "replicas, new adapter": (
        "glm4-0414",
        LORA,
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    ),
}
LAUNCHES = [
    [name for name in RUNS if not name.startswith("replicas")],
    [name for name in RUNS if name.startswith("replicas")],
]
COMMON = {"loss_type": "sigmoid", "do_eval": True, "max_steps": 6, "save_steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("preference-ranks")
    data = write_data(folder / "data")
    models = {family: write_chat_model(folder / family, family) for family in {family for family, *_ in RUNS.values()}}
    tune(models["glm4-0414"], data, folder / "old", **LORA, max_steps=3, device="cpu")
    lists = {}
    for name, (family, flags, two) in RUNS.items():
        own = COMMON | flags | ({"lora_path": folder / "old"} if "lora_path" in flags else {})
        tune(models[family], data, folder / "one" / name, **own, device="cpu")
        npu = {"device": "npu", "bf16": False}
        lists[name] = preference_arguments(models[family], data, folder / "two" / name, **own | two | npu)
    for number, names in enumerate(LAUNCHES):
        runs = folder / f"runs{number}.json"
        again = [[*lists[names[0]], "--resume_from_checkpoint", str(folder / "two" / names[0] / "checkpoint-3")]]
        runs.write_text(json.dumps([lists[name] for name in names] + again), encoding="utf-8")
        result = launch(SCRIPT, 2, folder / f"logs{number}", [str(runs)], seconds=500)
        assert result.code == 0, str(result)
        assert "resuming from" in result.logs[0] and "computed anew" not in result.logs[0]
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_are_one_process(folder, name):
    """Losses and figures of every step, and both evaluations."""
    one, two = (
        np.array([[row[name] for name in ("loss", *FIGURES)] for row in history(folder / side / name)])
        for side in ("one", "two")
    )
    assert one.shape == two.shape and len(one) == 6
    exact = [number for number, name in enumerate(("loss", *FIGURES)) if "accuracies" not in name]
    assert two[:, exact] == pytest.approx(one[:, exact], rel=2e-3, abs=2e-3)
    assert np.abs(one[-1] - one[0]).max() > 0.05
    before, after = (
        [row["eval_logps/chosen"] for row in lines_of(folder / side / name / "eval_history.jsonl")]
        for side in ("one", "two")
    )
    assert len(before) == 2 and after == pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("name", ["shared, full", "shared, old adapter", "replicas, full"])
def test_the_reference_is_kept_once(folder, name):
    one, two = (dict(np.load(folder / side / name / REFERENCE_NAME)) for side in ("one", "two"))
    assert one.keys() == two.keys() >= {"train", "dev"}
    for split in ("train", "dev"):
        assert two[split] == pytest.approx(one[split], rel=1e-4)
        assert str(one[f"{split}_key"]) == str(two[f"{split}_key"])


HALF = {
    "bfloat16, full": {"bf16": True},
    "bfloat16, new adapter": LORA | {"bf16": True},
    "float16 weights, full": {"bf16": False, "fp16": True, "fp16_opt_level": "O2", "learning_rate": 1e-4},
}


def test_half_precision_starts_where_the_reference_is(tmp_path):
    """On one simulated NPU: both compute in the same arithmetic, so the first step has margins of 0."""
    model, data = write_chat_model(tmp_path / "model"), write_data(tmp_path / "data")
    flags = COMMON | {"device": "npu", "max_steps": 3}
    lists = [preference_arguments(model, data, tmp_path / name, **flags | half) for name, half in HALF.items()]
    (tmp_path / "runs.json").write_text(json.dumps(lists), encoding="utf-8")
    result = run_alone(SCRIPT, str(tmp_path / "runs.json"))
    assert result.returncode == 0, result.stderr
    for name in HALF:
        first, *_, last = history(tmp_path / name)
        before = lines_of(tmp_path / name / "eval_history.jsonl")[0]
        assert before["eval_rewards/margins"] == 0, name
        assert first["loss"] == pytest.approx(np.log(2), abs=5e-3) and abs(first["rewards/margins"]) < 0.02, name
        assert last["loss"] < first["loss"], name
