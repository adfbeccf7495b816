"""Fields of config.json that are not a family's own: which change results, and which are known to change nothing.

The rule: a field that changes results is refused unless its value is the one that this code implements; of a field that
nobody here has heard of, the reader says so. So a name that is missing below costs a line of warning and no more. Every
field may be null, which says that nothing is set.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from glm.config.quantization import fp8_form
from glm.errors import GLMError

_OFF = (None, 0, False, "", [], {})
_ONE = (1,)
_UNSCALED = ({"type": "default"}, {"rope_type": "default"})
_NULL = (None,)
# Name → the values with which a field changes nothing.
_CHANGING: Mapping[str, tuple] = {
    # other kinds of model
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"), (False,)),
    "cross_attention_hidden_size": _NULL,
    "pruned_heads": _OFF,
    **dict.fromkeys(("text_config", "vision_config", "audio_config", "image_config", "video_config"), _OFF),
    **dict.fromkeys(("thinker_config", "speech_config", "encoder_config", "decoder_config"), _OFF),
    # attention
    **dict.fromkeys(("attention_chunk_size", "window_size", "attention_window", "index_topk"), (*_OFF, -1)),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "attention_grouping"), _OFF),
    **dict.fromkeys(("no_rope_layers", "no_rope_layer_interval", "use_attention_sinks", "attention_sinks"), _OFF),
    **dict.fromkeys(("qk_norm", "use_qk_norm", "qk_layernorm", "use_qk_layernorm", "alibi", "use_alibi"), _OFF),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "logit_softcapping"), _OFF),
    **dict.fromkeys(("logits_soft_cap", "attention_logit_cap"), _OFF),
    **dict.fromkeys(("query_pre_attn_scalar", "attention_multiplier"), _NULL),
    **dict.fromkeys(("scale_attn_by_inverse_layer_idx", "clip_qkv", "use_logn_attn", "use_dynamic_ntk"), _OFF),
    **dict.fromkeys(("unidirectional", "unidirectional_attention", "focused_attention", "norm_softmax"), _OFF),
    "attention_bias": (True,),  # where a family's models may differ in it, it is one of their own fields
    **dict.fromkeys(("attn_output_gate", "interleaved_qkv"), _OFF),
    # scales
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"), _ONE),
    **dict.fromkeys(("scale_embedding", "scale_embeddings", "use_mup", "swiglu_limit"), _OFF),
    **dict.fromkeys(("scale_emb", "scale_depth", "lm_head_multiplier", "mlp_multipliers", "key_multiplier"), _ONE),
    # layers
    **dict.fromkeys(("mlp_bias", "attention_out_bias", "attention_output_bias", "o_proj_bias", "lm_head_bias"), _OFF),
    **dict.fromkeys(("parallel_attn", "use_parallel_residual", "parallel_residual", "apply_layernorm_1p"), _OFF),
    **dict.fromkeys(("use_rmsnorm", "use_swiglu", "norm_head", "apply_residual_connection_post_layernorm"), _OFF),
    "mlp_version": ("v1",),
    # positions, where a family does not read them itself
    **dict.fromkeys(("use_rotary", "mrope_section"), _OFF),
    "rotary_type": (*_OFF, "none"),
    "rope_ratio": _ONE,
    "rope_theta": (10000,),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rotary_percent"), (None, 0.5)),
    "rope_scaling": (*_OFF, 1, *_UNSCALED),
    "rope_parameters": (*_OFF, *_UNSCALED, *({"rope_theta": 10000} | each for each in _UNSCALED)),
    # weights
    **dict.fromkeys(("quantization_bit", "pre_seq_len"), _OFF),
}
# Mixtures of experts, of whatever spelling; one expert is none.
_EXPERTS = re.compile(r"(^|_)(moe|experts?)(_|$)")
_ACTIVATIONS = {"silu": ("silu", "swish", "swiglu")}
_ACTIVATIONS["gelu_tanh"] = ("gelu", "gelu_new", "gelu_tanh", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh")
_ACTIVATION_FIELDS = frozenset({"hidden_act", "hidden_activation", "activation", "activation_function", "act_fn"})
_WINDOW_FIELDS = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern"})
_QUANTIZATION = frozenset({"quantization_config", "quantization", "compression_config", "quant_config"})

# What transformers writes into config.json besides what PaddleNLP has too: where a file comes from, how its library
# computes, and settings of classification heads and of generation.
TRANSFORMERS_FIELDS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_experts_implementation",
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "generation_config",
        "gradient_checkpointing",
        "keys_to_ignore_at_inference",
        "name_or_path",
        "num_labels",
        "pretraining_tp",
        "tf_legacy_loss",
        "torchscript",
        "transformers_version",
        "transformers.js_config",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
    }
)
# PaddleNLP's fields of every model: how it trains and shards, names of labels, settings of generation.
# transformers has most of them too. (PaddleNLP itself takes seconds to import.)
PADDLENLP_FIELDS = frozenset(
    [
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "context_parallel_degree",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "fuse_attention_ffn",
        "fuse_attention_qkv",
        "fuse_sequence_parallel_allreduce",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_recompute_layers",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_choices",
        "num_return_sequences",
        "offload_recompute_inputs",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "paddlenlp_version",
        "pipeline_parallel_degree",
        "pp_recompute_interval",
        "prefix",
        "problem_type",
        "pruned_heads",
        "quantization_config",
        "recompute",
        "recompute_granularity",
        "recompute_use_reentrant",
        "refined_recompute",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_parallel_degree",
        "sep_token_id",
        "sequence_parallel",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tensor_parallel_degree",
        "tensor_parallel_output",
        "tensor_parallel_rank",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "typical_p",
        "use_cache",
        "use_flash_attention",
        "use_fused_dropout_add",
        "use_fused_linear",
        "use_fused_linear_cross_entropy",
        "use_fused_rms_norm",
        "use_fused_rope",
        "virtual_pp_degree",
    ]
)


# Kinds of GLM that users bring, and what this decoder lacks of them.
_KINDS = {
    "glm_moe_dsa": "GLM-5 has sparse attention over latent keys (DSA)",
    "glm5_next": "GLM-5.3-Flash has linear attention (KDA)",
}


def refuse_kind(raw: Mapping[str, Any], path: Any) -> None:
    """Raises GLMError for a config.json of a GLM that is known and not supported, and for a model of pictures."""
    kind, inner = raw.get("model_type"), raw.get("text_config")
    if kind in _KINDS:
        raise GLMError(f"{path}: model_type '{kind}': {_KINDS[kind]}, which is not supported: use GLM-4.7 or older")
    if isinstance(inner, Mapping) or raw.get("vision_config"):
        raise GLMError(
            f"{path}: model_type '{kind}' is a model of pictures or sound with a text model inside (text_config), and "
            "only text models are supported"
        )


def is_known(name: str) -> bool:
    """Whether a field is one of those that this module knows to change nothing, once `refuse_change` let it pass."""
    return (
        name in PADDLENLP_FIELDS | TRANSFORMERS_FIELDS | _ACTIVATION_FIELDS | _WINDOW_FIELDS | _QUANTIZATION
        or name in _CHANGING
        or name == "layer_types"
        or bool(_EXPERTS.search(name))
    )


def refuse_change(name: str, raw: Mapping[str, Any], hidden_act: str, fixed: Mapping[str, Any]) -> None:
    """Raises GLMError where a field has a value with which the model is another one than this code computes.

    Args:
        name: of a field of `raw`, a config.json's content.
        hidden_act: the family's activation.
        fixed: the family's own fields that may have one value only.
    """
    value = raw[name]
    if value is None:
        return
    if name in fixed:
        same = _ACTIVATIONS[hidden_act] if name in _ACTIVATION_FIELDS else (fixed[name],)
        _require(name, value, same, shown=fixed[name])
    elif name in _ACTIVATION_FIELDS:
        _require(name, value, _ACTIVATIONS[hidden_act])
    elif name in _QUANTIZATION:
        _refuse_quantized(name, value)
    elif name == "sliding_window" and raw.get("use_sliding_window") is not False:
        _require(name, value, (*_OFF, -1), shown=None)
    elif name == "layer_types":
        kinds = sorted(set(map(str, value if isinstance(value, list) else [value])))
        _require(name, kinds, (["full_attention"], []), shown="full_attention")
    elif name in _CHANGING or (_EXPERTS.search(name) and name not in TRANSFORMERS_FIELDS):
        accepted = _CHANGING.get(name, (*_OFF, 1))
        _require(name, value, accepted, shown=accepted[0])


def _require(name: str, value: Any, accepted: tuple, shown: Any = ...) -> None:
    if value not in accepted:
        wanted = accepted[0] if shown is ... else shown
        raise GLMError(f"{name} is {short(value)}, and only {wanted} is supported: use a model without it")


def _refuse_quantized(name: str, value: Any) -> None:
    """PaddleNLP's own entry of an unquantized model names no algorithm; two forms are read (glm/checkpoint/fp8.py)."""
    if name == "quantization_config" and fp8_form(value):
        return
    algorithms = ("quant_method", "weight_quantize_algo", "quant_type")
    if value and (not isinstance(value, dict) or not set(algorithms) & set(value) or any(map(value.get, algorithms))):
        raise GLMError(f"{name} is {short(value)}: quantized weights are not read; get the original ones")


def short(value: Any) -> str:
    """A value as config.json has it, cut for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
