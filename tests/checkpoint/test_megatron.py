"""Megatron-core checkpoints as Megatron writes them, and what is said of those that cannot be read."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import paddle
import pytest
from attack import Attack
from checkpoint_samples import same_bits
from conversion_samples import convert
from megatron_samples import (
    HIDDEN,
    LAYERS,
    ROWS,
    TRACKER,
    TRAINED,
    WIDTH,
    args,
    config,
    hf_weights,
    rank_file,
    rank_tensors,
    read_rank,
    transformer_engine,
    write_hf,
    write_megatron,
    write_rank,
    write_torch,
    write_torch_legacy,
)

from glm import GLMForCausalLM
from glm.checkpoint import load_state
from glm.config.fields import PlainConfig
from glm.errors import GLMError

FIXTURE = Path(__file__).parent / "megatron"
HALVES, UNEQUAL = [[0, 1], [2, 3]], [[0, 1, 2], [3]]


def refused(directory: Path, *words: str) -> str:
    """What is said of a checkpoint that cannot be read, or of one that is not written."""
    with pytest.raises(GLMError) as error:
        weights_of(directory)
    said = str(error.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said
    return said


def weights_of(directory: Path) -> dict[str, np.ndarray]:
    return load_state(directory, PlainConfig.from_pretrained(str(directory)))


@cache
def weights_of_hf(post_norms: bool) -> dict[str, np.ndarray]:
    """In memory, by the reader of transformers' files, which has tests of its own."""
    with tempfile.TemporaryDirectory() as name:
        return weights_of(write_hf(Path(name) / "hf", post_norms))


def test_what_torch_wrote():
    """TP 2 × PP 2 of Megatron's form, by torch itself, with enums, functions and states beside the weights."""
    found = PlainConfig.from_pretrained(str(FIXTURE))
    assert (found.family, found.num_hidden_layers, found.vocab_size, found.dtype) == (
        "glm4",
        LAYERS,
        ROWS + 1,
        "float32",
    )
    assert (found.num_key_value_heads, found.head_dim, found.rope_theta, found.norm_eps) == (2, WIDTH, 10000.0, 1e-5)
    state = load_state(FIXTURE, found.changed(vocab_size=ROWS))
    assert same_bits(state, weights_of_hf(False))


def test_megatron_itself_computes_the_same():
    """Logits of Megatron-core 0.16.1 on two ranks (make_megatron_logits.py), by the model that its files make here."""
    golden = np.load(FIXTURE / "logits.npz")
    model = GLMForCausalLM.from_pretrained(FIXTURE)
    model.eval()
    logits = model(paddle.to_tensor(golden["ids"].astype("int64"))).numpy()
    assert np.abs(golden["logits"]).max() > 5
    assert np.abs(logits[..., :ROWS] - golden["logits"]).max() < 2e-5


@pytest.mark.parametrize(("rank", "degree"), [(0, 1), (1, 2)])
def test_a_rank_reads_its_part(tmp_path, rank, degree):
    """Of files of two ranks and two stages, what this project's rank has of the model."""
    directory = write_megatron(tmp_path / "mcore", hf_weights(True), 2, UNEQUAL, num_layer_list="3,1")
    (directory / "config.json").write_text(json.dumps(config(True)))
    found = PlainConfig.from_pretrained(str(directory), tensor_parallel_degree=degree)
    hf = write_hf(tmp_path / "hf", True)
    wanted = load_state(hf, found, rank=rank, degree=degree)
    assert same_bits(load_state(directory, found, rank=rank, degree=degree), wanted)


@pytest.mark.parametrize(
    ("cuts", "options"),
    [
        ([[0, 1, 2, 3]], {}),
        (UNEQUAL, {"num_layer_list": "3,1"}),
        (UNEQUAL, {"num_layer_list": [3, 1]}),
        ([[0], [1, 2], [3]], {"num_layer_list": None}),
        (HALVES, {"folder": "release"}),
        ([[0], [1], [2], [3]], {"virtual": 2}),
        ([[0], [1], [2], [3]], {"virtual": 4}),
        ([[0, 1], [2, 3]], {"rename": transformer_engine}),
        ([[0, None, 1], [2, None, 3]], {"noop_layers": {1, 4}, "num_layers": 6}),
        ([[0, None, 1], [2, 3, None]], {"noop_layers": "1,5", "num_layers": 6}),
        ([[None], [0], [1], [2], [3], [None]], {"noop_layers": {0, 5}, "num_layers": 6, "virtual": 3}),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, list) else "-".join(map(str, value)) or "plain",
)
@pytest.mark.parametrize("degree", [1, 2])
def test_every_division_is_one_model(tmp_path, cuts, options, degree):
    """Stages equal and unequal, virtual ones, layers that hold nothing, `release`, Transformer Engine's names."""
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), degree, cuts, **options)
    found = config_of(directory)
    assert found.num_hidden_layers == LAYERS
    assert same_bits(load_state(directory, found), weights_of_hf(False))


