"""A GLM-4-9B fixture as the remote-code repositories publish the same model: names, packing, config.json.

The rotary dimensions are interleaved pairs in both, so no row moves; q, k, v and gate, up only lie behind each other.
Checked against the published modeling_chatglm.py: README.md in fixtures/.
"""

import json
from pathlib import Path

import numpy as np
from fixture_files import Arrays, Fixture
from safetensors.numpy import save_file

ONCE = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
LAYERED = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "self_attention.query_key_value.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "self_attention.query_key_value.bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
    "self_attention.dense.weight": ("self_attn.o_proj.weight",),
    "post_attention_layernorm.weight": ("post_attention_layernorm.weight",),
    "mlp.dense_h_to_4h.weight": ("mlp.gate_up_proj.weight",),
    "mlp.dense_4h_to_h.weight": ("mlp.down_proj.weight",),
}


def remote_code_weights(fixture: Fixture) -> Arrays:
    """Weights under the remote-code names, and the buffer `inv_freq` that the published files contain.

    The buffer knows nothing of rope_ratio, and the remote code does not use it: a reader must not either.
    """
    weights = {stored: fixture.weights[name] for stored, name in ONCE.items()}
    for i in range(fixture.config["num_hidden_layers"]):
        for stored, parts in LAYERED.items():
            found = [fixture.weights.get(f"model.layers.{i}.{part}") for part in parts]
            if found[0] is not None:
                weights[f"transformer.encoder.layers.{i}.{stored}"] = np.concatenate(found)
    rotary_dim = fixture.config["head_dim"] // 2
    exponents = np.arange(0, rotary_dim, 2) / rotary_dim
    weights["transformer.rotary_pos_emb.inv_freq"] = (10000.0**-exponents).astype("float32")
    return weights


def remote_code_config(fixture: Fixture) -> dict:
    """config.json with the fields of glm-4-9b-chat's, and the fixture's sizes."""
    config = fixture.config
    return {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": config["attention_bias"],
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": config["intermediate_size"],
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": config["hidden_size"],
        "kv_channels": config["head_dim"],
        "layernorm_epsilon": config["rms_norm_eps"],
        "multi_query_attention": True,
        "multi_query_group_num": config["num_key_value_heads"],
        "num_attention_heads": config["num_attention_heads"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_layers": config["num_hidden_layers"],
        "rope_ratio": fixture.settings["rope_ratio"],
        "original_rope": True,
        "padded_vocab_size": config["vocab_size"],
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": config["max_position_embeddings"],
        "use_cache": True,
        "torch_dtype": config["dtype"],
        "transformers_version": "4.30.2",
        "tie_word_embeddings": False,
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
    }


def transformers4_config(fixture: Fixture) -> dict:
    """The same config.json as transformers 4 wrote it: rope_theta on its own, torch_dtype."""
    config = dict(fixture.config)
    rope, dtype = config.pop("rope_parameters"), config.pop("dtype")
    return config | {
        "rope_theta": rope["rope_theta"],
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "torch_dtype": dtype,
        "transformers_version": "4.51.3",
    }


def write_directory(directory: Path, config: dict, weights: Arrays) -> Path:
    """A Hugging Face directory with one safetensors file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
