"""What a configuration says of attention over latents (MLA, arXiv:2405.04434, 2.1), and its rules.

Sources: configuration_glm4_moe_lite.py of transformers 5.3.0 (GLM-4.7-Flash), whose values stand where nothing is said.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glm.config.field_values import checked
from glm.config.transformers_rope import hf_rope, hf_unknown, stated, write_hf
from glm.errors import GLMError


class LatentFields:
    """Fields of `GLMConfig`, with what a model without latents has."""

    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0

    @property
    def key_dim(self) -> int:
        """Width of a key that the latents' fields give: what is not rotated, then what is; 0 without latents."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def value_dim(self) -> int:
        """Width of a head's values."""
        return self.v_head_dim or self.head_dim

    @property
    def latent_dim(self) -> int:
        """What a cache keeps of a token and layer: the latent, and the key's rotated part; 0 without latents."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that partial rotary positions turn."""
        return self.qk_rope_head_dim or int(self.head_dim * self.partial_rotary_factor)


# GLM-4.7-Flash's.
LATENTS = {"q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256}
NORM_EPS = 1e-6  # of the norms of latents in transformers, whatever rms_norm_eps says
# What a config.json gives of it by other fields.
DERIVED = frozenset({"mlp_layer_types", "first_k_dense_replace", "head_dim", "qk_head_dim"})


def with_latents(family: Any) -> Any:
    """A `Family` with experts whose attention is over latents; their rotated part turns in neighbouring pairs, and
    queries and keys have no norms.
    """

    def with_factor(raw: dict[str, Any]) -> dict[str, Any]:
        return {"partial_rotary_factor": 1.0} | stated(raw)

    names = {theirs: ours for theirs, ours in family.names.items() if theirs not in (*DERIVED, "use_qk_norm")}
    defaults = {name: value for name, value in family.defaults.items() if name != "use_qk_norm"}
    absent = {"attention_bias": False, "routed_scaling_factor": 1.8, "max_position_embeddings": 202752}
    return replace(
        family,
        parts=family.parts | {"position_type": "partial_rotary", "checkpoint_table": "glm4_moe_lite"},
        defaults=defaults | LATENTS | {"attention_bias": False, "partial_rotary_factor": 1.0},
        names=names | {name: name for name in LATENTS},
        absent=family.absent | LATENTS | absent,
        fixed=family.fixed | {"rope_interleave": True},
        derived=family.derived | DERIVED,
        derive=lambda raw: hf_rope(with_factor(raw)) | read_latents(raw),
        unknown=lambda raw: hf_unknown(with_factor(raw)),
        write=lambda config: write_hf(config) | write_latents(config),
    )


def check_latents(config: Any, needed: bool) -> None:
    """Raises GLMError where widths are missing or contradict each other.

    Args:
        needed: whether models of the family have latents; others cannot be given any.
    """
    if not needed:
        return
    for name in LATENTS:
        if getattr(config, name) < 1:
            raise GLMError(f"{name} is {getattr(config, name)}, and must be at least 1 where attention has latents")
    if config.qk_rope_head_dim % 2:
        raise GLMError(f"qk_rope_head_dim is {config.qk_rope_head_dim}, and must be even: dimensions turn in pairs")
    if config.head_dim != config.key_dim:
        raise GLMError(
            f"head_dim is {config.head_dim}, and qk_nope_head_dim and qk_rope_head_dim add up to {config.key_dim}: "
            "leave head_dim out"
        )
    if config.partial_rotary_factor != 1:
        raise GLMError(
            f"partial_rotary_factor is {config.partial_rotary_factor}, and all {config.qk_rope_head_dim} dimensions of "
            "qk_rope_head_dim turn: leave it out, or give 1.0"
        )
    if config.num_key_value_heads != config.num_attention_heads:
        raise GLMError(
            f"num_key_value_heads is {config.num_key_value_heads}, and num_attention_heads "
            f"{config.num_attention_heads}: where attention has latents, both must be the same"
        )
    if (config.rope_scaling or {}).get("mscale_all_dim"):
        raise GLMError("rope_scaling has mscale_all_dim, which is not supported where attention has latents")


def read_latents(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `GLMConfig` that follow from several of a config.json's.

    transformers says which layers have experts by a list, older files and other libraries by how many in front have
    none. Its head_dim is the rotated width, qk_head_dim the whole.
    """
    rotated, unrotated = (raw.get(name) or LATENTS[name] for name in ("qk_rope_head_dim", "qk_nope_head_dim"))
    for name, widths in {"head_dim": (rotated, rotated + unrotated), "qk_head_dim": (rotated + unrotated,)}.items():
        if raw.get(name) not in (None, *widths):
            raise GLMError(f"{name} is {raw[name]}, and qk_nope_head_dim {unrotated}, qk_rope_head_dim {rotated}")
    return {"first_k_dense_replace": _dense_layers(raw)}


def _dense_layers(raw: Mapping[str, Any]) -> Any:
    types, stated = raw.get("mlp_layer_types"), raw.get("first_k_dense_replace")
    if types is None:
        return 1 if stated is None else checked("first_k_dense_replace", stated)
    dense = types.count("dense") if isinstance(types, list) else 0
    layers = raw.get("num_hidden_layers")
    if types != _layer_types(dense, layers):
        raise GLMError(
            f"mlp_layer_types is {types!s:.60}, and must name {layers} layers, 'dense' ones in front of 'sparse' ones"
        )
    if stated not in (None, dense):
        raise GLMError(f"first_k_dense_replace is {stated}, and mlp_layer_types has {dense} 'dense': correct one")
    return dense


def _layer_types(dense: int, layers: Any) -> list[str]:
    return ["dense"] * dense + ["sparse"] * (int(layers) - dense) if isinstance(layers, (int, float)) else []


def write_latents(config: Any) -> dict[str, Any]:
    """The inverse of `read_latents`: both spellings, for readers of either."""
    dense = min(config.first_k_dense_replace, config.num_hidden_layers)
    return {
        "head_dim": config.qk_rope_head_dim,
        "qk_head_dim": config.key_dim,
        "first_k_dense_replace": config.first_k_dense_replace,
        "mlp_layer_types": _layer_types(dense, config.num_hidden_layers),
    }
