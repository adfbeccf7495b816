"""Files of models with experts: a tensor an expert, fused ones, 8-bit numbers, layers that predict a token more."""

import json
import shutil
from pathlib import Path

import fixture_files
import ml_dtypes
import numpy as np
import pytest
from checkpoint_samples import same_bits
from conversion_samples import convert, hf_directory
from fp8_samples import write_fp8
from safetensors.numpy import load_file, save_file

from glm import GLMForCausalLM
from glm.checkpoint import load_state, open_checkpoint, read
from glm.checkpoint.expert_stacks import expert_name, stack_name, unstacked
from glm.config.glm_config import GLMConfig
from glm.errors import GLMError

NAME = "glm4moe-groups-qknorm"  # 3 layers, the first one dense
LAYER = "model.layers.3."  # behind the last


@pytest.fixture
def source(request, tmp_path) -> Path:
    return hf_directory(getattr(request, "param", NAME), tmp_path / "source")


either_attention = pytest.mark.parametrize("source", [NAME, "glm4lite-widths"], indirect=True)


def tensors(directory: Path) -> dict[str, np.ndarray]:
    return load_file(directory / "model.safetensors")


def rewrite(directory: Path, arrays: dict[str, np.ndarray], **fields) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, directory / "model.safetensors", metadata={"format": "pt"})
    change_config(directory, **fields)


def change_config(directory: Path, **fields) -> None:
    content = json.loads((directory / "config.json").read_text("utf-8"))
    (directory / "config.json").write_text(json.dumps(content | fields), encoding="utf-8")


def state_of(directory: Path) -> dict[str, np.ndarray]:
    return load_state(directory, GLMConfig.from_pretrained(str(directory)))


def test_an_expert_s_name_and_its_stack_s():
    name = "model.layers.46.mlp.experts.127.gate_proj.weight"
    assert stack_name(name) == "model.layers.46.mlp.experts.gate_proj.weight"
    assert expert_name(stack_name(name), 127) == name
    for other in ("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.shared_experts.up_proj.weight"):
        assert stack_name(other) == other


def test_every_expert_stands_in_its_place(source):
    stored, state = tensors(source), state_of(source)
    stack = state["model.layers.2.mlp.experts.down_proj.weight"]
    assert stack.shape == (8, 24, 32)
    for expert in range(8):
        assert np.array_equal(stack[expert].T, stored[f"model.layers.2.mlp.experts.{expert}.down_proj.weight"])


def fused(arrays: dict[str, np.ndarray], suffix: str) -> dict[str, np.ndarray]:
    """As transformers 5 holds them."""
    rest = {name: array for name, array in arrays.items() if ".mlp.experts." not in name}
    for i in (1, 2):
        front = f"model.layers.{i}.mlp.experts"
        gate, up, down = (
            np.stack([arrays[f"{front}.{e}.{part}_proj.weight"] for e in range(8)]) for part in ("gate", "up", "down")
        )
        rest[f"{front}.gate_up_proj{suffix}"] = np.concatenate([gate, up], axis=1)
        rest[f"{front}.down_proj{suffix}"] = down
    return rest


@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_fused_experts_are_read_and_written_apart(suffix, source, tmp_path):
    wanted, state = tensors(source), state_of(source)
    rewrite(source, fused(wanted, suffix))
    assert same_bits(state_of(source), state)
    convert(source, tmp_path / "target", "hf")
    assert same_bits(tensors(tmp_path / "target"), wanted)


def test_a_fused_tensor_that_is_none(source):
    arrays = fused(tensors(source), "")
    arrays["model.layers.1.mlp.experts.gate_up_proj"] = arrays["model.layers.1.mlp.experts.gate_up_proj"][:, :47]
    rewrite(source, arrays)
    with pytest.raises(GLMError, match=r"gate_up_proj is \[8, 47, 32\], expected \[experts, 2 x rows, columns\]$"):
        open_checkpoint(source)


def test_a_missing_expert_is_named(source):
    arrays = tensors(source)
    del arrays["model.layers.2.mlp.experts.5.up_proj.weight"]
    rewrite(source, arrays)
    with pytest.raises(GLMError, match=r"lacks model.layers.2.mlp.experts.5.up_proj.weight \(1 of 8 experts\)"):
        state_of(source)