def test_of_several_iterations_the_latest(tmp_path):
    directory = write_megatron(tmp_path / "mcore", hf_weights(True), 1, HALVES, folder="iter_0000002")
    write_megatron(directory, hf_weights(False), 1, HALVES)
    assert PlainConfig.from_pretrained(str(directory)).family == "glm4"
    assert same_bits(weights_of(directory), weights_of_hf(False))
    (directory / TRACKER).write_text("2")
    assert PlainConfig.from_pretrained(str(directory)).family == "glm4-0414"
    assert same_bits(weights_of(directory), weights_of_hf(True))
    assert same_bits(weights_of(directory / TRAINED), weights_of_hf(False))


def test_files_from_before_torch_1_6(tmp_path):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 2, HALVES)
    for path in directory.rglob("model_optim_rng.pt"):
        write_torch_legacy(path, read_rank(path))
    assert same_bits(load_state(directory, config_of(directory)), weights_of_hf(False))


def config_of(directory: Path) -> PlainConfig:
    """With the rows that the vocabulary has without Megatron's padding."""
    return PlainConfig.from_pretrained(str(directory)).changed(vocab_size=ROWS)


def test_nothing_in_a_pickle_is_run(tmp_path):
    """What args name is made of nothing; the same in the weights is no tensor."""
    mark = tmp_path / "ran"
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 1, HALVES, data_cache=Attack(mark))
    assert same_bits(weights_of(directory), weights_of_hf(False))
    held = rank_tensors(hf_weights(False), 0, 1) | {"decoder.layers.0.mlp.linear_fc1.weight": Attack(mark)}
    write_rank(directory / TRAINED / "mp_rank_00_000", args(1, 2), {"model": held})
    refused(directory, "decoder.layers.0.mlp.linear_fc1.weight is no tensor of torch's", "MindSpore's own are not read")
    assert not mark.exists()


def test_positions_that_training_had_otherwise(tmp_path, caplog):
    """The 32K scripts change the base of a base model: the file beside it wins, and the log says what differs."""
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 1, HALVES, rotary_base=5000000)
    assert PlainConfig.from_pretrained(str(directory)).rope_theta == 5e6
    assert "rope_theta" not in caplog.text
    (directory / "config.json").write_text(json.dumps(config(False)))
    assert PlainConfig.from_pretrained(str(directory)).rope_theta == 1e4
    assert "rope_theta is 10000.0, and the arguments of the training say 5000000" in caplog.text


def test_ranks_that_are_missing(tmp_path):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 2, HALVES)
    shutil.rmtree(directory / TRAINED / "mp_rank_01_001")
    refused(directory, "lacks mp_rank_01_001", "2 tensor-parallel ranks of 2 pipeline stages")
    convert_is_refused(directory, tmp_path)
    shutil.rmtree(directory / TRAINED)
    (directory / "iter_0000004").mkdir()
    refused(directory, f"{TRACKER} says 5", "iter_0000005 is not there, only iter_0000004")
    (directory / TRACKER).write_text("five")
    refused(directory, "says 'five', expected the number of an iteration or `release`")


def convert_is_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(GLMError):
        convert(directory, tmp_path / "target", "hf")
    assert not (tmp_path / "target").exists()


def test_one_rank_too_many(tmp_path):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 1, HALVES)
    (directory / TRAINED / "mp_rank_01_000").mkdir()
    shutil.copy(rank_file(directory, 0, 0, TRAINED), rank_file(directory, 1, 0, TRAINED))
    refused(directory, "holds mp_rank_01_000", "1 tensor-parallel ranks of 2 pipeline stages")


@pytest.mark.parametrize(
    ("cuts", "said", "message"),
    [
        ([[0, 1], [1, 2, 3]], {}, "2 + 3 = 5 layers in 2 parts, and its args say num_layers 4"),
        ([[0, 1], [3]], {}, "2 + 1 = 3 layers in 2 parts, and its args say num_layers 4"),
        (
            [[0, 1], [2, 3]],
            {"num_layer_list": "3,1"},
            "on its stages, and its args say num_layer_list 3, 1",
        ),
        ([[0, None, 2], [3]], {}, "lacks layer 1 of the part of 3 layers that begins at 0"),
        ([[0, 1, 2], [3, None, None]], {"noop_layers": {5}, "num_layers": 6}, "lacks layer 1 of the part of 3 layers"),
        ([[0, 1, 2, 3], [None]], {"noop_layers": {4}, "num_layers": 5}, "divides num_layers 5 unequally among 2 parts"),
    ],
)
def test_layers_that_are_missing_or_twice(tmp_path, cuts, said, message):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 1, cuts, **said)
    refused(directory, message)
    convert_is_refused(directory, tmp_path)


