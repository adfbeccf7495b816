"""Megatron-core checkpoints as this project writes them: what a rank holds, and there and back bit for bit."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import paddle
import pytest
from checkpoint_samples import same_bits
from conversion_samples import contents, convert, hf_directory, remote_directory
from megatron_samples import (
    HEADS,
    HIDDEN,
    INNER,
    ROWS,
    TRACKER,
    WIDTH,
    WRITTEN,
    args,
    config,
    hf_weights,
    parts,
    rank_file,
    rank_tensors,
    read_rank,
    write_hf,
    write_megatron,
)
from safetensors.numpy import load_file, save_file

from glm import GLMForCausalLM
from glm.checkpoint import convert as convert_module
from glm.checkpoint import load_state, torch_layout
from glm.config.fields import PlainConfig
from glm.errors import GLMError

HALVES, UNEQUAL = [[0, 1], [2, 3]], [[0, 1, 2], [3]]
# Ranks, stages, layers of the stages.
CUTS = [(1, 1, None), (2, 1, None), (1, 2, None), (2, 2, None), (2, 2, (3, 1)), (1, 3, (1, 2, 1)), (2, 4, None)]


@pytest.fixture(params=[False, True], ids=["9b", "0414"])
def post_norms(request) -> bool:
    return request.param


@pytest.fixture
def source(tmp_path, post_norms) -> Path:
    return write_hf(tmp_path / "source", post_norms)


def weights_of(directory: Path) -> dict[str, np.ndarray]:
    return load_state(directory, PlainConfig.from_pretrained(str(directory)))


def config_json(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text("utf-8"))


@pytest.mark.parametrize(("degree", "stages", "layers"), CUTS)
def test_there_and_back(source, tmp_path, degree, stages, layers):
    """The file that the source is, byte for byte, and its config.json."""
    report = convert(source, tmp_path / "mcore", "mcore", degree=degree, stages=stages, layers=layers, multiple=16)
    assert report.files == degree * stages
    convert(tmp_path / "mcore", tmp_path / "back", "hf")
    wanted = load_file(source / "model.safetensors")
    assert same_bits(load_file(tmp_path / "back" / "model.safetensors"), wanted)
    assert config_json(tmp_path / "back") == config_json(source)
    assert {path.name for path in (tmp_path / "mcore").iterdir()} == {"config.json", WRITTEN, TRACKER}
    assert (tmp_path / "mcore" / TRACKER).read_text() == "1\n"


@pytest.mark.parametrize("layers", [None, (3, 1)])
def test_a_rank_holds_what_megatron_wants(source, tmp_path, layers, post_norms):
    """Against tensors that are computed by hand; the vocabulary is padded with its last row."""
    convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2, layers=layers, multiple=16)
    cuts = UNEQUAL if layers else HALVES
    for rank in range(2):
        wanted = parts(rank_tensors(hf_weights(post_norms), rank, 2, multiple=16), cuts)
        for stage in range(2):
            content = read_rank(rank_file(tmp_path / "mcore", rank, stage))
            assert same_bits(content["model"], wanted[stage])
    last = read_rank(rank_file(tmp_path / "mcore", 1, 1))["model"]["output_layer.weight"]
    assert last.shape == (48, HIDDEN)
    assert (last[ROWS - 48 :] == last[ROWS - 49]).all()


def test_rows_are_where_they_belong(tmp_path):
    """Rows numbered by part, head and row: of queries, keys and values by group, of gate and up by rank."""
    weights = hf_weights(False)
    for number, part in enumerate("qkv"):
        rows = np.arange(len(weights[f"model.layers.0.self_attn.{part}_proj.weight"]))
        numbered = 10_000 * (number + 1) + 100 * (rows // WIDTH) + rows % WIDTH
        for name, shape in (("weight", (-1, 1)), ("bias", (-1,))):
            array = weights[f"model.layers.0.self_attn.{part}_proj.{name}"]
            array[:] = numbered.reshape(shape)
    weights["model.layers.0.mlp.gate_up_proj.weight"][:] = np.arange(2 * INNER)[:, None]
    source = write_hf(tmp_path / "source", False)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    convert(source, tmp_path / "mcore", "mcore", degree=2)

    def heads(part: int, first: int, count: int) -> list[int]:
        return [part + 100 * (first + head) + row for head in range(count) for row in range(WIDTH)]

    for rank in range(2):
        model = read_rank(rank_file(tmp_path / "mcore", rank))["model"]
        wanted = heads(10_000, 2 * rank, HEADS // 2) + heads(20_000, rank, 1) + heads(30_000, rank, 1)
        for name in ("weight", "bias"):
            rows = model[f"decoder.layers.0.self_attention.linear_qkv.{name}"].reshape(len(wanted), -1)
            assert rows[:, 0].tolist() == wanted
        half = INNER // 2
        gate = list(range(rank * half, rank * half + half))
        assert model["decoder.layers.0.mlp.linear_fc1.weight"][:, 0].tolist() == gate + [INNER + row for row in gate]


def test_what_the_args_say(source, tmp_path, post_norms):
    """What Megatron's loader compares, and what it takes with --use-checkpoint-args."""
    convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2, layers=(3, 1), multiple=16, dtype="bfloat16")
    content = read_rank(rank_file(tmp_path / "mcore", 1, 1))
    said = vars(content["args"])
    shared = args(2, 2, post_norm=post_norms, padded_vocab_size=96, vocab_size=ROWS, num_layer_list="3,1")
    assert {name: said[name] for name in shared} == shared
    assert (content["checkpoint_version"], content["iteration"], said["iteration"]) == (3.0, 1, 1)
    assert (said["params_dtype"], said["bf16"], said["fp16"]) == ("bfloat16", True, False)
    assert said["add_position_embedding"] is True
    assert said["make_vocab_size_divisible_by"] == 16
    assert {array.dtype for array in content["model"].values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_args_alone_make_the_same_model(source, tmp_path):
    """Without config.json: every field that changes results, and the vocabulary without its padding."""
    convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2, multiple=16)
    written = PlainConfig.from_pretrained(str(source))
    (tmp_path / "mcore" / "config.json").unlink()
    found = PlainConfig.from_pretrained(str(tmp_path / "mcore"))
    assert vars(found) == vars(written)
    assert same_bits(weights_of(tmp_path / "mcore"), weights_of(source))
    convert(tmp_path / "mcore", tmp_path / "back", "hf")
    assert same_bits(load_file(tmp_path / "back" / "model.safetensors"), load_file(source / "model.safetensors"))
    assert vars(PlainConfig.from_pretrained(str(tmp_path / "back"))) == vars(written)


