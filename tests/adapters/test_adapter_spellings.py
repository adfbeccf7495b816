"""Adapter files and paths as people have them: other spellings of the same adapter, and places beside one."""

import json
import shutil

import pytest
from adapter_side import error_of, streamed_state
from safetensors.numpy import load_file, save_file
from test_adapter_files import BASE, READ, copy_of, refusal
from test_adapters import base_of


def test_other_ways_to_write_the_same_settings(tmp_path):
    """A byte order mark, whole numbers as floats, PEFT's own names in another case."""
    same = copy_of("plain", tmp_path / "a", r=2.0, lora_alpha=3.0, peft_type="lora", use_rslora=0, lora_dropout=None)
    path = same / "adapter_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert error_of(streamed_state(BASE, same)[0], streamed_state(BASE, READ / "plain")[0]) == 0


@pytest.mark.parametrize("front", ["base_model.model.", "module.", "module.base_model.model._orig_mod."])
def test_names_of_a_model_that_was_wrapped_again(front, tmp_path):
    adapter = copy_of("modules_to_save", tmp_path / "a")
    path = adapter / "adapter_model.safetensors"
    save_file({front + name: array for name, array in load_file(path).items()}, path)
    assert error_of(streamed_state(BASE, adapter)[0], streamed_state(BASE, READ / "modules_to_save")[0]) == 0


def test_a_file_without_matrices(tmp_path):
    adapter = copy_of("plain", tmp_path / "a")
    save_file({}, adapter / "adapter_model.safetensors")
    message = refusal(adapter)
    assert "lacks model.layers.0.mlp.down_proj.lora_A (18 such), which adapter_config.json names" in message
    assert "another model" not in message


def test_a_path_beside_the_adapter_says_where_it_is(tmp_path):
    adapter = copy_of("plain", tmp_path / "run" / "checkpoint-10")
    assert f"it is a file, so give its directory, {adapter}" in refusal(adapter / "adapter_model.safetensors")
    assert f"did you mean {adapter}?" in refusal(tmp_path / "run")
    assert "there is no such directory" in refusal(tmp_path / "nowhere")


def test_an_initialisation_of_a_tied_head_is_refused(tmp_path):
    """PEFT takes its part out of the embedding as well, and saves one of the two."""
    adapter = tmp_path / "a"
    shutil.copytree(READ / "tied__lm_head", adapter)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "pissa"}))
    assert "init_lora_weights pissa of a tied head is not supported" in refusal(adapter, base_of("glm4-tied"))
