"""PaddleNLP's GLM, on the same random weights: logits, losses and gradients.

PaddleNLP's implementation gives the logits of the original GLM repository's model to 3e-7. It gets its inputs in the
reference's full-length layout, ours come from the encoder; weights and gradients pass through the checkpoint reader.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddlenlp.transformers import GLMConfig as PaddleNLPConfig
from paddlenlp.transformers import GLMForConditionalGeneration
from tiny_glm import random_pairs, reference_layout, relative_error, scatter, tensors

from glm import GLMForCausalLM
from glm.checkpoint import load_state

BOUND = 1e-5
SRC_LENGTH, TGT_LENGTH = 16, 12
SIZES = [(9, 7), (3, 10), (13, 2)]  # the third source fills src_length
SHAPE = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 384, "max_sequence_length": 64}
THEIR_DROPOUT = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}


def reference_model(attention_scale: float = 1.0) -> GLMForConditionalGeneration:
    config = PaddleNLPConfig(**SHAPE, **THEIR_DROPOUT, output_predict=True, attention_scale=attention_scale)
    model = GLMForConditionalGeneration(config)
    scatter(model, seed=7, spread=0.3)
    model.eval()
    return model


@pytest.fixture(scope="module", params=[1.0, 8.0], ids=lambda scale: f"attention_scale={scale}")
def theirs(request):
    """Both settings of a guard against overflow, which changes no result."""
    return reference_model(request.param)


def load_ours(theirs, directory) -> GLMForCausalLM:
    theirs.save_pretrained(directory)
    model = GLMForCausalLM.from_pretrained(directory)
    model.eval()
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    return load_ours(theirs, tmp_path_factory.mktemp("paddlenlp"))


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return random_pairs(tokenizer, SIZES)


@pytest.fixture(scope="module")
def layout(tokenizer, pairs):
    return tensors(reference_layout(tokenizer, pairs, SRC_LENGTH, TGT_LENGTH))


def real_rows(logits, pairs, src_width: int) -> np.ndarray:
    """The logits of every real token, one row a token."""
    logits = logits.numpy()
    sources = [item[: len(source)] for item, (source, _) in zip(logits, pairs, strict=True)]
    targets = [item[src_width : src_width + len(target)] for item, (_, target) in zip(logits, pairs, strict=True)]
    return np.concatenate([*sources, *targets])


@pytest.fixture(scope="module")
def their_logits(theirs, layout, pairs):
    logits = theirs(layout["input_ids"], layout["position_ids"], layout["attention_mask"])[0]
    return real_rows(logits, pairs, SRC_LENGTH)


def logits_error(model, batch, pairs, their_logits) -> float:
    inputs = {name: array for name, array in batch.items() if name != "labels"}
    width = int(batch["prefix_length"][0]) or max(len(source) for source, _ in pairs)
    return relative_error(real_rows(model(**inputs), pairs, width), their_logits)


def test_logits(ours, encoder, pairs, their_logits):
    assert logits_error(ours, tensors(encoder.training_batch(pairs)), pairs, their_logits) < BOUND


def with_block_positions_off_by_one(model, batch):
    batch["position_ids"][:, 1] += (batch["position_ids"][:, 1] > 0).astype("int64")


def with_text_positions_off_by_one(model, batch):
    batch["position_ids"][:, 0] += 1


def with_exact_gelu(model, batch):
    for layer in model.model.layers:
        layer.mlp.activation = F.gelu


def with_a_causal_mask(model, batch):
    batch["prefix_length"] *= 0


def with_visible_padding(model, batch):
    batch["attention_mask"] = paddle.ones_like(batch["attention_mask"])


def with_queries_and_keys_exchanged(model, batch):
    for layer in model.model.layers:
        layer.self_attn.q_proj, layer.self_attn.k_proj = layer.self_attn.k_proj, layer.self_attn.q_proj


# The error each gives: at least 200 times the bound.
MISTAKES = {
    with_block_positions_off_by_one: 0.0,
    with_text_positions_off_by_one: 0.0,
    with_exact_gelu: 0.0,
    with_a_causal_mask: 0.0,
    with_visible_padding: 0.0,
    with_queries_and_keys_exchanged: 0.0,
}


@pytest.mark.parametrize(("mistake", "error"), MISTAKES.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_a_mistake_shows(theirs, encoder, pairs, their_logits, tmp_path, mistake, error):
    """What the same comparison gives for models that are slightly wrong."""
    model, batch = load_ours(theirs, tmp_path), tensors(encoder.training_batch(pairs))
    mistake(model, batch)
    assert logits_error(model, batch, pairs, their_logits) == pytest.approx(error, rel=0.05)


def reference_loss(model, layout, smoothing: float) -> paddle.Tensor:
    """Mean over the trained tokens of the batch, row by row: PaddleNLP's smoothing needs batches of one row."""
    model.config.label_smoothing = smoothing
    counts = layout["loss_mask"].sum(axis=1)
    rows = [{name: array[i : i + 1] for name, array in layout.items()} for i in range(len(counts))]
    return sum(model(**row)[0] * count for row, count in zip(rows, counts, strict=True)) / counts.sum()


def our_loss(model, batch, smoothing: float) -> paddle.Tensor:
    return model(**batch, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients(theirs, encoder, pairs, layout, tmp_path, smoothing):
    ours = load_ours(theirs, tmp_path)
    ours.train()
    theirs.clear_gradients()
    wanted, found = reference_loss(theirs, layout, smoothing), None
    found = our_loss(ours, tensors(encoder.training_batch(pairs)), smoothing)
    assert relative_error(found, wanted) < BOUND
    wanted.backward()
    found.backward()
    errors = gradient_errors(ours, gradients_in_our_names(theirs, ours.config, tmp_path / "gradients"))
    assert len(errors) == 37
    assert max(errors.values()) < BOUND, errors


def test_the_smoothed_loss_is_another(theirs, layout):
    """So a loss without smoothing would not pass for one with it."""
    plain, smoothed = (float(reference_loss(theirs, layout, smoothing)) for smoothing in (0.0, 0.1))
    assert abs(smoothed / plain - 1) == pytest.approx(0.0, rel=0.05)


def gradients_in_our_names(model, config, directory) -> dict[str, np.ndarray]:
    """Written as a checkpoint and read again, so that they get the names and cuts that the weights get."""
    carrier = reference_model()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in carrier.named_parameters():
        parameter.set_value(gradients[name])
    carrier.save_pretrained(directory)
    return load_state(directory, config)


def gradient_errors(model, wanted: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: relative_error(parameter.grad, wanted[name]) for name, parameter in model.named_parameters()}
