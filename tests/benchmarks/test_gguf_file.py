"""GGUF files of our checkpoints; needs no llama.cpp, and the `gguf` package for one test."""

import json

import numpy as np
import pytest

from benchmarks.gguf_file import gguf_names, tensors, write_float
from benchmarks.prepare import HUGGING_FACE, prepare
from benchmarks.settings import QUICK_SHAPES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gguf")
    prepare(directory, QUICK_SHAPES["glm4"], ["transformers"])
    return directory / HUGGING_FACE


def test_every_tensor_has_one_place(checkpoint):
    found = dict(tensors(checkpoint, 2))
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert found["blk.1.attn_qkv.weight"].shape == ((4 + 2 * 2) * 32, config["hidden_size"])
    assert found["blk.0.ffn_up.weight"].shape == (2 * config["intermediate_size"], config["hidden_size"])
    sources = [source for names in gguf_names(2).values() for source in names]
    assert len(set(sources)) == len(sources)


def test_queries_lie_above_keys_above_values(checkpoint):
    from safetensors.numpy import load_file

    file = load_file(checkpoint / "model.safetensors")
    fused = dict(tensors(checkpoint, 2))["blk.0.attn_qkv.weight"]
    parts = np.split(fused, [4 * 32, 6 * 32])
    for part, letter in zip(parts, "qkv", strict=True):
        assert np.array_equal(part, file[f"model.layers.0.self_attn.{letter}_proj.weight"])


def test_a_tensor_without_a_name_is_refused(checkpoint):
    with pytest.raises(KeyError, match=r"no name for model.layers.1"):
        list(tensors(checkpoint, 1))


def test_the_file_says_what_the_model_is(checkpoint, tmp_path):
    gguf = pytest.importorskip("gguf", reason="the gguf package is in the peers' environment only: make bench")
    write_float(checkpoint, tmp_path / "f32.gguf")
    reader = gguf.GGUFReader(tmp_path / "f32.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "chatglm" and fields["chatglm.rope.dimension_count"] == 16
    assert fields["chatglm.attention.head_count_kv"] == 2 and fields["chatglm.vocab_size"] == 320
    assert len(reader.tensors) == 3 + 2 * 7
