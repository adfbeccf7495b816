"""LoRA: adapters that change nothing, merging, both file formats, PaddleNLP's fused adapters, and what is refused."""

import json

import numpy as np
import paddle
import pytest
from attack import poison
from paddlenlp.peft import LoRAConfig, LoRAModel
from paddlenlp.transformers import GLMConfig, GLMForConditionalGeneration
from safetensors.numpy import load_file, save_file
from tiny_glm import (
    pair_batch,
    prompt_of,
    random_pairs,
    reference_layout,
    relative_error,
    scatter,
    stop_of,
    tensors,
    tiny_model,
)

from glm import GenerationConfig, GLMForCausalLM
from glm.config.shapes import LORA_TARGETS
from glm.errors import GLMError
from glm.model.lora import add_lora, load_lora, merge_lora, read_adapter

OF_DENSE_MODELS = [name for name in LORA_TARGETS if name != "experts"]  # those: tests/model/test_expert_lora.py
SIZES = [(9, 7), (3, 10), (13, 2)]
PADDLE_FILES = ["lora_config.json", "lora_model_state.pdparams"]
PEFT_FILES = ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture(scope="module")
def batch(processor, tokenizer):
    return pair_batch(processor, random_pairs(tokenizer, SIZES))


def logits(model, batch) -> np.ndarray:
    return model(**{name: array for name, array in batch.items() if name != "labels"}).numpy()


def trained_lora(targets: str = "attention", r: int = 4, **options):
    """A model with an adapter as training leaves it: no matrix is zero."""
    lora = add_lora(tiny_model(seed=1), r=r, targets=targets, **options)
    draw = np.random.default_rng(2)
    for name, parameter in lora.model.named_parameters():
        if ".lora_" in name:
            parameter.set_value(draw.standard_normal(parameter.shape).astype("float32") * 0.3)
    lora.eval()
    return lora


