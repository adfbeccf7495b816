"""Adapters that a training can resume from: two matrices per layer, of one rank and one scaling. Needs no Paddle."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glm.checkpoint.adapter import FOREIGN, Adapter, Change, LoadedAdapter, check_shape, open_adapter
from glm.checkpoint.adapter_settings import Settings
from glm.checkpoint.expert_stacks import restacked, single_shapes, stack_name
from glm.config.shapes import parameter_shapes
from glm.errors import GLMError


class UntrainableAdapter(GLMError):
    """An adapter that is applied, and that is more than a further training could resume from."""


def read_adapter(directory: Path, config: Any) -> tuple[dict, Adapter]:
    """An adapter that can be trained further: its settings (r, alpha, dropout) and matrices in memory names.

    Every layer has the same rank and scaling; alpha / r is the scaling, whatever the file calls it.

    Raises:
        GLMError: as `open_adapter`.
        UntrainableAdapter: more than two matrices of one rank and scaling a layer; it names the setting.
    """
    loaded = open_adapter(directory, config)
    settings, changes = loaded.settings, loaded.changes
    _require_trainable(loaded, config)
    kept = _own_ranks(changes)
    ranks, scalings = {len(own) for own in kept.values()}, {float(f"{changes[name].scaling:.12g}") for name in kept}
    if len(ranks) > 1 or len(scalings) > 1:
        raise _untrainable(settings, "rank_pattern or alpha_pattern")
    matrices: Adapter = {}
    for name, own in kept.items():
        layer, change = name.removesuffix(".weight"), changes[name]
        matrices |= {f"{layer}.lora_A": change.lora_A[:, own], f"{layer}.lora_B": change.lora_B[own]}
    r, scaling = ranks.pop(), scalings.pop()
    alpha = scaling * r
    alpha = round(alpha) if abs(alpha - round(alpha)) < 1e-9 * abs(alpha) else alpha
    return {"r": r, "alpha": alpha, "dropout": settings.dropout}, restacked(matrices)


def _require_trainable(adapter: LoadedAdapter, config: Any) -> None:
    every = {name for name in single_shapes(parameter_shapes(config)) if stack_name(name) != name}
    all_experts = every <= adapter.changes.keys()
    if adapter.settings.untrainable:
        raise _untrainable(adapter.settings, adapter.settings.untrainable[0])
    if adapter.unties:
        raise _untrainable(adapter.settings, "LoRA on a tied head or embedding")
    for name, change in adapter.changes.items():
        if change.lora_A is None:
            raise _untrainable(adapter.settings, f"a whole {name}")
        if stack_name(name) != name and not all_experts:
            raise _untrainable(adapter.settings, "LoRA on some experts")
        if not change.fused.linear:
            raise _untrainable(adapter.settings, "LoRA on an embedding")
    if not adapter.changes:
        raise GLMError(f"{adapter.directory} holds no matrix of an adapter")


def _untrainable(settings: Settings, what: str) -> UntrainableAdapter:
    return UntrainableAdapter(
        f"{settings.path}: fine-tuning cannot continue from an adapter with {what}: merge it with "
        "predict_generation.py "
        "--merge_tensor_parallel_path, and train a new adapter on the merged model"
    )


def _own_ranks(changes: Mapping[str, Change]) -> dict[str, list[int]]:
    """The ranks that each weight needs of its adapter: all, unless the weights of a fused layer use different ones.

    Such adapters are several in one (glm/checkpoint/adapter_peft.py writes them). A weight that uses none has none.
    """
    rows: dict[str, list[str]] = defaultdict(list)
    for name, change in changes.items():
        rows[change.fused.stored].append(name)
    own = {}
    for names in rows.values():
        used = {name: np.any(changes[name].lora_B != 0, axis=1) for name in names}
        together = sum(ranks.astype(int) for ranks in used.values())
        if len(names) == 1 or together.max() != 1:
            own |= {name: list(range(len(ranks))) for name, ranks in used.items()}
            continue
        count = max(int(ranks.sum()) for ranks in used.values())
        for name, ranks in used.items():
            spare = np.flatnonzero(~ranks)[: count - int(ranks.sum())]
            if ranks.any():
                own[name] = sorted([*np.flatnonzero(ranks).tolist(), *spare.tolist()])
    return own


def check_adapter(adapter: Adapter, expected: Mapping[str, Sequence[int]], directory: Path) -> None:
    """Raises GLMError where names or shapes are not those that the model expects of it."""
    odd = sorted(set(adapter) ^ set(expected))
    if odd:
        side = "lacks" if odd[0] in expected else "has, and the model lacks,"
        raise GLMError(f"{directory} {side} {odd[0]} ({len(odd)} such): {FOREIGN}")
    for name, shape in expected.items():
        check_shape(name, adapter[name], shape, directory)
