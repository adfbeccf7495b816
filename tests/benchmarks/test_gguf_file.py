"""GGUF files of our checkpoints; needs no llama.cpp, and the `gguf` package for some tests."""

import json

import numpy as np
import pytest

from benchmarks import gguf_file
from benchmarks.gguf_file import tensors, write_whole
from benchmarks.gguf_names import gguf_names
from benchmarks.prepare import HUGGING_FACE, prepare
from benchmarks.settings import QUICK_SHAPES
from benchmarks.stored_tensors import as_float32, stored_tensors


def written(directory, shape: str):
    prepare(directory, QUICK_SHAPES[shape], ["transformers"])
    return directory / HUGGING_FACE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gguf"), "glm4")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    return written(tmp_path_factory.mktemp("sparse"), "glm4-moe")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return written(tmp_path_factory.mktemp("large"), "glm4-9b")


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
    assert np.array_equal(found["blk.2.ffn_up_exps.weight"].read()[5], expert)
    assert found["blk.1.exp_probs_b.bias"].shape == (8,) and "blk.0.ffn_gate_inp.weight" not in found


def test_queries_lie_above_keys_above_values(checkpoint):
    from safetensors.numpy import load_file

    file = load_file(checkpoint / "model.safetensors")
    fused = dict(tensors(checkpoint, config_of(checkpoint)))["blk.0.attn_qkv.weight"].read()
    parts = np.split(fused, [4 * 32, 6 * 32])
    for part, letter in zip(parts, "qkv", strict=True):
        assert np.array_equal(part, file[f"model.layers.0.self_attn.{letter}_proj.weight"])


def test_a_tensor_without_a_name_is_refused(checkpoint):
    with pytest.raises(KeyError, match=r"no name for model.layers.1"):
        list(tensors(checkpoint, config_of(checkpoint) | {"num_hidden_layers": 1}))


def test_bfloat16_stays_and_norms_become_float32(large):
    import ml_dtypes

    config, stored = config_of(large), stored_tensors(large)
    found = dict(tensors(large, config))
    matrix, norm = found["blk.1.ffn_up.weight"], found["blk.1.ffn_norm.weight"]
    source = stored["model.layers.1.mlp.gate_up_proj.weight"]
    assert np.array_equal(matrix.read(), source) and matrix.read().dtype == "u2" and matrix.nbytes == source.nbytes
    source = stored["model.layers.1.post_attention_layernorm.weight"]
    assert np.array_equal(norm.read(), source.view(ml_dtypes.bfloat16).astype("float32"))
    assert norm.read().nbytes == norm.nbytes == 2 * source.nbytes and np.ptp(as_float32(source)) > 0
    for tensor in found.values():
        assert tensor.read().shape == tensor.shape and tensor.read().nbytes == tensor.nbytes


@pytest.mark.parametrize("kinds", [["q4_0"], ["bf16", "q4_0"]])
def test_what_nothing_needs_any_more_is_removed(tmp_path, monkeypatch, capsys, kinds):
    """In the order in which it becomes needless, so that the disk holds two copies of the weights at most."""
    there = []

    def write(source, folder):
        (folder / "bf16.gguf").write_bytes(b"whole")
        return folder / "bf16.gguf"

    def quantize(source, target, kind):
        there.append((source.exists(), (tmp_path / "hf").exists()))
        target.write_bytes(kind.encode())

    monkeypatch.setattr(gguf_file, "write_whole", write)
    monkeypatch.setattr(gguf_file, "quantize", quantize)
    (tmp_path / "hf").mkdir()
    gguf_file.main([str(tmp_path), *kinds, "--remove"])
    assert there == [(True, False)]
    assert sorted(json.loads(capsys.readouterr().out)) == [f"{kind}.gguf" for kind in kinds]


def fields_of(checkpoint, folder) -> tuple[dict, list]:
    """What a file says, and its tensors."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is in the peers' environment only: make bench")
    reader = gguf.GGUFReader(write_whole(checkpoint, folder))
    return {name: field.contents() for name, field in reader.fields.items()}, reader.tensors


def test_the_file_says_what_the_model_is(checkpoint, tmp_path):
    fields, found = fields_of(checkpoint, tmp_path)
    assert fields["general.architecture"] == "chatglm" and fields["chatglm.rope.dimension_count"] == 16
    assert fields["chatglm.attention.head_count_kv"] == 2 and fields["chatglm.vocab_size"] == 320
    assert len(found) == 3 + 2 * 7 and (tmp_path / "f32.gguf").is_file()


def test_the_file_says_what_the_experts_are(sparse, tmp_path):
    fields, found = fields_of(sparse, tmp_path)
    assert fields["general.architecture"] == "glm4moe" and fields["glm4moe.expert_used_count"] == 2
    assert fields["glm4moe.expert_weights_scale"] == pytest.approx(1.8) and fields["glm4moe.expert_weights_norm"]
    assert fields["glm4moe.expert_gating_func"] == 2 and fields["glm4moe.leading_dense_block_count"] == 1
    assert len(found) == 3 + 3 * 9 + 3 + 2 * 8


def test_a_file_of_bfloat16_has_the_bits_of_the_checkpoint(large, tmp_path):
    _, found = fields_of(large, tmp_path)
    written = {tensor.name: np.asarray(tensor.data) for tensor in found}
    for name, tensor in tensors(large, config_of(large)):
        assert written[name].tobytes() == tensor.read().tobytes(), name
    assert (tmp_path / "bf16.gguf").is_file()