def there(targets: str) -> set[str]:
    """The targets that GLM (2021) has: its MLP has no gate, its attention no latents."""
    return set(LORA_TARGETS[targets]) & {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("targets", OF_DENSE_MODELS)
def test_a_fresh_adapter_changes_nothing(batch, targets):
    plain = logits(tiny_model(seed=1), batch)
    lora = add_lora(tiny_model(seed=1), r=4, targets=targets)
    lora.eval()
    assert np.array_equal(logits(lora, batch), plain)


@pytest.mark.parametrize(("targets", "matrices"), [("attention", 3), ("all", 6)])
def test_only_the_adapter_is_trained(batch, targets, matrices):
    lora = trained_lora(targets)
    trained = {name for name, parameter in lora.named_parameters() if not parameter.stop_gradient}
    assert len(trained) == 2 * 2 * matrices and all(".lora_" in name for name in trained)
    lora.train()
    lora(**batch).backward()
    for name, parameter in lora.named_parameters():
        assert (parameter.grad is not None and float(parameter.grad.abs().max()) > 0) == (name in trained), name


@pytest.mark.parametrize("targets", OF_DENSE_MODELS)
def test_merged_is_unmerged(batch, processor, tokenizer, targets):
    lora, plain = trained_lora(targets), logits(tiny_model(seed=1), batch)
    prompt = prompt_of(processor, random_pairs(tokenizer, SIZES))
    config = GenerationConfig(8, num_beams=3)
    wanted, text = logits(lora, batch), lora.generate(prompt, config, stop_of(tokenizer))[0].numpy()
    merged = merge_lora(lora)
    assert relative_error(wanted, plain) > 0.1
    assert relative_error(logits(merged, batch), wanted) < 1e-5
    assert np.array_equal(merged.generate(prompt, config, stop_of(tokenizer))[0].numpy(), text)
    assert isinstance(merged, GLMForCausalLM)
    assert merged.state_dict().keys() == tiny_model().state_dict().keys()


def test_a_merged_model_is_a_model(batch, tmp_path):
    merged = merge_lora(trained_lora("all"))
    merged.save_pretrained(tmp_path)
    model = GLMForCausalLM.from_pretrained(tmp_path)
    model.eval()
    assert np.array_equal(logits(model, batch), logits(merged, batch))


def test_alpha_scales_the_adapter(batch):
    """By alpha / r, and alpha is 2·r unless given."""
    plain = logits(merge_lora(trained_lora(r=4)), batch)
    assert np.array_equal(logits(merge_lora(trained_lora(r=4, alpha=8)), batch), plain)
    model, lora = tiny_model(seed=1), trained_lora(r=4, alpha=6.0)
    name = "model.layers.1.self_attn.v_proj"
    adapter = {part: lora.adapter_state()[f"{name}.lora_{part}"].astype("float64") for part in "AB"}
    wanted = model.state_dict()[f"{name}.weight"].numpy() + adapter["A"] @ adapter["B"] * (6.0 / 4)
    assert relative_error(merge_lora(lora).state_dict()[f"{name}.weight"], wanted) < 1e-6


@pytest.mark.parametrize("peft", [False, True], ids=["paddlenlp", "peft"])
@pytest.mark.parametrize("targets", OF_DENSE_MODELS)
def test_saved_and_loaded(batch, tmp_path, targets, peft):
    lora = trained_lora(targets, r=3, alpha=5, dropout=0.25)
    lora.save_pretrained(tmp_path, peft=peft)
    assert sorted(path.name for path in tmp_path.iterdir()) == (PEFT_FILES if peft else PADDLE_FILES)
    loaded = load_lora(tiny_model(seed=1), tmp_path)
    loaded.eval()
    assert np.array_equal(logits(loaded, batch), logits(lora, batch))
    assert (loaded.lora_config.r, loaded.lora_config.lora_alpha, loaded.lora_config.lora_dropout) == (3, 5, 0.25)
    assert {module.removeprefix(".*") for module in loaded.lora_config.target_modules} == there(targets)


def test_a_loaded_adapter_continues_training(batch, tmp_path):
    trained_lora().save_pretrained(tmp_path)
    lora = load_lora(tiny_model(seed=1), tmp_path)
    lora.train()
    lora(**batch).backward()
    assert all(p.grad is not None for name, p in lora.named_parameters() if ".lora_" in name)


def test_paddlenlp_reads_ours(batch, tmp_path):
    lora = trained_lora("all", r=3, alpha=5)
    lora.save_pretrained(tmp_path)
    theirs = LoRAModel.from_pretrained(tiny_model(seed=1), str(tmp_path))
    theirs.eval()
    assert np.array_equal(logits(theirs, batch), logits(lora, batch))


def test_peft_files(tmp_path):
    """Names and shapes as PEFT writes them on the published model: its fused layers, torch's [out, in], ranks added."""
    lora = trained_lora("all", r=3, alpha=5)
    lora.save_pretrained(tmp_path, peft=True)
    arrays = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.glm.transformer.layers.0"
    assert len(arrays) == 2 * 2 * 4
    assert arrays[f"{prefix}.attention.query_key_value.lora_A.weight"].shape == (9, 32)
    assert arrays[f"{prefix}.attention.query_key_value.lora_B.weight"].shape == (96, 9)
    assert arrays[f"{prefix}.mlp.dense_h_to_4h.lora_A.weight"].shape == (3, 32)
    assert arrays[f"{prefix}.mlp.dense_h_to_4h.lora_B.weight"].shape == (128, 3)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 3, 5)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({"query_key_value": 9}, {"query_key_value": 15})
    assert set(config["target_modules"]) == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


@pytest.mark.parametrize("targets", OF_DENSE_MODELS)
def test_peft_round_trip_is_exact(tmp_path, targets):
    trained_lora(targets).save_pretrained(tmp_path / "first", peft=True)
    load_lora(tiny_model(seed=1), tmp_path / "first").save_pretrained(tmp_path / "second", peft=True)
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """PaddleNLP's GLM with its own LoRA on the fused projections, written by PaddleNLP: (directory, model)."""
    directory = tmp_path_factory.mktemp("fused")
    shape = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 384, "max_sequence_length": 64}
    dropout = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}
    model = GLMForConditionalGeneration(GLMConfig(**shape, **dropout, output_predict=True))
    scatter(model, seed=7, spread=0.3)
    model.save_pretrained(directory / "base")
    config = LoRAConfig(target_modules=[".*query_key_value.*"], r=4, lora_alpha=8, merge_weights=False)
    lora = LoRAModel(model, config)
    draw = np.random.default_rng(3)
    for name, parameter in lora.model.named_parameters():
        if "lora_" in name:
            parameter.set_value(draw.standard_normal(parameter.shape).astype("float32") * 0.3)
    lora.eval()
    lora.save_pretrained(str(directory / "adapter"))
    return directory, lora


@pytest.fixture(scope="module")
def fused_logits(fused, tokenizer):
    """[trained tokens, V] of PaddleNLP's model."""
    layout = tensors(reference_layout(tokenizer, random_pairs(tokenizer, SIZES), 16, 11))
    logits = fused[1](layout["input_ids"], layout["position_ids"], layout["attention_mask"])[0].numpy()
    return logits[layout["loss_mask"].numpy() > 0]


