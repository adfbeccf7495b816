"""Megatron-core checkpoints written by hand: what its layers hold is computed here without the project's tables.

Needs NumPy and safetensors only, so that tests/checkpoint/make_megatron_fixture.py runs beside torch.
"""

import io
import json
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import fixture_files
import numpy as np
from checkpoint_samples import LegacyPickler, TorchPickler, TorchTensor, fake_torch
from safetensors.numpy import save_file

LAYERS, HIDDEN, HEADS, GROUPS, WIDTH, INNER, ROWS = 4, 16, 4, 2, 8, 12, 77
WRITTEN, TRAINED = "iter_0000001", "iter_0000005"
TRACKER = "latest_checkpointed_iteration.txt"
Tensors = dict[str, np.ndarray]


def config(post_norms: bool) -> dict:
    """A config.json as transformers writes it."""
    return {
        "model_type": "glm4" if post_norms else "glm",
        "architectures": ["Glm4ForCausalLM" if post_norms else "GlmForCausalLM"],
        "vocab_size": ROWS,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "head_dim": WIDTH,
        "intermediate_size": INNER,
        "max_position_embeddings": 64,
        "attention_bias": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "torch_dtype": "float32",
    }


def hf_weights(post_norms: bool) -> Tensors:
    """Random, in transformers' names, [out, in]."""
    shapes = {"model.embed_tokens.weight": (ROWS, HIDDEN), "lm_head.weight": (ROWS, HIDDEN)}
    shapes["model.norm.weight"] = (HIDDEN,)
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["post_self_attn_layernorm", "post_mlp_layernorm"] if post_norms else []
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.{norm}.weight": (HIDDEN,) for norm in norms}
        for part, heads in (("q", HEADS), ("k", GROUPS), ("v", GROUPS)):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (heads * WIDTH, HIDDEN)
            shapes[f"{layer}.self_attn.{part}_proj.bias"] = (heads * WIDTH,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * WIDTH)
        shapes[f"{layer}.mlp.gate_up_proj.weight"] = (2 * INNER, HIDDEN)
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, INNER)
    return fixture_files.random_weights(shapes, seed=11)


