"""What the models of each GLM family share, and how its config.json names things.

A family is data: one entry of `FAMILIES`. glm/config/glm_config.py turns it into a configuration,
glm/config/config_json.py reads and writes config.json by it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from glm.config.experts import with_experts
from glm.config.latents import with_latents
from glm.config.rope_ratio import (
    is_chatglm2,
    read_chatglm2_ratio,
    read_ratio,
    write_chatglm2_ratio,
    write_ratio,
)
from glm.config.rope_scaling import ORIGINAL
from glm.config.transformers_rope import LONGEST, hf_rope, hf_unknown, write_hf

# Fields of `GLMConfig` that are whole numbers above 0.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class Family:
    """What the models of one GLM family share.

    Attributes:
        parts: fields of `GLMConfig` with the same value in every model of the family.
        defaults: fields of `GLMConfig` that a model may change.
        names: name of a field in config.json → its name in `GLMConfig`.
        absent: fields of config.json that may be missing → what that means; the other `names` must be there.
        null: fields that may be null, and the field whose value they then have.
        fixed: config.json fields of which this code implements one value only.
        aliases: other names under which files of the format give one of `names`.
        ignored: config.json fields that change no result of this code.
        derived: config.json fields that `derive` reads.
        tokens: ids of config.json that are written even if there is none.
        recognise: whether a config.json describes this family.
        derive: `GLMConfig` fields that follow from several of config.json's.
        unknown: names inside the `derived` fields that change nothing.
        write: the inverse of `derive`: config.json fields of a `GLMConfig`.
        architecture, model_type: what config.json calls the model.
        half: the 16-bit dtype that the family was trained in; the other one may overflow or be too coarse.
    """

    parts: Mapping[str, Any]
    defaults: Mapping[str, Any]
    names: Mapping[str, str]
    absent: Mapping[str, Any]
    recognise: Callable[[dict[str, Any]], bool]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    null: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()
    tokens: tuple[str, ...] = ()
    derive: Callable[[dict[str, Any]], dict[str, Any]] = lambda raw: {}
    unknown: Callable[[dict[str, Any]], list[str]] = lambda raw: []
    write: Callable[[Any], dict[str, Any]] = lambda config: {}
    architecture: str = "GLMForConditionalGeneration"
    model_type: str = "glm"
    half: str = "float16"


def _glm_inner(raw: dict[str, Any]) -> dict[str, Any]:
    """4·H wherever PaddleNLP wrote the file, which has no such field; this project's may differ."""
    return {"intermediate_size": raw["intermediate_size"]} if raw.get("intermediate_size") else {}


def _write_glm(config: Any) -> dict[str, Any]:
    return {"intermediate_size": config.intermediate_size, "output_predict": True}


# GLM (2021) and ChatGLM-6B.
_LAYER_NORM = {
    "norm_type": "layer_norm",
    "hidden_act": "gelu_tanh",
    "mlp_type": "plain",
    "linear_bias": True,
    "post_norms": False,
}
_NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
# GLM-4-9B and GLM-4-0414.
_GLM4 = {
    "position_type": "partial_rotary",
    "norm_type": "rms_norm",
    "hidden_act": "silu",
    "mlp_type": "gated",
    "linear_bias": False,
    "residual": "input",
    "tie_word_embeddings": False,
}
_GLM4_DEFAULTS = _NO_DROPOUT | {"attention_bias": True, "norm_eps": 1.5625e-07}
_HF_NAMES = (*SIZES, "attention_bias", "attention_dropout", "initializer_range", "tie_word_embeddings")
# GlmConfig's and Glm4Config's own defaults, which are alike.
_HF_ABSENT = {
    "head_dim": 128,
    "max_position_embeddings": LONGEST,
    "attention_bias": True,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1.5625e-07,
}


