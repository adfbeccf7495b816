"""GGUF files of our checkpoints; needs no llama.cpp, and the `gguf` package for one test."""

import json

import numpy as np
import pytest

from benchmarks.gguf_file import tensors, write_float
from benchmarks.gguf_names import gguf_names
from benchmarks.prepare import HUGGING_FACE, prepare
from benchmarks.settings import QUICK_SHAPES


def written(directory, shape: str):
    prepare(directory, QUICK_SHAPES[shape], ["transformers"])
    return directory / HUGGING_FACE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gguf"), "glm4")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    return written(tmp_path_factory.mktemp("sparse"), "glm4-moe")


def config_of(directory) -> dict:
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))


def test_every_tensor_has_one_place(checkpoint):
    config = config_of(checkpoint)
    found = dict(tensors(checkpoint, config))
    assert found["blk.1.attn_qkv.weight"].shape == ((4 + 2 * 2) * 32, config["hidden_size"])
    assert found["blk.0.ffn_up.weight"].shape == (2 * config["intermediate_size"], config["hidden_size"])
    sources = [source for names, _ in gguf_names(config).values() for source in names]
    assert len(set(sources)) == len(sources)


def test_experts_lie_on_top_of_each_other(sparse):
    from safetensors.numpy import load_file

    config, file = config_of(sparse), load_file(sparse / "model.safetensors")
    found = dict(tensors(sparse, config))
    assert found["blk.2.ffn_down_exps.weight"].shape == (8, config["hidden_size"], config["moe_intermediate_size"])
    expert = file["model.layers.2.mlp.experts.5.up_proj.weight"]
    assert np.array_equal(found["blk.2.ffn_up_exps.weight"][5], expert)
    assert found["blk.1.exp_probs_b.bias"].shape == (8,) and "blk.0.ffn_gate_inp.weight" not in found


def test_queries_lie_above_keys_above_values(checkpoint):
    from safetensors.numpy import load_file

    file = load_file(checkpoint / "model.safetensors")
    fused = dict(tensors(checkpoint, config_of(checkpoint)))["blk.0.attn_qkv.weight"]
    parts = np.split(fused, [4 * 32, 6 * 32])
    for part, letter in zip(parts, "qkv", strict=True):
        assert np.array_equal(part, file[f"model.layers.0.self_attn.{letter}_proj.weight"])


def test_a_tensor_without_a_name_is_refused(checkpoint):
    with pytest.raises(KeyError, match=r"no name for model.layers.1"):
        list(tensors(checkpoint, config_of(checkpoint) | {"num_hidden_layers": 1}))


def fields_of(checkpoint, target) -> tuple[dict, int]:
    """What a file says, and how many tensors it has."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is in the peers' environment only: make bench")
    write_float(checkpoint, target)
    reader = gguf.GGUFReader(target)
    return {name: field.contents() for name, field in reader.fields.items()}, len(reader.tensors)


def test_the_file_says_what_the_model_is(checkpoint, tmp_path):
    fields, count = fields_of(checkpoint, tmp_path / "f32.gguf")
    assert fields["general.architecture"] == "chatglm" and fields["chatglm.rope.dimension_count"] == 16
    assert fields["chatglm.attention.head_count_kv"] == 2 and fields["chatglm.vocab_size"] == 320
    assert count == 3 + 2 * 7


def test_the_file_says_what_the_experts_are(sparse, tmp_path):
    fields, count = fields_of(sparse, tmp_path / "f32.gguf")
    assert fields["general.architecture"] == "glm4moe" and fields["glm4moe.expert_used_count"] == 2
    assert fields["glm4moe.expert_weights_scale"] == pytest.approx(1.8) and fields["glm4moe.expert_weights_norm"]
    assert fields["glm4moe.expert_gating_func"] == 2 and fields["glm4moe.leading_dense_block_count"] == 1
    assert count == 3 + 3 * 9 + 3 + 2 * 8
