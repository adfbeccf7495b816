"""Conversion: both ways bit for bit, in every family, and whatever happens in between."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import fixture_files
import pytest
from checkpoint_samples import np_dtype, same_bits
from conversion_samples import (
    DEGREES,
    FIXTURES,
    REMOTE,
    bin_directory,
    contents,
    convert,
    hf_directory,
    remote_directory,
)
from safetensors.numpy import load_file, save_file
from shard_samples import parts_of
from tiny_glm import relative_error

from glm.checkpoint import load_pdparams, load_state, save_shard, save_state, tiles
from glm.config.glm_config import GLMConfig
from glm.errors import GLMError
from glm.training.random_state import LAYOUT_NAME
from glm.training.run_record import RECORD_NAME

ALL = [*FIXTURES, "glm"]


def config_json(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ALL)
def test_hugging_face_to_paddle_and_back(name, tmp_path):
    """The same file, byte for byte, that transformers had written, and the same config.json."""
    source = hf_directory(name, tmp_path / "source")
    convert(source, tmp_path / "paddle", "paddle")
    report = convert(tmp_path / "paddle", tmp_path / "back", "hf")
    assert contents(tmp_path / "back")["model.safetensors"] == contents(source)["model.safetensors"]
    wanted = {key: value for key, value in config_json(source).items() if key != "tensor_parallel_degree"}
    assert list(config_json(tmp_path / "back").items()) == list(wanted.items())
    weights = load_file(source / "model.safetensors")
    assert report.parameters == sum(array.size for array in weights.values())
    assert (report.files, report.tensors) == (1, len(weights))


@pytest.mark.parametrize("name", ALL)
def test_paddle_files_are_those_that_the_model_saves(name, tmp_path):
    source = hf_directory(name, tmp_path / "source")
    config = GLMConfig.from_pretrained(str(source))
    state = load_state(source, config)
    convert(source, tmp_path / "whole", "paddle")
    written = save_state(tmp_path / "saved", state, config, weight_format="pdparams")
    assert same_bits(load_pdparams(tmp_path / "whole" / "model_state.pdparams"), load_pdparams(written))
    degree = DEGREES.get(name, 1)
    if degree > 1:
        convert(source, tmp_path / "ranks", "paddle", degree=degree)
        for rank, part in enumerate(parts_of(state, degree)):
            written = save_shard(tmp_path / "saved", part, config, rank=rank, degree=degree)
            assert same_bits(load_pdparams(tmp_path / "ranks" / written.name), load_pdparams(written))
        assert config_json(tmp_path / "ranks")["tensor_parallel_degree"] == degree


@pytest.mark.parametrize("name", DEGREES)
def test_ranks_to_hugging_face_and_back(name, tmp_path):
    source = hf_directory(name, tmp_path / "source")
    convert(source, tmp_path / "ranks", "paddle", degree=DEGREES[name])
    convert(tmp_path / "ranks", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "back", "paddle", degree=DEGREES[name])
    assert contents(tmp_path / "hf")["model.safetensors"] == contents(source)["model.safetensors"]
    assert contents(tmp_path / "back") == contents(tmp_path / "ranks")


def test_a_vocabulary_that_the_ranks_do_not_divide_is_padded(tmp_path):
    source = hf_directory("glm-g4-bias-rope500", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        weights[name] = weights[name][:77]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text(json.dumps(config_json(source) | {"vocab_size": 77}))
    convert(source, tmp_path / "ranks", "paddle", degree=4)
    last = load_pdparams(tmp_path / "ranks" / "model_state.tp03.pdparams")["model.embed_tokens.weight"]
    assert last.shape == (20, 32)
    assert not last[17:].any()
    convert(tmp_path / "ranks", tmp_path / "back", "hf")
    assert contents(tmp_path / "back")["model.safetensors"] == contents(source)["model.safetensors"]


@pytest.mark.parametrize("name", REMOTE)
def test_remote_code_becomes_what_transformers_saves(name, tmp_path):
    """Names, shapes, bits and config.json of the checkpoint that transformers itself made; rope_ratio is not lost."""
    remote = remote_directory(name, tmp_path / "remote")
    convert(remote, tmp_path / "hf", "hf")
    fixture = fixture_files.load(name)
    assert same_bits(load_file(tmp_path / "hf" / "model.safetensors"), fixture.weights)
    config, wanted = config_json(tmp_path / "hf"), fixture.config
    extra = ("transformers_version", "bos_token_id")
    assert {key: config.get(key) for key in wanted if key not in extra} == {
        key: value for key, value in wanted.items() if key not in extra
    }
    assert config["rope_theta"] == 10000.0 * fixture.settings["rope_ratio"]
    convert(tmp_path / "hf", tmp_path / "back", "remote")
    weights = load_file(remote / "model.safetensors")
    del weights["transformer.rotary_pos_emb.inv_freq"]
    assert same_bits(load_file(tmp_path / "back" / "model.safetensors"), weights)
    back, before = config_json(tmp_path / "back"), config_json(remote)
    assert {key: before[key] for key in back if key in before} == {key: back[key] for key in back if key in before}
    assert {"rope_ratio", "multi_query_group_num", "eos_token_id", "torch_dtype"} <= back.keys()


def test_unknown_fields_go_along(tmp_path, caplog):
    """Between the two forms of GLM-4-9B as well; one warning a reading of the file."""
    remote = remote_directory("glm-g2-bias-rope1", tmp_path / "remote")
    (remote / "config.json").write_text(json.dumps(config_json(remote) | {"made_by": "hand", "quiet": None}))
    convert(remote, tmp_path / "hf", "hf")
    assert caplog.text.count("nobody here knows it: made_by\n") == 1
    convert(tmp_path / "hf", tmp_path / "back", "remote")
    assert config_json(tmp_path / "hf")["made_by"] == config_json(tmp_path / "back")["made_by"] == "hand"


def test_scaled_positions_have_no_remote_form(tmp_path):
    source = hf_directory("glm-g2-bias-rope1", tmp_path / "source")
    yarn = {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}
    (source / "config.json").write_text(json.dumps(config_json(source) | yarn))
    with pytest.raises(GLMError, match="rope_scaling is of type yarn, and models of family glm4-remote have none"):
        convert(source, tmp_path / "remote", "remote")
    assert not (tmp_path / "remote").exists()


def test_remote_code_to_paddle_and_back_keeps_everything(tmp_path):
    """The buffer too that the published files hold."""
    remote = remote_directory("glm-g4-bias-rope500", tmp_path / "remote")
    (remote / "modeling_chatglm.py").write_text("pass\n")
    convert(remote, tmp_path / "ranks", "paddle", degree=2)
    convert(tmp_path / "ranks", tmp_path / "back", "remote")
    assert contents(tmp_path / "back").keys() == contents(remote).keys()
    assert same_bits(load_file(tmp_path / "back" / "model.safetensors"), load_file(remote / "model.safetensors"))
    assert config_json(tmp_path / "back") == config_json(remote)


@pytest.mark.parametrize("name", ["chatglm-6b", "glm4-g2-bias-rope1"])
def test_files_of_torch(name, tmp_path):
    convert(bin_directory(name, tmp_path / "bin"), tmp_path / "hf", "hf")
    wanted = fixture_files.FIXTURES / name / "model.safetensors"
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize(("form", "suffix"), [("hf", "safetensors"), ("paddle", "pdparams")])
def test_shards(form, suffix, tmp_path):
    source = hf_directory("glm-g2-bias-rope1", tmp_path / "source")
    report = convert(source, tmp_path / "shards", form, max_shard_size=16_000)
    parts = sorted((tmp_path / "shards").glob(f"*-of-*.{suffix}"))
    assert len(parts) == report.files > 3
    assert parts[0].name.endswith(f"-00001-of-{len(parts):05d}.{suffix}")
    index = json.loads(next((tmp_path / "shards").glob("*.index.json")).read_text())
    weights = load_file(source / "model.safetensors")
    assert index["weight_map"].keys() == weights.keys()
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in weights.values())
    # A tensor larger than that has a part of its own.
    tensors = {part.name: [n for n, file in index["weight_map"].items() if file == part.name] for part in parts}
    assert all(sum(weights[n].nbytes for n in names) <= 16_000 or len(names) == 1 for names in tensors.values())
    convert(tmp_path / "shards", tmp_path / "back", "hf")
    assert contents(tmp_path / "back") == contents(source)


def test_dtype(tmp_path):
    source = hf_directory("glm4-g2-bias-rope1", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    for dtype in ("bfloat16", "float16"):
        for form in ("hf", "paddle"):
            convert(source, tmp_path / dtype / form, form, dtype=dtype)
            stored = {name: array.astype(np_dtype(dtype)) for name, array in weights.items()}
            back = tmp_path / dtype / "back" / form
            convert(tmp_path / dtype / form, back, "hf")
            assert same_bits(load_file(back / "model.safetensors"), stored)
            assert config_json(back)["dtype"] == dtype


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    source = hf_directory("glm4-g2-bias-rope1", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][3] = 70000
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GLMError, match=r"model.norm.weight holds 70000, and float16 ends at 65504"):
        convert(source, tmp_path / "half", "hf", dtype="float16")
    assert not (tmp_path / "half").exists()


def test_small_files_come_along(tmp_path):
    source = remote_directory("glm-g4-bias-rope500", tmp_path / "source")
    tokenizer = ("tokenizer.model", "tokenizer_config.json", "tokenization_chatglm.py")
    wanted = (*tokenizer, "generation_config.json", "LICENSE")
    code = ("modeling_chatglm.py", "configuration_chatglm.py")
    left = ("optimizer.pdopt", "trainer_state.json", "training_args.bin", ".gitattributes", "README.md")
    for name in (*wanted, *code, *left):
        (source / name).write_bytes(name.encode() + bytes(range(256)))
    for form, files in (("hf", wanted), ("remote", (*wanted, *code)), ("paddle", (*wanted, *code))):
        convert(source, tmp_path / form, form)
        found = contents(tmp_path / form)
        weights = "model_state.pdparams" if form == "paddle" else "model.safetensors"
        assert found.keys() == {*files, "config.json", weights}
        assert all(found[name] == (source / name).read_bytes() for name in files)


def test_a_checkpoint_of_a_training_run_leaves_its_traces_behind(tmp_path):
    """The files that test_seed_commands.py and test_resume.py find in a checkpoint-N."""
    source = remote_directory("glm-g4-bias-rope500", tmp_path / "checkpoint-2")
    state = ("optimizer.pdopt", "rng_state.pth", "scheduler.pdparams", "trainer_state.json", "training_args.bin")
    for name in (
        *state,
        LAYOUT_NAME,
        RECORD_NAME,
        "tokenizer.model",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        (source / name).write_bytes(b"{}")
    convert(source, tmp_path / "hf", "hf")
    assert contents(tmp_path / "hf").keys() == {
        *("config.json", "model.safetensors"),
        *("tokenizer.model", "tokenizer_config.json", "generation_config.json"),
    }


def missing_weight(source: Path) -> None:
    weights = load_file(source / "model.safetensors")
    weights["model.strange.weight"] = weights.pop("model.norm.weight")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})


def another_vocabulary(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(config_json(source) | {"vocab_size": 81}))


def unknown_model(source: Path) -> None:
    (source / "config.json").write_text(json.dumps({"model_type": "llama"}))


def two_types(source: Path) -> None:
    weights = load_file(source / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name].astype("float16")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (missing_weight, {}, r"lacks 1 weights: model.norm.weight and has unknown 1 weights: model.strange.weight"),
        (another_vocabulary, {}, r"word embedding \[80, 32\], config.json asks for \[81, 32\]"),
        (unknown_model, {}, "model_type 'llama'"),
        (two_types, {"form": "remote"}, "made of different types .* float16.*: choose one with --dtype"),
        (None, {"degree": 3}, "tensor_parallel_degree 3 does not divide num_attention_heads 4"),
        (None, {"form": "hf", "degree": 2}, "tensor_parallel_degree 2 with format hf: only paddle"),
        (None, {"degree": 0}, "tensor_parallel_degree 0"),
    ],
)
def test_errors(spoil, options, message, tmp_path):
    source = hf_directory("glm-g2-bias-rope1", tmp_path / "source")
    if spoil:
        spoil(source)
    options = {"form": "paddle"} | options
    with pytest.raises(GLMError, match=message) as caught:
        convert(source, tmp_path / "target", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "target").exists()


def test_errors_about_directories(tmp_path):
    source = hf_directory("glm4-g2-bias-rope1", tmp_path / "source")
    (tmp_path / "file").touch()
    for where, target, message in (
        (tmp_path / "nowhere", "target", "nowhere is not a directory"),
        (source, "../" + tmp_path.name + "/source", "source and target are both"),
        (source, "file", "file is a file"),
    ):
        with pytest.raises(GLMError, match=message):
            convert(where, tmp_path / target, "hf")
    with pytest.raises(GLMError, match="family glm4-0414, which has no remote-code form"):
        convert(source, tmp_path / "target", "remote")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_side_files_that_are_there_are_replaced_on_demand_and_whole(tmp_path, name):
    """What an earlier model left would be read with this one."""
    source, target = hf_directory("glm4-g2-bias-rope1", tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    (target / name).write_text('{"do_sample": true}')
    (target / "notes.txt").write_text("mine")
    with pytest.raises(GLMError, match=rf"already holds {name}: choose another target, or add --overwrite"):
        convert(source, target, "hf")
    convert(source, target, "hf", overwrite=True)
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()} | {"notes.txt"}


def test_an_export_is_not_broken(tmp_path):
    source, target = hf_directory("glm4-g2-bias-rope1", tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    (target / "glm.onnx.manifest.json").write_text("{}")
    with pytest.raises(GLMError, match=r"holds the export of glm.onnx.manifest.json, .* choose another directory"):
        convert(source, target, "hf", overwrite=True)


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    source = hf_directory("glm4-g2-bias-rope1", tmp_path / "source")
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 1234, 1234)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(GLMError, match=r"has 1,234 bytes free, and \d+,\d+ will be written"):
        convert(source, tmp_path / "target", "hf")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("name", ALL)
def test_tensors_of_many_tiles(name, tmp_path, monkeypatch):
    """In rows, in columns, in squares and by groups: as the fixtures are, they fit into one tile."""
    monkeypatch.setattr(tiles, "LARGEST_TILE", 300)
    source = hf_directory(name, tmp_path / "source")
    config = GLMConfig.from_pretrained(str(source))
    state = load_state(source, config)
    for degree in {1, DEGREES.get(name, 1)}:
        paddle = tmp_path / f"paddle-{degree}"
        convert(source, paddle, "paddle", degree=degree)
        assert same_bits(load_state(paddle, config), state)
        convert(paddle, tmp_path / f"back-{degree}", "hf")
        assert contents(tmp_path / f"back-{degree}")["model.safetensors"] == contents(source)["model.safetensors"]


def test_the_header_is_the_librarys(tmp_path):
    """Types of several widths: the file is what safetensors would have written."""
    source = hf_directory("glm4-g2-bias-rope1", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    mixed = {name: array.astype("float16") if array.ndim == 2 else array for name, array in weights.items()}
    save_file(mixed, source / "model.safetensors", metadata={"format": "pt"})
    convert(source, tmp_path / "target", "hf")
    assert contents(tmp_path / "target")["model.safetensors"] == contents(source)["model.safetensors"]


def test_the_directory_opens_in_transformers(tmp_path):
    """Where torch and transformers are installed: the fixture's logits, from files that went to Paddle and back."""
    torch = pytest.importorskip("torch", reason="needs torch and transformers: requirements-parity.txt")
    transformers = pytest.importorskip("transformers", reason="needs transformers 5: requirements-parity.txt")
    for name in (name for name in FIXTURES if name != "chatglm-6b"):
        source = remote_directory if name in REMOTE else hf_directory
        convert(source(name, tmp_path / name), tmp_path / f"{name}-paddle", "paddle")
        convert(tmp_path / f"{name}-paddle", tmp_path / f"{name}-hf", "hf", max_shard_size=30_000)
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-hf").eval()
        case = fixture_files.load(name).case("far")
        given = {key: torch.from_numpy(case[key]) for key in ("input_ids", "attention_mask", "position_ids")}
        with torch.no_grad():
            logits = model(**given).logits.numpy()
        real = case["attention_mask"] == 1
        assert relative_error(logits[real], case["logits"][real]) < 1e-5
