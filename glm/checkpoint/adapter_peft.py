"""Writing an adapter as Hugging Face PEFT's files, in the layers of the published model. Needs no Paddle.

In memory query, key and value, or gate and up, have an adapter each. Where the published model has one layer for them,
they become one adapter whose matrices are theirs beside each other: lora_A [r, in] of each stacked, lora_B with a block
for each. Its rank and alpha are the sums, so the scaling stays; adapters that share lora_A keep it once.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from glm.checkpoint.adapter import PEFT_WEIGHTS, Adapter
from glm.checkpoint.adapter_settings import PEFT_CONFIG
from glm.checkpoint.names import TensorEntry, table_of
from glm.config.shapes import parameter_shapes
from glm.files.atomic import atomic_file, write_json

Pair = tuple[np.ndarray, np.ndarray]  # lora_A [in, r], lora_B [r, out]


def save_peft(adapter: Adapter, config: Any, directory: Path, *, alpha: float, dropout: float) -> None:
    """Writes adapter_model.safetensors and adapter_config.json.

    Args:
        adapter: whole matrices by name in memory, of one rank r.
        config: of the model; its checkpoint_table says which published layers it has.
        directory: is there.
        alpha: the scaling is alpha / r.
    """
    layers = _published(adapter, config)
    r = next(array.shape[1] for name, array in adapter.items() if name.endswith("lora_A"))
    arrays = {}
    for module, (a, b) in layers.items():
        arrays[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(a.T)
        arrays[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(b.T)
    with atomic_file(directory / PEFT_WEIGHTS) as temporary:
        save_file(arrays, temporary, metadata={"format": "pt"})
    ranks = {module: a.shape[1] for module, (a, _) in layers.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    pattern = _pattern({module: rank for module, rank in ranks.items() if rank != usual}, ranks)
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": usual,
        "lora_alpha": _whole(alpha * usual / r),
        "rank_pattern": pattern,
        "alpha_pattern": {name: _whole(alpha * rank / r) for name, rank in pattern.items()},
        "lora_dropout": dropout,
        "target_modules": _targets(set(layers), config),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(directory / PEFT_CONFIG, content)


def _published(adapter: Adapter, config: Any) -> dict[str, Pair]:
    """One pair of matrices for every stored layer that has an adapter."""
    layers = {}
    for row in (row for row in table_of(config).expand(config) if row.linear):
        names = [name.removesuffix(".weight") for name in row.memory]
        pairs = [(adapter.get(f"{name}.lora_A"), adapter.get(f"{name}.lora_B")) for name in names]
        if any(a is not None for a, _ in pairs):
            layers[row.stored.removesuffix(".weight")] = _together(pairs, row, config)
    return layers


def _together(pairs: list[tuple], row: TensorEntry, config: Any) -> Pair:
    if len(pairs) == 1:
        return pairs[0]
    there = [pair for pair in pairs if pair[0] is not None]
    first = there[0][0]
    if len(there) == len(pairs) and all(np.array_equal(first, a) for a, _ in there):
        return first, row.packing.pack([b for _, b in pairs], config)
    widths = _widths(pairs, row, config)
    ranks = sum(a.shape[1] for a, _ in there)
    parts, start = [], 0
    for (a, b), width in zip(pairs, widths, strict=True):
        block = np.zeros((ranks, width), there[0][1].dtype)
        if a is not None:
            block[start : start + len(b)] = b
            start += len(b)
        parts.append(block)
    return np.concatenate([a for a, _ in there], axis=1), row.packing.pack(parts, config)


def _widths(pairs: list[tuple], row: TensorEntry, config: Any) -> list[int]:
    """Columns of each weight of a fused one, those without an adapter included."""
    shapes = parameter_shapes(config)
    return [shapes[name][1] for name in row.memory]


def _pattern(odd: dict[str, int], ranks: dict[str, int]) -> dict[str, int]:
    """Ranks by the last part of the modules' names where it tells them, else by the whole name."""
    pattern = {}
    for module, rank in odd.items():
        kind = module.rpartition(".")[2]
        alike = {other for name, other in ranks.items() if name.rpartition(".")[2] == kind} == {rank}
        pattern[kind if alike else f"^{module}"] = rank
    return pattern


def _targets(modules: set[str], config: Any) -> list[str]:
    """The last parts of the modules' names where all of that name have an adapter, else the whole names."""
    stored = [row.stored.removesuffix(".weight") for row in table_of(config).expand(config) if row.linear]
    targets = set()
    for module in modules:
        kind = module.rpartition(".")[2]
        same = {name for name in stored if name.rpartition(".")[2] == kind}
        targets.add(kind if same <= modules else module)
    return sorted(targets)


def _whole(number: float) -> float:
    return round(number) if abs(number - round(number)) < 1e-6 else number
