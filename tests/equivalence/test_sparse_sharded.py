"""Tensor parallelism inside experts: loss and every gradient of two simulated NPUs are one process's.

Each rank has a part of each expert, and so a part of the gradient of how much a choice weighs. AdamW hides a gradient
that is too small everywhere, so gradients are compared here, not losses of a run (test_family_sharded.py has those).
Without the sum over the ranks, the router's gradient is off by 0.87 of its largest number, those of the blocks below
by 0.05 to 0.18, and ranks differ by twice as much. Where the ranks divide the tokens, a weight whose gradient is
copied, and then added up as well, has twice its gradient: norms of queries and keys, the router, adapters of experts.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from family_models import write_family_model
from tiny_glm import relative_error

from glm.checkpoint import load_state
from glm.checkpoint.files import open_file
from glm.config.glm_config import GLMConfig
from tests.npu_simulator.launching import launch, needs_compiler

pytestmark = needs_compiler
HERE = Path(__file__).parent
SCRIPT = HERE / "scripts" / "expert_gradients.py"
# One-sided: no token chooses an expert of the second half, which one of two ranks has.
KINDS = ("full", "recomputed", "balanced", "one-sided", "LoRA", "LoRA of experts")
# How two ranks share the model: its weights; the 7 tokens of a row, too; its experts, and the 3 rows.
WAYS = ("weights", "tokens", "experts")


@pytest.fixture(scope="module", params=["glm4-moe", "glm4-moe-lite"])
def saved(request, tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    """The model, and what ranks have written in each way, their gradients and the model as they read it."""
    folder = tmp_path_factory.mktemp("ranks")
    model = write_family_model(folder / "model", request.param)
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    for ranks, ways in ((1, ["weights"]), (2, WAYS)):
        arguments = [str(model), str(folder / str(ranks)), *ways]
        result = launch(SCRIPT, ranks, folder / f"logs{ranks}", arguments, PYTHONPATH=path)
        assert result.code == 0, str(result)
    return model, {"one": folder / "1" / "weights"} | {way: folder / "2" / way for way in WAYS}


@pytest.fixture(scope="module")
def found(saved) -> dict[str, dict[str, np.ndarray]]:
    return {way: dict(np.load(output.with_suffix(".npz"))) for way, output in saved[1].items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_every_gradient(kind, way, found):
    fronts = tuple(f"{kind} {what}" for what in ("model", "loss", "apart"))
    one, two = ({name: array for name, array in found[n].items() if name.startswith(fronts)} for n in ("one", way))
    assert one.keys() == two.keys()
    gradients = [name for name in one if "apart" not in name and not name.endswith("k_proj.bias")]
    assert f"{kind} loss" in gradients
    for name in gradients:
        assert relative_error(two[name], one[name]) < 1e-5, name
    if kind == "one-sided":
        stack = next(array for name, array in two.items() if name.endswith("experts.up_proj.weight"))
        assert not stack[4:].any() and stack[:4].any()
    assert max(float(array) for name, array in two.items() if "apart" in name) == 0.0
    expected = {"mlp.gate.weight", "mlp.experts.down_proj.weight", "self_attn.o_proj.weight"}
    if "LoRA" in kind:
        expected = {"self_attn.o_proj.lora_A", "self_attn.o_proj.lora_B"}
    if kind == "LoRA of experts":
        parts = ("gate_proj.lora_A", "up_proj.lora_B", "down_proj.lora_A", "down_proj.lora_B")
        expected |= {f"mlp.experts.{part}" for part in parts}
    assert expected <= {".".join(name.split(".")[3:]) for name in gradients}
    norms = ("self_attn.q_norm.weight", "self_attn.kv_a_layernorm.weight")
    assert "LoRA" in kind or any(name.endswith(norms) for name in gradients)


@pytest.mark.parametrize("way", ["weights", "experts"])
def test_what_ranks_save_is_what_they_read(way, saved):
    """In both formats, bit for bit; one tensor an expert, in as many parts as ranks."""
    model, outputs = saved
    config = GLMConfig.from_pretrained(str(model))
    wanted = load_state(model, config)
    for form in ("safetensors", "pdparams"):
        found = load_state(outputs[way] / form, config)
        assert found.keys() == wanted.keys()
        assert all(found[name].tobytes() == array.tobytes() for name, array in wanted.items()), form
    index = json.loads((outputs[way] / "safetensors" / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
    assert index.keys() == set(open_file(model / "model.safetensors")) and len(set(index.values())) == 2
