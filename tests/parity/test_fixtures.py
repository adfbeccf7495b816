"""The golden fixtures are consistent, as seen by an implementation that shares nothing with what made them.

Logits and losses come out of reference_numpy.py, in float64; gradients are compared with differences of its loss. What
an implementation may get wrong misses them by far more than the bound of 1e-5.
"""

import numpy as np
import pytest
from fixture_files import FIXTURES, Fixture, load, names
from reference_numpy import chatglm_logits, glm4_logits, inverse_frequencies, mean_loss
from remote_code import LAYERED, remote_code_config, remote_code_weights
from safetensors.numpy import load_file
from tiny_glm import relative_error

BOUND = 1e-5
ROTARY_BASES = [10_000, 5_000_000, 100_000_000]  # rope_ratio 1, 500 (chat), 10000 (chat-1m)
CASES = ["left_padded", "right_padded", "far"]
CHATGLM = "chatglm-6b"


@pytest.fixture(scope="module", params=[name for name in names() if not name.startswith(("glm4moe-", "glm4lite-"))])
def fixture(request) -> Fixture:
    return load(request.param)


def logits_of(fixture: Fixture, batch, weights=None, **wrong) -> np.ndarray:
    forward = chatglm_logits if fixture.directory.name == CHATGLM else glm4_logits
    weights = weights or {name: weight.astype("float64") for name, weight in fixture.weights.items()}
    return forward(fixture.config, weights, batch, **wrong)


def next_labels(fixture: Fixture, labels: np.ndarray) -> np.ndarray:
    """Labels of the token that follows each column; transformers shifts them itself, so its are a column late."""
    if fixture.directory.name == CHATGLM:
        return labels
    return np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=-100)


def loss_of(fixture: Fixture, batch, weights=None) -> float:
    return mean_loss(logits_of(fixture, batch, weights), next_labels(fixture, batch["labels"]))


def logits_error(fixture: Fixture, case: str, **wrong) -> float:
    """Over real tokens; zero stands where the input is padding."""
    batch = fixture.case(case)
    real = batch["attention_mask"] == 1
    return relative_error(logits_of(fixture, batch, **wrong)[real], batch["logits"][real])


@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss(fixture, case):
    assert logits_error(fixture, case) < BOUND
    assert loss_of(fixture, fixture.case(case)) == pytest.approx(fixture.case(case)["loss"].item(), rel=BOUND)


# Fixture, case, mistake, and by how much the logits then miss, as a share of the largest.
MISTAKES = [
    ("glm-g2-bias-rope1", "left_padded", {"interleaved": False}, 0.92),
    ("glm-g2-bias-rope1", "left_padded", {"full_rotary": True}, 1.1),
    ("glm-g2-bias-rope1", "left_padded", {"alternate_groups": True}, 1.2),
    ("glm-g4-bias-rope500", "left_padded", {"alternate_groups": True}, 1.2),
    ("glm-g4-bias-rope500", "left_padded", {"rope_theta": 10000.0}, 0.081),
    ("glm-g1-nobias-rope500", "left_padded", {"rope_theta": 10000.0}, 0.49),
    ("glm-g1-nobias-rope500", "left_padded", {"swap_gate": True}, 1.3),
    ("glm-g1-nobias-rope500", "left_padded", {"rms_norm_eps": 1e-6}, 2.3e-4),
    ("glm-g2-bias-rope1", "far", {"exact_angles": True}, 2.4e-4),
    ("glm4-g2-bias-rope1", "left_padded", {"post_norms": False}, 1.2),
    ("glm4-g2-bias-rope1", "left_padded", {"interleaved": False}, 0.89),
    ("glm4-g2-bias-rope1", "left_padded", {"alternate_groups": True}, 1.5),
    ("glm4-g2-bias-rope1", "left_padded", {"rms_norm_eps": 1e-6}, 1.1e-3),
    ("glm4-g4-bias-rope500", "far", {"rope_theta": 10000.0}, 0.35),
    (CHATGLM, "left_padded", {"interleaved": True}, 0.92),
    (CHATGLM, "left_padded", {"packed_per_head": False}, 1.2),
    (CHATGLM, "left_padded", {"prefix": False}, 0.92),
    (CHATGLM, "left_padded", {"alpha": 2**0.5}, 0.40),
    (CHATGLM, "left_padded", {"swap_positions": True}, 0.71),
    (CHATGLM, "left_padded", {"layernorm_epsilon": 1e-6}, 7.9e-4),
    (CHATGLM, "far", {"rounded": False}, 4.2e-4),
]


