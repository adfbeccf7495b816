"""Rotary positions in the config.json of transformers' own classes, whose releases 4 and 5 spell them differently."""

from collections.abc import Mapping
from typing import Any

from glm.config.field_values import checked
from glm.config.rope_ratio import ROPE_BASE
from glm.config.rope_scaling import DEFAULT, ORIGINAL, check_base, read_rope_scaling
from glm.errors import GLMError

LONGEST = 131072  # positions, where a file does not say how many


def hf_rope(raw: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes rope_parameters, transformers 4 its fields on their own, and rope_scaling."""
    (where, nested), outer = _nested(raw), {"rope_theta": ROPE_BASE, "partial_rotary_factor": 0.5} | stated(raw)
    # Phi-3's place for the original length, which transformers prefers.
    length = {ORIGINAL: raw[ORIGINAL]} if raw.get(ORIGINAL) and isinstance(nested, Mapping) else {}
    positions = outer.get("max_position_embeddings", LONGEST)
    scaling, _ = read_rope_scaling(nested | length if length else nested, positions, where)
    rope = {name: (outer | stated(nested))[name] for name in ("rope_theta", "partial_rotary_factor")}
    rope = {name: checked(name, value) for name, value in rope.items()}
    check_base(rope["rope_theta"], scaling)
    if scaling:  # transformers 5.3.0 passes over the inner one then
        rope["partial_rotary_factor"] = checked("partial_rotary_factor", outer["partial_rotary_factor"])
    passed = stated(raw.get("rope_parameters") or {}).get("rope_theta", rope["rope_theta"])
    if passed != rope["rope_theta"]:
        raise GLMError(
            f"rope_parameters says rope_theta {passed}, and beside rope_scaling, which takes its place, "
            f"{rope['rope_theta']} counts: write rope_theta into rope_scaling, and leave rope_parameters out"
        )
    return rope | {"rope_scaling": scaling}


def _nested(raw: dict[str, Any]) -> tuple[str, Any]:
    """The field that counts, and its value: where both are stated transformers takes rope_scaling alone."""
    where = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    return where, raw.get(where) or {}


def hf_unknown(raw: dict[str, Any]) -> list[str]:
    """Names in the nested settings that change nothing."""
    where, nested = _nested(raw)
    scaling, unknown = read_rope_scaling(nested, LONGEST, where)
    inner, outer = nested.get("partial_rotary_factor"), raw.get("partial_rotary_factor") or 0.5
    passed_over = ["partial_rotary_factor"] if scaling and inner not in (None, outer) else []
    return [f"{where}.{name}" for name in unknown + passed_over]


def stated(fields: Any) -> dict[str, Any]:
    fields = fields if isinstance(fields, Mapping) else {}
    return {name: value for name, value in fields.items() if value is not None}


def write_hf(config: Any) -> dict[str, Any]:
    """As transformers 5 reads it, and as 4 does."""
    rope = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.partial_rotary_factor}
    scaling = config.rope_scaling or {}
    older = {"rope_scaling": scaling} if scaling else {}
    return rope | {"rope_parameters": rope | {"rope_type": DEFAULT} | scaling, "torch_dtype": config.dtype} | older
