"""Directories that the Hugging Face code of GLM (2021) saved: its config.json, and weights with its names.

glm_2021_configs.json holds what PretrainedConfig of three releases writes for a class with the fields of that code's
GLMConfig: as saved, and with every field that it has.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_samples import write_torch_bin
from conversion_samples import convert
from safetensors.numpy import load_file, save_file
from tiny_glm import scatter

from glm import GLMConfig, GLMForCausalLM
from glm.api.loading import stream_weights
from glm.checkpoint import from_memory
from glm.model.parameters import as_numpy

CONFIGS = json.loads(Path(__file__).with_name("glm_2021_configs.json").read_text("utf-8"))
SAVED = "saved by transformers 4.30.2"


def weights_of(model, prefix: str) -> dict[str, np.ndarray]:
    """As torch stores them: of the model with a head "glm." stands in front, of the bare GLMModel nothing does."""
    state = {name: as_numpy(parameter) for name, parameter in model.named_parameters()}
    stored = from_memory(state, model.config, torch_layout=True)
    return {prefix + name.removeprefix("glm."): np.ascontiguousarray(array) for name, array in stored.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> GLMForCausalLM:
    directory = tmp_path_factory.mktemp("config")
    (directory / "config.json").write_text(json.dumps(CONFIGS[SAVED]), encoding="utf-8")
    model = GLMForCausalLM.from_pretrained(directory, from_scratch=True, dtype="float32")
    scatter(model, seed=1, spread=0.1)
    return model


def write(directory: Path, model, fields: dict, prefix: str = "glm.", torch_bin: bool = False) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    weights = weights_of(model, prefix)
    if torch_bin:
        write_torch_bin(directory / "pytorch_model.bin", weights)
    else:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_the_model_is_read(fields, model, tmp_path, caplog):
    """Without a word: the class's own fields are known."""
    directory = write(tmp_path / "saved", model, fields)
    found = GLMForCausalLM.from_pretrained(directory, dtype="float32")
    assert (found.config.max_position_embeddings, found.config.num_hidden_layers) == (1024, 3)
    for (name, ours), (_, theirs) in zip(found.named_parameters(), model.named_parameters(), strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy()), name
    assert "config.json" not in caplog.text
    assert GLMConfig.from_pretrained(str(directory)).dtype == "float16"


@pytest.mark.parametrize("torch_bin", [False, True])
@pytest.mark.parametrize("prefix", ["glm.", ""], ids=["with a head", "bare"])
def test_names_of_the_model_with_a_head_and_without(prefix, torch_bin, model, tmp_path):
    directory = write(tmp_path / "saved", model, CONFIGS[SAVED], prefix, torch_bin)
    found = GLMForCausalLM.from_pretrained(directory, dtype="float32")
    streamed = dict(stream_weights(directory)[1])
    for name, parameter in model.named_parameters():
        assert np.array_equal(found.state_dict()[name].numpy(), parameter.numpy()), name
        assert np.array_equal(streamed[name], parameter.numpy()), name


def test_conversion_keeps_every_field(model, tmp_path):
    fields = CONFIGS["every field of transformers 4.30.2"]
    source = write(tmp_path / "saved", model, fields)
    convert(source, tmp_path / "paddle", "paddle")
    convert(tmp_path / "paddle", tmp_path / "back", "hf")
    assert json.loads((tmp_path / "back" / "config.json").read_text("utf-8")) == fields
    weights, back = weights_of(model, "glm."), load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], weights[name]) for name in weights)