def test_remote_code_and_its_other_name(tmp_path):
    """GLM-4-9B's own names: the same tensors as of its twin in transformers' names."""
    remote = remote_directory("glm-g2-bias-rope1", tmp_path / "remote")
    hf = hf_directory("glm-g2-bias-rope1", tmp_path / "hf")
    for source in (remote, hf):
        convert(source, tmp_path / f"{source.name}-mcore", "mcore", degree=2, stages=2)
    for rank, stage in ((0, 0), (1, 1)):
        held = [read_rank(rank_file(tmp_path / f"{name}-mcore", rank, stage))["model"] for name in ("remote", "hf")]
        assert same_bits(*held)
    convert(tmp_path / "remote-mcore", tmp_path / "back", "remote")
    weights = load_file(remote / "model.safetensors")
    del weights["transformer.rotary_pos_emb.inv_freq"]
    assert same_bits(load_file(tmp_path / "back" / "model.safetensors"), weights)
    convert(tmp_path / "remote-mcore", tmp_path / "to-hf", "hf")
    assert same_bits(load_file(tmp_path / "to-hf" / "model.safetensors"), load_file(hf / "model.safetensors"))


def test_a_tied_head_is_on_the_last_stage(tmp_path):
    source = write_hf(tmp_path / "source", False)
    weights = {name: array for name, array in hf_weights(False).items() if name != "lm_head.weight"}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text(json.dumps(config(False) | {"tie_word_embeddings": True}))
    convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2)
    first, last = (read_rank(rank_file(tmp_path / "mcore", 1, stage))["model"] for stage in range(2))
    assert np.array_equal(first["embedding.word_embeddings.weight"], last["output_layer.weight"])
    convert(tmp_path / "mcore", tmp_path / "back", "hf")
    assert same_bits(load_file(tmp_path / "back" / "model.safetensors"), weights)


def test_other_ranks_of_the_same_model(source, tmp_path):
    """From one division to another, without a stop at Hugging Face's: the files of the direct way."""
    convert(source, tmp_path / "two", "mcore", degree=2, stages=2, layers=(3, 1))
    convert(tmp_path / "two", tmp_path / "four", "mcore", stages=4)
    convert(source, tmp_path / "direct", "mcore", stages=4)
    for stage in range(4):
        names = [rank_file(tmp_path / name, 0, stage) for name in ("four", "direct")]
        assert names[0].read_bytes() == names[1].read_bytes()


def test_sizes_beyond_four_gib(source, tmp_path, post_norms, monkeypatch):
    """Every size and offset in a field of its own, as those of large files: Python's zipfile finds them there."""
    monkeypatch.setattr(torch_layout, "_LARGE", 16)
    monkeypatch.setattr(torch_layout, "_MANY", 2)
    convert(source, tmp_path / "mcore", "mcore")
    path = rank_file(tmp_path / "mcore")
    assert same_bits(read_rank(path)["model"], rank_tensors(hf_weights(post_norms), 0, 1))
    end = path.read_bytes()
    locator = end.index(b"PK\x06\x07")  # which zipfile does not follow, and torch does
    assert end[struct.unpack_from("<Q", end, locator + 8)[0] :].startswith(b"PK\x06\x06")
    assert same_bits(weights_of(tmp_path / "mcore"), weights_of(source))


