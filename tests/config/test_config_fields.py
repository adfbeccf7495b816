"""The rule for fields of config.json, and for names given to a configuration: what changes results is refused."""

import logging
from pathlib import Path

import pytest
from test_config import CARD, CHATGLM, FIVE, FOUR, GLM, REMOTE, read

from glm import GLMConfig, GLMForCausalLM
from glm.config.config_json import config_json
from glm.config.families import FAMILIES
from glm.config.fields import PlainConfig
from glm.errors import GLMError

FORMS = {"glm4-0414": FIVE, "transformers 4": FOUR, "glm4-remote": REMOTE, "chatglm": CHATGLM, "glm": GLM}
# What files of other programs say besides, and what changes nothing.
HARMLESS = {
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 28,
    "layer_types": ["full_attention"] * 3,
    "keys_to_ignore_at_inference": ["past_key_values"],
    "quantization_config": None,
    "quantization": {},
    "auto_map": {"AutoConfig": "configuration_glm.GLMConfig"},
    "pretraining_tp": 1,
    "use_cache": True,
    "_name_or_path": "THUDM/GLM-4-9B-0414",
    "transformers_version": "4.52.0.dev0",
    "dtype": "auto",
    "torch_dtype": None,
    "num_experts": 0,
    "moe_config": {},
    "num_experts_per_tok": None,
    "final_logit_softcapping": None,
    "use_qk_norm": False,
    "mlp_bias": False,
    "residual_multiplier": 1.0,
    "head_dtype": None,
    "pruned_heads": {},
    "is_decoder": False,
}


@pytest.mark.parametrize("form", FORMS)
def test_what_changes_nothing_is_read_without_a_word(form, tmp_path, caplog):
    plain = read(tmp_path, FORMS[form] | {"dtype": None, "torch_dtype": None})
    assert read(tmp_path, FORMS[form] | HARMLESS).to_dict() == plain.to_dict()
    assert not caplog.text


@pytest.mark.parametrize("form", ["glm4-0414", "transformers 4"])
def test_values_as_other_programs_write_them(form, tmp_path, caplog):
    found = read(tmp_path, FORMS[form] | {"max_position_embeddings": 32768.0, "num_key_value_heads": None})
    assert found.max_position_embeddings == 32768 and type(found.max_position_embeddings) is int
    assert found.num_key_value_heads == found.num_attention_heads == 8
    for window in ({"sliding_window": 4096, "use_sliding_window": False}, {"use_sliding_window": True}):
        assert read(tmp_path, FORMS[form] | window).to_dict() == read(tmp_path, FORMS[form]).to_dict()
    assert read(tmp_path, FORMS[form] | {"hidden_act": "swish"}).hidden_act == "silu"
    assert read(tmp_path, FORMS[form] | {"dtype": "auto", "torch_dtype": "bfloat16"}).dtype == "bfloat16"
    assert not caplog.text


@pytest.mark.parametrize("form", FORMS)
def test_unknown_fields_are_one_warning(form, tmp_path, caplog):
    """Each by its name; null says that nothing is set."""
    plain = read(tmp_path, FORMS[form]).to_dict()
    found = read(tmp_path, FORMS[form] | {"made_by": "hand", "zeta": False, "alpha_9": [1], "quiet": None})
    assert found.to_dict() == plain
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{tmp_path / 'config.json'}: taken to change nothing, for nobody here knows it: alpha_9, made_by, zeta"
    )


def test_unknown_settings_of_positions_are_in_it(tmp_path, caplog):
    read(tmp_path, FOUR | {"made_by": "hand", "rope_scaling": CARD | {"rope_theta": 40000.0, "beta_fats": 16}})
    [record] = caplog.records
    assert record.getMessage().endswith(": made_by, rope_scaling.beta_fats")


CHANGING = {
    "sliding_window": 4096,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "attention_chunk_size": 8192,
    "quantization": {"group_size": 64, "bits": 4},
    "quantization_config": {"quant_method": "fp8"},
    "num_experts": 64,
    "n_routed_experts": 160,
    "num_local_experts": 8,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 2,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "use_qk_norm": True,
    "qk_layernorm": True,
    "mlp_bias": True,
    "attention_multiplier": 0.015625,
    "query_pre_attn_scalar": 256,
    "residual_multiplier": 0.22,
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "logit_scale": 0.0625,
    "kv_lora_rank": 512,
    "alibi": True,
    "parallel_attn": True,
    "hidden_activation": "relu",
    "vision_config": {"hidden_size": 8},
    "is_encoder_decoder": True,
}


