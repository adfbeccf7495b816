"""ChatGLM-6B, GLM-4-9B and GLM-4-0414 give what transformers and PaddleNLP give, from the files of the fixtures."""

import fixture_files
import numpy as np
import paddle
import pytest
from remote_code import remote_code_config, remote_code_weights, transformers4_config, write_directory
from safetensors.numpy import load_file
from tiny_glm import relative_error

from glm import GLMForCausalLM
from glm.checkpoint import from_memory
from glm.generation.options import GenerationConfig
from glm.generation.search import Prompt, StopTokens

NAMES = fixture_files.names()
GLM4 = [name for name in NAMES if name.startswith("glm-")]
CASES = ("left_padded", "right_padded", "far")


def opened(directory) -> GLMForCausalLM:
    model = GLMForCausalLM.from_pretrained(directory)
    model.eval()
    return model


def inputs(case: dict[str, np.ndarray]) -> list[paddle.Tensor]:
    """Of `GLMForCausalLM.forward`: a prefix counts columns, the padding in front of it too."""
    mask, positions = case["attention_mask"], case["position_ids"]
    prefix = case.get("prefix_length", np.zeros(len(mask), "int64"))
    prefix = np.where(prefix > 0, prefix + (mask.cumsum(axis=1) == 0).sum(axis=1), 0)
    positions = positions if positions.ndim == 3 else positions[:, None]
    return [paddle.to_tensor(array) for array in (case["input_ids"], mask, positions, prefix)]


def assert_same_logits(model: GLMForCausalLM, case: dict[str, np.ndarray]) -> None:
    real = case["attention_mask"] == 1
    assert relative_error(model(*inputs(case)).numpy()[real], case["logits"][real]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_logits(name):
    """Padding on either side, and positions around 100,000."""
    fixture = fixture_files.load(name)
    model = opened(fixture.directory)
    for case in CASES:
        assert_same_logits(model, fixture.case(case))


@pytest.mark.parametrize("name", GLM4)
def test_the_remote_code_layout_is_the_same_model(name, tmp_path):
    fixture = fixture_files.load(name)
    directory = write_directory(tmp_path / "remote", remote_code_config(fixture), remote_code_weights(fixture))
    assert_same_logits(opened(directory), fixture.case("far"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "chatglm-6b"])
def test_a_config_of_transformers_4(name, tmp_path):
    fixture = fixture_files.load(name)
    directory = write_directory(tmp_path / "old", transformers4_config(fixture), fixture.weights)
    assert_same_logits(opened(directory), fixture.case("far"))


def labels_of(fixture, case: dict[str, np.ndarray]) -> paddle.Tensor:
    """The token that should follow each column; transformers' labels name the column itself."""
    labels = case["labels"]
    if fixture.config["model_type"] == "chatglm":
        return paddle.to_tensor(labels)
    return paddle.to_tensor(np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss(name):
    fixture = fixture_files.load(name)
    model = opened(fixture.directory)
    for title in CASES:
        case = fixture.case(title)
        loss = float(model(*inputs(case), labels=labels_of(fixture, case)))
        assert loss == pytest.approx(float(case["loss"][0]), rel=1e-5)


def batch(fixture, number: int) -> dict[str, np.ndarray]:
    return {name: array[number] for name, array in fixture.case("train").items() if name != "losses"}


@pytest.mark.parametrize("name", NAMES)
def test_every_gradient(name):
    """Under the stored names, which `from_memory` gives them as it does to weights."""
    fixture = fixture_files.load(name)
    model = opened(fixture.directory)
    model.train()
    case = batch(fixture, 0)
    model(*inputs(case), labels=labels_of(fixture, case)).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    stored = from_memory(gradients, model.config, torch_layout=True, partial=True)  # a bias of choice has none
    wanted = {key.removeprefix("gradient."): array for key, array in fixture.arrays.items() if "gradient." in key}
    assert stored.keys() == wanted.keys()
    for key, array in wanted.items():
        assert relative_error(stored[key], array) < 1e-5, key


@pytest.mark.parametrize("name", NAMES)
def test_twenty_training_steps(name):
    fixture = fixture_files.load(name)
    model, options = opened(fixture.directory), fixture.settings["adamw"]
    model.train()
    optimizer = paddle.optimizer.AdamW(
        options["lr"],
        *options["betas"],
        options["eps"],
        parameters=model.parameters(),
        weight_decay=options["weight_decay"],
    )
    losses = []
    for step in range(20):
        case = batch(fixture, step % 4)
        loss = model(*inputs(case), labels=labels_of(fixture, case))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    wanted = fixture.case("train")["losses"]
    assert np.abs(np.array(losses) / wanted - 1).max() < 1e-4
    assert wanted[-1] < 0.9 * wanted[0]


def prompt_of(fixture) -> Prompt:
    """Left-padded prompts; positions continue as the family counts them."""
    case = fixture.case("prompt")
    mask = case["attention_mask"]
    positions = case.get("position_ids", np.maximum(mask.cumsum(axis=1) - 1, 0)[:, None])
    step = [0, 1] if positions.shape[1] == 2 else [1]
    ids, mask, positions, prefix = inputs(case | {"position_ids": positions})
    return Prompt(ids, mask, positions, prefix, paddle.to_tensor(step, dtype="int64"))


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens(name):
    fixture = fixture_files.load(name)
    stop = StopTokens(tuple(fixture.settings["stop_token_ids"]), fixture.settings["pad_token_id"])
    config = GenerationConfig(max_length=fixture.settings["max_new_tokens"])
    tokens = opened(fixture.directory).generate(prompt_of(fixture), config, stop)[0].numpy()
    wanted = fixture.arrays["greedy.tokens"]
    assert tokens.tolist() == wanted[:, : tokens.shape[1]].tolist()
    assert (wanted[:, tokens.shape[1] :] == stop.pad_token_id).all()


@pytest.mark.parametrize("search", ["beam", "beam_full"])
@pytest.mark.parametrize("name", NAMES)
def test_beams(name, search):
    """Tokens and scores: transformers divides by the length, PaddleNLP by ((5 + length) / 6)."""
    fixture = fixture_files.load(name)
    if search not in fixture.settings["searches"]:
        pytest.skip(f"{name}'s reference has no search without an end")
    options = dict(fixture.settings["searches"][search])
    config = GenerationConfig(
        max_length=fixture.settings["max_new_tokens"],
        min_length=options.get("min_new_tokens", 0),
        num_beams=options["num_beams"],
        length_penalty=options["length_penalty"],
        gnmt_length="decode_strategy" in options,
    )
    stop = StopTokens(tuple(fixture.settings["stop_token_ids"]), fixture.settings["pad_token_id"])
    tokens, scores = opened(fixture.directory).generate(prompt_of(fixture), config, stop)
    wanted = fixture.case(search)
    assert tokens.numpy().tolist() == wanted["tokens"][:, : tokens.shape[1]].tolist()
    assert relative_error(scores, wanted["scores"]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight_format", ["safetensors", "pdparams"])
def test_saving_and_reading_again(name, weight_format, tmp_path):
    """The same tensors under the same names, and a config.json that means the same."""
    fixture = fixture_files.load(name)
    model = opened(fixture.directory)
    model.save_pretrained(tmp_path, weight_format=weight_format)
    if weight_format == "safetensors":
        saved = load_file(tmp_path / "model.safetensors")
        assert saved.keys() == fixture.weights.keys()
        assert all(np.array_equal(saved[key], array) for key, array in fixture.weights.items())
    assert_same_logits(opened(tmp_path), fixture.case("far"))
