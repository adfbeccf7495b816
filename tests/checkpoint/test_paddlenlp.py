"""PaddleNLP and Paddle read what we write, and we read what they write."""

import inspect
import pickle
import random

import ml_dtypes
import numpy as np
import paddle
import pytest
from attack import Attack
from checkpoint_samples import np_dtype, tiny_config
from paddle.framework import core, io, io_utils
from paddlenlp.trainer import TrainingArguments
from paddlenlp.transformers import GLMConfig, GLMForConditionalGeneration
from shard_samples import shard_names, write_parts, write_shards

from glm.checkpoint import check_state, load_pdparams, load_state, save_state, verify_pickle
from glm.errors import GLMError

CONFIG = tiny_config(vocab_size=64, hidden_size=32, num_attention_heads=4)
PADDLENLP = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_sequence_length": 32,
    "output_predict": True,
}


@pytest.fixture(scope="module")
def model():
    paddle.seed(5)
    model = GLMForConditionalGeneration(GLMConfig(**PADDLENLP))
    for parameter in model.parameters():  # biases and norms too, which start as zeros and ones
        parameter.set_value(paddle.randn(parameter.shape))
    return model


def weights(model) -> dict[str, np.ndarray]:
    return {name: array.astype("float32").numpy() for name, array in model.state_dict().items()}


