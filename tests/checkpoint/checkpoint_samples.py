"""Sample states, and writers of foreign formats, for the checkpoint tests."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from types import SimpleNamespace

import ml_dtypes
import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


def tiny_config(**changes):
    values = {
        "checkpoint_table": "glm",
        "vocab_size": 20,
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    }
    return SimpleNamespace(**values | changes)


def memory_shapes(config, positions=7) -> dict[str, tuple[int, ...]]:
    """Shapes of a GLM in memory, written out by hand and not from the table."""
    h = config.hidden_size
    shapes = {"model.embed_tokens.weight": (config.vocab_size, h), "model.norm.weight": (h,), "model.norm.bias": (h,)}
    for name in ("position_embeddings", "block_position_embeddings"):
        shapes[f"model.positions.{name}.weight"] = (positions, h)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{layer}.{norm}.weight": (h,), f"{layer}.{norm}.bias": (h,)}
        linears = {f"self_attn.{part}_proj": (h, h) for part in "qkvo"}
        linears |= {"mlp.up_proj": (h, 4 * h), "mlp.down_proj": (4 * h, h)}
        for name, shape in linears.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[1:]}
    return shapes


def random_state(config, dtype="float32", seed=0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = memory_shapes(config)
    return {name: draw.standard_normal(shape, "float32").astype(np_dtype(dtype)) for name, shape in shapes.items()}


def np_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Equal names, types, shapes and bytes."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


@contextmanager
def fake_torch():
    """Modules called torch and torch._utils, as far as a torch file names them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError("only its name is wanted")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


class TorchTensor:
    """What torch.save sees of a tensor: a storage (array and key), an offset, a shape and strides in elements."""

    def __init__(self, key, array, offset=0, shape=None, strides=None):
        self.key, self.array, self.offset = key, array, offset
        self.shape = array.shape if shape is None else shape
        own = tuple(step // array.itemsize for step in array.strides)
        self.strides = own if strides is None else strides


class _Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class TorchPickler(pickle.Pickler):
    def __init__(self, file, torch):
        super().__init__(file, protocol=2)
        self.torch = torch

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        return "storage", getattr(self.torch, STORAGES[obj.array.dtype.name]), obj.key, "cpu", obj.array.size

    def reducer_override(self, obj):
        if not isinstance(obj, TorchTensor):
            return NotImplemented
        storage = _Storage(obj.key, obj.array)
        arguments = (storage, obj.offset, obj.shape, obj.strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


def write_torch_bin(path, arrays, extra=None, views=None, byteorder="little"):
    """Write a torch zip by hand: data.pkl, one storage per tensor, byteorder; headers are padded as torch pads them.

    Args:
        extra: further entries of the state dict, pickled as they are.
        views: name → (name of the tensor whose storage it shares, offset, shape, strides).
    """
    tensors = OrderedDict((name, TorchTensor(str(i), array)) for i, (name, array) in enumerate(arrays.items()))
    for name, (owner, offset, shape, strides) in (views or {}).items():
        tensors[name] = TorchTensor(tensors[owner].key, arrays[owner], offset, shape, strides)
    storages = {tensor.key: tensor.array for tensor in tensors.values()}
    tensors.update(extra or {})
    tensors._metadata = OrderedDict({"": {"version": 1}})
    buffer = io.BytesIO()
    with fake_torch() as torch:
        TorchPickler(buffer, torch).dump(tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", byteorder)
        for key, array in storages.items():
            info = zipfile.ZipInfo(f"archive/data/{key}")
            info.extra = b"FB" + (5 + int(key)).to_bytes(2, "little") + b"Z" * (5 + int(key))
            archive.writestr(info, _in_order(array, byteorder))
        archive.writestr("archive/version", "3\n")


class LegacyPickler(TorchPickler):
    def persistent_id(self, obj):
        found = super().persistent_id(obj)
        return found and (*found, None)


def write_torch_legacy(path, arrays, extra=None):
    """Write torch's form from before 1.6 by hand: five pickles, then sizes and bytes of the storages."""
    tensors = OrderedDict((name, TorchTensor(str(i), array)) for i, (name, array) in enumerate(arrays.items()))
    storages = {tensor.key: tensor.array for tensor in tensors.values()}
    tensors.update(extra or {})
    buffer = io.BytesIO()
    for content in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(content, buffer, protocol=2)
    with fake_torch() as torch:
        LegacyPickler(buffer, torch).dump(tensors)
    pickle.dump(list(storages), buffer, protocol=2)
    for array in storages.values():
        buffer.write(array.size.to_bytes(8, "little") + _in_order(array, "little"))
    path.write_bytes(buffer.getvalue())


def _in_order(array, byteorder) -> bytes:
    bits = np.ascontiguousarray(array).view(f"<u{array.itemsize}")
    return (bits.byteswap() if byteorder == "big" else bits).tobytes()
