"""Presets: the published figures, names in any spelling, and a tiny one of each model that really runs."""

from math import prod
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from glm import GLMConfig, GLMForCausalLM, GLMTokenizer
from glm.config.hub import download_model
from glm.config.presets import PRESETS, UNTRAINED_PRESETS, bundled_tokenizer, preset_name, repository
from glm.config.shapes import parameter_shapes
from glm.errors import GLMError

TINY = [name for name in PRESETS if name.endswith("-tiny")]
SIZES = {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "intermediate_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "mask_token_id",
    "gmask_token_id",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "first_k_dense_replace",
    "num_nextn_predict_layers",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
}
# hidden, layers, heads, KV heads, MLP, positions, rope base, QKV bias, epsilon: from the sources in
# glm/config/presets.py.
FIGURES = {
    "chatglm-6b": (4096, 28, 32, 32, 16384, 2048, 1e4, True, 1e-5),
    "chatglm2-6b": (4096, 28, 32, 2, 13696, 32768, 1e4, True, 1e-5),
    "codegeex2-6b": (4096, 28, 32, 2, 13696, 8192, 1e4, True, 1e-5),
    "chatglm3-6b": (4096, 28, 32, 2, 13696, 8192, 1e4, True, 1e-5),
    "chatglm3-6b-base": (4096, 28, 32, 2, 13696, 8192, 1e4, True, 1e-5),
    "chatglm3-6b-32k": (4096, 28, 32, 2, 13696, 32768, 5e5, True, 1e-5),
    "chatglm3-6b-128k": (4096, 28, 32, 2, 13696, 131072, 5e6, True, 1e-5),
    "glm-4-9b": (4096, 40, 32, 2, 13696, 8192, 1e4, True, 1.5625e-7),
    "glm-4-9b-chat": (4096, 40, 32, 2, 13696, 131072, 5e6, True, 1.5625e-7),
    "glm-4-9b-chat-1m": (4096, 40, 32, 4, 13696, 1048576, 1e8, True, 1.5625e-7),
    "glm-4-9b-0414": (4096, 40, 32, 2, 13696, 32768, 1e4, True, 1e-5),
    "glm-z1-9b-0414": (4096, 40, 32, 2, 13696, 32768, 1e4, True, 1e-5),
    "glm-4-32b-0414": (6144, 61, 48, 2, 23040, 32768, 1e4, False, 1e-5),
    "glm-z1-32b-0414": (6144, 61, 48, 2, 23040, 32768, 1e4, False, 1e-5),
    "glm-4.5": (5120, 92, 96, 8, 12288, 131072, 1e6, True, 1e-5),
    "glm-4.5-base": (5120, 92, 96, 8, 12288, 131072, 1e6, True, 1e-5),
    "glm-4.5-air": (4096, 46, 96, 8, 10944, 131072, 1e6, True, 1e-5),
    "glm-4.5-air-base": (4096, 46, 96, 8, 10944, 131072, 1e6, True, 1e-5),
    "glm-4.6": (5120, 92, 96, 8, 12288, 202752, 1e6, True, 1e-5),
    "glm-4.7": (5120, 92, 96, 8, 12288, 202752, 1e6, True, 1e-5),
    "glm-4.7-flash": (2048, 47, 20, 20, 10240, 202752, 1e6, False, 1e-5),
}
# experts, of them a token, width, dense layers, scale, norms of queries and keys; parameters without MTP, in billions
# (spec of the issue, computed from the configurations).
EXPERTS = {
    "glm-4.5": (160, 8, 1536, 3, 2.5, True, 352.80),
    "glm-4.5-air": (128, 8, 1408, 1, 1.0, False, 106.85),
    "glm-4.6": (160, 8, 1536, 3, 2.5, True, 352.80),
    "glm-4.7": (160, 8, 1536, 3, 2.5, True, 352.80),
    "glm-4.7-flash": (64, 4, 1536, 1, 1.8, False, 29.94),
}


