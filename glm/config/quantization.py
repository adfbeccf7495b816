"""Files with 8-bit floating-point weights, of the two forms in which GLM's are published, as config.json says it.

GLM-4.5 to 4.7: compressed-tensors, a scale for each output (neuralmagic/compressed-tensors, quant_args.py). GLM-5 and
others: quant_method fp8, a scale for each block (transformers, FineGrainedFP8Config).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fp8Form:
    """How 8-bit weights are scaled: weight = number · scale.

    Attributes:
        scale: what stands in a scale's name in the place of `weight`.
        block: rows and columns [out, in] that share a scale; None for rows of any length.
    """

    scale: str
    block: tuple[int, int] | None


# What must be said of the weights, and nothing else may be.
_CHANNEL = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}


def fp8_form(value: Any) -> Fp8Form | None:
    """The form that a `quantization_config` describes; None for anything that is not certainly one of the two."""
    if not isinstance(value, Mapping):
        return None
    if value.get("quant_method") == "compressed-tensors":
        groups = value.get("config_groups")
        known = value.get("format") == "float-quantized" and isinstance(groups, Mapping) and bool(groups)
        return Fp8Form("weight_scale", None) if known and all(map(_is_channel, groups.values())) else None
    block = value.get("weight_block_size")
    known = value.get("quant_method") == "fp8" and value.get("fmt", "e4m3") == "e4m3"
    if known and isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block):
        return Fp8Form("weight_scale_inv", tuple(block))
    return None


def _is_channel(group: Any) -> bool:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    return isinstance(weights, Mapping) and {name: weights.get(name) for name in _CHANNEL} == _CHANNEL