def test_experts_that_the_configuration_does_not_count(source):
    change_config(source, n_routed_experts=4)
    with pytest.raises(GLMError, match=r"does not fit the model: .*unexpected: model.layers.1.mlp.experts.4.down_proj"):
        GLMForCausalLM.from_pretrained(source)


def test_a_rank_reads_its_part_of_each_expert(source):
    config = GLMConfig.from_pretrained(str(source))
    whole = load_state(source, config)
    parts = [load_state(source, config, rank=rank, degree=2) for rank in range(2)]
    for name, axis in (("gate_proj", 2), ("up_proj", 2), ("down_proj", 1)):
        name = f"model.layers.1.mlp.experts.{name}.weight"
        assert np.array_equal(np.concatenate([part[name] for part in parts], axis=axis), whole[name])
    for name in ("gate.weight", "gate.e_score_correction_bias"):
        assert all(
            np.array_equal(part[f"model.layers.1.mlp.{name}"], whole[f"model.layers.1.mlp.{name}"]) for part in parts
        )


def test_a_rank_reads_its_experts_alone(source, monkeypatch):
    """Of expert parallelism: no file's tensor of another expert is opened."""
    opened = set()
    original = read.read_row

    def watched(row, *arguments, **options):
        opened.add(row.memory[0])
        return original(row, *arguments, **options)

    config = GLMConfig.from_pretrained(str(source))
    whole = load_state(source, config)
    monkeypatch.setattr(read, "read_row", watched)
    own = config.changed(expert_parallel_degree=4, expert_parallel_rank=2).own_experts
    part = dict(open_checkpoint(source).tensors(config, experts=own))
    assert part.keys() == whole.keys() and own == range(4, 6)
    for name, array in part.items():
        assert np.array_equal(array, whole[name][4:6] if ".mlp.experts." in name else whole[name]), name
    assert {int(name.split(".experts.")[1].split(".")[0]) for name in opened if ".experts." in name} == {4, 5}


@pytest.mark.parametrize("degree", [2, 4])
def test_files_of_ranks_and_back(degree, source, tmp_path):
    wanted = tensors(source)
    change_config(source, num_key_value_heads=2)
    convert(source, tmp_path / "ranks", "paddle", degree=degree)
    convert(tmp_path / "ranks", tmp_path / "back", "hf")
    assert same_bits(tensors(tmp_path / "back"), wanted)


def test_reading_needs_one_stack_beside_what_is_kept(source, monkeypatch):
    """Never two projections at once, and of the files no more than one expert."""
    largest = []
    original = read.read_row

    def watched(row, *arguments, **options):
        for name, array in original(row, *arguments, **options):
            largest.append(array.size)
            yield name, array

    monkeypatch.setattr(read, "read_row", watched)
    config = GLMConfig.from_pretrained(str(source))
    sizes = {name: array.size for name, array in open_checkpoint(source).tensors(config)}
    assert max(largest) < max(sizes.values()) // 2
    order = [name for name in sizes if ".experts." in name]
    assert order == sorted(
        order, key=lambda name: (name.split(".")[2], ["gate", "up", "down"].index(name.split(".")[5][:-5]))
    )


# the router stays float32


