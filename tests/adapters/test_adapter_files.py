"""Adapters without PEFT's help: mlx-lm's files, other forms of names, and what is refused, by the setting's name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from adapter_side import error_of, opened, streamed_state
from attack import poison
from safetensors.numpy import load_file, save_file
from test_adapters import base_of

from glm.api.loading import load_merged_model, stream_weights
from glm.checkpoint.adapter_settings import Settings
from glm.config.fields import PlainConfig
from glm.errors import GLMError
from glm.model.lora import GLMLoRAModel, add_lora, load_lora, load_trainable_lora, merge_lora

READ = Path(__file__).parent / "fixtures" / "read"
BASE = base_of("glm4-0414")


def copy_of(case: str, directory: Path, **changes) -> Path:
    """A golden adapter with other settings."""
    shutil.copytree(READ / case, directory)
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")
    return directory


def refusal(adapter: Path, base: Path = BASE) -> str:
    """The same line where the adapter is streamed and where it is loaded into a model."""
    config = PlainConfig.from_pretrained(str(base))
    with pytest.raises(GLMError) as streamed:
        stream_weights(str(base), adapter)
    with pytest.raises(GLMError) as live:
        load_lora(opened(base), adapter)
    assert str(streamed.value) == str(live.value) and "\n" not in str(live.value) and config
    return str(live.value)


KINDS = ("IA3", "LOHA", "LOKR", "ADALORA", "OFT", "PROMPT_TUNING", "PREFIX_TUNING", "VERA", "TRAINABLE_TOKENS")
SETTINGS = {
    "alora_invocation_tokens": [5, 6],
    "arrow_config": {"top_k": 2},
    "kasa_config": {"beta": 0.1},
    "layer_replication": [[0, 2], [1, 3]],
    "megatron_config": {"num_layers": 2},
    "monteclora_config": {"num_samples": 2},
    "target_parameters": ["mlp.gate_up_proj.weight"],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"num_groups": 2},
    "use_what_nobody_knows": True,
}
INITS = ("corda", "loftq", "lora_ga", "pissa_niter_16", "of_tomorrow")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_lora_is_refused_by_its_name(kind, tmp_path):
    message = refusal(copy_of("plain", tmp_path / "a", peft_type=kind))
    assert f"peft_type is {kind}, and only LORA is supported" in message and "another model" not in message


def test_a_file_that_has_neither_r_nor_matrices_of_lora(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3", "target_modules": ["k_proj"]}')
    assert "peft_type is IA3" in refusal(tmp_path)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_change_results_are_refused_by_name(setting, tmp_path):
    message = refusal(copy_of("plain", tmp_path / "a", **{setting: SETTINGS[setting]}))
    assert f"sets {setting}" in message and "another model" not in message


@pytest.mark.parametrize("init", INITS)
def test_initialisations_that_change_base_weights_are_refused_by_name(init, tmp_path):
    message = refusal(copy_of("plain", tmp_path / "a", init_lora_weights=init))
    assert f"init_lora_weights is {init}" in message and "path_initial_model_for_weight_conversion" in message


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("plain", {"target_modules": ["q_proj"]}, "does not name model.layers.0.mlp.down_proj"),
        ("plain", {"exclude_modules": ["o_proj"]}, "does not name model.layers.0.self_attn.o_proj (3 such)"),
        (
            "plain",
            {"rank_pattern": {"q_proj": 4}},
            "layers.0.self_attn.q_proj the rank 4, and lora_A of the file beside it has 2",
        ),
        (
            "plain",
            {"r": 4, "lora_alpha": 6},
            "down_proj the rank 4, and lora_A of the file beside it has 2: r or rank_pattern",
        ),
        ("layers_to_transform", {"layers_to_transform": None}, "lacks model.layers.1.self_attn.k_proj.lora_A (3 such)"),
        ("plain", {"rank_pattern": {"(": 4}}, "has a pattern that is no regular expression"),
        (
            "plain",
            {"modules_to_save": ["embed_tokens", "score"]},
            "modules_to_save has embed_tokens, and the file beside",
        ),
        (
            "plain",
            {"trainable_token_indices": [1]},
            "trainable_token_indices names tokens, and the file beside it has no",
        ),
        ("plain", {"rank_pattern": ["q_proj"]}, "rank_pattern is ['q_proj'], and must be dict"),
        ("plain", {"alpha_pattern": {"q_proj": "4"}}, "alpha_pattern is '4' for q_proj, and must be a number above 0"),
        ("plain", {"target_modules": 3}, "target_modules is 3, and must be str or list"),
        ("plain", {"r": 0}, "r is 0, and must be a whole number above 0"),
        ("plain", {"r": "two"}, "r is 'two', and must be a whole number above 0"),
        ("plain", {"lora_alpha": None}, "lora_alpha is None, and must be a number"),
        ("plain", {"bias": "some"}, "bias is 'some', and must be none, all or lora_only"),
        ("plain", {"lora_alpha": float("nan")}, "lora_alpha is nan, and must be a number"),
        ("plain", {"lora_dropout": 2.0}, "lora_dropout is 2.0, and must be at least 0 and below 1"),
        ("plain", {"rank_pattern": {"q_proj": 2.5}}, "rank_pattern is 2.5 for q_proj, and must be a whole number"),
        ("plain", {"use_rslora": "false"}, "use_rslora is 'false', and must be bool"),
        ("use_dora", {"lora_bias": True}, "sets lora_bias with use_dora"),
        (
            "use_dora",
            {"use_dora": False},
            "down_proj.lora_magnitude_vector (18 such), and adapter_config.json does not",
        ),
        (
            "lora_bias",
            {"lora_bias": False},
            "k_proj.lora_B.bias (9 such), and adapter_config.json does not say lora_bias",
        ),
        ("plain", {"use_dora": True}, "lacks model.layers.0.mlp.down_proj.magnitude (18 such): the file is not whole"),
        ("trainable_token_indices", {"trainable_token_indices": None}, "trainable_token_indices does not say which"),
        ("trainable_token_indices", {"trainable_token_indices": [1, 2]}, "rows is [3, 16] and the model needs [2, 16]"),
        ("trainable_token_indices", {"trainable_token_indices": [1, 2, 40]}, "trainable_token_indices has 40, and the"),
    ],
)
def test_settings_that_contradict_the_matrices(case, changes, message, tmp_path):
    assert message in refusal(copy_of(case, tmp_path / "a", **changes))


def test_neutral_settings_change_nothing(tmp_path):
    neutral = {"revision": "main", "auto_mapping": {"unsloth_fixed": True}, "use_of_tomorrow": None, "note": "mine"}
    neutral |= {
        "runtime_config": {"ephemeral_gpu_offload": True},
        "megatron_core": "megatron.core",
        "eva_config": {"a": 1},
    }
    plain, changed = (
        streamed_state(BASE, path)[0] for path in (READ / "plain", copy_of("plain", tmp_path / "a", **neutral))
    )
    assert error_of(changed, plain) == 0


def test_a_lora_bias_of_a_layer_without_bias(tmp_path):
    adapter = copy_of("lora_bias", tmp_path / "a")
    path = adapter / "adapter_model.safetensors"
    arrays = load_file(path)
    save_file({name.replace("q_proj", "o_proj"): array for name, array in arrays.items()}, path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"target_modules": ["o_proj", "k_proj", "v_proj"]})
    )
    assert "sets lora_bias, and model.layers.0.self_attn.o_proj of the model has no bias" in refusal(adapter)


def test_more_tokens_than_the_base_model_has(tmp_path):
    adapter = copy_of("modules_to_save", tmp_path / "a")
    path = adapter / "adapter_model.safetensors"
    arrays = load_file(path)
    name = "base_model.model.model.embed_tokens.weight"
    save_file(arrays | {name: np.concatenate([arrays[name]] * 2)}, path)
    assert "is [80, 16] and the model needs [40, 16]: tokens were added to the vocabulary" in refusal(adapter)


def test_lora_on_the_embedding_of_a_model_whose_head_cannot_be_untied(tmp_path):
    draw, name = np.random.default_rng(0), "base_model.model.glm.word_embeddings"
    pair = {"A": (2, 40), "B": (16, 2)}
    arrays = {f"{name}.lora_embedding_{side}": draw.standard_normal(shape, "float32") for side, shape in pair.items()}
    save_file(arrays, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["word_embeddings"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert "has LoRA on the word embedding, and this model's head" in refusal(tmp_path, base_of("glm"))


def test_a_bin_file_that_runs_code_is_refused(tmp_path):
    adapter = copy_of("adapter_model.bin", tmp_path / "a")
    poison(adapter / "adapter_model.bin", tmp_path / "marker")
    assert "adapter_model.bin" in refusal(adapter)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("case", ["plain", "use_dora", "modules_to_save", "embed_tokens"])
def test_names_with_the_adapters_name_in_them(case, tmp_path):
    """As state dicts carry them that were saved by hand: lora_A.default.weight, modules_to_save.default."""
    adapter = copy_of(case, tmp_path / "a")
    path = adapter / "adapter_model.safetensors"
    renamed = {}
    for name, array in load_file(path).items():
        for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"):
            name = name.replace(f".{part}", f".{part}.default")
        if ".lora_" not in name and "base_layer" not in name:
            module, _, kind = name.rpartition(".")
            name = f"{module}.modules_to_save.default.{kind}"
        renamed[name] = array
    save_file(renamed, path)
    assert error_of(streamed_state(BASE, adapter)[0], streamed_state(BASE, READ / case)[0]) == 0


@pytest.mark.parametrize("base", ["glm4-0414", "chatglm", "glm"])
def test_peft_files_with_the_names_in_memory(base, tmp_path):
    """As this project wrote them once: they fit no published model, and are read all the same."""
    lora = add_lora(opened(base_of(base)), r=2, alpha=3, targets="all")
    draw, arrays = np.random.default_rng(0), {}
    for name, parameter in lora.model.state_dict().items():
        if ".lora_" in name:
            parameter.set_value(draw.standard_normal(parameter.shape, "float32"))
            arrays[f"base_model.model.{name}.weight"] = np.ascontiguousarray(parameter.numpy().T)
    save_file(arrays, tmp_path / "adapter_model.safetensors")
    modules = sorted({name.split(".")[-3] for name in arrays})
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": modules}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    wanted = {name: parameter.numpy() for name, parameter in merge_lora(lora).state_dict().items()}
    assert error_of(streamed_state(base_of(base), tmp_path)[0], wanted) < 1e-6


# mlx-lm


def mlx_adapter(directory: Path, kind: str, modules: list[str]) -> tuple[dict[str, np.ndarray], Path]:
    """An adapter as mlx-lm saves it, on the last two layers, and the model's weights [out, in] with it."""
    draw, stored = np.random.default_rng(3), load_file(BASE / "model.safetensors")
    arrays, wanted = {}, {}
    for layer in (f"model.layers.{i}.{module}" for i in (1, 2) for module in modules):
        weight = stored[f"{layer}.weight"]
        a, b = (
            draw.standard_normal((weight.shape[1], 4), "float32"),
            draw.standard_normal((4, weight.shape[0]), "float32"),
        )
        total = weight + 0.7 * (a @ b).T
        arrays |= {f"{layer}.lora_a": a, f"{layer}.lora_b": b}
        if kind == "dora":
            arrays[f"{layer}.m"] = np.abs(draw.standard_normal(weight.shape[0], "float32")) + 0.5
            total *= (arrays[f"{layer}.m"] / np.linalg.norm(total, axis=1))[:, None]
        if kind == "full":
            total = draw.standard_normal(weight.shape, "float32")
            arrays = {name: array for name, array in arrays.items() if ".lora_" not in name} | {
                f"{layer}.weight": total
            }
        wanted[f"{layer}.weight"] = total
    directory.mkdir()
    save_file(arrays, directory / "adapters.safetensors")
    settings = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 0.7, "dropout": 0.0}}
    settings |= {"model": "GLM-4-9B-0414", "learning_rate": 1e-5, "grad_checkpoint": True, "iters": 1000}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return wanted, directory


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_adapters_of_mlx_lm(kind, tmp_path):
    modules = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
    wanted, adapter = mlx_adapter(tmp_path / "mlx", kind, modules)
    state, _ = streamed_state(BASE, adapter)
    plain, _ = dict(stream_weights(str(BASE))[1]), None
    fused = {f"model.layers.{i}.mlp.gate_up_proj.weight" for i in (1, 2)}
    for name in wanted.keys() - fused:
        assert np.allclose(state[name], wanted[name].T, atol=1e-5), name
    for i in (1, 2):
        parts = [state[f"model.layers.{i}.mlp.{part}_proj.weight"] for part in ("gate", "up")]
        assert np.allclose(
            np.concatenate(parts, axis=1), wanted[f"model.layers.{i}.mlp.gate_up_proj.weight"].T, atol=1e-5
        )
    assert np.array_equal(
        state["model.layers.0.self_attn.q_proj.weight"], plain["model.layers.0.self_attn.q_proj.weight"]
    )
    assert isinstance(load_lora(opened(BASE), adapter), GLMLoRAModel) == (kind == "lora")


