"""Adapters of fused experts, as PEFT writes them for transformers 5 (`target_parameters`), as one adapter an expert.

PEFT (tuners/lora/layer.py, ParamWrapper) holds lora_A [r·E, in], expert by expert, and lora_B [out, r·E], whose columns
run through the experts within each rank, under `experts` and, where two parameters have one, `experts.base_layer`.
Which is which the shapes tell: gate and up are H → 2·I, the gate first, down is I → H.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glm.errors import GLMError

Modules = dict[str, dict[str, np.ndarray]]
_FUSED = re.compile(r"(?P<front>.*\.mlp\.experts)(?:\.base_layer)*")
# Parameter of transformers 5 → the projections in it.
_PROJECTIONS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def targeted_projections(parameters: Any) -> set[str] | None:
    """The projections of experts that `target_parameters` names; None where it names something else, too."""
    names = [str(name) for name in parameters or ()]
    if any(not re.fullmatch(r"(.*\.)?experts\.(gate_up_proj|down_proj)", name) for name in names):
        return None
    return {each for name in names for each in _PROJECTIONS[name.rpartition(".")[2]]}


def with_single_experts(modules: Mapping[str, dict[str, np.ndarray]], config: Any, directory: Path) -> Modules:
    """The modules of an adapter's file, those of fused experts cut into one for each projection of each expert.

    Args:
        modules: name → lora_A [in, r·E] and lora_B [r·E, out], as Paddle has matrices.
    Raises:
        GLMError: matrices of another model.
    """
    result: Modules = {}
    for name, parts in modules.items():
        match = _FUSED.fullmatch(name)
        if match and parts.keys() == {"lora_A", "lora_B"} and config.n_routed_experts:
            result |= _singles(match["front"], name, parts, config, directory)
        else:
            result[name] = parts
    return result


def _singles(front: str, name: str, parts: dict[str, np.ndarray], config: Any, directory: Path) -> Modules:
    hidden, inner, experts = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
    a, b = parts["lora_A"], parts["lora_B"]
    projections = {
        (hidden, 2 * inner): _PROJECTIONS["gate_up_proj"],
        (inner, hidden): _PROJECTIONS["down_proj"],
    }.get((a.shape[0], b.shape[1]))
    if projections is None or a.shape[1] != b.shape[0] or a.shape[1] % experts:
        raise GLMError(
            f"{directory}: {name} has matrices {list(a.shape)} and {list(b.shape)}, which {experts} experts of "
            f"{hidden} x {inner} have not: the adapter belongs to another model"
        )
    a_ErI = a.T.reshape(experts, -1, a.shape[0])
    b_rEO = b.reshape(-1, experts, b.shape[1])
    found: Modules = {}
    for expert in range(experts):
        columns = np.split(b_rEO[:, expert], len(projections), axis=1)
        for projection, part in zip(projections, columns, strict=True):
            found[f"{front}.{expert}.{projection}"] = {"lora_A": a_ErI[expert].T, "lora_B": part}
    return found
