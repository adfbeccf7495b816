"""config.json of every family: read field by field, refused where a field cannot be honoured, written back."""

import json
from pathlib import Path

import pytest
from shared_files import SHARED

from glm import GLMConfig, GLMForCausalLM
from glm.api.loading import load_processor
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.config.config_json import config_json
from glm.config.families import FAMILIES
from glm.config.foreign_fields import PADDLENLP_FIELDS
from glm.config.presets import PRESETS
from glm.errors import GLMError

REAL = SHARED / "real" / "configs"
# As transformers 4 and 5 write the same model.
HF = {
    "architectures": ["Glm4ForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [9, 2, 3],
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 32768,
    "model_type": "glm4",
    "num_attention_heads": 8,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pad_token_id": 5,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 80,
}
ROPE = {"rope_theta": 40000.0, "partial_rotary_factor": 0.25}
FOUR = HF | ROPE | {"torch_dtype": "bfloat16", "transformers_version": "4.51.3", "_attn_implementation_autoset": True}
FIVE = HF | {"rope_parameters": ROPE | {"rope_type": "default"}, "dtype": "bfloat16", "transformers_version": "5.3.0"}
CARD = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}  # of GLM-4-0414, for long texts
YARN = ROPE | CARD | {"rope_type": "yarn"}
REMOTE = {
    "model_type": "chatglm",
    "add_qkv_bias": False,
    "apply_query_key_layer_scaling": True,
    "classifier_dropout": None,
    "ffn_hidden_size": 96,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-06,
    "multi_query_attention": True,
    "multi_query_group_num": 4,
    "num_attention_heads": 8,
    "num_layers": 3,
    "original_rope": True,
    "padded_vocab_size": 80,
    "rope_ratio": 500,
    "seq_length": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
CHATGLM = {
    "model_type": "chatglm",
    "hidden_size": 64,
    "inner_hidden_size": 128,
    "layernorm_epsilon": 1e-05,
    "num_attention_heads": 4,
    "num_layers": 3,
    "vocab_size": 80,
}
GLM = {"model_type": "glm", "hidden_size": 64, "num_layers": 3, "num_attention_heads": 4, "vocab_size": 80}
SIZES = {"vocab_size": 80, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def converted(source: str) -> None:
    convert_checkpoint(Conversion(Path(source), Path(source) / "target", "hf"))


def read(directory: Path, fields) -> GLMConfig:
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return GLMConfig.from_pretrained(str(directory))


@pytest.mark.parametrize("form", [FOUR, FIVE], ids=["transformers 4", "transformers 5"])
def test_both_forms_of_transformers(form, tmp_path):
    config = read(tmp_path, form)
    assert (config.family, config.dtype) == ("glm4-0414", "bfloat16")
    assert (config.rope_theta, config.partial_rotary_factor) == (40000.0, 0.25)
    assert (config.num_key_value_heads, config.head_dim, config.norm_eps) == (2, 16, 1e-6)
    assert (config.eos_token_id, config.pad_token_id) == ([9, 2, 3], 5)


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        (FIVE, {"attention_bias": False}, {"attention_bias": False}),
        (FIVE, {"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
        (FIVE, {"model_type": "glm"}, {"family": "glm4", "post_norms": False}),
        (FIVE, {"rope_parameters": None}, {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        (FIVE, {"rope_theta": 7.0}, {"rope_theta": 40000.0}),  # transformers 5 takes the inner one
        (FOUR, {"rope_scaling": {"type": "default"}}, {"rope_theta": 40000.0}),
        (FOUR, {"head_dim": None}, {"head_dim": 128}),
        (FOUR, {"torch_dtype": "torch.float16"}, {"dtype": "float16"}),
        (REMOTE, {}, {"rope_theta": 5e6, "num_key_value_heads": 4, "attention_bias": False, "norm_eps": 1e-6}),
        (REMOTE, {"rope_ratio": 1}, {"rope_theta": 10000.0}),
        (REMOTE, {"rope_ratio": None}, {"rope_theta": 10000.0}),
        (REMOTE, {"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
        (REMOTE, {"num_hidden_layers": 3, "vocab_size": 80}, {"num_hidden_layers": 3}),
        (REMOTE, {"padded_vocab_size": None, "vocab_size": 90}, {"vocab_size": 90}),
        (CHATGLM, {"max_sequence_length": 99}, {"max_position_embeddings": 99, "intermediate_size": 128}),
        (CHATGLM, {"tie_word_embeddings": True, "pre_seq_len": None}, {"tie_word_embeddings": False}),
        (CHATGLM, {"num_layers": None, "num_hidden_layers": 3}, {"family": "chatglm", "num_hidden_layers": 3}),
        (CHATGLM, {"mask_token_id": 60, "eos_token_id": 61}, {"mask_token_id": 60, "eos_token_id": 61}),
        (GLM, {"attention_scale": 8.0}, {"max_position_embeddings": 512, "hidden_dropout": 0.1, "norm_eps": 1e-5}),
        (
            GLM,
            {"output_dropout_prob": 0.0, "intermediate_size": 100},
            {"hidden_dropout": 0.0, "intermediate_size": 100},
        ),
    ],
)
def test_fields_that_matter(base, changes, expected, tmp_path):
    config = read(tmp_path, base | changes)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (FIVE, {"sliding_window": 4096}, "sliding_window is 4096, and only None is supported"),
        (FIVE, {"sliding_window": 4096, "use_sliding_window": True}, "sliding_window is 4096"),
        (FIVE, {"rope_ratio": 500}, "rope_ratio is 500, and only 1 is supported"),
        (FIVE, {"num_experts": 8}, "num_experts is 8"),
        (FIVE, {"hidden_act": "gelu"}, 'hidden_act is "gelu", and only silu is supported'),
        (FIVE, {"rope_parameters": ROPE | {"rope_type": "yarn"}}, "rope_parameters of type yarn has no factor: write"),
        (FIVE, {"rope_parameters": YARN | {"factor": "4"}}, "factor of rope_parameters is '4', and must be a number"),
        (FIVE, {"rope_parameters": YARN | {"factor": 0}}, "factor of rope_parameters is 0, and must be a number above"),
        (FIVE, {"rope_parameters": YARN | {"truncate": 1}}, "truncate of rope_parameters is 1, and must be true or"),
        (FIVE, {"rope_parameters": YARN | {"attn_factor": 2.0}}, "rope_parameters has attn_factor = 2.0"),
        (FIVE, {"rope_parameters": {"full_attention": YARN}}, "rope_parameters has full_attention"),
        (FIVE, {"rope_parameters": 5}, "rope_parameters is 5, and must be an object such as {"),
        (FIVE, {"rope_scaling": {"factor": 2.0}}, "rope_scaling has a factor and no rope_type: write it as in {"),
        (
            FIVE | {"rope_parameters": {"rope_theta": 5e6}},
            {"rope_scaling": CARD},
            "rope_parameters says rope_theta 5000000.0, and beside rope_scaling, which takes its place, 10000.0 counts",
        ),
        (FIVE, {"rope_parameters": ROPE | {"mrope_section": [8, 12]}}, "rope_parameters has mrope_section"),
        (FOUR, {"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type is 'dynamic', whose positions change"),
        (FOUR, {"rope_scaling": {"type": "longrope", "factor": 2}}, "rope_type is 'longrope', whose positions change"),
        (FOUR, {"rope_scaling": {"type": "ntk", "factor": 2}}, "rope_type is 'ntk', and only default, linear, llama3"),
        (REMOTE, {"rope_scaling": CARD}, 'rope_scaling is {"type": "yarn"'),
        (FIVE, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized weights are not read"),
        (FIVE, {"hidden_size": "64"}, "hidden_size is '64', and must be a whole number above 0"),
        (FIVE, {"num_attention_heads": 0}, "num_attention_heads is 0, and must be a whole number"),
        (FIVE, {"num_key_value_heads": ...}, "no num_key_value_heads, which a Glm4ForCausalLM needs"),
        (FIVE, {"vocab_size": float("nan")}, "vocab_size is nan, and must be a whole number above 0"),
        (FIVE, {"max_position_embeddings": 32768.5}, "max_position_embeddings is 32768.5, and must be a whole number"),
        (FIVE, {"is_encoder_decoder": True}, "is_encoder_decoder is true, and only False is supported"),
        (REMOTE, {"original_rope": False}, "original_rope is false, and only True is supported"),
        (REMOTE, {"post_layer_norm": False}, "post_layer_norm is false"),
        (REMOTE, {"add_bias_linear": True}, "add_bias_linear is true, and only False"),
        (REMOTE, {"vision_config": {"width": 1792}}, 'vision_config is {"width": 1792}'),
        (REMOTE, {"num_hidden_layers": 4}, "num_layers is 3 and num_hidden_layers 4, which must be the same"),
        (CHATGLM, {"pre_seq_len": 128}, "pre_seq_len is 128, and only None is supported"),
        (CHATGLM, {"quantization_bit": 4}, "quantization_bit is 4, and only 0 is supported"),
        (CHATGLM, {"position_encoding_2d": False}, "position_encoding_2d is false"),
        (CHATGLM, {"activation": "geglu"}, 'activation is "geglu"'),
        (GLM, {"relative_encoding": True}, "relative_encoding is true, and only False"),
        (GLM, {"vocab_size": None}, "no vocab_size, which a GLMForConditionalGeneration needs"),
        (GLM, {"model_type": "llama"}, "model_type 'llama' with these fields matches no supported family"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(base, changes, message, tmp_path):
    fields = {name: value for name, value in (base | changes).items() if value is not ...}  # ...: not there
    with pytest.raises(GLMError) as error:
        read(tmp_path, fields)
    assert message in str(error.value)
    assert str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_no_model_at_all(tmp_path):
    with pytest.raises(GLMError, match="holds a JSON list, not an object"):
        read(tmp_path, [1])


@pytest.mark.parametrize("name", ["lora_config.json", "adapter_config.json"])
@pytest.mark.parametrize("read", [GLMConfig.from_pretrained, GLMForCausalLM.from_pretrained, load_processor, converted])
def test_an_adapter_is_no_model(name, read, tmp_path):
    (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(
        GLMError, match=rf"holds a LoRA adapter \({name}\).* --lora_path and its base model as --model_"
    ):
        read(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(GLM), encoding="utf-8")
    assert GLMConfig.from_pretrained(str(tmp_path)).hidden_size == 64  # a model with an adapter beside it is one


@pytest.mark.parametrize("read", [GLMConfig.from_pretrained, GLMForCausalLM.from_pretrained, load_processor])
def test_an_over_long_name_is_no_model(read):
    with pytest.raises(GLMError, match=r"'n{300}' is neither a directory nor a preset"):
        read("n" * 300)


@pytest.mark.parametrize("name", [*PRESETS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_written_and_read(name, dtype, tmp_path):
    config = GLMConfig.preset(name, dtype=dtype)
    config.save_pretrained(tmp_path)
    assert GLMConfig.from_pretrained(str(tmp_path)).to_dict() == config.to_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_unusual_values_are_written_and_read(family, tmp_path):
    """Every field that config.json has: what is written last must not hide what was read."""
    ours = set(FAMILIES[family].names.values())
    changes = {
        "num_key_value_heads": SIZES["num_attention_heads"] if "kv_lora_rank" in ours else 2,
        "head_dim": 20,
        "intermediate_size": 88,
        "max_position_embeddings": 77,
        "norm_eps": 3e-6,
        "attention_dropout": 0.3,
        "initializer_range": 0.5,
        "attention_bias": False,
    }
    changes = {name: value for name, value in changes.items() if name in ours}
    rope = {"rope_theta": 13000.0} if FAMILIES[family].derived & {"rope_ratio", "rope_theta"} else {}
    config = GLMConfig(family, **SIZES | changes | rope, eos_token_id=[7, 8], pad_token_id=6)
    config.save_pretrained(tmp_path)
    assert GLMConfig.from_pretrained(str(tmp_path)).to_dict() == config.to_dict()


def test_rope_ratio_and_rope_theta_are_the_same_thing():
    remote = GLMConfig.preset("glm-4-9b-chat")
    assert config_json(remote)["rope_ratio"] == 500
    fields = {name: getattr(remote, name) for name in (*SIZES, "num_key_value_heads", "rope_theta", "head_dim")}
    written = config_json(GLMConfig("glm4", **fields))
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 5_000_000.0


def test_transformers_gets_no_token_ids_of_another_vocabulary():
    """Where a file says nothing, GlmConfig takes 151329 for padding, which a small embedding does not have."""
    written = config_json(GLMConfig("glm4", **SIZES))
    assert written["pad_token_id"] is None
    assert written["eos_token_id"] is None


@pytest.mark.parametrize("model", ["GLMConfig", "ChatGLMConfig"])
def test_what_paddlenlp_writes_is_read(model, tmp_path):
    """The saved file, and all fields that the library has."""
    import paddlenlp.transformers as paddlenlp

    config = getattr(paddlenlp, model)(tensor_parallel_degree=2, recompute=True, fuse_attention_qkv=True)
    config.save_pretrained(str(tmp_path))
    saved = GLMConfig.from_pretrained(str(tmp_path))
    assert (saved.hidden_size, saved.vocab_size) == (config.hidden_size, config.vocab_size)
    assert read(tmp_path, config.to_dict()).hidden_size == config.hidden_size


@pytest.mark.skipif(not REAL.is_dir(), reason="the published config.json files are not on this machine")
@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("chatglm-6b", "chatglm-6b"),
        ("glm-4-9b-chat", "glm-4-9b-chat"),
        ("GLM-4-9B-0414.RECONSTRUCTED", "glm-4-9b-0414"),
        ("glm-10b-chinese.paddlenlp", "glm-10b-chinese"),
        ("glm-large-chinese.paddlenlp", "glm-large-chinese"),
    ],
)
def test_published_files_are_the_presets(file, preset, tmp_path):
    raw = json.loads((REAL / f"{file}.json").read_text(encoding="utf-8"))
    raw = raw.get("config", raw)
    found = read(tmp_path, raw)
    assert found.to_dict() == GLMConfig.preset(preset, dtype=found.dtype).to_dict()
    written = found.to_checkpoint_dict()
    same = {name for name in raw if name in written} - {"architectures"}
    assert {name: written[name] for name in same} == {name: raw[name] for name in same}


# dtype


@pytest.mark.parametrize(
    ("name", "half"), [("glm-4-9b-chat", "bfloat16"), ("glm-z1-32b-0414", "bfloat16"), ("chatglm-6b", "float16")]
)
def test_float16_is_warned_of_where_it_overflows(name, half):
    config = GLMConfig.preset(name, dtype="float16")
    assert config.half == half
    assert bool(config.dtype_warning()) == (half == "bfloat16")
    assert config.dtype_warning("bfloat16") is config.dtype_warning("float32") is None


def test_loading_in_float16_says_so_once(tmp_path, caplog):
    GLMForCausalLM.from_pretrained("glm-4-9b-tiny").save_pretrained(tmp_path)
    GLMForCausalLM.from_pretrained(tmp_path)
    assert "float16" not in caplog.text
    GLMForCausalLM.from_pretrained(tmp_path, dtype="float16")
    assert caplog.text.count("float16 overflows") == 1
    assert "prefer bfloat16" in caplog.text


def test_generation_defaults_do_not_depend_on_the_way():
    """A configuration that is built, a preset's and a file's have the same dropout and epsilon."""
    assert GLMConfig("glm4-remote", **SIZES).hidden_dropout == 0.0
    assert GLMConfig("glm4-0414", **SIZES).norm_eps == 1e-5
    assert GLMConfig(**SIZES).hidden_dropout == 0.1


def test_every_field_of_paddlenlp_is_known():
    """The list stands in the code, because PaddleNLP takes seconds to import."""
    from paddlenlp.transformers import PretrainedConfig

    assert frozenset(PretrainedConfig().to_dict()) - {"tie_word_embeddings"} | {"torch_dtype"} == PADDLENLP_FIELDS