def test_a_killed_conversion_continues(tmp_path, monkeypatch):
    module = convert_module
    source, written = write_hf(tmp_path / "source", True), []
    write = module.write_layout

    def failing(path, layout, progress):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.parent.parent.name)
        write(path, layout, progress)

    monkeypatch.setattr(module, "write_layout", failing)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2)
    assert [path.name for path in (tmp_path / "mcore").iterdir()] == [".conversion"]
    with pytest.raises(GLMError, match="unfinished conversion with --num_layer_list None"):
        convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2, layers=(3, 1))
    monkeypatch.setattr(module, "write_layout", write)
    report = convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2)
    assert 0 < report.written < report.size
    convert(source, tmp_path / "whole", "mcore", degree=2, stages=2)
    for path in (tmp_path / "whole").rglob("*.pt"):
        assert path.read_bytes() == (tmp_path / "mcore" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_a_model_that_is_there_is_replaced_whole(source, tmp_path):
    """Another iteration's files go, and so do other formats'; without --overwrite nothing does."""
    target = write_megatron(tmp_path / "target", hf_weights(False), 2, HALVES)
    with pytest.raises(GLMError, match=f"already holds {TRACKER}"):
        convert(source, target, "mcore")
    convert(source, target, "mcore", overwrite=True)
    assert sorted(path.name for path in target.iterdir()) == ["config.json", WRITTEN, TRACKER]
    assert same_bits(weights_of(target), weights_of(source))
    convert(source, target, "hf", overwrite=True)
    assert contents(target).keys() == {"config.json", "model.safetensors"}
    assert [path.name for path in target.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": 4}, "tensor_parallel_degree 4 does not divide the 2 key/value groups"),
        ({"stages": 3}, "pipeline_parallel_degree 3 does not divide num_layers 4"),
        ({"stages": 2, "layers": (3, 2)}, "num_layer_list 3,2 has 2 stages of 5 layers, expected 2 stages"),
        ({"stages": 3, "layers": (3, 1)}, "num_layer_list 3,1 has 2 stages of 4 layers, expected 3 stages"),
        (
            {"stages": 2, "layers": (4, 0)},
            "num_layer_list 4,0 has 2 stages of 4 layers, expected 2 stages of at least 1",
        ),
        ({"stages": 0}, "pipeline_parallel_degree 0 with format mcore"),
        ({"multiple": 0}, "make_vocab_size_divisible_by is 0"),
        ({"form": "hf", "stages": 2}, "pipeline_parallel_degree 2 with format hf: only mcore"),
        ({"form": "paddle", "layers": (2, 2)}, "num_layer_list 2,2 with format paddle: only mcore"),
        ({"form": "paddle", "multiple": 128}, "make_vocab_size_divisible_by 128 with format paddle: only mcore"),
    ],
)
def test_ranks_that_there_are_none_of(tmp_path, options, message):
    source = write_hf(tmp_path / "source", False)
    with pytest.raises(GLMError, match=message) as error:
        convert(source, tmp_path / "target", **{"form": "mcore"} | options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "target").exists()


def test_models_that_megatron_has_not(tmp_path):
    for name in ("glm", "chatglm-6b"):
        with pytest.raises(GLMError, match="Megatron-core checkpoints are of glm4-remote, glm4, glm4-0414 only"):
            convert(hf_directory(name, tmp_path / name), tmp_path / "target", "mcore")
    source = write_hf(tmp_path / "source", False)
    yarn = {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}
    (source / "config.json").write_text(json.dumps(config(False) | yarn))
    with pytest.raises(GLMError, match="rope_scaling is of type yarn, which Megatron's arguments cannot say"):
        convert(source, tmp_path / "target", "mcore")


def logits_of(model: GLMForCausalLM, ids: paddle.Tensor) -> np.ndarray:
    model.eval()
    return model(ids).numpy()


def test_the_logits_are_the_sources(source, tmp_path):
    convert(source, tmp_path / "mcore", "mcore", degree=2, stages=2, layers=(3, 1))
    (tmp_path / "mcore" / "config.json").unlink()
    ids = paddle.to_tensor([[1, 40, 76, 3], [9, 2, 5, 8]])
    models = [GLMForCausalLM.from_pretrained(path) for path in (source, tmp_path / "mcore")]
    logits = [logits_of(model, ids) for model in models]
    assert logits[0].shape == (2, 4, ROWS)
    assert np.array_equal(*logits)