def write_hf(directory: Path, post_norms: bool) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config(post_norms)))
    save_file(hf_weights(post_norms), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def rank_tensors(weights: Tensors, rank: int, degree: int, multiple: int = 1) -> Tensors:
    """What a tensor-parallel rank of a model without stages holds, in Megatron-core's local names."""
    once = {
        "embedding.word_embeddings": _rows(
            _padded(weights["model.embed_tokens.weight"], multiple * degree), rank, degree
        ),
        "decoder.final_layernorm": weights["model.norm.weight"],
        "output_layer": _rows(_padded(weights["lm_head.weight"], multiple * degree), rank, degree),
    }
    tensors = {f"{name}.weight": array for name, array in once.items()}
    for i in range(LAYERS):
        layer = {name.removeprefix(f"model.layers.{i}."): w for name, w in weights.items() if f".layers.{i}." in name}
        tensors |= {f"decoder.layers.{i}.{name}": w for name, w in _layer(layer, rank, degree).items()}
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def _layer(layer: Tensors, rank: int, degree: int) -> Tensors:
    gate, up = np.split(layer["mlp.gate_up_proj.weight"], 2)
    tensors = {
        "input_layernorm.weight": layer["input_layernorm.weight"],
        "self_attention.linear_proj.weight": np.split(layer["self_attn.o_proj.weight"], degree, axis=1)[rank],
        "pre_mlp_layernorm.weight": layer["post_attention_layernorm.weight"],
        "mlp.linear_fc1.weight": np.concatenate([_rows(gate, rank, degree), _rows(up, rank, degree)]),
        "mlp.linear_fc2.weight": np.split(layer["mlp.down_proj.weight"], degree, axis=1)[rank],
    }
    for kind in ("weight", "bias"):
        tensors[f"self_attention.linear_qkv.{kind}"] = _groups(layer, kind, rank, degree)
    if "post_mlp_layernorm.weight" in layer:
        tensors["post_attn_norm.weight"] = layer["post_self_attn_layernorm.weight"]
        tensors["post_mlp_layernorm.weight"] = layer["post_mlp_layernorm.weight"]
    return tensors


def _groups(layer: Tensors, kind: str, rank: int, degree: int) -> np.ndarray:
    """The queries of a group, its key and its value, group after group."""
    q, k, v = (layer[f"self_attn.{part}_proj.{kind}"] for part in "qkv")
    wide, pieces = HEADS // GROUPS * WIDTH, []
    for group in range(rank * GROUPS // degree, (rank + 1) * GROUPS // degree):
        pieces.append(q[group * wide : (group + 1) * wide])
        pieces += [part[group * WIDTH : (group + 1) * WIDTH] for part in (k, v)]
    return np.concatenate(pieces)


def _rows(array: np.ndarray, rank: int, degree: int) -> np.ndarray:
    return np.split(array, degree)[rank]


def _padded(array: np.ndarray, multiple: int) -> np.ndarray:
    missing = -len(array) % multiple
    return np.concatenate([array, *[array[-1:]] * missing])


def parts(tensors: Tensors, cuts: Sequence[Sequence[int | None]]) -> list[Tensors]:
    """The parts of a model in its order, each with its layers counted from 0.

    Args:
        cuts: numbers of the layers in each part; None for one that holds nothing.
    """
    found = []
    for index, cut in enumerate(cuts):
        held = {}
        for place, i in enumerate(cut):
            of, to = f"decoder.layers.{i}.", f"decoder.layers.{place}."
            held |= {to + name.removeprefix(of): array for name, array in tensors.items() if name.startswith(of)}
        ends = ["embedding."] if index == 0 else []
        ends += ["decoder.final", "output_"] if index == len(cuts) - 1 else []
        held |= {name: array for name, array in tensors.items() if name.startswith(tuple(ends))}
        found.append(held)
    return found


def transformer_engine(tensors: Tensors) -> Tensors:
    """In the names of Transformer Engine's layers, whose norms are parts of the layers behind them."""
    inside = {
        ".input_layernorm.weight": ".self_attention.linear_qkv.layer_norm_weight",
        ".pre_mlp_layernorm.weight": ".mlp.linear_fc1.layer_norm_weight",
    }
    renamed = {}
    for name, array in tensors.items():
        end = next((end for end in inside if name.endswith(end)), "")
        renamed[name.removesuffix(end) + inside.get(end, "")] = array
    return renamed


def args(degree: int, stages: int, **changes) -> dict:
    """Of Megatron's command line, what says something of the model, as a MindSpeed-LLM run has it."""
    values = {
        "num_layers": LAYERS,
        "hidden_size": HIDDEN,
        "ffn_hidden_size": INNER,
        "num_attention_heads": HEADS,
        "group_query_attention": True,
        "num_query_groups": GROUPS,
        "kv_channels": WIDTH,
        "max_position_embeddings": 64,
        "padded_vocab_size": ROWS + ROWS % degree,
        "vocab_size": None,
        "normalization": "RMSNorm",
        "norm_epsilon": 1e-5,
        "position_embedding_type": "rope",
        "use_glm_rope": True,
        "rotary_percent": 0.5,
        "rotary_base": 10000,
        "swiglu": True,
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "post_norm": False,
        "untie_embeddings_and_output_weights": True,
        "attention_dropout": 0.0,
        "tensor_model_parallel_size": degree,
        "pipeline_model_parallel_size": stages,
        "num_layer_list": None,
        "noop_layers": None,
    }
    return values | changes


def write_megatron(
    directory: Path,
    weights: Tensors,
    degree: int,
    cuts: Sequence[Sequence[int | None]],
    *,
    virtual: int = 1,
    folder: str = TRAINED,
    rename: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    **changes,
) -> Path:
    """Write a checkpoint of as many stages as there are parts in `cuts`, or of fewer with several virtual ones each.

    Args:
        rename: of the tensors, to other layers' names.
        changes: of `args`.
    """
    stages = len(cuts) // virtual
    said = args(degree, stages, post_norm="model.layers.0.post_mlp_layernorm.weight" in weights, **changes)
    for rank in range(degree):
        held = [rename(part) for part in parts(rank_tensors(weights, rank, degree), cuts)]
        for stage in range(stages):
            models = held[stage::stages]
            names = ["model"] if virtual == 1 else [f"model{number}" for number in range(virtual)]
            name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if stages > 1 else "")
            write_rank(directory / folder / name, said, dict(zip(names, models, strict=True)))
    (directory / TRACKER).write_text(folder.removeprefix("iter_").lstrip("0"))
    return directory


def rank_file(directory: Path, rank: int = 0, stage: int | None = None, folder: str = WRITTEN) -> Path:
    """Of a checkpoint, by default of one that this project wrote."""
    name = f"mp_rank_{rank:02d}" + ("" if stage is None else f"_{stage:03d}")
    return directory / folder / name / "model_optim_rng.pt"


def write_rank(folder: Path, said: dict, models: dict[str, Tensors], **more) -> None:
    """One rank's file."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"args": Namespace(**said), "checkpoint_version": 3.0, "iteration": 5, **more}
    write_torch(folder / "model_optim_rng.pt", content | models)


def write_torch(path: Path, content: dict) -> None:
    """What torch.save makes of a dict of dicts of arrays."""
    storages: list[np.ndarray] = []
    text = _pickled(content, storages, TorchPickler)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_optim_rng/data.pkl", text)
        for number, array in enumerate(storages):
            archive.writestr(f"model_optim_rng/data/{number}", np.ascontiguousarray(array).tobytes())
        archive.writestr("model_optim_rng/version", "3\n")


def write_torch_legacy(path: Path, content: dict) -> None:
    """The same as torch before 1.6 writes it, and Megatron's oldest files are."""
    storages: list[np.ndarray] = []
    text = _pickled(content, storages, LegacyPickler)
    start = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    keys = pickle.dumps([str(number) for number in range(len(storages))], 2)
    numbers = b"".join(array.size.to_bytes(8, "little") + np.ascontiguousarray(array).tobytes() for array in storages)
    path.write_bytes(start + text + keys + numbers)


def _pickled(content: dict, storages: list[np.ndarray], pickler: type[TorchPickler]) -> bytes:
    """Appends the arrays to `storages`."""

    def stored(value):
        if isinstance(value, dict):
            return OrderedDict((name, stored(each)) for name, each in value.items())
        if not isinstance(value, np.ndarray):
            return value
        storages.append(value)
        return TorchTensor(str(len(storages) - 1), value)

    buffer, held = io.BytesIO(), stored(content)
    with fake_torch() as torch:
        pickler(buffer, torch).dump(held)
    return buffer.getvalue()


def read_rank(path: Path) -> dict:
    """A rank's file as Python's own pickle reads it: a check of the writer that shares no code with the reader."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return _Reader(archive).load()


class _Reader(pickle.Unpickler):
    """Tensors become arrays. For files that the tests made themselves only."""

    def __init__(self, archive: zipfile.ZipFile):
        super().__init__(io.BytesIO(archive.read("model_optim_rng/data.pkl")))
        self._archive = archive

    def find_class(self, module: str, name: str):
        if module == "torch":
            return name
        return self._tensor if name == "_rebuild_tensor_v2" else super().find_class(module, name)

    def persistent_load(self, identifier: tuple) -> np.ndarray:
        kind, storage, key, location, size = identifier
        assert (kind, location) == ("storage", "cpu")
        import ml_dtypes

        dtype = {"FloatStorage": np.float32, "BFloat16Storage": ml_dtypes.bfloat16, "HalfStorage": np.float16}[storage]
        array = np.frombuffer(self._archive.read(f"model_optim_rng/data/{key}"), dtype)
        assert array.size == size
        return array

    @staticmethod
    def _tensor(array: np.ndarray, offset: int, shape: tuple, strides: tuple, gradient: bool, hooks) -> np.ndarray:
        assert (offset, gradient, hooks) == (0, False, OrderedDict())
        assert strides == tuple(step // array.itemsize for step in array.reshape(shape).strides)
        return array.reshape(shape)