def test_ranks_of_different_saves(tmp_path):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 2, HALVES)
    folder = directory / TRAINED / "mp_rank_01_001"
    whole = read_rank(folder / "model_optim_rng.pt")
    held = {"model": whole["model"]}
    write_rank(folder, vars(whole["args"]), held, iteration=6)
    refused(directory, "mp_rank_01_001", "is of iteration 6", "of 5: they are of different saves")
    write_rank(folder, vars(whole["args"]) | {"num_layer_list": "2,2"}, held)
    refused(directory, "is of num_layer_list 2,2", "of None")
    other = held["model"] | {"decoder.final_layernorm.weight": whole["model"]["decoder.final_layernorm.weight"] + 1}
    write_rank(folder, vars(whole["args"]), {"model": other})
    refused(directory, "decoder.final_layernorm.weight differs from", "different steps")
    other = held["model"] | {"decoder.layers.0.mlp.linear_fc2.weight": np.zeros((HIDDEN, 5), "float32")}
    write_rank(folder, vars(whole["args"]), {"model": other})
    refused(directory, f"[{HIDDEN}, 5]", f"[{HIDDEN}, 6]")


def test_a_tensor_of_another_shape(tmp_path):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 1, [[0, 1, 2, 3]])
    path = rank_file(directory, folder=TRAINED)
    whole = read_rank(path)
    held = whole["model"] | {"decoder.layers.2.self_attention.linear_qkv.weight": np.zeros((63, HIDDEN), "float32")}
    write_rank(path.parent, vars(whole["args"]), {"model": held})
    refused(directory, "decoder.layers.2.self_attention.linear_qkv.weight [16, 63] cannot be cut into 3 weights")
    convert_is_refused(directory, tmp_path)
    short = whole["model"] | {"embedding.word_embeddings.weight": np.zeros((ROWS - 1, HIDDEN), "float32")}
    write_rank(path.parent, vars(whole["args"]), {"model": short})
    refused(directory, f"has {ROWS - 1} rows", f"fewer than vocab_size {ROWS}")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"normalization": "LayerNorm"}, "normalization 'LayerNorm', and GLM-4 models have 'RMSNorm'"),
        ({"swiglu": False}, "swiglu False, and GLM-4 models have True"),
        ({"add_bias_linear": True}, "add_bias_linear True"),
        ({"num_experts": 8}, "num_experts 8, and GLM-4 models have None"),
        ({"position_embedding_type": "learned_absolute"}, "position_embedding_type 'learned_absolute'"),
        ({"use_glm_rope": False}, "neither use_glm_rope nor rotary_interleaved"),
        ({"noop_layers": "x"}, "noop_layers 'x', expected numbers"),
        ({"noop_layers": {9}}, "noop_layers 9 of num_layers 4"),
        ({"hidden_size": None}, "hidden_size None, expected a whole number above 0"),
    ],
)
def test_args_of_other_models(tmp_path, said, message):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 1, [[0, 1, 2, 3]], **said)
    assert str(rank_file(directory, folder=TRAINED)) in refused(directory, message)


def test_other_formats_of_megatron(tmp_path):
    directory = tmp_path / "mcore"
    (directory / TRAINED).mkdir(parents=True)
    (directory / TRACKER).write_text("5")
    refused(directory, "holds no mp_rank_*/model_optim_rng.pt")
    for name in ("__0_0.distcp", ".metadata", "metadata.json"):
        (directory / TRAINED / name).touch()
        refused(directory, "of Megatron's torch_dist format (.distcp files)", "--ckpt-format torch")
        (directory / TRAINED / name).unlink()
    folder = directory / TRAINED / "mp_rank_00"
    write_rank(folder, args(1, 1), {"model": {"language_model": {}}})
    refused(directory, "older models (language_model)")
    write_rank(folder.with_name("mp_rank_00_000_001"), args(1, 1), {"model": {}})
    refused(directory, "mp_rank_00_000_001 is a rank of expert parallelism")
    shutil.rmtree(folder.with_name("mp_rank_00_000_001"))
    write_rank(folder, args(1, 1), {})
    refused(directory, "at least 1: mp_rank_00 0: take all")
    (folder / "model_optim_rng.pt").write_bytes(b"PK\x03\x04 no zip")
    refused(directory, "model_optim_rng.pt is damaged or cut short")
    write_torch(folder / "model_optim_rng.pt", {"weight": np.zeros(3, "float32")})
    refused(directory, "holds weight, and no args of Megatron's")


def test_more_ranks_than_groups(tmp_path):
    """A rank would hold a part of a head."""
    for rank in range(4):
        folder = tmp_path / TRAINED / f"mp_rank_{rank:02d}"
        write_rank(folder, args(4, 1), {"model": rank_tensors(hf_weights(False), 0, 2)})
    (tmp_path / TRACKER).write_text("5")
    refused(tmp_path, "linear_qkv.weight", "num_key_value_heads 2 cannot be divided among 4 files")


def test_the_optimizer_is_left(tmp_path, caplog):
    directory = write_megatron(tmp_path / "mcore", hf_weights(False), 1, HALVES)
    (directory / TRAINED / "mp_rank_00_000" / "distrib_optim.pt").write_bytes(b"huge")
    assert same_bits(weights_of(directory), weights_of_hf(False))
    assert "distrib_optim.pt is passed over, weights alone are read" in caplog.text