@pytest.mark.parametrize(("name", "case", "wrong", "error"), MISTAKES, ids=str)
def test_a_mistake_shows(name, case, wrong, error):
    assert logits_error(load(name), case, **wrong) == pytest.approx(error, rel=0.05)


def test_inverse_frequencies(fixture):
    """To the last bit: at position 100,000 one float32 step of a frequency is a hundredth of a radian."""
    stored = fixture.arrays["rope.inverse_frequencies"]
    if fixture.directory.name == CHATGLM:
        ours = inverse_frequencies(2 * len(stored), 10000.0).astype("float16").astype("float32")
    else:
        ours = inverse_frequencies(2 * len(stored), 10000.0 * fixture.settings["rope_ratio"])
    assert np.array_equal(ours, stored)


@pytest.mark.parametrize("base", ROTARY_BASES)
def test_inverse_frequencies_of_the_published_models(base):
    """torch's for heads of 128, of which 64 turn; one of the 96 is one float32 step off, at an angle that does not
    matter. Computed in float64 throughout, a third of them would be."""
    stored = load_file(FIXTURES / "rotary.safetensors")[f"base_{base}"]
    ours = inverse_frequencies(64, float(base))
    steps = np.abs(ours.view("int32") - stored.view("int32"))
    assert steps.max() <= (base == 100_000_000)
    assert np.abs(np.cos(np.float32(1e6) * ours) - np.cos(np.float32(1e6) * stored)).max() < 1e-7
    exact = (1 / base ** (np.arange(0, 64, 2) / 64)).astype("float32")
    assert np.abs(np.cos(np.float32(1e6) * exact) - np.cos(np.float32(1e6) * stored)).max() > 1e-3


def test_greedy_tokens(fixture):
    """Every token is the likeliest one behind the text before it, up to and including the first stop token."""
    assert [text_of(fixture, row) for row in greedy_texts(fixture)] == texts_of(fixture, "greedy")


def text_of(fixture: Fixture, row) -> list[int]:
    """The tokens up to the first stop token."""
    row = [int(token) for token in row]
    ends = [i for i, token in enumerate(row) if token in fixture.settings["stop_token_ids"]]
    return row[: ends[0] + 1] if ends else row


def texts_of(fixture: Fixture, search: str) -> list[list[int]]:
    tokens, pad = fixture.arrays[f"{search}.tokens"], fixture.settings["pad_token_id"]
    texts = [text_of(fixture, row) for row in tokens]
    for row, text in zip(tokens, texts, strict=True):
        assert (row[len(text) :] == pad).all()
    return texts


def greedy_texts(fixture: Fixture) -> np.ndarray:
    tokens = np.zeros((len(fixture.case("prompt")["input_ids"]), 0), dtype="int64")
    for _ in range(fixture.settings["max_new_tokens"]):
        logits = logits_of(fixture, with_text(fixture, tokens))
        tokens = np.concatenate([tokens, logits[:, -1].argmax(axis=-1)[:, None]], axis=1)
    return tokens