@pytest.mark.parametrize("name", FIGURES)
def test_published_figures(name):
    config = GLMConfig.preset(name)
    found = (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.intermediate_size,
        config.max_position_embeddings,
        config.rope_theta,
        config.attention_bias,
        config.norm_eps,
    )
    assert found == FIGURES[name]
    assert config.head_dim == (256 if config.kv_lora_rank else 128)
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(
    ("name", "preset", "source"),
    [
        ("THUDM/GLM-4-9B-0414", "glm-4-9b-0414", "zai-org/GLM-4-9B-0414"),
        ("zai-org/GLM-4-32B-0414", "glm-4-32b-0414", "zai-org/GLM-4-32B-0414"),
        ("thudm/chatglm-6b", "chatglm-6b", "THUDM/chatglm-6b"),
        ("GLM-Z1-9B-0414", "glm-z1-9b-0414", "zai-org/GLM-Z1-9B-0414"),
        ("THUDM/ChatGLM3-6B", "chatglm3-6b", "THUDM/chatglm3-6b"),
        ("zai-org/chatglm2-6b", "chatglm2-6b", "THUDM/chatglm2-6b"),
        ("THUDM/glm-large-chinese", "glm-large-chinese", "THUDM/glm-large-chinese"),
        ("zai-org/glm-4-9b-chat-1m", "glm-4-9b-chat-1m", "THUDM/glm-4-9b-chat-1m"),
    ],
)
def test_a_name_in_any_case_and_with_its_owner(name, preset, source):
    assert (preset_name(name), repository(name)) == (preset, source)


@pytest.mark.parametrize(
    "name", ["checkpoints/glm-4-9b", "./glm-4-9b", "someone/glm-4-9b", "THUDM/glm-9b", "/glm-4-9b"]
)
def test_a_path_and_another_owner_are_no_preset(name):
    assert preset_name(name) == name
    with pytest.raises(GLMError, match="neither a directory nor a preset"):
        GLMConfig.from_pretrained(name)


def test_the_repository_is_asked_for_by_its_real_name(monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or "/nowhere")
    assert download_model("glm-z1-32b-0414") == Path("/nowhere")
    assert asked == ["zai-org/GLM-Z1-32B-0414"]


@pytest.mark.parametrize("name", EXPERTS)
def test_published_experts(name):
    config = GLMConfig.preset(name)
    found = (
        config.n_routed_experts,
        config.num_experts_per_tok,
        config.moe_intermediate_size,
        config.first_k_dense_replace,
        config.routed_scaling_factor,
        config.use_qk_norm,
        round(sum(prod(shape) for shape in parameter_shapes(config).values()) / 1e9, 2),
    )
    assert found == EXPERTS[name]
    assert (config.n_shared_experts, config.n_group, config.topk_group, config.norm_topk_prob) == (1, 1, 1, True)
    dense = config.first_k_dense_replace
    assert [config.is_sparse(i) for i in (0, dense - 1, dense)] == [False, False, True]


def test_nothing_is_downloaded_for_an_untrained_preset():
    with pytest.raises(GLMError, match="nobody published weights of 'glm-4-9b-tiny'"):
        download_model("glm-4-9b-tiny")
    with pytest.raises(GLMError, match="no tokenizer of 'glm-4-9b' comes with this project, only of chatglm-6b-tiny"):
        bundled_tokenizer("glm-4-9b")


