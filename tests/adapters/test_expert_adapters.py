"""Adapters of fused experts that PEFT made give the logits of transformers with PEFT."""

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file
from tiny_glm import relative_error

from glm import GLMForCausalLM
from glm.errors import GLMError
from glm.model.lora import load_lora, load_trainable_lora, merge_adapter
from tests.parity import fixture_files

ADAPTER = Path(__file__).parent / "fixtures" / "experts"
BASE = "glm4moe-air"


def opened() -> GLMForCausalLM:
    return GLMForCausalLM.from_pretrained(fixture_files.FIXTURES / BASE)


def error(model) -> float:
    case = fixture_files.load(BASE).case("right_padded")
    real = case["attention_mask"] == 1
    ids, mask, positions = (case[name] for name in ("input_ids", "attention_mask", "position_ids"))
    model.eval()
    inputs = [paddle.to_tensor(x) for x in (ids, mask, positions[:, None], np.zeros(len(ids), "int64"))]
    with paddle.no_grad():
        found = model(*inputs).numpy()
    return relative_error(found[real], load_file(ADAPTER / "results.safetensors")["logits"][real])


@pytest.mark.parametrize("way", [load_trainable_lora, load_lora, merge_adapter])
def test_peft_s_logits(way):
    assert error(opened()) > 0.1
    assert error(way(opened(), ADAPTER)) < 1e-5


def changed(directory: Path, **settings) -> Path:
    shutil.copytree(ADAPTER, directory)
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), encoding="utf-8")
    return directory


def test_other_parameters_are_refused(tmp_path):
    directory = changed(tmp_path / "other", target_parameters=["mlp.gate.weight"])
    with pytest.raises(GLMError, match=r"sets target_parameters, which is not supported: .* not of experts alone"):
        load_lora(opened(), directory)


def test_parameters_that_the_settings_do_not_name(tmp_path):
    directory = changed(tmp_path / "less", target_parameters=["mlp.experts.down_proj"])
    with pytest.raises(GLMError, match=r"does not name model.layers.1.mlp.experts.\d.gate_proj"):
        load_lora(opened(), directory)


def test_matrices_of_another_model(tmp_path):
    directory = changed(tmp_path / "wide")
    path = directory / "adapter_model.safetensors"
    arrays = load_file(path)
    name = "base_model.model.model.layers.1.mlp.experts.base_layer.lora_A.weight"
    save_file(arrays | {name: np.zeros((24, 31), "float32")}, path)
    with pytest.raises(GLMError, match=r"experts.base_layer has matrices \[31, 24\] and \[24, 48\], which 8 experts"):
        load_lora(opened(), directory)
