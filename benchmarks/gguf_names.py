"""What llama.cpp calls a model's tensors, and what it has to be told of it, by the `model_type` of transformers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Sources(NamedTuple):
    """The tensors of transformers' file that make one of GGUF's.

    Attributes:
        names: whose rows lie one below the other.
        stacked: whether each is a matrix of its own, along a new first axis.
    """

    names: tuple[str, ...]
    stacked: bool = False


Names = Iterator[tuple[str, Sources]]


@dataclass(frozen=True)
class Form:
    """A kind of model.

    Attributes:
        architecture: llama.cpp's name of it.
        layer: GGUF's names of a layer's tensors, of a config.json and the layer's number, both without the layer.
        fields: what llama.cpp is told of this kind alone, by the name of it in config.json.
        gating: llama.cpp's name of what makes weights of a router's scores; "" where there is no router.
    """

    architecture: str
    layer: Callable[[Mapping[str, Any], int], Names]
    fields: Mapping[str, str] = field(default_factory=dict)
    gating: str = ""


# What llama.cpp is told → what config.json calls it.
EVERY = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "head_count": "num_attention_heads",
    "head_count_kv": "num_key_value_heads",
    "layer_norm_rms_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
EXPERTS = {
    "key_length": "head_dim",
    "value_length": "head_dim",
    "expert_count": "n_routed_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
}
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def gguf_names(config: Mapping[str, Any]) -> dict[str, Sources]:
    """Name in the GGUF file → names in transformers' file."""
    names = {target: Sources((source,)) for target, source in OUTER.items()}
    for layer in range(config["num_hidden_layers"]):
        for target, sources in FORMS[config["model_type"]].layer(config, layer):
            whole = tuple(f"model.layers.{layer}.{source}" for source in sources.names)
            names[f"blk.{layer}.{target}"] = sources._replace(names=whole)
    return names


def tell(writer: Any, config: Mapping[str, Any]) -> None:
    """Writes what llama.cpp has to be told of a model beside its vocabulary."""
    import gguf

    form, rope = FORMS[config["model_type"]], config.get("rope_parameters") or config
    for name, source in {**EVERY, **form.fields}.items():
        getattr(writer, f"add_{name}")(config[source])
    writer.add_rope_dimension_count(int(config["head_dim"] * rope.get("partial_rotary_factor", 0.5)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if form.gating:
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType[form.gating])


def _fused(config: Mapping[str, Any], layer: int) -> Names:
    """GLM-4: query, key and value are one tensor, and gate and up."""
    yield "attn_norm.weight", Sources(("input_layernorm.weight",))
    for kind in ("weight", "bias"):
        yield f"attn_qkv.{kind}", Sources(tuple(f"self_attn.{x}_proj.{kind}" for x in "qkv"))
    yield "attn_output.weight", Sources(("self_attn.o_proj.weight",))
    yield "ffn_norm.weight", Sources(("post_attention_layernorm.weight",))
    yield "ffn_up.weight", Sources(("mlp.gate_up_proj.weight",))
    yield "ffn_down.weight", Sources(("mlp.down_proj.weight",))


def _sparse(config: Mapping[str, Any], layer: int) -> Names:
    """GLM-4.5: every projection by itself, and the experts of a layer on top of each other."""
    yield "attn_norm.weight", Sources(("input_layernorm.weight",))
    for x in "qkv":
        for kind in ("weight", "bias") if config["attention_bias"] else ("weight",):
            yield f"attn_{x}.{kind}", Sources((f"self_attn.{x}_proj.{kind}",))
    for x in "qk" if config["use_qk_norm"] else "":
        yield f"attn_{x}_norm.weight", Sources((f"self_attn.{x}_norm.weight",))
    yield "attn_output.weight", Sources(("self_attn.o_proj.weight",))
    yield "post_attention_norm.weight", Sources(("post_attention_layernorm.weight",))
    if layer < config["first_k_dense_replace"]:
        yield from ((f"ffn_{x}.weight", Sources((f"mlp.{x}_proj.weight",))) for x in ("gate", "up", "down"))
        return
    yield "ffn_gate_inp.weight", Sources(("mlp.gate.weight",))
    yield "exp_probs_b.bias", Sources(("mlp.gate.e_score_correction_bias",))
    for x in ("gate", "up", "down"):
        experts = range(config["n_routed_experts"])
        yield f"ffn_{x}_exps.weight", Sources(tuple(f"mlp.experts.{i}.{x}_proj.weight" for i in experts), stacked=True)
        yield f"ffn_{x}_shexp.weight", Sources((f"mlp.shared_experts.{x}_proj.weight",))


FORMS = {"glm": Form("chatglm", _fused), "glm4_moe": Form("glm4moe", _sparse, EXPERTS, "SIGMOID")}
