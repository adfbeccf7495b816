"""PaddleNLP's ChatGLMv2, which is ChatGLM2-6B's and ChatGLM3-6B's network, on the same random weights.

Logits, loss, gradients, twenty training steps and greedy texts. Weights go through the files as they are published,
with the names and the buffer that these have; transformers has no such class. Positions of the long models are compared
with those of the short ones, whose formulas they change (modeling_chatglm.py of chatglm2-6b-32k and chatglm3-6b-32k).
"""

import json
import re

import numpy as np
import paddle
import pytest
from paddlenlp.transformers import ChatGLMv2Config, ChatGLMv2ForCausalLM
from safetensors.numpy import save_file
from tiny_glm import relative_error, scatter

from glm import AutoConfig, AutoModel, GLMForCausalLM
from glm.checkpoint import from_memory
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.generation.options import GenerationConfig
from glm.generation.search import Prompt, StopTokens

BOUND, STEPS, NEW_TOKENS = 1e-5, 20, 12
SIZES = {
    "hidden_size": 64,
    "ffn_hidden_size": 48,
    "kv_channels": 16,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "layernorm_epsilon": 1e-5,
    "padded_vocab_size": 96,
    "seq_length": 256,
}
# config.json of THUDM/chatglm3-6b but for its sizes.
PUBLISHED = SIZES | {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig", "AutoModel": "modeling_chatglm.ChatGLMModel"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "multi_query_attention": True,
    "num_layers": 2,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
    "use_cache": True,
    "torch_dtype": "float32",
    "transformers_version": "4.30.2",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def reference() -> ChatGLMv2ForCausalLM:
    more = {"num_hidden_layers": 2, "vocab_size": 96, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    config = ChatGLMv2Config(add_qkv_bias=True, max_sequence_length=256, **more, **SIZES)
    model = ChatGLMv2ForCausalLM(config)
    scatter(model, seed=7, spread=0.3)
    model.eval()
    return model


def published_name(name: str) -> str:
    return re.sub("^chatglm_v2", "transformer", name)


def published(state) -> dict[str, np.ndarray]:
    """Under the published names, linear weights [out, in]."""
    arrays = {published_name(name): np.asarray(tensor) for name, tensor in state}
    return {
        name: np.ascontiguousarray(array.T) if array.ndim == 2 and "embedding" not in name else array
        for name, array in arrays.items()
    }


def write(directory, theirs, **changes):
    """The directory as the hub has it."""
    directory.mkdir(exist_ok=True)
    weights = published((name, tensor.numpy()) for name, tensor in theirs.named_parameters())
    weights["transformer.rotary_pos_emb.inv_freq"] = theirs.chatglm_v2.rotary_pos_emb.inv_freq.numpy()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(PUBLISHED | changes), encoding="utf-8")
    return directory


def opened(directory) -> GLMForCausalLM:
    model = GLMForCausalLM.from_pretrained(directory)
    model.eval()
    return model


@pytest.fixture(scope="module")
def theirs():
    return reference()


@pytest.fixture(scope="module")
def directory(theirs, tmp_path_factory):
    return write(tmp_path_factory.mktemp("chatglm3"), theirs)


def batch(seed: int, left: bool = False, far: int = 0) -> dict[str, np.ndarray]:
    """Rows of 12, 9 and 5 tokens; `labels` is what should follow each column."""
    draw, lengths = np.random.default_rng(seed), (12, 9, 5)
    mask = np.stack([np.arange(12) >= 12 - n if left else np.arange(12) < n for n in lengths]).astype("int64")
    ids = np.where(mask, draw.integers(3, 96, mask.shape), 0)
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0) + far
    following = np.pad(ids[:, 1:] * mask[:, 1:], ((0, 0), (0, 1)))
    labels = np.where(np.pad(mask[:, 1:], ((0, 0), (0, 1))) * mask > 0, following, -100)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}


def tensors(case, *names):
    return [paddle.to_tensor(case[name]) for name in names]


def their_logits(model, case):
    ids, positions, mask = tensors(case, "input_ids", "position_ids", "attention_mask")
    return model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False, return_dict=True).logits


def our_logits(model, case):
    ids, mask, positions = tensors(case, "input_ids", "attention_mask", "position_ids")
    return model(ids, mask, positions[:, None], paddle.zeros([len(ids)], "int64"))


def assert_same_logits(found, wanted, case) -> None:
    real = case["attention_mask"] == 1
    assert relative_error(found.numpy()[real], wanted.numpy()[real]) < BOUND


@pytest.mark.parametrize("case", [{}, {"left": True}, {"far": 200}], ids=str)
def test_logits(theirs, directory, case):
    made = batch(1, **case)
    assert_same_logits(our_logits(opened(directory), made), their_logits(theirs, made), made)


def test_the_loss_and_every_gradient(theirs, directory):
    made, ours, reference_model = batch(2), opened(directory), reference()
    loss, wanted = our_loss(ours, made), their_loss(reference_model, made)
    assert float(loss) == pytest.approx(float(wanted), rel=BOUND)
    loss.backward()
    wanted.backward()
    found = from_memory({name: p.grad.numpy() for name, p in ours.named_parameters()}, ours.config, torch_layout=True)
    expected = published((name, p.grad.numpy()) for name, p in reference_model.named_parameters())
    assert found.keys() == expected.keys() and len(found) == 3 + 7 * 2
    for name, array in expected.items():
        assert relative_error(found[name], array) < BOUND, name


