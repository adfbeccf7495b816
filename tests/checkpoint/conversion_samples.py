"""Tiny checkpoint directories of every family, to convert."""

import json
from math import prod
from pathlib import Path

import fixture_files
import numpy as np
from checkpoint_samples import np_dtype, random_state, tiny_config, write_torch_bin
from remote_code import remote_code_config, remote_code_weights, write_directory
from safetensors.numpy import load_file, save_file

from glm.checkpoint import from_memory
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.config.glm_config import GLMConfig

FIXTURES = fixture_files.names()
REMOTE = [name for name in FIXTURES if name.startswith("glm-")]
DEGREES = {"glm-g4-bias-rope500": 4, "glm4-g4-bias-rope500": 4, "glm4-g2-bias-rope1": 4, "chatglm-6b": 4, "glm": 2}


def hf_directory(name: str, directory: Path) -> Path:
    """A fixture's checkpoint as transformers saved it, or a tiny GLM (2021) as its repository has it."""
    directory.mkdir()
    if name == "glm":
        return _glm_2021(directory)
    for file in ("config.json", "model.safetensors"):
        (directory / file).write_bytes((fixture_files.FIXTURES / name / file).read_bytes())
    return directory


def _glm_2021(directory: Path) -> Path:
    sizes = tiny_config()
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    config = GLMConfig(**{name: getattr(sizes, name) for name in names})
    config.save_pretrained(directory)
    stored = from_memory(random_state(sizes), config, torch_layout=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in stored.items()}
    save_file(arrays, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def remote_directory(name: str, directory: Path) -> Path:
    """A GLM-4-9B fixture as a repository with remote code has it."""
    fixture = fixture_files.load(name)
    return write_directory(directory, remote_code_config(fixture), remote_code_weights(fixture))


def bin_directory(name: str, directory: Path) -> Path:
    """A fixture's checkpoint in two parts that torch wrote."""
    directory.mkdir()
    weights, weight_map = load_file(fixture_files.FIXTURES / name / "model.safetensors"), {}
    for part in range(2):
        file = f"pytorch_model-{part + 1:05d}-of-00002.bin"
        share = {key: weights[key] for key in sorted(weights)[part::2]}
        write_torch_bin(directory / file, share)
        weight_map |= dict.fromkeys(share, file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_bytes((fixture_files.FIXTURES / name / "config.json").read_bytes())
    return directory


def sharded_directory(directory: Path, shards: int, megabytes: int) -> Path:
    """A GLM-4-0414 in bfloat16 of one layer per shard, with the word embedding and the head among them."""
    directory.mkdir()
    hidden = 1024
    mlp = (megabytes * 10**6 // 2 // hidden - 2 * hidden - 256) // 24 * 8
    config = {
        "model_type": "glm4",
        "architectures": ["Glm4ForCausalLM"],
        "num_hidden_layers": shards - 1,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "vocab_size": megabytes * 10**6 // 4 // hidden,
        "attention_bias": False,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 1024,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for number in range(shards):
        file, shapes = f"model-{number + 1:05d}-of-{shards:05d}.safetensors", _shapes(number - 1, config)
        draw = np.random.default_rng(number)
        arrays = {key: _finite(draw, shape) for key, shape in shapes}
        save_file(arrays, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(arrays, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def _finite(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random bfloat16 below 2: made faster than drawn from a distribution."""
    bits = np.frombuffer(draw.bytes(2 * prod(shape)), np.uint16) & 0xBFFF
    return bits.view(np_dtype("bfloat16")).reshape(shape)


def _shapes(layer: int, config: dict) -> list[tuple[str, tuple[int, ...]]]:
    """Of a layer, torch's [out, in]; before the first layer, of what there is once."""
    hidden, mlp, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    if layer < 0:
        once = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden), "model.norm": (hidden,)}
        return [(f"{name}.weight", shape) for name, shape in once.items()]
    parts = {"self_attn.q_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden)}
    parts |= {f"self_attn.{name}_proj": (128, hidden) for name in "kv"}
    parts |= {"mlp.gate_up_proj": (2 * mlp, hidden), "mlp.down_proj": (hidden, mlp)}
    norms = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
    parts |= dict.fromkeys(norms, (hidden,))
    return [(f"model.layers.{layer}.{name}.weight", shape) for name, shape in parts.items()]


def convert(source: Path, target: Path, form: str, **options):
    return convert_checkpoint(Conversion(source, target, form, **options))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a directory, by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
