"""Models with experts in config.json: what is read, what is refused, and which of their weights stay float32."""

import json
from pathlib import Path

import pytest

from glm.config.config_json import config_json
from glm.config.fields import PlainConfig
from glm.config.shapes import is_expert_stack, parameter_shapes, rank_shape, stays_float32
from glm.distributed.plan import split_axis
from glm.errors import GLMError

# GLM-4.5-Air's file, as transformers 4 writes it.
AIR = {
    "architectures": ["Glm4MoeForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338],
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 10944,
    "max_position_embeddings": 131072,
    "model_type": "glm4_moe",
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 151329,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0",
    "use_cache": True,
    "use_qk_norm": False,
    "vocab_size": 151552,
}


def read(directory: Path, fields: dict) -> PlainConfig:
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return PlainConfig.from_pretrained(str(directory))


def test_the_file_of_air_is_the_preset(tmp_path, caplog):
    assert vars(read(tmp_path, AIR)) == vars(PlainConfig.preset("glm-4.5-air", dtype="bfloat16"))
    assert not caplog.records


def test_the_file_as_transformers_5_writes_it(tmp_path):
    fields = {name: value for name, value in AIR.items() if name not in ("rope_theta", "partial_rotary_factor")}
    fields |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}}
    fields |= {"num_mtp_layers": fields.pop("num_nextn_predict_layers"), "dtype": fields.pop("torch_dtype")}
    assert vars(read(tmp_path, fields)) == vars(PlainConfig.preset("glm-4.5-air", dtype="bfloat16"))


def test_what_is_written_means_the_same(tmp_path):
    config = read(tmp_path, AIR | {"use_qk_norm": True, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5})
    assert vars(read(tmp_path, config_json(config))) == vars(config)


def test_what_a_file_leaves_out(tmp_path):
    names = ("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "use_qk_norm", "n_shared_experts")
    config = read(tmp_path, {name: value for name, value in AIR.items() if name not in names})
    assert vars(config) == vars(PlainConfig.preset("glm-4.5-air", dtype="bfloat16"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scoring_func": "softmax"}, r'scoring_func is "softmax", and only sigmoid is supported'),
        ({"topk_method": "greedy"}, r'topk_method is "greedy", and only noaux_tc is supported'),
        ({"attention_bias": None}, "no attention_bias, which a Glm4MoeForCausalLM needs"),
        ({"head_dim": None}, "no head_dim, which a Glm4MoeForCausalLM needs"),
        ({"n_group": 3}, "n_group 3 must divide n_routed_experts 128"),
        ({"n_group": 2, "topk_group": 4}, "be no less than topk_group 4"),
        ({"n_group": 128, "topk_group": 8}, "leaves 1 expert a group"),
        ({"n_group": 64, "topk_group": 2}, "num_experts_per_tok is 8, and a token reaches 4 experts"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0 with 128 experts, and must be at least 1"),
        ({"n_routed_experts": 2.5}, "n_routed_experts is 2.5, and must be a whole number, at least 0"),
        ({"routed_scaling_factor": 0}, "routed_scaling_factor is 0, and must be a number above 0"),
        ({"use_qk_norm": "false"}, "use_qk_norm is 'false', and must be true or false"),
        ({"num_mtp_layers": 2}, "num_nextn_predict_layers is 1 and num_mtp_layers 2, which must be the same"),
        ({"moe_layer_freq": 2}, "moe_layer_freq is 2, and only None is supported"),
    ],
)
def test_what_is_another_model(fields, message, tmp_path):
    with pytest.raises(GLMError, match=message):
        read(tmp_path, AIR | fields)


@pytest.mark.parametrize("value", [{"scoring_func": "sigmoid"}, {"topk_method": "noaux_tc"}, {"moe_layer_freq": 1}])
def test_what_is_the_same_model(value, tmp_path):
    assert vars(read(tmp_path, AIR | value)) == vars(PlainConfig.preset("glm-4.5-air", dtype="bfloat16"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "glm_moe_dsa"}, r"'glm_moe_dsa': GLM-5 has sparse attention .* which is not supported"),
        ({"model_type": "glm5_next"}, r"'glm5_next': GLM-5.3-Flash has linear attention .* not supported"),
        (
            {"model_type": "glm4v_moe", "text_config": AIR, "vision_config": {}},
            "model of pictures or sound with a text",
        ),
        ({"model_type": "glm4v", "vision_config": {"depth": 24}}, "is a model of pictures or sound"),
    ],
)
def test_glms_of_other_kinds_are_refused_in_one_line(fields, message, tmp_path):
    with pytest.raises(GLMError, match=message) as found:
        read(tmp_path, fields)
    assert "\n" not in str(found.value)


def test_ranks_divide_every_expert():
    with pytest.raises(GLMError, match="tensor_parallel_degree 3 does not divide"):
        PlainConfig.preset("glm-4.5-air", tensor_parallel_degree=3)
    with pytest.raises(GLMError, match="tensor_parallel_degree 16 does not divide moe_intermediate_size 1400"):
        PlainConfig.preset("glm-4.5-air", tensor_parallel_degree=16, moe_intermediate_size=1400)
    assert PlainConfig.preset("glm-4.5-air", tensor_parallel_degree=8)


def test_ranks_divide_the_experts():
    config = PlainConfig.preset("glm-4.5-air", expert_parallel_degree=8, expert_parallel_rank=7)
    assert config.own_experts == range(112, 128)
    assert "expert_parallel_degree" not in config_json(config)
    with pytest.raises(GLMError, match="expert_parallel_degree 3 does not divide n_routed_experts 128: choose another"):
        PlainConfig.preset("glm-4.5-air", expert_parallel_degree=3)
    with pytest.raises(GLMError, match="expert_parallel_degree is 2 and tensor_parallel_degree 2, which cuts every"):
        PlainConfig.preset("glm-4.5-air", expert_parallel_degree=2, tensor_parallel_degree=2)
    with pytest.raises(GLMError, match="expert_parallel_degree is 2, and this model has no experts: leave it out"):
        PlainConfig.preset("glm-4-9b", expert_parallel_degree=2)


def test_other_families_have_no_experts():
    with pytest.raises(GLMError, match="has no field 'n_routed_experts'"):
        PlainConfig("glm4-0414", n_routed_experts=8)


def test_what_stays_float32_and_what_ranks_divide():
    shapes = parameter_shapes(PlainConfig.preset("glm-4.5-tiny"))
    layer = "model.layers.1.mlp."
    assert [name for name in shapes if stays_float32(name)] == [
        f"{layer}gate.weight",
        f"{layer}gate.e_score_correction_bias",
    ]
    stacks = {name: shape for name, shape in shapes.items() if is_expert_stack(name)}
    assert stacks == {
        f"{layer}experts.gate_proj.weight": (8, 128, 32),
        f"{layer}experts.up_proj.weight": (8, 128, 32),
        f"{layer}experts.down_proj.weight": (8, 32, 128),
    }
    assert [rank_shape(name, shape, 2) for name, shape in stacks.items()] == [(8, 128, 16)] * 2 + [(8, 16, 128)]
    assert [split_axis(f"{layer}gate.{part}") for part in ("weight", "e_score_correction_bias")] == [None, None]