def test_kinds_of_mlx_lm_that_are_none_of_these(tmp_path):
    _, adapter = mlx_adapter(tmp_path / "mlx", "lora", ["self_attn.q_proj"])
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"fine_tune_type": "prefix"}))
    assert "fine_tune_type is 'prefix'; only lora, dora and full" in refusal(adapter)
    path.write_text(json.dumps(settings | {"lora_parameters": {"rank": 4}}))
    assert "lacks 'scale' in lora_parameters" in refusal(adapter)


# other forms of the same model


@pytest.mark.parametrize(("trained", "base"), [("glm4-remote", "hf"), ("hf", "glm4-remote")])
def test_an_adapter_of_the_other_published_form(trained, base, tmp_path):
    """GLM-4-9B is published with remote code and for transformers: an adapter of one is one of the other."""
    from glm.checkpoint.conversion import Conversion
    from glm.checkpoint.convert import convert_checkpoint

    convert_checkpoint(Conversion(base_of("glm4-remote"), tmp_path / "hf", "hf"))
    places = {"glm4-remote": base_of("glm4-remote"), "hf": tmp_path / "hf"}
    lora = load_lora(opened(places["glm4-remote"]), READ / "remote__plain")
    lora.save_pretrained(tmp_path / "remote", peft=True)
    load_lora(opened(places["hf"]), READ / "remote__plain").save_pretrained(tmp_path / "for hf", peft=True)
    adapter = tmp_path / ("remote" if trained == "glm4-remote" else "for hf")
    wanted = streamed_state(places["glm4-remote"], READ / "remote__plain")[0]
    assert error_of(streamed_state(places[base], adapter)[0], wanted) < 1e-6


