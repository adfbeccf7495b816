"""`rope_ratio` in the config.json of remote code: what it means depends on whose file it is.

GLM-4-9B and ChatGLM3-6B multiply the base of their rotary positions by it; ChatGLM2-6B-32K divides positions by it
(modeling_chatglm.py of each; both under this one name, in files that are alike but for `_name_or_path`).
"""

from collections.abc import Mapping
from typing import Any

from glm.config.field_values import checked
from glm.config.rope_scaling import ORIGINAL, read_rope_scaling
from glm.errors import GLMError

ROPE_BASE = 10000.0
LINEAR = "linear"
_ROWS = 65024  # of ChatGLM2's embedding, and of all that share its vocabulary
_END = 2  # </s> of their sentencepiece model; GLM-4's end tokens lie behind its pieces


def is_chatglm2(raw: Mapping[str, Any], mark: str) -> bool:
    """Whether a config.json of GLM-4-9B's class describes a model with ChatGLM2's vocabulary: ChatGLM2 or 3.

    Args:
        mark: a field that this project writes for those alone.
    """
    ends = raw.get("eos_token_id")
    first = ends[0] if isinstance(ends, list) and ends else ends
    return mark in raw or first == _END or _ROWS in (raw.get("padded_vocab_size"), raw.get("vocab_size"))


def read_ratio(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of GLM-4-9B: the base."""
    return {"rope_theta": ROPE_BASE * _ratio(raw)}


def read_chatglm2_ratio(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of ChatGLM2 and 3: base and scaled positions.

    Raises:
        GLMError: a ratio, and nothing in the file says which of the two it is.
    """
    ratio, theta = _ratio(raw), raw.get("rope_theta")
    theta = None if theta is None else checked("rope_theta", theta)
    scaling, _ = read_rope_scaling(raw.get("rope_scaling"), raw.get("seq_length") or 1)
    name = str(raw.get("_name_or_path") or "").lower()
    if ratio == 1 or scaling or theta is not None:
        return {"rope_theta": ROPE_BASE if theta is None else theta, "rope_scaling": scaling}
    if "chatglm2" in name:
        divided = {"rope_type": LINEAR, "factor": ratio}
        longest = raw.get("seq_length")  # positions that are divided already
        original = {ORIGINAL: max(1, int(longest / ratio))} if type(longest) in (int, float) else {}
        return {"rope_theta": ROPE_BASE, "rope_scaling": divided | original}
    if "chatglm3" in name:
        return {"rope_theta": ROPE_BASE * ratio, "rope_scaling": None}
    raise GLMError(
        f"rope_ratio is {ratio}, by which ChatGLM2 divides positions and ChatGLM3 multiplies their base, and "
        f"_name_or_path says neither: write rope_theta {ROPE_BASE * ratio:g} beside it for ChatGLM3, for ChatGLM2 "
        f'rope_scaling {{"rope_type": "linear", "factor": {ratio}}}'
    )


def write_ratio(config: Any) -> dict[str, Any]:
    """The inverse of `read_ratio`, and what else such a file says twice."""
    return {
        "rope_ratio": _whole(config.rope_theta / ROPE_BASE),
        "num_hidden_layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "torch_dtype": config.dtype,
    }


def write_chatglm2_ratio(config: Any) -> dict[str, Any]:
    """The inverse of `read_chatglm2_ratio`: the ratio that the published code reads, and what it means."""
    written, scaling = write_ratio(config) | {"rope_theta": config.rope_theta}, config.rope_scaling
    if not scaling:
        return written
    ratio = {"rope_ratio": _whole(scaling["factor"])} if scaling["rope_type"] == LINEAR else {}
    return written | ratio | {"rope_scaling": scaling}


def _ratio(raw: Mapping[str, Any]) -> float:
    ratio = raw.get("rope_ratio")
    return 1 if ratio is None else checked("rope_theta", ratio, "rope_ratio")


def _whole(ratio: float) -> float:
    return int(ratio) if ratio == int(ratio) else ratio
