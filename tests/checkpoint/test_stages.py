"""PaddleNLP's files by pipeline stage: a stage holds some layers, under the names that they have in the whole model."""

import re

import numpy as np
import pytest
from checkpoint_samples import random_state, same_bits, tiny_config
from conversion_samples import convert, hf_directory
from safetensors.numpy import load_file
from shard_samples import parts_of

from glm.checkpoint import from_memory, load_state
from glm.checkpoint.write import write_pdparams
from glm.config.fields import PlainConfig
from glm.errors import GLMError

CONFIG = tiny_config(vocab_size=21, num_attention_heads=4, hidden_size=16, num_hidden_layers=3)
LAYER = re.compile(r"\blayers\.(\d+)\.")


def write_stages(directory, state, degree, ends, config=CONFIG, tied=""):
    """Write a file for every rank and stage, as PaddleNLP calls them.

    Args:
        ends: the layer behind the last one of every stage.
        tied: a stored name that the last stage holds too.
    """
    directory.mkdir(exist_ok=True)
    for rank, part in enumerate(parts_of(state, degree)):
        stored = from_memory(part, config, shards=degree)
        for stage, end in enumerate(ends):
            held = {name: array for name, array in stored.items() if stage_of(name, ends) == stage}
            held |= {tied: stored[tied]} if tied and stage == len(ends) - 1 else {}
            numbers = ([f"tp{rank:02d}"] if degree > 1 else []) + ([f"pp{stage:02d}"] if len(ends) > 1 else [])
            write_pdparams(directory / f"model_state.{'_'.join(numbers)}.pdparams", held)
            assert end > 0


def stage_of(name: str, ends: list[int]) -> int:
    layer = LAYER.search(name)
    if layer:
        return next(stage for stage, end in enumerate(ends) if int(layer[1]) < end)
    return 0 if "embed" in name else len(ends) - 1


@pytest.mark.parametrize("ends", [[1, 3], [2, 3], [1, 2, 3]])
@pytest.mark.parametrize("degree", [1, 2])
def test_stages_are_one_model(tmp_path, degree, ends):
    state = random_state(CONFIG, "bfloat16")
    write_stages(tmp_path, state, degree, ends)
    assert same_bits(load_state(tmp_path, CONFIG), state)
    for rank, part in enumerate(parts_of(state, 4)):
        assert same_bits(load_state(tmp_path, CONFIG, rank=rank, degree=4), part)


def test_they_are_converted(tmp_path):
    """GLM-4-0414 in files of two ranks and two stages, to transformers' file that it was made of."""
    source = hf_directory("glm4-g2-bias-rope1", tmp_path / "source")
    config = PlainConfig.from_pretrained(str(source))
    write_stages(tmp_path / "stages", load_state(source, config), 2, [1, 2], config)
    (tmp_path / "stages" / "config.json").write_bytes((source / "config.json").read_bytes())
    convert(tmp_path / "stages", tmp_path / "hf", "hf")
    assert same_bits(load_file(tmp_path / "hf" / "model.safetensors"), load_file(source / "model.safetensors"))


def test_a_tied_weight_on_two_stages(tmp_path):
    state = random_state(CONFIG)
    write_stages(tmp_path, state, 1, [1, 3], tied="glm.word_embeddings.weight")
    assert same_bits(load_state(tmp_path, CONFIG), state)
    last = {"glm.word_embeddings.weight": state["model.embed_tokens.weight"] + 1}
    write_pdparams(tmp_path / "model_state.pp02.pdparams", last)
    with pytest.raises(GLMError, match=r"pp00.pdparams and model_state.pp02.pdparams both hold glm.word_embeddings"):
        load_state(tmp_path, CONFIG)


@pytest.mark.parametrize(("degree", "name"), [(2, "tp01_pp00"), (2, "tp00_pp01"), (1, "pp00")])
def test_a_missing_stage(tmp_path, degree, name):
    write_stages(tmp_path, random_state(CONFIG), degree, [1, 2, 3])
    (tmp_path / f"model_state.{name}.pdparams").unlink()
    with pytest.raises(GLMError, match=rf"lacks model_state.{name}.pdparams of {3 * degree} ") as error:
        load_state(tmp_path, CONFIG)
    assert "\n" not in str(error.value)


def test_stages_of_another_model_rank(tmp_path):
    state = random_state(CONFIG)
    write_stages(tmp_path, state, 2, [1, 3])
    held = from_memory(parts_of(state, 2)[1], CONFIG, shards=2)
    held["glm.transformer.layers.0.input_layernorm.weight"] = np.zeros(16, "float32")
    stage = {name: array for name, array in held.items() if stage_of(name, [1, 3]) == 0}
    write_pdparams(tmp_path / "model_state.tp01_pp00.pdparams", stage)
    with pytest.raises(GLMError, match=r"input_layernorm\.weight differs from"):
        load_state(tmp_path, CONFIG)