def test_the_router_is_float32_whatever_the_rest_is(source, tmp_path):
    """Biases around 7 with a spread of 0.1: bfloat16 has steps of 0.03."""
    convert(source, tmp_path / "half", "hf", dtype="bfloat16")
    half, whole = tensors(tmp_path / "half"), tensors(source)
    kept = [name for name, array in half.items() if array.dtype == np.float32]
    assert {name.partition(".mlp.")[2] for name in kept} == {"gate.weight", "gate.e_score_correction_bias"}
    assert all(np.array_equal(half[name], whole[name]) for name in kept)
    model = GLMForCausalLM.from_pretrained(tmp_path / "half", dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    assert same_bits(tensors(tmp_path / "saved"), half)


def test_a_router_in_bfloat16_is_read_as_it_is(source, tmp_path):
    arrays = tensors(source)
    name = "model.layers.1.mlp.gate.weight"
    rewrite(source, arrays | {name: arrays[name].astype(ml_dtypes.bfloat16)})
    convert(source, tmp_path / "target", "hf")
    assert tensors(tmp_path / "target")[name].dtype == ml_dtypes.bfloat16
    model = GLMForCausalLM.from_pretrained(source, dtype="bfloat16")
    weight = model.model.layers[1].mlp.gate.weight
    assert str(weight.dtype) == "paddle.float32"
    assert np.array_equal(weight.numpy(), arrays[name].astype(ml_dtypes.bfloat16).astype("float32").T)


# layers behind the last one


def with_predictor(source: Path, alone: bool) -> dict[str, np.ndarray]:
    """Adds a layer that predicts a token more, in a file of its own or not; gives its tensors."""
    arrays, draw = tensors(source), np.random.default_rng(9)
    layer = {name.replace("layers.2.", "layers.3."): array + 1 for name, array in arrays.items() if "layers.2." in name}
    own = {"enorm.weight": (32,), "hnorm.weight": (32,), "eh_proj.weight": (32, 64), "shared_head.norm.weight": (32,)}
    own |= {"embed_tokens.weight": (80, 32), "shared_head.head.weight": (80, 32)}
    layer |= {f"{LAYER}{name}": draw.standard_normal(shape, "float32") for name, shape in own.items()}
    if alone:
        save_file(layer, source / "mtp.safetensors", metadata={"format": "pt"})
        change_config(source, num_nextn_predict_layers=1)
    else:
        rewrite(source, arrays | layer, num_nextn_predict_layers=1)
    return layer


def found(directory: Path) -> dict[str, np.ndarray]:
    """What a directory's files have of that layer."""
    checkpoint = open_checkpoint(directory)
    return {name: checkpoint.ranks[0][name] for name in checkpoint.ranks[0] if name.startswith(LAYER)}


@either_attention
@pytest.mark.parametrize("alone", [True, False])
def test_a_conversion_keeps_the_predicting_layer(alone, source, tmp_path):
    layer = with_predictor(source, alone)
    convert(source, tmp_path / "hf", "hf")
    assert same_bits(found(tmp_path / "hf"), layer)
    convert(source, tmp_path / "paddle", "paddle")
    convert(tmp_path / "paddle", tmp_path / "back", "hf")
    assert same_bits(found(tmp_path / "back"), layer)


@either_attention
@pytest.mark.parametrize("alone", [True, False])
def test_what_a_model_saves_has_the_layer_of_what_it_was_read_from(alone, source, tmp_path):
    layer, plain = with_predictor(source, alone), {}
    model = GLMForCausalLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved")
    assert same_bits(load_file(tmp_path / "saved" / "mtp.safetensors"), layer)
    assert GLMConfig.from_pretrained(str(tmp_path / "saved")).num_nextn_predict_layers == 1
    plain = {name: array for name, array in tensors(source).items() if not name.startswith(LAYER)}
    assert same_bits(tensors(tmp_path / "saved"), plain)
    GLMForCausalLM.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "saved")  # in its own place
    assert same_bits(load_file(tmp_path / "saved" / "mtp.safetensors"), layer)


def test_a_model_saves_in_the_place_of_its_source(source):
    layer = with_predictor(source, alone=False)
    GLMForCausalLM.from_pretrained(source).save_pretrained(source)
    assert same_bits(found(source), layer)


def test_the_loss_of_the_layer_is_said(source, tmp_path, caplog):
    layer = with_predictor(source, alone=False)
    model = GLMForCausalLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved", weight_format="pdparams")
    assert "predict a token more (MTP) are left out" in caplog.text
    assert GLMConfig.from_pretrained(str(tmp_path / "saved")).num_nextn_predict_layers == 0
    model.save_pretrained(tmp_path / "kept")  # the same model, in the other format
    assert same_bits(found(tmp_path / "kept"), layer)


def test_other_forms_are_refused_in_one_line(source, tmp_path):
    with pytest.raises(GLMError, match="is of family glm4-moe, which has no remote-code form"):
        convert(source, tmp_path / "remote", "remote")
    with pytest.raises(GLMError, match="the model is of family glm4-moe, and Megatron-core checkpoints are of"):
        convert(source, tmp_path / "mcore", "mcore")