def fused_error(model, batch, fused_logits) -> float:
    """At every trained token, in the order of both layouts."""
    return relative_error(logits(model, batch)[batch["labels"].numpy() >= 0], fused_logits)


def test_fused_adapters_of_paddlenlp(fused, fused_logits, batch):
    directory, _ = fused
    base = GLMForCausalLM.from_pretrained(directory / "base")
    base.eval()
    assert fused_error(base, batch, fused_logits) > 0.1
    lora = load_lora(base, directory / "adapter")
    lora.eval()
    assert fused_error(lora, batch, fused_logits) < 1e-5
    merged = merge_lora(lora)
    assert fused_error(merged, batch, fused_logits) < 1e-5


def test_fused_adapters_as_peft_files(fused, fused_logits, batch, tmp_path):
    """The same adapter under the names that PEFT gives it on the Hugging Face checkpoint, matrices transposed."""
    directory, _ = fused
    state = paddle.load(str(directory / "adapter" / "lora_model_state.pdparams"), return_numpy=True)
    names = {name: f"base_model.model.{name.removeprefix('glm.')}.weight" for name in state}
    save_file(
        {names[name]: np.ascontiguousarray(array.T) for name, array in state.items()},
        tmp_path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query_key_value"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    lora = load_lora(GLMForCausalLM.from_pretrained(directory / "base"), tmp_path)
    lora.eval()
    assert fused_error(lora, batch, fused_logits) < 1e-5


def refuse(directory, model=None) -> str:
    with pytest.raises(GLMError) as error:
        load_lora(model or tiny_model(seed=1), directory)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_adapter(tmp_path):
    assert "holds no LoRA adapter: neither lora_config.json nor adapter_config.json" in refuse(tmp_path)
    assert "holds no LoRA adapter" in refuse(tmp_path / "nowhere")


@pytest.mark.parametrize("peft", [False, True], ids=["paddlenlp", "peft"])
def test_the_adapter_of_another_model(tmp_path, peft):
    """PEFT's file has the three of a layer's query, key and value in one adapter of their published layer."""
    trained_lora(r=3).save_pretrained(tmp_path, peft=peft)
    r, layers = (9, "glm.transformer.layers") if peft else (3, "model.layers")
    wider = tiny_model(hidden_size=48)
    assert f"[32, {r}] and the model needs [48, {r}]: the adapter belongs to another model" in refuse(tmp_path, wider)
    deeper = tiny_model(num_hidden_layers=3)
    assert f"lacks {layers}.2." in refuse(tmp_path, deeper)
    shallower = tiny_model(num_hidden_layers=1)
    assert f"has, and the model lacks, {layers}.1." in refuse(tmp_path, shallower)


def test_a_missing_matrix(tmp_path):
    lora = trained_lora()
    lora.save_pretrained(tmp_path, peft=True)
    path = tmp_path / "adapter_model.safetensors"
    arrays = load_file(path)
    del arrays["base_model.model.glm.transformer.layers.1.attention.query_key_value.lora_B.weight"]
    save_file(arrays, path)
    assert "lacks glm.transformer.layers.1.attention.query_key_value.lora_B (1 such)" in refuse(tmp_path)
    before = lora.adapter_state()
    with pytest.raises(GLMError, match="lacks"):
        lora.load_adapter(tmp_path)
    assert all(np.array_equal(array, before[name]) for name, array in lora.adapter_state().items())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("lora_config.json", "{", "lora_config.json is not valid JSON"),
        ("lora_config.json", '{"r": 4}', "lora_config.json lacks 'lora_alpha'"),
        ("lora_config.json", '{"lora_alpha": 4}', "lora_config.json lacks 'r'"),
        ("lora_config.json", '{"r": 4, "lora_alpha": 8, "pissa": true}', "sets pissa, which is not supported: the we"),
        (
            "lora_config.json",
            '{"r": 4, "lora_alpha": 8, "target_modules": ["*q"]}',
            "is no regular expression: nothing",
        ),
        ("lora_config.json", '{"r": 4, "lora_alpha": 8, "target_modules": [1]}', "is no regular expression: first arg"),
        ("lora_model_state.pdparams", "half a file", "lora_model_state.pdparams"),
    ],
)
def test_damaged_paddlenlp_files(tmp_path, file, content, message):
    trained_lora().save_pretrained(tmp_path)
    (tmp_path / file).write_text(content)
    assert message in refuse(tmp_path)


