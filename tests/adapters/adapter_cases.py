"""Adapters that the real PEFT makes on tiny published models, by the settings of LoraConfig. Needs no framework."""

# Base model → a `GLMConfig`; all have three layers, and the published form of their family on disk.
_SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 24,
}
_GROUPED = _SIZES | {"num_key_value_heads": 1, "head_dim": 8}
BASES = {
    "glm4-0414": {"family": "glm4-0414", "attention_bias": True} | _GROUPED,
    "glm4-tied": {"family": "glm4", "attention_bias": False, "tie_word_embeddings": True} | _GROUPED,
    "glm4-remote": {"family": "glm4-remote", "attention_bias": True} | _GROUPED,
    "chatglm": {"family": "chatglm"} | _SIZES,
    "glm": {"family": "glm"} | _SIZES | {"intermediate_size": 64},
}
OF_TRANSFORMERS = ("glm4-0414", "glm4-tied")  # the others need remote code, so modules of the same names stand in
_ATTENTION = ["q_proj", "k_proj", "v_proj"]
_ALL = [*_ATTENTION, "o_proj", "gate_up_proj", "down_proj"]

# Name → (base, settings); r is 2 and lora_alpha 3 unless given. "bin": the file is torch's.
READ = {
    "plain": ("glm4-0414", {"target_modules": _ALL}),
    "all-linear": ("glm4-0414", {"target_modules": "all-linear"}),
    "regular expression": ("glm4-0414", {"target_modules": r".*layers\.[02]\..*(q_proj|down_proj)"}),
    "exclude_modules": (
        "glm4-0414",
        {"target_modules": _ALL, "exclude_modules": ["layers.1.self_attn.q_proj", "o_proj"]},
    ),
    "exclude_modules by expression": ("glm4-0414", {"target_modules": _ALL, "exclude_modules": r".*layers\.2\..*"}),
    "layers_to_transform": ("glm4-0414", {"target_modules": _ATTENTION, "layers_to_transform": [0, 2]}),
    "layers_pattern": (
        "glm4-0414",
        {"target_modules": ["mlp.down_proj"], "layers_to_transform": 1, "layers_pattern": ["h", "layers"]},
    ),
    "use_rslora": ("glm4-0414", {"target_modules": _ALL, "use_rslora": True}),
    "rank_pattern": (
        "glm4-0414",
        {
            "target_modules": _ALL,
            "rank_pattern": {"^model.layers.0.self_attn.q_proj": 5, r"layers\.[12]\.mlp.*": 3, "q_proj": 4},
            "alpha_pattern": {r"self_attn\.v_proj": 7, "^layers.1.mlp.down_proj": 50, "down_proj": 2},
        },
    ),
    "rank_pattern with rsLoRA": (
        "glm4-0414",
        {
            "target_modules": _ATTENTION,
            "use_rslora": True,
            "rank_pattern": {"k_proj": 4},
            "alpha_pattern": {"v_proj": 9},
        },
    ),
    "bias all": ("glm4-0414", {"target_modules": ["q_proj", "o_proj"], "bias": "all"}),
    "bias lora_only": ("glm4-0414", {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    "lora_bias": ("glm4-0414", {"target_modules": _ATTENTION, "lora_bias": True}),
    "use_dora": ("glm4-0414", {"target_modules": _ALL, "use_dora": True}),
    "use_dora with rsLoRA": ("glm4-0414", {"target_modules": ["gate_up_proj"], "use_dora": True, "use_rslora": True}),
    "modules_to_save": (
        "glm4-0414",
        {"target_modules": _ATTENTION, "modules_to_save": ["lm_head", "embed_tokens", "norm", "mlp.gate_up_proj"]},
    ),
    "lm_head": ("glm4-0414", {"target_modules": ["lm_head", "q_proj"]}),
    "embed_tokens": ("glm4-0414", {"target_modules": ["embed_tokens", "v_proj"]}),
    "embed_tokens with DoRA": ("glm4-0414", {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "trainable_token_indices": ("glm4-0414", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 11, 5]}),
    "trainable_token_indices by module": (
        "glm4-0414",
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 39], "lm_head": [7]}},
    ),
    "adapter_model.bin": ("glm4-0414", {"target_modules": _ALL, "bin": True}),
    "fan_in_fan_out": ("glm4-0414", {"target_modules": _ATTENTION, "fan_in_fan_out": True}),
    "pissa": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": "pissa"}),
    "pissa with patterns": (
        "glm4-0414",
        {"target_modules": _ALL, "init_lora_weights": "pissa", "rank_pattern": {"gate_up_proj": 5}, "use_rslora": True},
    ),
    "pissa with DoRA": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": "pissa", "use_dora": True}),
    "olora": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": "olora", "alpha_pattern": {"o_proj": 5}}),
    "gaussian": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": "gaussian"}),
    "orthogonal": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": "orthogonal"}),
    "mica": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": "mica"}),
    "no initialisation": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": False}),
    "tied: plain": ("glm4-tied", {"target_modules": _ALL}),
    "tied: lm_head": ("glm4-tied", {"target_modules": ["lm_head", "q_proj"]}),
    "tied: embed_tokens": ("glm4-tied", {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied: both": ("glm4-tied", {"target_modules": ["embed_tokens", "lm_head"]}),
    "tied: embed_tokens, both tied": ("glm4-tied", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "tied: modules_to_save": ("glm4-tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "tied: modules_to_save, both tied": (
        "glm4-tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "tied: modules_to_save of the head": ("glm4-tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied: tokens": ("glm4-tied", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 11]}),
    "remote: plain": (
        "glm4-remote",
        {"target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]},
    ),
    "remote: DoRA": ("glm4-remote", {"target_modules": ["query_key_value", "dense_h_to_4h"], "use_dora": True}),
    "remote: pissa": (
        "glm4-remote",
        {"target_modules": ["query_key_value", "dense_h_to_4h", "dense"], "init_lora_weights": "pissa"},
    ),
    "remote: embedding and head": ("glm4-remote", {"target_modules": ["word_embeddings", "output_layer"]}),
    "remote: bias, norms": (
        "glm4-remote",
        {"target_modules": ["dense"], "bias": "all", "modules_to_save": ["final_layernorm", "output_layer"]},
    ),
    "chatglm: plain": ("chatglm", {"target_modules": ["query_key_value"]}),
    "chatglm: DoRA": ("chatglm", {"target_modules": ["query_key_value", "dense_4h_to_h"], "use_dora": True}),
    "chatglm: olora": ("chatglm", {"target_modules": ["query_key_value", "dense"], "init_lora_weights": "olora"}),
    "chatglm: lora_bias": ("chatglm", {"target_modules": ["query_key_value", "dense"], "lora_bias": True}),
    "chatglm: bias": ("chatglm", {"target_modules": ["query_key_value"], "bias": "all"}),
    "chatglm: head": ("chatglm", {"target_modules": ["lm_head"], "modules_to_save": ["word_embeddings"]}),
    "glm: plain": ("glm", {"target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]}),
    "glm: patterns": (
        "glm",
        {"target_modules": ["query_key_value", "dense_4h_to_h"], "rank_pattern": {r"^glm.*\.1\..*query_key_value": 4}},
    ),
    "glm: DoRA, biases": ("glm", {"target_modules": ["query_key_value"], "use_dora": True, "bias": "lora_only"}),
    "pissa of the head": ("glm4-0414", {"target_modules": ["lm_head", "k_proj"], "init_lora_weights": "pissa"}),
    "pissa, r above the weight's": ("glm4-0414", {"target_modules": _ALL, "init_lora_weights": "pissa", "r": 16}),
    "olora of the head, r above": (
        "glm4-0414",
        {"target_modules": ["lm_head", "k_proj"], "init_lora_weights": "olora", "r": 12},
    ),
}
# Name → (base, --lora_targets of the project's adapter).
WRITTEN = {f"{base}, {targets}": (base, targets) for base in BASES for targets in ("attention", "all")}


def directory_name(case: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in case)
