"""MindFormers' `GLMConfig`: the names of its fields, and what they are here. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm.config.presets import PRESETS
from glm.errors import UsageError

# MindFormers' GLMConfig is that of ChatGLM-6B; one of these says that it is meant.
_MARKS = frozenset(
    {
        "position_encoding_2d",
        "phase",
        "use_past",
        "is_npu_acceleration",
        "is_sample_acceleration",
        "is_enhanced_encoder",
        "num_heads",
        "inner_hidden_size",
        "max_decode_length",
        "checkpoint_name_or_path",
    }
)
# It names a model in this project's way, and then the fields are this project's.
_OWN = frozenset({"family"})
_NAMES = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "inner_hidden_size": "intermediate_size",
    "layernorm_epsilon": "norm_eps",
    "embedding_dropout_prob": "embedding_dropout",
    "attention_dropout_rate": "attention_dropout",
    "hidden_dropout_rate": "hidden_dropout",
}
# How MindSpore runs the model: nothing of it changes a result here, where the device and the dtype say it.
RUNTIME = frozenset(
    {
        "phase",
        "use_past",
        "is_npu_acceleration",
        "is_sample_acceleration",
        "is_enhanced_encoder",
        "batch_size",
        "seq_length",
        "compute_dtype",
        "param_init_type",
        "layernorm_compute_type",
        "softmax_compute_type",
        "parallel_config",
        "op_parallel_config",
        "embed_parallel_config",
        "moe_config",
        "checkpoint_name_or_path",
        "hidden_size_per_attention_head",
        "use_final_layernorm",
    }
)
# Of which one value is implemented, the one that ChatGLM-6B has.
_FIXED = {"position_encoding_2d": True, "layernorm_order": "post", "activation_func": "GELU"}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")


def from_mindformers(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Arguments of a configuration, MindFormers' among them turned into this project's.

    Returns:
        The arguments; where MindFormers' are meant those of ChatGLM-6B, changed by what was given, without token ids
        that a smaller vocabulary does not have. And its max_decode_length, None where nobody says.

    Raises:
        UsageError: a value that would make another model.
    """
    dropped, longest = {*RUNTIME, *_FIXED, "max_decode_length"}, kwargs.get("max_decode_length")
    if _OWN & kwargs.keys() or not _MARKS & kwargs.keys():
        return {name: value for name, value in kwargs.items() if name not in dropped}, longest
    for name, value in _FIXED.items():
        if kwargs.get(name, value) != value:
            raise UsageError(f"{name} is {kwargs[name]!r}, and only {value!r} is supported")
    given = {_NAMES.get(name, name): value for name, value in kwargs.items() if name not in dropped}
    fields = {**PRESETS["chatglm-6b"].fields, **given}
    foreign = [name for name in _TOKENS if name not in given and fields[name] >= fields["vocab_size"]]
    return {n: v for n, v in fields.items() if n not in foreign}, longest