def test_damaged_and_missing_peft_weights(tmp_path):
    trained_lora().save_pretrained(tmp_path, peft=True)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "adapter_model.safetensors is not a whole safetensors file" in refuse(tmp_path)
    path.unlink()
    assert "adapter_model.safetensors is missing beside its adapter_config.json" in refuse(tmp_path)


def test_a_missing_paddlenlp_weight_file(tmp_path):
    trained_lora().save_pretrained(tmp_path)
    (tmp_path / "lora_model_state.pdparams").unlink()
    assert "lora_model_state.pdparams" in refuse(tmp_path)


def test_weights_that_run_code_are_refused(tmp_path):
    """Paddle's own loader runs them."""
    trained_lora().save_pretrained(tmp_path)
    marker, path = tmp_path / "marker", tmp_path / "lora_model_state.pdparams"
    poison(path, marker)
    assert "lora_model_state.pdparams is refused: loading it would run posix.system" in refuse(tmp_path)
    assert not marker.exists()
    paddle.load(str(path))
    assert marker.exists()


@pytest.mark.parametrize("field", ["pissa", "loraga", "use_mora", "lora_use_mixer", "do_qat", "use_something"])
def test_kinds_of_paddlenlp_adapters_that_are_not_plain_lora(tmp_path, field):
    """Each would give other outputs than in PaddleNLP, and no error, were the field overlooked."""
    trained_lora().save_pretrained(tmp_path)
    change_config(tmp_path / "lora_config.json", {field: True})
    assert f"lora_config.json sets {field}" in refuse(tmp_path)


def test_neutral_settings_of_paddlenlp(batch, tmp_path):
    lora = trained_lora()
    lora.save_pretrained(tmp_path)
    change_config(tmp_path / "lora_config.json", {"lora_plus_scale": 16.0, "use_quick_lora": True, "note": "mine"})
    loaded = load_lora(tiny_model(seed=1), tmp_path)
    loaded.eval()
    assert np.array_equal(logits(loaded, batch), logits(lora, batch))


def test_rslora_of_paddlenlp(batch, tmp_path):
    """PaddleNLP's own model reads the same file and scales by alpha / √r."""
    trained_lora(r=4, alpha=8).save_pretrained(tmp_path)
    change_config(tmp_path / "lora_config.json", {"rslora": True})
    theirs = LoRAModel.from_pretrained(tiny_model(seed=1), str(tmp_path))
    theirs.eval()
    ours = load_lora(tiny_model(seed=1), tmp_path)
    ours.eval()
    assert theirs.lora_config.scaling == 4
    assert relative_error(logits(ours, batch), logits(theirs, batch)) < 1e-6
    assert relative_error(logits(merge_lora(ours), batch), logits(theirs, batch)) < 1e-5


def test_trained_biases_and_modules_of_paddlenlp(batch, tmp_path):
    """What PaddleNLP's LoRA trained besides, biases and a norm, lies in its file as whole weights."""
    lora = trained_lora()
    lora.save_pretrained(tmp_path)
    state = paddle.load(str(tmp_path / "lora_model_state.pdparams"), return_numpy=True)
    model, draw = tiny_model(seed=1), np.random.default_rng(4)
    for name in ("model.layers.1.self_attn.k_proj.bias", "model.layers.0.mlp.down_proj.bias", "model.norm.weight"):
        state[name] = draw.standard_normal(model.state_dict()[name].shape).astype("float32")
        lora.model.state_dict()[name].set_value(state[name])
    paddle.save(state, str(tmp_path / "lora_model_state.pdparams"))
    change_config(tmp_path / "lora_config.json", {"trainable_bias": "all", "trainable_modules": [".*norm.*"]})
    merged = merge_lora(load_lora(model, tmp_path))
    assert relative_error(logits(merged, batch), logits(lora, batch)) < 1e-5


def change_config(path, changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_wrong_arguments():
    with pytest.raises(GLMError, match="r is 0; the rank of a LoRA adapter must be at least 1"):
        add_lora(tiny_model(), r=0)
    with pytest.raises(GLMError, match="lora_targets 'everything' is not one of attention, all"):
        add_lora(tiny_model(), targets="everything")


def test_the_settings_of_an_adapter(tmp_path):
    lora = trained_lora(r=3, alpha=5)
    lora.save_pretrained(tmp_path)
    config, adapter = read_adapter(tmp_path, lora.model.config)
    assert config == {"r": 3, "alpha": 5, "dropout": 0.0}
    assert adapter.keys() == lora.adapter_state().keys()
