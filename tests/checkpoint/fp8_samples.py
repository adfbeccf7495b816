"""Directories with 8-bit floating-point weights, in both forms in which GLM's are published."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

BLOCK = [16, 16]  # smaller than 128, so that tiny matrices have several and broken ones
_TYPES = {"float32": "F32", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}
CONFIGS = {
    "channel": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
                "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
            }
        },
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    },
    "block": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": BLOCK},
}


def write_fp8(directory: Path, form: str) -> dict[str, np.ndarray]:
    """Quantizes a model's linear weights in place, all but the router and the head; gives what they then mean."""
    stored, meant = {}, {}
    for name, array in load_file(directory / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            stored[name] = meant[name] = array
            continue
        scale = _channel(array) if form == "channel" else _blocks(array)
        spread = scale if form == "channel" else np.kron(scale, np.ones(BLOCK))[: array.shape[0], : array.shape[1]]
        numbers = (array / spread).astype(ml_dtypes.float8_e4m3fn)
        stored |= {name: numbers, name + ("_scale" if form == "channel" else "_scale_inv"): scale}
        meant[name] = (numbers.astype("float32") * spread.astype("float32")).astype(ml_dtypes.bfloat16)
    _write(directory / "model.safetensors", stored)
    content = json.loads((directory / "config.json").read_text("utf-8"))
    (directory / "config.json").write_text(json.dumps(content | {"quantization_config": CONFIGS[form]}))
    return meant


def _channel(array: np.ndarray) -> np.ndarray:
    return (np.abs(array).max(axis=1, keepdims=True) / 448).astype("float32")


def _blocks(array: np.ndarray) -> np.ndarray:
    rows, columns = (-(-size // block) for size, block in zip(array.shape, BLOCK, strict=True))
    padded = np.zeros((rows * BLOCK[0], columns * BLOCK[1]), "float32")
    padded[: array.shape[0], : array.shape[1]] = np.abs(array)
    return (padded.reshape(rows, BLOCK[0], columns, BLOCK[1]).max(axis=(1, 3)) / 448).astype("float32")


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """By hand: the library has no NumPy type of 8-bit numbers."""
    header, parts, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).tobytes()
        offsets = [end, end + len(content)]
        header[name] = {"dtype": _TYPES[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
        parts.append(content)
        end += len(content)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