def test_another_model_s_layer_does_not_stay(source, tmp_path):
    shutil.copytree(source, tmp_path / "target")
    with_predictor(tmp_path / "target", alone=True)
    GLMForCausalLM.from_pretrained(source).save_pretrained(tmp_path / "target")
    assert found(tmp_path / "target") == {}


def test_a_layer_that_nobody_counts_is_no_part(source):
    with_predictor(source, alone=False)
    change_config(source, num_nextn_predict_layers=0)
    with pytest.raises(GLMError, match=r"has unknown .* weights: model.layers.3"):
        convert(source, source.parent / "target", "hf")


# 8-bit numbers


@pytest.mark.parametrize("form", ["channel", "block"])
def test_eight_bit_weights_are_dequantised(form, source, tmp_path):
    """A conversion, a rank and a model read float32 products, rounded to bfloat16; the router is not quantized."""
    with_predictor(source, alone=False)
    wanted = write_fp8(source, form)
    convert(source, tmp_path / "target", "hf")
    assert same_bits(tensors(tmp_path / "target"), wanted)
    assert "quantization_config" not in json.loads((tmp_path / "target" / "config.json").read_text("utf-8"))
    assert same_bits(state_of(source), state_of(tmp_path / "target"))
    config = GLMConfig.from_pretrained(str(source))
    parts = [load_state(source, config, rank=rank, degree=2) for rank in range(2)]
    name = "model.layers.1.mlp.experts.down_proj.weight"
    assert np.array_equal(np.concatenate([part[name] for part in parts], axis=1), state_of(source)[name])
    assert "model.layers.3.mlp.experts.0.up_proj.weight" in wanted


def test_a_missing_scale_and_one_of_another_shape(source):
    write_fp8(source, "channel")
    path = source / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"layers.0.mlp.up_proj.weight_scale", b"layers.0.mlp.up_proj.weight_stale"))
    with pytest.raises(GLMError, match=r"F8_E4M3, and model.layers.0.mlp.up_proj.weight_scale is missing"):
        open_checkpoint(source)
    path.write_bytes(good)
    write_fp8(hf := hf_directory(NAME, source.parent / "block"), "block")
    content = json.loads((hf / "config.json").read_text("utf-8"))
    content["quantization_config"]["weight_block_size"] = [8, 8]
    (hf / "config.json").write_text(json.dumps(content))
    with pytest.raises(GLMError, match=r"weight_scale_inv is \[\d, \d\], expected \[\d, \d\] for"):
        open_checkpoint(hf)


def test_eight_bit_weights_without_a_word_in_the_configuration(source):
    write_fp8(source, "channel")
    content = json.loads((source / "config.json").read_text("utf-8"))
    del content["quantization_config"]
    (source / "config.json").write_text(json.dumps(content))
    with pytest.raises(GLMError, match=r"is F8_E4M3, and config.json has no quantization_config of a known form"):
        state_of(source)


@pytest.mark.parametrize(
    "value",
    [
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {}}},
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"weights": None}},
        },
        {"quant_method": "fp8", "weight_block_size": None},
        {"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]},
        {"quant_method": "awq", "bits": 4},
    ],
)
def test_other_quantized_weights_are_refused(value, source):
    change_config(source, quantization_config=value)
    with pytest.raises(GLMError, match="quantized weights are not read"):
        GLMConfig.from_pretrained(str(source))


def test_unstacked_parts_are_views():
    state = {"model.layers.1.mlp.experts.up_proj.weight": np.zeros((2, 3, 4)), "model.norm.weight": np.ones(3)}
    parts = unstacked(state)
    assert list(parts) == [f"model.layers.1.mlp.experts.{e}.up_proj.weight" for e in range(2)] + ["model.norm.weight"]
    assert all(np.shares_memory(parts[name], state[stack_name(name)]) for name in parts)


def test_the_fixture_is_sparse():
    assert len([name for name in fixture_files.load(NAME).weights if ".mlp.experts." in name]) == 2 * 8 * 3
