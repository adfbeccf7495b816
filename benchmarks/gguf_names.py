"""What llama.cpp calls a model's tensors, and what it has to be told of it, by the `model_type` of transformers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
        tell: writes what other kinds of model do not have.
    """

    architecture: str
    layer: Callable[[Mapping[str, Any], int], Names]
    tell: Callable[[Any, Mapping[str, Any]], None] = lambda writer, config: None


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


def _tell_experts(writer: Any, config: Mapping[str, Any]) -> None:
    import gguf

    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


FORMS = {"glm": Form("chatglm", _fused), "glm4_moe": Form("glm4moe", _sparse, _tell_experts)}