def test_a_published_tokenizer_is_downloaded_without_weights(monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return bundled_tokenizer("chatglm-6b-tiny")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for name in ("THUDM/chatglm-6b", "glm_6b", "glm_6b_chat"):
        assert GLMTokenizer.from_pretrained(name).kind == "chatglm"
    assert asked == [("THUDM/chatglm-6b", ["*.json", "*.model", "*.jinja"])] * 3


def test_a_published_tokenizer_that_cannot_be_downloaded(monkeypatch):
    import huggingface_hub

    def fails(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(GLMError, match=r"the tokenizer of THUDM/chatglm-6b cannot be had .* pass the directory$"):
        GLMTokenizer.from_pretrained("THUDM/chatglm-6b")


# tiny presets

# The first two numbers of weights, as they were before there were other families.
TINY_CHINESE = {
    "model.embed_tokens.weight": [-0.030734958127141, -0.012420170940458775],
    "model.layers.3.mlp.down_proj.weight": [-0.0011615235125645995, 0.018116574734449387],
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_by_all_its_names(name):
    """A directory is not asked for, and the published one is found in any case and with its owner."""
    assert preset_name(name) == name == preset_name(name.upper())
    assert GLMConfig.from_pretrained(name).vocab_size == GLMConfig.preset(name).vocab_size
    if PRESETS[name].repository:
        assert preset_name(PRESETS[name].repository) == name
        assert repository(name) == PRESETS[name].repository
    else:
        assert GLMTokenizer.from_pretrained(name).name_or_path == name


def test_every_new_model_has_a_tiny_preset():
    assert {f"{name}-tiny" for name in FIGURES} == set(TINY)
    assert {*TINY, "glm-tiny-chinese"} == UNTRAINED_PRESETS


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_is_the_model_in_everything_but_size(name):
    tiny, real = (PRESETS[each].fields for each in (name, name.removesuffix("-tiny")))
    assert {field: value for field, value in tiny.items() if field not in SIZES} == {
        field: value for field, value in real.items() if field not in SIZES
    }
    small, large = GLMConfig.preset(name), GLMConfig.preset(name.removesuffix("-tiny"))
    assert small.intermediate_size / small.hidden_size == pytest.approx(
        large.intermediate_size / large.hidden_size, 0.02
    )
    grouped = large.num_key_value_heads < large.num_attention_heads
    assert small.num_key_value_heads == (large.num_key_value_heads if grouped else small.num_attention_heads)
    assert GLMConfig.preset(name, tensor_parallel_degree=2).tensor_parallel_degree == 2


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_goes_with_its_tokenizer(name):
    tokenizer, config = GLMTokenizer.from_pretrained(name), GLMConfig.preset(name)
    assert max(tokenizer.all_special_ids) < config.vocab_size
    stop = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    # ChatGLM3's files name </s> alone; its chat() adds the tokens that begin another's turn.
    assert tokenizer.stop_token_ids[: len(stop)] == stop
    assert len(stop) == len(tokenizer.stop_token_ids) or tokenizer.kind == "chatglm3"
    assert tokenizer.pad_token_id == config.pad_token_id


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_runs_and_is_saved_and_read(name, tmp_path):
    model = GLMForCausalLM.from_pretrained(name)
    model.eval()
    ids = paddle.to_tensor(np.random.default_rng(0).integers(20, 700, (2, 7)))
    rows = model.model.positions.position_rows
    positions = paddle.to_tensor(np.tile(np.arange(7), (2, rows, 1)))
    inputs = ids, paddle.ones_like(ids), positions, paddle.zeros([2], "int64")
    logits = model(*inputs).numpy()
    assert logits.shape == (2, 7, model.config.vocab_size)
    assert 0.01 < logits.std() < 10
    model.save_pretrained(tmp_path)
    again = GLMForCausalLM.from_pretrained(tmp_path)
    again.eval()
    assert (again(*inputs).numpy() == logits).all()


def test_tiny_chinese_keeps_its_weights():
    """Adapters that were trained on it must continue to fit."""
    state = GLMForCausalLM.from_pretrained("glm-tiny-chinese").state_dict()
    draws = {name: state[name].numpy()[0, :2].tolist() for name in TINY_CHINESE}
    assert draws == TINY_CHINESE


@pytest.mark.parametrize("name", ["glm-4-9b-tiny", "glm-4-9b-0414-tiny"])
def test_a_tied_head_is_the_embedding(name, tmp_path):
    """Logits, the saved files, and a file that has the copy all the same."""
    config = GLMConfig.preset(name, tie_word_embeddings=True)
    model = GLMForCausalLM(config)
    model.eval()
    assert not any("lm_head" in key for key in model.state_dict())
    hidden = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 3, 128)).astype("float32"))
    expected = hidden.numpy() @ model.model.embed_tokens.weight.numpy().T
    np.testing.assert_allclose(model.logits(hidden).numpy(), expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert not any("lm_head" in key or "output_layer" in key for key in load_file(tmp_path / "model.safetensors"))
    again = GLMForCausalLM.from_pretrained(tmp_path)
    again.eval()
    assert again.config.tie_word_embeddings
    assert (again.logits(hidden).numpy() == model.logits(hidden).numpy()).all()
