"""One tiny GLM in every format that is read: each writer puts a state of the in-memory names into a directory."""

import json
import pickle

import numpy as np
from checkpoint_samples import np_dtype, tiny_config, write_torch_bin, write_torch_legacy
from safetensors.numpy import save_file

from glm.checkpoint import from_memory

CONFIG = tiny_config()
QKV = "transformer.layers.0.attention.query_key_value.weight"


def contiguous(arrays):
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def bits(arrays):
    """As Paddle hands bfloat16 to NumPy."""
    return {name: a.view("uint16") if a.dtype == np_dtype("bfloat16") else a for name, a in contiguous(arrays).items()}


def write_pdparams(path, arrays, protocol=4):
    path.write_bytes(pickle.dumps(bits(arrays), protocol=protocol))


def split_in_two(directory, arrays, pattern, write):
    """Two files and their index, as Hugging Face and PaddleNLP shard big models."""
    names = sorted(arrays)
    weight_map = {}
    for number, part in ((1, names[::2]), (2, names[1::2])):
        file_name = pattern.format(number)
        write(directory / file_name, {name: arrays[name] for name in part})
        weight_map |= dict.fromkeys(part, file_name)
    stem, suffix = pattern.split("-")[0], pattern.rsplit(".", 1)[1]
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_shards(directory, state, degree, names="glm"):
    """Tensor-parallel files as PaddleNLP cuts them, in plain NumPy; in test_paddlenlp.py its own functions do it."""
    heads = CONFIG.num_attention_heads
    for rank in range(degree):
        shard = {}
        for name, array in from_memory(state, CONFIG).items() if names == "glm" else state.items():
            if "query_key_value" in name:
                array = array.reshape(*array.shape[:-1], 3, heads, -1).swapaxes(-3, -2).reshape(array.shape)
            column = name.rsplit(".", 2)[-2] in (
                "query_key_value",
                "dense_h_to_4h",
                "q_proj",
                "k_proj",
                "v_proj",
                "up_proj",
            )
            row = name.endswith(("dense.weight", "4h_to_h.weight", "word_embeddings.weight", "o_proj.weight"))
            row = row or name.endswith(("down_proj.weight", "embed_tokens.weight"))
            shard[name] = np.split(array, degree, -1 if column else 0)[rank] if column or row else array
        write_pdparams(directory / f"model_state.tp{rank:02d}.pdparams", shard)


def safetensors(metadata, layout=False):
    def write(directory, state):
        arrays = contiguous(from_memory(state, CONFIG, torch_layout=layout))
        save_file(arrays, directory / "model.safetensors", metadata)

    return write


def safetensors_u16(directory, state):
    save_file(bits(from_memory(state, CONFIG)), directory / "model.safetensors", {"format": "np"})


def safetensors_index(directory, state):
    arrays = contiguous(from_memory(state, CONFIG, torch_layout=True))
    split_in_two(
        directory, arrays, "model-{:05d}-of-00002.safetensors", lambda path, a: save_file(a, path, {"format": "pt"})
    )


def torch_bin(directory, state):
    write_torch_bin(directory / "pytorch_model.bin", contiguous(from_memory(state, CONFIG, torch_layout=True)))


def torch_index(directory, state):
    arrays = contiguous(from_memory(state, CONFIG, torch_layout=True))
    split_in_two(directory, arrays, "pytorch_model-{:05d}-of-00002.bin", write_torch_bin)


def torch_legacy(directory, state):
    write_torch_legacy(directory / "pytorch_model.bin", contiguous(from_memory(state, CONFIG, torch_layout=True)))


def torch_legacy_index(directory, state):
    arrays = contiguous(from_memory(state, CONFIG, torch_layout=True))
    split_in_two(directory, arrays, "pytorch_model-{:05d}-of-00002.bin", write_torch_legacy)


def without_index(write):
    def written(directory, state):
        write(directory, state)
        (index,) = directory.glob("*.index.json")
        index.unlink()

    return written


def without_prefix(directory, state):
    arrays = from_memory(state, CONFIG, torch_layout=True)
    arrays = {name.removeprefix("glm."): array for name, array in arrays.items()}
    write_torch_bin(directory / "pytorch_model.bin", contiguous(arrays))


FORMATS = {
    "safetensors np": safetensors({"format": "np"}),
    "safetensors pt": safetensors({"format": "pt"}, layout=True),
    "safetensors unlabelled paddle": safetensors(None),
    "safetensors unlabelled torch": safetensors({"made_by": "hand"}, layout=True),
    "safetensors u16": safetensors_u16,
    "safetensors index": safetensors_index,
    "torch bin": torch_bin,
    "torch index": torch_index,
    "torch before 1.6": torch_legacy,
    "torch before 1.6, index": torch_legacy_index,
    "safetensors without index": without_index(safetensors_index),
    "torch without index": without_index(torch_index),
    "without prefix": without_prefix,
    "pdparams": lambda directory, state: write_pdparams(directory / "model_state.pdparams", from_memory(state, CONFIG)),
    "pdparams protocol 2": lambda directory, state: write_pdparams(
        directory / "model_state.pdparams", from_memory(state, CONFIG), 2
    ),
    "pdparams index": lambda directory, state: split_in_two(
        directory, from_memory(state, CONFIG), "model_state-{:05d}-of-00002.pdparams", write_pdparams
    ),
    "in-memory names": lambda directory, state: save_file(state, directory / "model.safetensors", {"format": "pd"}),
    "in-memory names, torch layout": lambda directory, state: save_file(
        {n: np.ascontiguousarray(a.T) if "_proj.weight" in n else a for n, a in state.items()},
        directory / "model.safetensors",
        {"format": "pt"},
    ),
    "2 ranks": lambda directory, state: write_shards(directory, state, 2),
    "2 ranks, in-memory names": lambda directory, state: write_shards(directory, state, 2, "memory"),
}
