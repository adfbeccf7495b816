"""Scaled rotary positions in a configuration: `rope_scaling` of transformers 4, `rope_parameters` of transformers 5.

Read as transformers 5.3.0 does (modeling_rope_utils.py). glm/model/rotary.py computes with what is read here.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from glm.errors import GLMError

DEFAULT = "default"
ORIGINAL = "original_max_position_embeddings"
_EXAMPLE = '{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}'
# Positions that depend on how long a text is: keys in the cache would have to be rotated anew as it grows.
_OF_LENGTH = ("dynamic", "longrope", "su")
# Settings that other codes know, and the value with which they change nothing.
_ELSEWHERE = {"mrope_section": None, "mrope_interleaved": False, "extrapolation_factor": 1, "attn_factor": 1}


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < inf


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _factor(value: Any) -> bool:
    return _positive(value) and value < 1 << 31  # of positions, which are whole numbers


def _whole(value: Any) -> bool:
    return _positive(value) and value == int(value)


def _flag(value: Any) -> bool:
    return type(value) is bool


_WORDS = {
    _number: "a number",
    _positive: "a number above 0",
    _factor: "a number above 0",
    _whole: "a whole number above 0",
    _flag: "true or false",
}
_FACTOR = {"factor": _factor}
# Type of positions → its settings: those that must be there, and those that may be.
_SETTINGS: dict[str, tuple[dict[str, Callable], dict[str, Callable]]] = {
    DEFAULT: ({}, {}),
    "linear": (_FACTOR, {ORIGINAL: _whole}),
    "llama3": (_FACTOR | {"low_freq_factor": _positive, "high_freq_factor": _positive, ORIGINAL: _whole}, {}),
    "yarn": (
        _FACTOR | {ORIGINAL: _whole},
        dict.fromkeys(("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"), _number)
        | {"truncate": _flag},
    ),
}
ROPE_TYPES = tuple(_SETTINGS)


def read_rope_scaling(
    stated: Mapping[str, Any] | None, max_positions: int, where: str = "rope_scaling"
) -> tuple[dict[str, Any] | None, list[str]]:
    """Settings of scaled positions in one form, whichever a file has them in.

    Args:
        stated: `rope_scaling` or `rope_parameters`; what stands beside the settings of its type is left out.
        max_positions: max_position_embeddings, which the original length is where nothing says otherwise.
        where: name of the field, for messages.

    Returns:
        rope_type and its settings, None for positions that are not scaled; names that mean nothing to the type.
    Raises:
        GLMError: a type that is not implemented, a setting that is missing or is no number.
    """
    if not isinstance(stated, Mapping | None):
        raise GLMError(f"{where} is {stated!r}, and must be an object such as {_EXAMPLE}")
    stated = {name: value for name, value in (stated or {}).items() if value is not None or name == "factor"}
    kind = _kind(stated, where)
    needed, optional = _SETTINGS[kind]
    if ORIGINAL in needed:
        stated = {ORIGINAL: max_positions} | stated
    if kind == "yarn" and stated.get("factor", 0) is None:  # null, not missing
        stated["factor"] = max_positions / stated[ORIGINAL]
    if missing := [name for name in needed if name not in stated]:
        raise GLMError(f"{where} of type {kind} has no {missing[0]}: write it as in {_EXAMPLE}")
    settings = {name: stated[name] for name in (*needed, *optional) if name in stated}
    for name, value in settings.items():
        if not (accepts := (needed | optional)[name])(value):
            raise GLMError(f"{name} of {where} is {value!r}, and must be {_WORDS[accepts]}")
    unknown = sorted(set(stated) - set(settings) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
    _refuse_elsewhere({name: stated[name] for name in unknown}, where)
    if ORIGINAL in settings:
        settings[ORIGINAL] = int(settings[ORIGINAL])
    return (None if kind == DEFAULT else {"rope_type": kind} | settings), unknown


def _kind(stated: Mapping[str, Any], where: str) -> str:
    kind = stated.get("rope_type", stated.get("type"))
    if kind is None and stated.get("factor") is not None:
        raise GLMError(f"{where} has a factor and no rope_type: write it as in {_EXAMPLE}")
    kind = kind or DEFAULT
    if kind in _OF_LENGTH:
        raise GLMError(
            f"rope_type is '{kind}', whose positions change with a text's length, and only {', '.join(ROPE_TYPES)} are "
            "supported: yarn is for long texts"
        )
    if kind not in ROPE_TYPES:
        raise GLMError(f"rope_type is {kind!r}, and only {', '.join(ROPE_TYPES)} are supported")
    return kind


def _refuse_elsewhere(settings: Mapping[str, Any], where: str) -> None:
    for name, value in settings.items():
        if isinstance(value, dict) or (name in _ELSEWHERE and value != _ELSEWHERE[name]):
            raise GLMError(f"{where} has {name} = {value!r}, which is not supported: use a model without it")


def check_base(base: float, rope_scaling: Mapping[str, Any] | None) -> None:
    """Raises GLMError where yarn cannot tell fast dimensions from slow ones: with a base of 1 all rotate alike."""
    if base == 1 and rope_scaling and rope_scaling["rope_type"] == "yarn":
        raise GLMError("rope_theta is 1, with which yarn has no meaning: write the base that the model has")


def longest_position(rope_scaling: Mapping[str, Any] | None, max_positions: int) -> int:
    """The largest position id that scaled positions are made for, or max_position_embeddings if that is more.

    The factor counts from the original length; of type linear, which may have none, from max_position_embeddings then.
    """
    if not rope_scaling:
        return max_positions
    return max(max_positions, int(rope_scaling["factor"] * rope_scaling.get(ORIGINAL, max_positions)))
