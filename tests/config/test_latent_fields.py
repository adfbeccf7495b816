"""Models with latents in config.json: GLM-4.7-Flash's file in either spelling, and what is refused."""

import json
from pathlib import Path

import pytest

from glm.config.config_json import config_json
from glm.config.fields import PlainConfig
from glm.distributed.plan import COLUMN, ROW, split_axis
from glm.errors import GLMError

# GLM-4.7-Flash's fields, as transformers 4 spells them.
FLASH = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": [154820, 154827, 154829],
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 10240,
    "kv_lora_rank": 512,
    "max_position_embeddings": 202752,
    "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 20,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 47,
    "num_key_value_heads": 20,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 154820,
    "partial_rotary_factor": 1.0,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.8,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 256,
    "vocab_size": 154880,
}
TYPES = ["dense"] + ["sparse"] * 46


def read(directory: Path, fields: dict) -> PlainConfig:
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return PlainConfig.from_pretrained(str(directory))


def flash() -> dict:
    return vars(PlainConfig.preset("glm-4.7-flash", dtype="bfloat16"))


def test_the_file_of_flash_is_the_preset(tmp_path, caplog):
    assert vars(read(tmp_path, FLASH)) == flash()
    assert not caplog.records


def test_the_file_as_transformers_5_writes_it(tmp_path, caplog):
    left = ("rope_theta", "partial_rotary_factor", "first_k_dense_replace", "rope_scaling", "topk_method")
    fields = {name: value for name, value in FLASH.items() if name not in left}
    fields |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "mlp_layer_types": TYPES}
    fields |= {"head_dim": 64, "qk_head_dim": 256, "rope_interleave": True, "pretraining_tp": 1}
    assert vars(read(tmp_path, fields)) == flash()
    assert not caplog.records


@pytest.mark.parametrize("dense", [0, 2, 47])
def test_what_is_written_means_the_same(dense, tmp_path):
    config = read(tmp_path, FLASH | {"first_k_dense_replace": dense})
    written = config_json(config)
    assert written["mlp_layer_types"] == ["dense"] * dense + ["sparse"] * (47 - dense)
    assert (written["head_dim"], written["qk_head_dim"], written["rope_interleave"]) == (64, 256, True)
    assert vars(read(tmp_path, written)) == vars(config)
    del written["first_k_dense_replace"]
    assert vars(read(tmp_path, written)) == vars(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_interleave": False}, "rope_interleave is false, and only True is supported"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0, and must be at least 1 where attention has latents"),
        ({"v_head_dim": 2.5}, "v_head_dim is 2.5, and must be a whole number, at least 0"),
        ({"head_dim": 128}, "head_dim is 128, and qk_nope_head_dim 192, qk_rope_head_dim 64"),
        ({"qk_nope_head_dim": 191, "qk_rope_head_dim": 65}, "qk_rope_head_dim is 65, and must be even"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, and all 64 dimensions"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4, and num_attention_heads 20: .* must be the same"),
        ({"mlp_layer_types": ["sparse"] * 47}, "first_k_dense_replace is 1, and mlp_layer_types has 0 'dense'"),
        ({"mlp_layer_types": TYPES[::-1]}, "mlp_layer_types is .*, and must name 47 layers, 'dense' ones in front"),
        ({"mlp_layer_types": TYPES[:-1]}, "mlp_layer_types is .*, and must name 47 layers"),
        ({"use_qk_norm": True}, "use_qk_norm is true, and only None is supported"),
        ({"scoring_func": "softmax"}, 'scoring_func is "softmax", and only sigmoid is supported'),
    ],
)
def test_what_is_another_model(fields, message, tmp_path):
    with pytest.raises(GLMError, match=message):
        read(tmp_path, FLASH | fields)


def test_scaled_scores_of_yarn_are_refused(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "mscale_all_dim": 1.0}
    with pytest.raises(GLMError, match="mscale_all_dim, which is not supported where attention has latents"):
        read(tmp_path, FLASH | {"rope_scaling": yarn | {"mscale": 1.0}})


def test_what_a_call_may_say():
    config = PlainConfig("glm4-moe-lite", qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=12)
    assert (config.head_dim, config.value_dim, config.rotary_dim, config.latent_dim) == (16, 12, 6, 518)
    with pytest.raises(GLMError, match="head_dim is 128, and qk_nope_head_dim and qk_rope_head_dim add up to 256"):
        PlainConfig("glm4-moe-lite", head_dim=128)
    with pytest.raises(GLMError, match="has no field 'use_qk_norm'"):
        PlainConfig("glm4-moe-lite", use_qk_norm=True)
    with pytest.raises(GLMError, match="has no field 'kv_lora_rank'"):
        PlainConfig("glm4-moe", kv_lora_rank=512)


def test_ranks_cut_heads_and_leave_latents_whole():
    front = "model.layers.0.self_attn."
    cut = {"q_b_proj": COLUMN, "kv_b_proj": COLUMN, "o_proj": ROW}
    for name in (
        "q_a_proj",
        "q_a_layernorm",
        "q_b_proj",
        "kv_a_proj_with_mqa",
        "kv_a_layernorm",
        "kv_b_proj",
        "o_proj",
    ):
        assert split_axis(f"{front}{name}.weight") == cut.get(name)