def their_loss(model, case):
    ids, positions, mask, labels = tensors(case, "input_ids", "position_ids", "attention_mask", "labels")
    logits = model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False, return_dict=True).logits
    return model.criterion(logits, labels)


def our_loss(model, case):
    ids, mask, positions, labels = tensors(case, "input_ids", "attention_mask", "position_ids", "labels")
    return model(ids, mask, positions[:, None], paddle.zeros([len(ids)], "int64"), labels=labels)


def test_twenty_training_steps(directory):
    losses = []
    for model, loss_of in ((opened(directory), our_loss), (reference(), their_loss)):
        # Gradients of key biases are zero but for rounding, which a small epsilon would make full steps of.
        optimizer = paddle.optimizer.AdamW(2e-3, 0.9, 0.95, 1e-5, parameters=model.parameters(), weight_decay=0.1)
        curve = []
        for step in range(STEPS):
            loss = loss_of(model, batch(10 + step % 4))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            curve.append(float(loss))
        losses.append(np.array(curve))
    assert np.abs(losses[0] / losses[1] - 1).max() < 1e-4
    assert losses[1][-1] < 0.9 * losses[1][0]


def test_greedy_texts(theirs, directory):
    """Ours with its cache, theirs read anew for every token."""
    made = batch(3, left=True)
    ids, mask, positions = tensors(made, "input_ids", "attention_mask", "position_ids")
    prompt = Prompt(ids, mask, positions[:, None], paddle.zeros([3], "int64"), paddle.to_tensor([1]))
    found = opened(directory).generate(prompt, GenerationConfig(NEW_TOKENS), StopTokens((), 0))[0].numpy()
    case = {name: made[name] for name in ("input_ids", "attention_mask", "position_ids")}
    for step in range(NEW_TOKENS):
        following = their_logits(theirs, case)[:, -1].argmax(axis=-1).numpy()[:, None]
        assert found[:, step].tolist() == following[:, 0].tolist()
        case["input_ids"] = np.concatenate([case["input_ids"], following], axis=1)
        case["attention_mask"] = np.concatenate([case["attention_mask"], np.ones_like(following)], axis=1)
        case["position_ids"] = np.concatenate([case["position_ids"], case["position_ids"][:, -1:] + 1], axis=1)


def test_rope_ratio_of_chatglm3_is_of_the_base(theirs, tmp_path, monkeypatch):
    model = opened(write(tmp_path / "long", theirs, rope_ratio=50, _name_or_path="THUDM/chatglm3-6b-32k"))
    rotary = theirs.chatglm_v2.rotary_pos_emb
    monkeypatch.setattr(rotary, "forward", lambda length, offset=0: rotary.forward_impl(length, rotary.dim, 500000))
    made = batch(1, far=100)
    assert_same_logits(our_logits(model, made), their_logits(theirs, made), made)


def test_rope_ratio_of_chatglm2_divides_positions(theirs, directory, tmp_path):
    """So a model with it is at four times a position what one without is there."""
    model = opened(write(tmp_path / "long", theirs, rope_ratio=4, _name_or_path="THUDM/chatglm2-6b-32k"))
    made = batch(1, far=20)
    wanted = our_logits(opened(directory), made)
    far = made | {"position_ids": 4 * made["position_ids"]}
    assert_same_logits(our_logits(model, far), wanted, made)
    with pytest.raises(AssertionError):
        assert_same_logits(our_logits(model, made), wanted, made)


def test_the_published_directory_opens_by_the_names_people_know(directory):
    config = AutoConfig.from_pretrained(str(directory), trust_remote_code=True)
    assert (config.family, config.half, config.num_key_value_heads) == ("chatglm2", "float16", 2)
    model = AutoModel.from_pretrained(str(directory), trust_remote_code=True)
    model.eval()
    made = batch(1)
    assert np.array_equal(our_logits(model, made).numpy(), our_logits(opened(directory), made).numpy())


@pytest.mark.parametrize("ratio", [{}, {"rope_ratio": 4, "_name_or_path": "THUDM/chatglm2-6b-32k"}], ids=str)
def test_to_transformers_names_and_back(theirs, tmp_path, ratio):
    """`GlmForCausalLM` is the same network; what comes back has the first one's bits."""
    source = write(tmp_path / "source", theirs, **ratio)
    convert_checkpoint(Conversion(source, tmp_path / "hf", "hf"))
    written = json.loads((tmp_path / "hf/config.json").read_text(encoding="utf-8"))
    assert (written["model_type"], written["architectures"]) == ("glm", ["GlmForCausalLM"])
    made = batch(1, far=20)
    first, other = opened(source), opened(tmp_path / "hf")
    assert other.config.half == first.config.half == "float16"
    assert np.array_equal(our_logits(other, made).numpy(), our_logits(first, made).numpy())
    convert_checkpoint(Conversion(tmp_path / "hf", tmp_path / "back", "remote"))
    back = opened(tmp_path / "back")
    assert back.config.family == "chatglm2" and back.config.rope_scaling == first.config.rope_scaling
    for name, weight in first.state_dict().items():
        assert back.state_dict()[name].numpy().tobytes() == weight.numpy().tobytes()