@pytest.mark.parametrize("form", FORMS)
def test_what_changes_results_is_refused_by_name(form, tmp_path):
    for name, value in CHANGING.items():
        with pytest.raises(GLMError) as error:
            read(tmp_path, FORMS[form] | {name: value})
        assert str(error.value).startswith(f"{tmp_path / 'config.json'}: {name} is ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["glm4-remote", "chatglm", "glm"])
def test_scaled_positions_where_the_models_code_has_none(form, tmp_path):
    with pytest.raises(GLMError, match=r"rope_scaling is .*, and only None is supported"):
        read(tmp_path, FORMS[form] | {"rope_scaling": CARD})
    for nothing in (None, {}, 1.0):
        read(tmp_path, FORMS[form] | {"rope_scaling": nothing})


# names given to a configuration


@pytest.mark.parametrize("of", [GLMConfig, PlainConfig])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"hidden_siz": 3}, "no field 'hidden_siz': did you mean hidden_size?"),
        ({"num_layers": 3}, "no field 'num_layers': did you mean num_hidden_layers?"),
        ({"family": "glm4", "rms_norm_eps": 1e-6}, "no field 'rms_norm_eps': did you mean norm_eps?"),
        ({"family": "glm4", "rope_parameters": {}}, "no field 'rope_parameters': did you mean rope_scaling?"),
        ({"eos_token": 3}, "no field 'eos_token': did you mean eos_token_id?"),
        ({"tensor_parallel_degre": 2}, "did you mean tensor_parallel_degree?"),
        ({"xyzzy": 2}, "no field 'xyzzy': help(glm.GLMConfig) names those that it has"),
    ],
)
def test_a_misspelt_name_is_refused(of, names, message):
    with pytest.raises(GLMError) as error:
        of(**names)
    assert message in str(error.value) and str(error.value).startswith(of.__name__)


def test_it_is_refused_wherever_names_are_given(tmp_path):
    GLMConfig.preset("glm-4-9b-0414-tiny").save_pretrained(tmp_path)
    for give in (
        lambda **names: GLMConfig.preset("glm-4-9b-0414", **names),
        lambda **names: PlainConfig.preset("glm-4-9b-0414", **names),
        lambda **names: GLMConfig.from_pretrained("glm-4-9b-0414", **names),
        lambda **names: GLMConfig.from_pretrained(str(tmp_path), **names),
        lambda **names: GLMForCausalLM.from_pretrained(tmp_path, **names),
        lambda **names: GLMForCausalLM.from_pretrained("glm-4-9b-0414-tiny", from_scratch=True, **names),
    ):
        with pytest.raises(GLMError, match="has no field 'rope_thetta': did you mean rope_theta"):
            give(rope_thetta=5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_libraries_give_continues_working(family):
    """PaddleNLP makes configurations of dictionaries, and its users set generic fields."""
    generic = {"use_cache": True, "num_labels": 3, "torch_dtype": "bfloat16", "name_or_path": "x", "recompute": True}
    config = GLMConfig(family, **generic, use_flash_attention=True, output_attentions=True, max_length=7)
    assert (config.dtype, config.num_labels, config.max_length) == ("bfloat16", 3, 7)
    for again in (GLMConfig(**config.to_dict()), GLMConfig.from_dict(config.to_dict())):
        assert again.to_dict() == config.to_dict()


def test_how_files_are_read_is_no_field(tmp_path):
    """What PaddleNLP's and transformers' users give `from_pretrained` out of habit, and what is so here anyway."""
    options = {"low_cpu_mem_usage": True, "convert_from_torch": True, "trust_remote_code": True}
    GLMForCausalLM.from_pretrained("glm-4-9b-0414-tiny").save_pretrained(tmp_path)
    assert GLMForCausalLM.from_pretrained(tmp_path, **options).config.vocab_size == 768


# scaled positions


@pytest.mark.parametrize("of", [GLMConfig, PlainConfig])
def test_scaled_positions_have_one_form(of):
    """Whichever they were given in, and written for transformers 5 and 4."""
    wanted = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    for given in (CARD, wanted, {"type": "yarn", "factor": 4.0}):
        config = of.preset("glm-4-9b-0414", rope_scaling=given)
        assert config.rope_scaling == wanted
        assert (config.max_position_embeddings, config.max_position) == (32768, 131072)
    written = config_json(config)
    assert written["rope_scaling"] == wanted
    assert written["rope_parameters"] == wanted | {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    assert "rope_scaling" not in config_json(of.preset("glm-4-9b-0414"))


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (CARD | {"original_max_position_embeddings": 65536}, 262144),
        (CARD | {"original_max_position_embeddings": 4096}, 32768),  # what the file says, if that is more
        ({"type": "linear", "factor": 2.5}, 81920),
        ({"type": "default"}, 32768),
    ],
)
def test_how_long_texts_may_be(scaling, longest):
    assert PlainConfig.preset("glm-4-9b-0414", rope_scaling=scaling).max_position == longest


def test_written_and_read(tmp_path):
    for scaling in (CARD | {"mscale": 1.0, "truncate": False}, {"type": "linear", "factor": 2.5}):
        config = GLMConfig.preset("glm-4-9b-0414", rope_scaling=scaling)
        config.save_pretrained(tmp_path)
        assert GLMConfig.from_pretrained(str(tmp_path)).to_dict() == config.to_dict()


def test_families_without_scaled_positions(tmp_path: Path):
    for family in ("glm", "chatglm", "glm4-remote"):
        with pytest.raises(
            GLMError, match=f"models of family {family} have none, only those of chatglm2, chatglm2-hf, glm4"
        ):
            GLMConfig(family, rope_scaling=CARD)
    for nonsense in ("yarn", [CARD], 4.0):
        with pytest.raises(GLMError, match=r"rope_scaling is .*, and must be an object such as"):
            GLMConfig("glm4", rope_scaling=nonsense)