def in_memory(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PaddleNLP's weights under our names, written out by hand."""
    stored = dict(stored)
    take = stored.pop
    state = {"model.embed_tokens.weight": take("glm.word_embeddings.weight")}
    for kind in ("position_embeddings", "block_position_embeddings"):
        state[f"model.positions.{kind}.weight"] = take(f"glm.transformer.{kind}.weight")
    for kind in ("weight", "bias"):
        state[f"model.norm.{kind}"] = take(f"glm.transformer.final_layernorm.{kind}")
        for i in range(2):
            theirs, ours = f"glm.transformer.layers.{i}", f"model.layers.{i}"
            fused = take(f"{theirs}.attention.query_key_value.{kind}")
            for part, letter in enumerate("qkv"):
                state[f"{ours}.self_attn.{letter}_proj.{kind}"] = fused[..., 32 * part : 32 * (part + 1)]
            state[f"{ours}.self_attn.o_proj.{kind}"] = take(f"{theirs}.attention.dense.{kind}")
            state[f"{ours}.mlp.up_proj.{kind}"] = take(f"{theirs}.mlp.dense_h_to_4h.{kind}")
            state[f"{ours}.mlp.down_proj.{kind}"] = take(f"{theirs}.mlp.dense_4h_to_h.{kind}")
            for norm in ("input_layernorm", "post_attention_layernorm"):
                state[f"{ours}.{norm}.{kind}"] = take(f"{theirs}.{norm}.{kind}")
    assert not stored
    return state


def assert_equal(read: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    check_state(read, {name: array.shape for name, array in wanted.items()}, "read")
    for name, array in wanted.items():
        assert np.array_equal(read[name], array), name


@pytest.mark.parametrize("safe", [True, False])
def test_reading_what_paddlenlp_saved(model, tmp_path, safe):
    model.save_pretrained(tmp_path, safe_serialization=safe)
    assert_equal(load_state(tmp_path, CONFIG), in_memory(weights(model)))


@pytest.mark.parametrize("safe", [True, False])
def test_reading_paddlenlp_shards_with_an_index(model, tmp_path, safe):
    model.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    assert_equal(load_state(tmp_path, CONFIG), in_memory(weights(model)))


@pytest.mark.parametrize("safe", [True, False])
def test_reading_bfloat16_that_paddlenlp_saved(model, tmp_path, safe):
    model.save_pretrained(tmp_path / "full")
    low = GLMForConditionalGeneration.from_pretrained(str(tmp_path / "full"), dtype="bfloat16")
    low.save_pretrained(tmp_path / "low", safe_serialization=safe)
    read = load_state(tmp_path / "low", CONFIG)
    assert {array.dtype for array in read.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert_equal({name: array.astype("float32") for name, array in read.items()}, in_memory(weights(low)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("weight_format", ["safetensors", "pdparams"])
def test_paddlenlp_opens_what_we_write(model, tmp_path, weight_format, dtype):
    state = in_memory(weights(model))
    state = {name: array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for name, array in state.items()}
    save_state(tmp_path, state, CONFIG, weight_format=weight_format)
    model.config.save_pretrained(tmp_path)
    opened = GLMForConditionalGeneration.from_pretrained(str(tmp_path), dtype=dtype)
    assert_equal(in_memory(weights(opened)), {name: array.astype("float32") for name, array in state.items()})


def tensor_parallel(stored, rank, degree, is_split=True):
    """PaddleNLP's own functions that cut (or join) its weights, by stored name."""
    config = GLMConfig(**PADDLENLP, tensor_parallel_degree=degree, tensor_parallel_rank=rank)
    actions = GLMForConditionalGeneration._get_tensor_parallel_mappings(config, is_split=is_split)
    names = GLMForConditionalGeneration._resolve_prefix_keys(actions, stored)
    return {name: actions[key] for key, name in names.items()}


def paddlenlp_shard(stored, rank, degree):
    cut = {name: action(stored[name]) for name, action in tensor_parallel(stored, rank, degree).items()}
    return {name: np.ascontiguousarray(array) for name, array in {**stored, **cut}.items()}


@pytest.mark.parametrize("degree", [2, 4])
def test_reading_tensor_parallel_files(model, tmp_path, degree):
    """Cut by PaddleNLP's own split functions, saved by Paddle."""
    stored = weights(model)
    for rank in range(degree):
        shard = {name: paddle.to_tensor(array) for name, array in paddlenlp_shard(stored, rank, degree).items()}
        paddle.save(shard, str(tmp_path / f"model_state.tp{rank:02d}.pdparams"))
    assert shard["glm.transformer.layers.0.attention.query_key_value.weight"].shape == [32, 96 // degree]
    assert_equal(load_state(tmp_path, CONFIG), in_memory(stored))


@pytest.mark.parametrize("degree", [2, 4])
def test_our_tensor_parallel_files_are_paddlenlps(model, tmp_path, degree):
    """Opened by Paddle, they are what PaddleNLP cuts for each rank, and PaddleNLP's merge makes the model of them."""
    stored = weights(model)
    write_shards(tmp_path, in_memory(stored), degree, CONFIG)
    files = [tmp_path / name for name in shard_names(degree)]
    shards = [paddle.load(str(file), return_numpy=True) for file in files]
    for rank, shard in enumerate(shards):
        wanted = paddlenlp_shard(stored, rank, degree)
        assert shard.keys() == wanted.keys()
        assert all(np.array_equal(shard[name], array) for name, array in wanted.items())
    merge = tensor_parallel(stored, 0, degree, is_split=False)
    assert "glm.transformer.layers.0.attention.query_key_value.weight" in merge
    for name, array in stored.items():
        parts = [shard[name] for shard in shards]
        assert np.array_equal(merge[name](parts) if name in merge else parts[0], array), name


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_paddlenlp_opens_our_parts(model, tmp_path, dtype):
    state = {name: array.astype(np_dtype(dtype)) for name, array in in_memory(weights(model)).items()}
    write_parts(tmp_path, state, 3, CONFIG)
    model.config.save_pretrained(tmp_path)
    opened = GLMForConditionalGeneration.from_pretrained(str(tmp_path), dtype=dtype)
    assert_equal(in_memory(weights(opened)), {name: array.astype("float32") for name, array in state.items()})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reading_what_paddle_saved(tmp_path, protocol):
    state = {"w": paddle.randn([300, 100]), "low": paddle.randn([5]).astype("bfloat16"), "n": paddle.arange(4)}
    paddle.save(state, str(tmp_path / "state.pdparams"), protocol=protocol)
    paddle.save({"nested": [state["w"]], **state}, str(tmp_path / "mixed.pdparams"), protocol=protocol)
    read = load_pdparams(tmp_path / "state.pdparams")
    assert {name: array.dtype.name for name, array in read.items()} == {"w": "float32", "low": "bfloat16", "n": "int64"}
    for name, tensor in state.items():
        assert np.array_equal(read[name].astype("float32"), tensor.astype("float32").numpy())
    verify_pickle(tmp_path / "mixed.pdparams")
    with pytest.raises(GLMError, match="'nested' is a list, expected an array"):
        load_pdparams(tmp_path / "mixed.pdparams")


def test_reading_what_paddle_split(tmp_path, monkeypatch):
    """Paddle cuts tensors above 1 GiB in protocol 2; here its limit is lowered, its code is the real one."""
    whole = np.arange(60, dtype="float32").reshape(3, 4, 5)
    source = inspect.getsource(io_utils._unpack_saved_dict).replace("2**30 - 1", "100")
    space = dict(vars(io_utils))
    exec(source, space)
    monkeypatch.setattr(io, "_unpack_saved_dict", space["_unpack_saved_dict"])
    paddle.save({"w": paddle.to_tensor(whole)}, str(tmp_path / "a.pdparams"), protocol=2)
    assert b"w@@.2" in (tmp_path / "a.pdparams").read_bytes()
    assert np.array_equal(load_pdparams(tmp_path / "a.pdparams")["w"], whole)


def training_state() -> dict[str, object]:
    """Everything the Trainer saves beside the weights, after two steps in mixed precision form."""
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 300), paddle.nn.LayerNorm(300))
    cosine = paddle.optimizer.lr.CosineAnnealingDecay(0.1, T_max=10)
    schedulers = {
        "lambda": paddle.optimizer.lr.LambdaDecay(0.1, lambda step: np.float64(0.9) ** step),
        "warmup": paddle.optimizer.lr.LinearWarmup(cosine, 3, 0.0, 0.1),
    }
    optimizer = paddle.optimizer.AdamW(schedulers["warmup"], parameters=layer.parameters(), multi_precision=True)
    for _ in range(2):
        layer(paddle.randn([2, 4])).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        for scheduler in schedulers.values():
            scheduler.step()
    optimizer_state = optimizer.state_dict()
    masters = {"master_weights": {name: paddle.randn([3]) for name in ("a", "b")}}
    scaler = paddle.amp.GradScaler(init_loss_scaling=1024)
    scaler._enable = True  # it disables itself on the CPU; the state is that of a GPU
    scaler._scale = paddle.to_tensor([1024.0])
    for name in (
        "incr_ratio",
        "decr_ratio",
        "incr_every_n_steps",
        "decr_every_n_nan_or_inf",
        "incr_count",
        "decr_count",
    ):
        setattr(scaler, f"_{name}", 2)
    scaler._use_dynamic_loss_scaling = True
    generators = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cuda": paddle.get_rng_state(),
        "cpu": core.default_cpu_generator().get_state(),
        "hybrid_parallel_rng_state_tracker": {"global_seed": paddle.get_rng_state()},
    }
    return {
        "optimizer.pdopt": optimizer_state,
        "optimizer_masters.pdopt": {**optimizer_state, **masters},
        "scheduler.pdparams": schedulers["warmup"].state_dict(),
        "scheduler_lambda.pdparams": schedulers["lambda"].state_dict(),
        "scaler.pdparams": scaler.state_dict(),
        "rng_state.pth": generators,
        "rng_state_2.pth": [generators, generators],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_training_state_is_allowed(tmp_path, protocol):
    for name, content in training_state().items():
        path = tmp_path / name
        paddle.save(content, str(path), protocol=protocol)
        verify_pickle(path)
        paddle.load(str(path), return_numpy=True)


@pytest.mark.parametrize("name", ["optimizer.pdopt", "scheduler.pdparams", "rng_state.pth"])
def test_training_state_with_an_attack_is_refused(tmp_path, name):
    """The same file that paddle.load runs."""
    marker, path = tmp_path / "marker", tmp_path / name
    content = {**training_state()[name], "extra": Attack(marker)}

    class Writer(pickle.Pickler):
        def reducer_override(self, obj):
            if isinstance(obj, paddle.Tensor):
                return tuple, ((obj.name, obj.numpy()),)
            return NotImplemented

    with path.open("wb") as file:
        Writer(file, protocol=4).dump(content)
    with pytest.raises(GLMError, match=rf"{name} is refused: loading it would run posix.system"):
        verify_pickle(path)
    assert not marker.exists()
    paddle.load(str(path), return_numpy=True)
    assert marker.exists()


def test_the_eval_of_dense_tensors_is_refused(tmp_path):
    """Paddle's only use of eval; no state_dict holds such a tensor (test_training_state_is_allowed)."""
    owner = paddle.ones([2])  # the dense tensor does not keep its memory alive
    paddle.save([owner.value().get_tensor()], str(tmp_path / "a.pdparams"))
    with pytest.raises(GLMError, match=r"a.pdparams is refused: loading it would run builtins.eval"):
        verify_pickle(tmp_path / "a.pdparams")


def test_training_arguments_are_not_training_state(tmp_path):
    paddle.save(TrainingArguments(output_dir=str(tmp_path)), str(tmp_path / "training_args.bin"))
    with pytest.raises(GLMError, match=r"training_args.bin is refused: loading it would run paddlenlp"):
        verify_pickle(tmp_path / "training_args.bin")