def with_text(fixture: Fixture, tokens_BN: np.ndarray) -> dict[str, np.ndarray]:
    """The prompts with so many generated tokens behind each."""
    prompt, count = fixture.case("prompt"), tokens_BN.shape[1]
    mask = np.pad(prompt["attention_mask"], ((0, 0), (0, count)), constant_values=1)
    batch = {"input_ids": np.concatenate([prompt["input_ids"], tokens_BN], axis=1), "attention_mask": mask}
    if fixture.directory.name != CHATGLM:
        return batch | {"position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0)}
    steps = np.stack([np.zeros(count), np.arange(1, count + 1)]).astype("int64")
    positions = np.concatenate([prompt["position_ids"], prompt["position_ids"][:, :, -1:] + steps], axis=2)
    return batch | {"position_ids": positions, "prefix_length": prompt["prefix_length"]}


def test_beam_scores(fixture):
    """A score is the sum of the text's log-probabilities, divided by a power of its length."""
    searches = [name for name in fixture.settings["searches"] if "beam" in name]
    assert searches
    for name in searches:
        scores = log_probabilities(fixture, name) / penalty(fixture, name)
        assert relative_error(scores, fixture.arrays[f"{name}.scores"]) < BOUND, name


def penalty(fixture: Fixture, name: str) -> np.ndarray:
    """What a row's sum is divided by [B]: transformers counts every token, PaddleNLP none that stops, and by GNMT's
    rule (arXiv:1609.08144, section 7)."""
    texts, power = texts_of(fixture, name), fixture.settings["searches"][name]["length_penalty"]
    if fixture.directory.name != CHATGLM:
        return np.array([len(text) for text in texts]) ** power
    lengths = [len(text) - (text[-1] in fixture.settings["stop_token_ids"]) for text in texts]
    return ((5 + np.array(lengths)) / 6) ** power


def log_probabilities(fixture: Fixture, name: str) -> np.ndarray:
    """Sum over the tokens of each row's text [B], the one that stops it included."""
    tokens, lengths = fixture.arrays[f"{name}.tokens"], np.array([len(text) for text in texts_of(fixture, name)])
    count = tokens.shape[1]
    logits = logits_of(fixture, with_text(fixture, tokens))[:, -count - 1 : -1]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    return np.where(np.arange(count) < lengths[:, None], chosen, 0).sum(axis=1)


def test_beams_and_ends_differ(fixture):
    """So the searches are told apart, and a search that never stops is too."""
    assert texts_of(fixture, "beam") != texts_of(fixture, "greedy")
    assert len({len(text) for text in texts_of(fixture, "greedy")}) > 1


def training_batch(fixture: Fixture, step: int) -> dict[str, np.ndarray]:
    arrays = fixture.case("train")
    return {name: array[step % len(array)] for name, array in arrays.items() if name != "losses"}


def test_gradients(fixture):
    """Along a random direction for each weight, the loss rises as the gradient says."""
    batch, gradients = training_batch(fixture, 0), fixture.case("gradient")
    weights = {name: weight.astype("float64") for name, weight in fixture.weights.items()}
    assert set(gradients) == set(weights)
    draw = np.random.default_rng(0)
    for name, gradient in gradients.items():
        direction = draw.standard_normal(gradient.shape) / np.sqrt(gradient.size)
        step = 1e-5 * direction
        rise = loss_of(fixture, batch, weights | {name: weights[name] + step})
        fall = loss_of(fixture, batch, weights | {name: weights[name] - step})
        slope, size = (rise - fall) / 2e-5, np.linalg.norm(gradient) / np.sqrt(gradient.size)
        assert abs(slope - (gradient * direction).sum()) < BOUND * size, name


def test_training_starts_as_recorded(fixture):
    """The first two losses: the weights as they are, and after one step of AdamW (arXiv:1711.05101, algorithm 2)."""
    losses, rule = fixture.arrays["train.losses"], fixture.settings["adamw"]
    assert loss_of(fixture, training_batch(fixture, 0)) == pytest.approx(losses[0], rel=BOUND)
    weights = {}
    for name, gradient in fixture.case("gradient").items():
        gradient, weight = gradient.astype("float64"), fixture.weights[name].astype("float64")
        decayed = weight * (1 - rule["lr"] * rule["weight_decay"])
        weights[name] = decayed - rule["lr"] * gradient / (np.abs(gradient) + rule["eps"])
    assert loss_of(fixture, training_batch(fixture, 1), weights) == pytest.approx(losses[1], rel=BOUND)
    assert len(losses) == 20
    assert losses[-4:].mean() < 0.6 * losses[:4].mean()


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("glm-")])
def test_remote_code_layout(name):
    """Every weight lies in the remote-code files once, next to the buffer that they contain."""
    fixture = load(name)
    weights, config = remote_code_weights(fixture), remote_code_config(fixture)
    buffer = weights.pop("transformer.rotary_pos_emb.inv_freq")
    assert sum(w.size for w in weights.values()) == sum(w.size for w in fixture.weights.values())
    assert len(weights) == 3 + config["num_layers"] * (len(LAYERED) - (not config["add_qkv_bias"]))
    heads = config["num_attention_heads"] + 2 * config["multi_query_group_num"]
    fused = weights["transformer.encoder.layers.1.self_attention.query_key_value.weight"]
    assert fused.shape == (heads * config["kv_channels"], config["hidden_size"])
    assert len(buffer) == config["kv_channels"] // 4


def test_size():
    files = [path for path in FIXTURES.rglob("*") if path.is_file()]
    sparse = [
        path for path in files if path.parent.name.startswith(("glm4moe-", "glm4lite-"))
    ]  # with a matrix for every expert
    assert sum(path.stat().st_size for path in sparse) < 2_500_000
    assert sum(path.stat().st_size for path in files if path not in sparse) < 2_000_000