def test_an_adapter_of_the_model_without_its_head(tmp_path):
    """AutoModel's names have no `model.` in front."""
    adapter = copy_of("plain", tmp_path / "a")
    path = adapter / "adapter_model.safetensors"
    save_file({name.replace("model.layers", "layers", 1): x for name, x in load_file(path).items()}, path)
    assert any(name.startswith("base_model.model.layers") for name in load_file(path))
    assert error_of(streamed_state(BASE, adapter)[0], streamed_state(BASE, READ / "plain")[0]) == 0


def test_another_name_in_front(tmp_path):
    """PaddleNLP's ChatGLM-6B: chatglm.transformer.layers.…"""
    shutil.copytree(READ / "chatglm__plain", tmp_path / "a")
    path, base = tmp_path / "a" / "adapter_model.safetensors", base_of("chatglm")
    save_file({name.replace(".transformer", ".chatglm.transformer"): x for name, x in load_file(path).items()}, path)
    assert error_of(streamed_state(base, tmp_path / "a")[0], streamed_state(base, READ / "chatglm__plain")[0]) == 0


# resuming training, and several adapters


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("use_dora", "use_dora"),
        ("bias_all", "bias all"),
        ("lora_bias", "lora_bias"),
        ("modules_to_save", "modules_to_save"),
        ("trainable_token_indices", "trainable_token_indices"),
        ("pissa", "init_lora_weights pissa"),
        ("olora", "init_lora_weights olora"),
        ("rank_pattern", "rank_pattern or alpha_pattern"),
        ("embed_tokens", "LoRA on an embedding"),
    ],
)
def test_training_does_not_continue_from_more_than_two_matrices_a_layer(case, what):
    model = opened(BASE)
    before = {name: parameter.numpy() for name, parameter in model.state_dict().items()}
    with pytest.raises(GLMError, match=f"fine-tuning cannot continue from an adapter with {what}") as caught:
        load_trainable_lora(model, READ / case)
    assert "\n" not in str(caught.value)
    assert error_of({name: p.numpy() for name, p in model.state_dict().items()}, before) == 0


