"""Tensor parallelism inside experts: loss and every gradient of two simulated NPUs are one process's.

Each rank has a part of each expert, and so a part of the gradient of how much a choice weighs. AdamW hides a gradient
that is too small everywhere, so gradients are compared here, not losses of a run (test_family_sharded.py has those).
Without the sum over the ranks, the router's gradient is off by 0.87 of its largest number, those of the blocks below
by 0.05 to 0.18, and ranks differ by twice as much. Where the ranks divide the tokens, a weight whose gradient is
copied, and then added up as well, has twice its gradient: norms of queries and keys, the router, adapters of experts.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from family_models import write_family_model
from tiny_glm import relative_error

from tests.npu_simulator.launching import launch, needs_compiler

pytestmark = needs_compiler
HERE = Path(__file__).parent
SCRIPT = HERE / "scripts" / "expert_gradients.py"
KINDS = ("full", "recomputed", "balanced", "LoRA", "LoRA of experts")
# How two ranks share the model, beside one: its weights, or the tokens of its 7 to a row, too.
WAYS = {"one": (1, []), "two": (2, []), "divided": (2, ["divided"])}


@pytest.fixture(scope="module", params=["glm4-moe", "glm4-moe-lite"])
def found(request, tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("ranks")
    model = write_family_model(folder / "model", request.param)
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    results = {}
    for way, (ranks, words) in WAYS.items():
        output = folder / f"{way}.npz"
        result = launch(SCRIPT, ranks, folder / f"logs-{way}", [str(model), str(output), *words], PYTHONPATH=path)
        assert result.code == 0, str(result)
        results[way] = dict(np.load(output))
    return results


@pytest.mark.parametrize("way", ["two", "divided"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_every_gradient(kind, way, found):
    fronts = tuple(f"{kind} {what}" for what in ("model", "loss", "apart"))
    one, two = ({name: array for name, array in found[n].items() if name.startswith(fronts)} for n in ("one", way))
    assert one.keys() == two.keys()
    gradients = [name for name in one if "apart" not in name and not name.endswith("k_proj.bias")]
    assert f"{kind} loss" in gradients
    for name in gradients:
        assert relative_error(two[name], one[name]) < 1e-5, name
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