def _transformers(model_type: str, architecture: str, norm_eps: float, post_norms: bool) -> Family:
    return Family(
        parts=_GLM4 | {"post_norms": post_norms, "checkpoint_table": "glm4"},
        defaults=_GLM4_DEFAULTS | {"norm_eps": norm_eps},
        names={name: name for name in _HF_NAMES} | {"rms_norm_eps": "norm_eps"},
        absent=_HF_ABSENT,
        null={"num_key_value_heads": "num_attention_heads"},
        fixed={"hidden_act": "silu"},
        derived=frozenset({"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", ORIGINAL}),
        # transformers puts ids of the real vocabulary where a file says nothing.
        tokens=("eos_token_id", "pad_token_id"),
        recognise=lambda raw: raw.get("model_type") == model_type and "num_layers" not in raw,
        derive=hf_rope,
        unknown=hf_unknown,
        write=write_hf,
        architecture=architecture,
        model_type=model_type,
        half="bfloat16",
    )


FAMILIES = {
    # GLM, arXiv:2103.10360. config.json as PaddleNLP and the Hugging Face remote code write it.
    "glm": Family(
        parts=_LAYER_NORM
        | {
            "position_type": "learned_2d",
            "residual": "input",
            "tie_word_embeddings": True,
            "checkpoint_table": "glm",
        },
        defaults=dict.fromkeys(_NO_DROPOUT, 0.1) | {"attention_bias": True, "norm_eps": 1e-5},
        names={
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "max_sequence_length": "max_position_embeddings",
            "layernorm_epsilon": "norm_eps",
            "initializer_range": "initializer_range",
            "embedding_dropout_prob": "embedding_dropout",
            "attention_dropout_prob": "attention_dropout",
            "output_dropout_prob": "hidden_dropout",
        },
        # PaddleNLP's defaults; the published files leave layernorm_epsilon out.
        absent={
            "max_sequence_length": 512,
            "layernorm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "embedding_dropout_prob": 0.1,
            "attention_dropout_prob": 0.1,
            "output_dropout_prob": 0.1,
        },
        fixed={"block_position_encoding": True, "relative_encoding": False, "tie_word_embeddings": True},
        aliases={"num_hidden_layers": "num_layers"},
        # attention_scale divides queries and keys and multiplies the shifted scores: it cancels out. The others
        # concern training's memory, classification heads and soft prompts, which a language model does not have.
        ignored=frozenset(
            {
                "attention_scale",
                "bad_words_id",
                "checkpoint_activations",
                "checkpoint_num_layers",
                "max_memory_length",  # of what earlier segments of a text are remembered; a text here has one
                "output_predict",
                "label_smoothing",  # of training; here --label_smoothing says it
                "parallel_output",
                "pool_token",
                "spell_func",
                "spell_length",
                "use_scaled_init_for_output_weights",
                "_fast_entry",
            }
        ),
        derived=frozenset({"intermediate_size"}),
        recognise=lambda raw: (
            raw.get("model_type", "glm") == "glm" and ("num_layers" in raw or "max_sequence_length" in raw)
        ),
        derive=_glm_inner,
        write=_write_glm,
    ),
    # config.json of THUDM/chatglm-6b, and PaddleNLP's of the same model.
    "chatglm": Family(
        parts=_LAYER_NORM
        | {
            "position_type": "rotary_2d",
            "residual": "scaled_norm",
            "tie_word_embeddings": False,
            "checkpoint_table": "chatglm",
        },
        defaults=_NO_DROPOUT | {"attention_bias": True, "norm_eps": 1e-5},
        names={
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "inner_hidden_size": "intermediate_size",
            "max_sequence_length": "max_position_embeddings",
            "layernorm_epsilon": "norm_eps",
        },
        absent={"max_sequence_length": 2048, "layernorm_epsilon": 1e-5},
        # pre_seq_len is P-tuning's, activation, attention_scale and the last two are PaddleNLP's.
        fixed={
            "position_encoding_2d": True,
            "quantization_bit": 0,
            "pre_seq_len": None,
            "activation": "gelu",
            "attention_scale": True,
            "num_image_tokens": 0,
            "use_long_sequence_strategies": False,
        },
        aliases={"num_hidden_layers": "num_layers"},
        # The libraries' default for tie_word_embeddings is true, and yet the head has its own weights.
        ignored=frozenset(
            {
                "tie_word_embeddings",
                "prefix_projection",
                "output_predict",
                "quantization_embeddings",
                "long_sequence_init_args",
                "long_sequence_strategy_name",
                "long_sequence_strategy_type",
            }
        ),
        tokens=("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id"),
        recognise=lambda raw: raw.get("model_type") == "chatglm" and "ffn_hidden_size" not in raw,
        write=lambda config: {"torch_dtype": config.dtype},
        architecture="ChatGLMModel",
        model_type="chatglm",
    ),
    # config.json of the remote-code repositories of GLM-4-9B.
    "glm4-remote": Family(
        parts=_GLM4 | {"post_norms": False, "checkpoint_table": "glm4_remote"},
        defaults=_GLM4_DEFAULTS,
        names={
            "padded_vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "multi_query_group_num": "num_key_value_heads",
            "kv_channels": "head_dim",
            "ffn_hidden_size": "intermediate_size",
            "seq_length": "max_position_embeddings",
            "layernorm_epsilon": "norm_eps",
            "add_qkv_bias": "attention_bias",
            "attention_dropout": "attention_dropout",
            "hidden_dropout": "hidden_dropout",
            "tie_word_embeddings": "tie_word_embeddings",
        },
        # The remote code's own defaults.
        absent={
            "kv_channels": 128,
            "seq_length": 2048,
            "layernorm_epsilon": 1e-5,
            "add_qkv_bias": False,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "tie_word_embeddings": False,
        },
        fixed={
            "original_rope": True,
            "multi_query_attention": True,
            "rmsnorm": True,
            "post_layer_norm": True,
            "apply_residual_connection_post_layernorm": False,
            "add_bias_linear": False,
            "fp32_residual_connection": False,
            "quantization_bit": 0,
            "pre_seq_len": None,
        },
        aliases={"num_hidden_layers": "num_layers", "vocab_size": "padded_vocab_size"},
        # Scaling by the layer's number cancels out; the softmax is float32 here whatever the file says.
        ignored=frozenset(
            {
                "apply_query_key_layer_scaling",
                "attention_softmax_in_fp32",
                "bias_dropout_fusion",
                "prefix_projection",
            }
        ),
        derived=frozenset({"rope_ratio"}),
        tokens=("eos_token_id", "pad_token_id"),
        recognise=lambda raw: raw.get("model_type") == "chatglm" and "ffn_hidden_size" in raw,
        derive=read_ratio,
        write=write_ratio,
        architecture="ChatGLMModel",
        model_type="chatglm",
        half="bfloat16",
    ),
    "glm4": _transformers("glm", "GlmForCausalLM", 1.5625e-07, post_norms=False),
    "glm4-0414": _transformers("glm4", "Glm4ForCausalLM", 1e-5, post_norms=True),
    "glm4-moe": with_experts(_transformers("glm4_moe", "Glm4MoeForCausalLM", 1e-5, post_norms=False)),
    "glm4-moe-lite": with_latents(
        with_experts(_transformers("glm4_moe_lite", "Glm4MoeLiteForCausalLM", 1e-5, post_norms=False))
    ),
}
_CHATGLM2 = {"norm_eps": 1e-5, "eos_token_id": 2, "pad_token_id": 0}
_GLM4_REMOTE, _GLM4_HF = FAMILIES["glm4-remote"], FAMILIES["glm4"]
# The first that recognises a file has it.
FAMILIES = {
    # ChatGLM2-6B, ChatGLM3-6B and CodeGeeX2-6B, of whose class GLM-4-9B's is the next version.
    "chatglm2": replace(
        _GLM4_REMOTE,
        defaults=_GLM4_REMOTE.defaults | _CHATGLM2,
        derived=frozenset({"rope_ratio", "rope_theta", "rope_scaling", "_name_or_path"}),
        recognise=lambda raw: _GLM4_REMOTE.recognise(raw) and is_chatglm2(raw, "rope_theta"),
        derive=read_chatglm2_ratio,
        write=write_chatglm2_ratio,
        half="float16",
    ),
    # What transformers computes them with; the ratio says whose weights these are.
    "chatglm2-hf": replace(
        _GLM4_HF,
        defaults=_GLM4_HF.defaults | _CHATGLM2,
        recognise=lambda raw: _GLM4_HF.recognise(raw) and is_chatglm2(raw, "rope_ratio"),
        write=lambda config: write_hf(config) | {"rope_ratio": 1},
        half="float16",
    ),
    **FAMILIES,
}
