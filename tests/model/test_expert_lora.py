"""LoRA of experts: trained, saved in both forms, loaded, merged; and adapters of some experts, which are merged."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from family_models import write_family_model
from safetensors.numpy import load_file, save_file
from test_balance import batch
from tiny_glm import relative_error

from glm import GLMForCausalLM
from glm.api.loading import stream_weights
from glm.errors import GLMError
from glm.model.lora import add_lora, load_lora, load_trainable_lora, merge_adapter, merge_lora

ROWS = ([9, 30, 11, 45, 8], [50, 12, 13, 77])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_family_model(tmp_path_factory.mktemp("base") / "model", "glm4-moe")


def opened(base: Path) -> GLMForCausalLM:
    return GLMForCausalLM.from_pretrained(base)


def loss_of(model) -> float:
    model.eval()
    with paddle.no_grad():
        return float(model(**batch(ROWS)))


def trained(base: Path, targets: str = "experts"):
    """A few steps, after which both matrices are far from zero."""
    lora = add_lora(opened(base), 3, targets=targets)
    lora.train()
    optimizer = paddle.optimizer.AdamW(0.02, parameters=[p for p in lora.parameters() if not p.stop_gradient])
    for _ in range(4):
        lora(**batch(ROWS)).backward()
        optimizer.step()
        optimizer.clear_grad()
    return lora


@pytest.fixture(scope="module")
def lora(base):
    return trained(base)


def test_what_is_trained(base):
    for targets, experts in (("attention", False), ("all", False), ("experts", True)):
        names = {
            name
            for name, p in add_lora(opened(base), 3, targets=targets).model.named_parameters()
            if not p.stop_gradient
        }
        assert all(".lora_" in name for name in names)
        assert not [name for name in names if ".mlp.gate." in name]
        assert any(".mlp.experts." in name for name in names) == experts
        assert any(".shared_experts.gate_proj." in name for name in names) == (targets != "attention")
    shapes = {name: p.shape for name, p in add_lora(opened(base), 3, targets="experts").model.named_parameters()}
    assert shapes["model.layers.1.mlp.experts.down_proj.lora_A"] == [8, 24, 3]
    assert shapes["model.layers.1.mlp.experts.down_proj.lora_B"] == [8, 3, 32]


def test_a_fresh_adapter_changes_nothing_and_can_be_left_out(base, lora):
    before = loss_of(opened(base))
    assert loss_of(add_lora(opened(base), 3, targets="experts")) == before
    assert abs(loss_of(lora) - before) > 0.05
    with lora.without_adapter():
        assert loss_of(lora) == before


@pytest.mark.parametrize("peft", [False, True])
def test_saved_and_read_again(peft, base, lora, tmp_path):
    """To train on, merged into a model, and merged into weights that are streamed."""
    wanted = loss_of(lora)
    lora.save_pretrained(tmp_path, peft=peft)
    again = load_trainable_lora(opened(base), tmp_path)
    assert abs(loss_of(again) - wanted) < 1e-5
    merged = merge_adapter(opened(base), tmp_path)
    assert abs(loss_of(merged) - wanted) < 1e-5
    streamed = dict(stream_weights(base, tmp_path)[1])
    for name, weight in merged.state_dict().items():
        assert np.allclose(streamed[name], weight.numpy(), atol=1e-6), name
    file = "adapter_model.safetensors" if peft else "lora_model_state.pdparams"
    assert (tmp_path / file).is_file()
    if peft:
        names = load_file(tmp_path / file)
        assert "base_model.model.model.layers.1.mlp.experts.3.gate_proj.lora_A.weight" in names


def test_merged_into_the_model_itself(base):
    lora = trained(base)
    wanted = loss_of(lora)
    model = merge_lora(lora)
    assert abs(loss_of(model) - wanted) < 1e-5
    assert not [name for name in model.state_dict() if ".lora_" in name]


def test_an_adapter_of_some_experts_is_merged(base, lora, tmp_path):
    """As PEFT writes them for experts that are linear layers; a further training would need all."""
    lora.save_pretrained(tmp_path, peft=True)
    path = tmp_path / "adapter_model.safetensors"
    kept = {name: array for name, array in load_file(path).items() if ".experts." not in name or ".experts.3." in name}
    save_file(kept, path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    modules = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in kept}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": sorted(modules)}))
    before, model = opened(base), load_lora(opened(base), tmp_path)
    name = "model.layers.1.mlp.experts.up_proj.weight"
    moved = np.abs(model.state_dict()[name].numpy() - before.state_dict()[name].numpy()).max(axis=(1, 2))
    a, b = (kept[f"base_model.model.model.layers.1.mlp.experts.3.up_proj.lora_{part}.weight"] for part in "AB")
    change = (b @ a).T * 2.0
    assert np.flatnonzero(moved).tolist() == [3]
    wanted = before.state_dict()[name].numpy()[3] + change
    assert relative_error(model.state_dict()[name].numpy()[3], wanted) < 1e-6
    with pytest.raises(GLMError, match="cannot continue from an adapter with LoRA on some experts"):
        load_trainable_lora(opened(base), tmp_path)


def test_kinds_that_transformers_5_names_mean_no_experts(base, tmp_path):
    """There experts are no layers, so that gate_proj means those of dense and shared MLPs."""
    trained(base, "all").save_pretrained(tmp_path, peft=True)
    settings = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    kinds = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": kinds}))
    assert loss_of(load_trainable_lora(opened(base), tmp_path)) != loss_of(opened(base))


def test_a_model_without_experts_has_none_to_adapt():
    with pytest.raises(GLMError, match="lora_targets is experts, and this model has none: choose all"):
        add_lora(GLMForCausalLM.from_pretrained("glm-4-9b-0414-tiny"), 3, targets="experts")
