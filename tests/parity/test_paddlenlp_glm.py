"""PaddleNLP's GLM, on the same random weights: logits, losses and gradients.

PaddleNLP's implementation gives the logits of the original GLM repository's model to 3e-7. It gets its inputs in the
reference's full-length layout, ours come from the processor; weights and gradients pass through the checkpoint reader.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddlenlp_reference import load_ours, reference_model
from tiny_glm import pair_batch, random_pairs, reference_layout, relative_error, tensors

from glm.checkpoint import from_memory

BOUND = 1e-5
SRC_LENGTH, TGT_LENGTH = 16, 12
SIZES = [(9, 7), (3, 10), (13, 2)]  # the third source fills src_length


@pytest.fixture(scope="module", params=[1.0, 8.0], ids=lambda scale: f"attention_scale={scale}")
def theirs(request):
    """Both settings of a guard against overflow, which changes no result."""
    return reference_model(request.param)


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    return load_ours(theirs, tmp_path_factory.mktemp("paddlenlp"))


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return random_pairs(tokenizer, SIZES)


@pytest.fixture(scope="module")
def layout(tokenizer, pairs):
    return tensors(reference_layout(tokenizer, pairs, SRC_LENGTH, TGT_LENGTH))


def real_rows(logits, pairs, starts: list[int]) -> np.ndarray:
    """The logits of every real token, one row per token; `starts` are the columns of the first target tokens."""
    rows = list(zip(logits.numpy(), pairs, starts, strict=True))
    sources = [item[: len(source)] for item, (source, _), _ in rows]
    targets = [item[start : start + len(target)] for item, (_, target), start in rows]
    return np.concatenate([*sources, *targets])


@pytest.fixture(scope="module")
def their_logits(theirs, layout, pairs):
    logits = theirs(layout["input_ids"], layout["position_ids"], layout["attention_mask"])[0]
    return real_rows(logits, pairs, [SRC_LENGTH] * len(pairs))


def logits_error(model, batch, pairs, their_logits) -> float:
    inputs = {name: array for name, array in batch.items() if name != "labels"}
    starts = [len(source) for source, _ in pairs]
    return relative_error(real_rows(model(**inputs), pairs, starts), their_logits)


def test_logits(ours, processor, pairs, their_logits):
    assert logits_error(ours, pair_batch(processor, pairs), pairs, their_logits) < BOUND


def with_block_positions_off_by_one(model, batch):
    batch["position_ids"][:, 1] += (batch["position_ids"][:, 1] > 0).astype("int64")


def with_text_positions_off_by_one(model, batch):
    batch["position_ids"][:, 0] += 1


def with_exact_gelu(model, batch):
    for layer in model.model.layers:
        layer.mlp.activation = F.gelu


def with_a_causal_mask(model, batch):
    batch["prefix_length"] *= 0


def with_queries_and_keys_exchanged(model, batch):
    for layer in model.model.layers:
        layer.self_attn.q_proj, layer.self_attn.k_proj = layer.self_attn.k_proj, layer.self_attn.q_proj


# The error each gives: at least 16 times the bound.
MISTAKES = {
    with_block_positions_off_by_one: 0.889,
    with_text_positions_off_by_one: 1.375,
    with_exact_gelu: 0.0001637,
    with_a_causal_mask: 0.862,
    with_queries_and_keys_exchanged: 0.9136,
}


@pytest.mark.parametrize(("mistake", "error"), MISTAKES.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_a_mistake_shows(theirs, processor, pairs, their_logits, tmp_path, mistake, error):
    """What the same comparison gives for models that are slightly wrong."""
    model, batch = load_ours(theirs, tmp_path), pair_batch(processor, pairs)
    mistake(model, batch)
    assert logits_error(model, batch, pairs, their_logits) == pytest.approx(error, rel=0.05)


def reference_loss(model, layout, smoothing: float) -> paddle.Tensor:
    """Mean over the trained tokens of the batch, row by row: PaddleNLP's smoothing needs batches of one row."""
    model.config.label_smoothing = smoothing
    counts = layout["loss_mask"].sum(axis=1)
    rows = [{name: array[i : i + 1] for name, array in layout.items()} for i in range(len(counts))]
    return sum(model(**row)[0] * count for row, count in zip(rows, counts, strict=True)) / counts.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients(theirs, processor, pairs, layout, tmp_path, smoothing):
    ours = load_ours(theirs, tmp_path)
    ours.train()
    theirs.clear_gradients()
    wanted = reference_loss(theirs, layout, smoothing)
    found = ours(**pair_batch(processor, pairs), label_smoothing=smoothing)
    assert relative_error(found, wanted) < BOUND
    wanted.backward()
    found.backward()
    errors = gradient_errors(theirs, ours)
    assert len(errors) == 29
    assert max(errors.values()) < BOUND, errors


def gradient_errors(theirs, ours) -> dict[str, float]:
    """By the names on disk: queries', keys' and values' gradients in one tensor, as softmax makes key biases' zero."""
    found = from_memory({name: parameter.grad.numpy() for name, parameter in ours.named_parameters()}, ours.config)
    return {name: relative_error(found[name], parameter.grad) for name, parameter in theirs.named_parameters()}


def test_the_smoothed_loss_is_another(theirs, layout):
    """So a loss without smoothing would not pass for one with it."""
    plain, smoothed = (reference_loss(theirs, layout, smoothing) for smoothing in (0.0, 0.1))
    assert relative_error(smoothed, plain) == pytest.approx(0.0070, rel=0.05)
