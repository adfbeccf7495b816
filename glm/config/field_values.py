"""Which values fields of a configuration may have, whoever wrote them: a config.json, or a call. Needs no Paddle.

Texts in the place of numbers and booleans pass through JSON unseen; "false" would be true.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

from glm.errors import GLMError

_FLAGS = frozenset({"attention_bias", "tie_word_embeddings", "sequence_parallel", "norm_topk_prob", "use_qk_norm"})
_COUNTS = frozenset(
    {
        *("n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "n_group"),
        *("topk_group", "first_k_dense_replace", "num_nextn_predict_layers"),
        *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    }
)
# Field of `GLMConfig` → least and most, and how to say so.
_NUMBERS: Mapping[str, tuple[float, float, str]] = {
    "norm_eps": (0, inf, "a number, at least 0"),
    "initializer_range": (0, inf, "a number, at least 0"),
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), (0, 1, "a number between 0 and 1")),
    **dict.fromkeys(("rope_theta", "routed_scaling_factor"), (5e-324, inf, "a number above 0")),
    "partial_rotary_factor": (5e-324, 1, "a number above 0, at most 1"),
}
CHECKED = (*_FLAGS, *_COUNTS, *_NUMBERS)


def checked(name: str, value: Any, label: str | None = None) -> Any:
    """The value of one of `CHECKED`; 0 and 1 are booleans, too.

    Args:
        label: what the field is called where it was read; its name unless given.

    Raises:
        GLMError: a value that the field cannot have.
    """
    label = label or name
    if name in _FLAGS:
        if type(value) not in (bool, int) or value not in (0, 1):
            raise GLMError(f"{label} is {value!r:.60}, and must be true or false")
        return bool(value)
    if name in _COUNTS:
        if type(value) not in (int, float) or not 0 <= value < inf or value != int(value):
            raise GLMError(f"{label} is {value!r:.60}, and must be a whole number, at least 0")
        return int(value)
    least, most, words = _NUMBERS[name]
    if type(value) not in (int, float) or not least <= value <= most or value == inf:
        raise GLMError(f"{label} is {value!r:.60}, and must be {words}")
    return value


def token_ids(name: str, value: Any) -> Any:
    """A token id or a list of them, whole numbers; None where there is none, which some files write as -1.

    Raises:
        GLMError: something else, or a list of what is one token.
    """
    several = isinstance(value, (list, tuple))
    if several and name != "eos_token_id":
        raise GLMError(f"{name} is {value!r:.60}, and must be one token id")
    ids = [_token_id(name, each) for each in (value if several else [value])]
    return ids if several else None if ids[0] == -1 else ids[0]


def _token_id(name: str, value: Any) -> int:
    if type(value) not in (int, float) or not -1 <= value < 1 << 31 or value != int(value):
        raise GLMError(f"{name} is {value!r:.60}, and must be a token id")
    return int(value)
