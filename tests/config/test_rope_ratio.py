"""config.json of ChatGLM2 and 3 as published, told from GLM-4-9B's, and what `rope_ratio` means in each."""

import json

import pytest

from glm import GLMConfig
from glm.config.config_json import config_json
from glm.errors import GLMError

# THUDM/chatglm3-6b.
CHATGLM3 = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "use_cache": True,
    "torch_dtype": "float16",
    "transformers_version": "4.30.2",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# THUDM/codegeex2-6b: what it has besides, and what it lacks.
CODEGEEX2 = {name: value for name, value in CHATGLM3.items() if name != "pad_token_id"} | {
    "_name_or_path": "THUDM/codegeex2-6b",
    "interleaved_qkv": False,
    "rotary_percent": 0.5,
    "torch_dtype": "bfloat16",
}
LONG = CHATGLM3 | {"seq_length": 32768}


def read(directory, content: dict) -> GLMConfig:
    (directory / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return GLMConfig.from_pretrained(str(directory))


def test_the_published_files_are_the_presets(tmp_path, caplog):
    config = read(tmp_path, CHATGLM3)
    assert config.to_dict() == GLMConfig.preset("chatglm3-6b", dtype="float16").to_dict()
    assert (config.half, config.dtype_warning("float16")) == ("float16", None)
    codegeex2 = read(tmp_path, CODEGEEX2)
    assert codegeex2.to_dict() == GLMConfig.preset("codegeex2-6b", dtype="bfloat16").to_dict()
    assert not caplog.records


@pytest.mark.parametrize(
    "changes", [{"eos_token_id": None}, {"padded_vocab_size": 66048}, {"eos_token_id": [2, 64795]}]
)
def test_rows_or_the_end_token_tell_it_from_glm_4(tmp_path, changes):
    assert read(tmp_path, CHATGLM3 | changes).family == "chatglm2"
    glm4 = {"eos_token_id": [151329, 151336], "padded_vocab_size": 151552, "_name_or_path": "THUDM/glm-4-9b-chat"}
    config = read(tmp_path, CHATGLM3 | glm4 | {"rope_ratio": 500})
    assert (config.family, config.half, config.rope_theta) == ("glm4-remote", "bfloat16", 5e6)


@pytest.mark.parametrize("changes", [{"interleaved_qkv": True}, {"rotary_percent": 1.0}, {"original_rope": False}])
def test_another_network_is_refused(tmp_path, changes):
    with pytest.raises(GLMError, match=f"{next(iter(changes))} is .* is supported: use a model without it"):
        read(tmp_path, CHATGLM3 | changes)


def test_a_ratio_means_what_its_model_means(tmp_path):
    chatglm3 = read(tmp_path, LONG | {"rope_ratio": 50, "_name_or_path": "/models/ChatGLM3-6B-32K"})
    assert (chatglm3.rope_theta, chatglm3.rope_scaling) == (5e5, None)
    chatglm2 = read(tmp_path, LONG | {"rope_ratio": 4, "_name_or_path": "THUDM/chatglm2-6b-32k"})
    assert (chatglm2.rope_theta, chatglm2.rope_scaling["rope_type"], chatglm2.rope_scaling["factor"]) == (
        1e4,
        "linear",
        4,
    )
    assert chatglm2.max_position == chatglm3.max_position == 32768
    for config in (chatglm2, chatglm3):
        written = config_json(config)
        assert "_name_or_path" not in written
        assert written["rope_ratio"] == (4 if config is chatglm2 else 50)
        assert read(tmp_path, written).to_dict() == config.to_dict()


def test_a_ratio_that_nobody_explains(tmp_path):
    unnamed = LONG | {"rope_ratio": 50, "_name_or_path": "/models/mine"}
    with pytest.raises(
        GLMError, match=r"rope_ratio is 50, by which ChatGLM2 divides .* write rope_theta 500000 beside"
    ):
        read(tmp_path, unnamed)
    assert read(tmp_path, unnamed | {"rope_theta": 500000}).rope_theta == 5e5
    scaled = unnamed | {"rope_scaling": {"rope_type": "linear", "factor": 50}}
    assert read(tmp_path, scaled).rope_scaling == {"rope_type": "linear", "factor": 50}
    assert read(tmp_path, unnamed | {"rope_ratio": 1}).rope_theta == 1e4