@pytest.mark.parametrize(
    "case", ["plain", "use_rslora", "layers_to_transform", "gaussian", "lm_head", "regular_expression"]
)
def test_training_continues_from_plain_ones(case, tmp_path):
    """Also from some layers only, whose adapter is written as it came."""
    lora = load_trainable_lora(opened(BASE), READ / case)
    lora.save_pretrained(tmp_path / "again", peft=True)
    assert error_of(streamed_state(BASE, tmp_path / "again")[0], streamed_state(BASE, READ / case)[0]) < 1e-6
    lora.save_pretrained(tmp_path / "ours")
    assert error_of(streamed_state(BASE, tmp_path / "ours")[0], streamed_state(BASE, READ / case)[0]) < 1e-6


def test_several_adapters_act_in_the_order_given():
    """DoRA normalises what the first adapter made, so the order matters."""
    first, second = READ / "plain", READ / "use_dora"
    there, back = (streamed_state(BASE, order)[0] for order in ([first, second], [second, first]))
    assert error_of(there, back) > 0.01
    live = load_merged_model(str(BASE), [first, second])
    assert error_of({name: p.numpy() for name, p in live.state_dict().items()}, there) < 1e-6
    once = streamed_state(BASE, first)[0]
    assert error_of(streamed_state(BASE, [first])[0], once) == 0


def test_scaling_and_rank_are_those_of_the_first_pattern_that_fits():
    """As `get_pattern_key` of PEFT looks: from a dot on, or from the beginning with ^."""
    patterns = {"layers.1.q": 3, "^model.layers.2.q": 5, "q": 7}
    settings = Settings(Path("x"), "peft", 2, 4, ranks=patterns, alphas={"q": 14})
    ranks = [
        settings.rank(name) for name in ("model.layers.1.q", "model.layers.2.q", "a.model.layers.2.q", "xq", "a.q")
    ]
    assert ranks == [3, 5, 7, 2, 7]
    assert settings.scaling("a.q") == 2 and settings.scaling("k") == 2
