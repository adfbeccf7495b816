"""Adapters trained on the fused layers of published checkpoints: packed per head, by groups, gate beside up.

Added to the stored tensors before the model is read, and read as an adapter and merged, they give the same weights.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_chat import KINDS, chat_model

from glm import GLMForCausalLM
from glm.checkpoint.names import table_of
from glm.model.lora import load_lora, merge_lora

R, ALPHA = 3, 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_adapter_is_cut_as_its_weight_is(kind, tmp_path):
    model = chat_model(kind)
    model.save_pretrained(tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    rows = [row for row in table_of(model.config).expand(model.config) if row.linear and len(row.memory) > 1]
    draw, adapter = np.random.default_rng(0), {}
    for row in (row for row in rows if row.stored.endswith("weight")):
        outputs, inputs = stored[row.stored].shape
        a, b = (draw.standard_normal(shape).astype("float32") * 0.3 for shape in ((R, inputs), (outputs, R)))
        stored[row.stored] = stored[row.stored] + ALPHA / R * b @ a
        layer = f"base_model.model.{row.stored.removesuffix('.weight')}"
        adapter |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
    assert adapter
    (tmp_path / "adapter").mkdir()
    save_file(adapter, tmp_path / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "target_modules": []}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    merged = merge_lora(load_lora(GLMForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"))
    save_file(stored, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    wanted = GLMForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    for name, weight in merged.state_dict().items():
        assert np.allclose(weight.numpy(), wanted[name].numpy(), atol=1e-5), name
