"""What columns are seen by: the bias it spells out, and packed rows against the same documents in rows of their own."""

import numpy as np
import paddle
import pytest
from tiny_glm import NO_DROPOUT, scatter, tiny_model

from glm import GLMConfig, GLMForCausalLM
from glm.errors import UsageError
from glm.model.visibility import MASKED, derived_rows, visibility_bias
from tests.family_models import MODELS

# Documents of a packed row: tokens, of them the prefix.
DOCUMENTS = [(5, 3), (1, 0), (4, 0), (2, 2), (1, 1), (4, 2)]
WIDTH = 20  # of which three are padding


def packed_rows(documents, width: int) -> np.ndarray:
    """`visible_rows` [2, T] of one row."""
    rows, start = np.zeros([2, width], dtype="int32"), 0
    for tokens, prefix in documents:
        column = np.arange(start, start + tokens)
        rows[:, column] = [np.where(column < start + prefix, start, column), [start + tokens] * tokens]
        start += tokens
    return rows


def literal_mask(documents, width: int) -> np.ndarray:
    """[T, T] bool by the definition: the same document, and before or in its prefix."""
    document = np.repeat(np.arange(len(documents)), [tokens for tokens, _ in documents])
    inside = np.concatenate([np.arange(tokens) < prefix for tokens, prefix in documents])
    mask = np.zeros([width, width], dtype=bool)
    for i in range(len(document)):
        for j in range(len(document)):
            mask[i, j] = document[i] == document[j] and (j <= i or inside[j])
    return mask


def test_packed_rows_spell_out_the_documents():
    bias = visibility_bias(paddle.to_tensor(packed_rows(DOCUMENTS, WIDTH)[None])).numpy()[0]
    assert np.array_equal(bias, np.where(literal_mask(DOCUMENTS, WIDTH), 0, np.float32(MASKED)))


def test_rows_of_one_text_follow_from_mask_and_prefix():
    mask = [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    found = derived_rows(paddle.to_tensor(mask), paddle.to_tensor([0, 3]))
    assert found.dtype == paddle.int32
    assert found.numpy().tolist() == [[[0, 1, 2, 3, 0], [5, 5, 5, 5, 0]], [[0, 0, 0, 3, 4], [0, 5, 5, 5, 5]]]


def family_model(family: str) -> GLMForCausalLM:
    if family == "glm":
        return tiny_model()
    model = GLMForCausalLM(GLMConfig(family, **MODELS[family][1] | NO_DROPOUT))
    scatter(model, 1, 0.2)
    model.eval()
    return model


def document_batch(model, documents, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Each document in a row of its own, with labels and positions."""
    draw, position_rows = np.random.default_rng(seed), model.model.positions.position_rows
    batches = []
    for tokens, prefix in documents:
        positions = np.arange(tokens)
        if position_rows == 2:
            positions = np.stack([np.minimum(positions, max(prefix - 1, 0)), np.maximum(positions - prefix + 1, 0)])
        ids = draw.integers(1, 300, tokens + 1)
        batches.append(
            {
                "input_ids": ids[None, :-1],
                "attention_mask": np.ones([1, tokens], "int64"),
                "position_ids": positions.reshape([1, position_rows, tokens]),
                "prefix_length": np.array([prefix]),
                "labels": ids[None, 1:],
            }
        )
    return batches


def packed_batch(batches, width: int) -> dict[str, np.ndarray]:
    """The documents in one row, padded on the right."""
    joined = {}
    for name in ("input_ids", "attention_mask", "position_ids", "labels"):
        row = np.concatenate([batch[name] for batch in batches], axis=-1)
        sides = [(0, 0)] * (row.ndim - 1) + [(0, width - row.shape[-1])]
        joined[name] = np.pad(row, sides, constant_values=-100 if name == "labels" else 0)
    documents = [(batch["input_ids"].shape[1], int(batch["prefix_length"][0])) for batch in batches]
    return joined | {"prefix_length": np.zeros(1, "int64"), "visible_rows": packed_rows(documents, width)[None]}


def tensors(batch) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(array) for name, array in batch.items()}


def trained(model, batches) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses of all tokens, and the gradients of their sum."""
    model.train()
    losses = paddle.concat([model(**tensors(batch), reduction="none") for batch in batches])
    losses.sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    return losses.numpy(), gradients


@pytest.mark.parametrize("family", ["glm", *MODELS])
def test_a_packed_row_trains_as_its_documents(family):
    model = family_model(family)
    documents = DOCUMENTS if family in ("glm", "chatglm") else [(tokens, 0) for tokens, _ in DOCUMENTS]
    apart = document_batch(model, documents)
    losses, gradients = trained(model, [packed_batch(apart, WIDTH)])
    wanted, wanted_gradients = trained(model, apart)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted_gradients[name], rtol=1e-4, atol=2e-5, err_msg=name)
    blind = packed_batch(apart, WIDTH)
    blind.pop("visible_rows")
    assert np.abs(trained(model, [blind])[0] - wanted).max() > 0.01


@pytest.mark.parametrize("family", ["glm", "glm4-remote"])
@pytest.mark.parametrize("altered", [0, 2])
def test_documents_do_not_reach_each_other(family, altered):
    """Other ids in one document leave the logits of all others bit-equal."""
    model = family_model(family)
    apart = document_batch(model, DOCUMENTS)
    before = packed_logits(model, apart)
    apart[altered]["input_ids"] = apart[altered]["input_ids"] + 7
    after = packed_logits(model, apart)
    start = sum(tokens for tokens, _ in DOCUMENTS[:altered])
    own = np.zeros(WIDTH, dtype=bool)
    own[start : start + DOCUMENTS[altered][0]] = True
    real = np.arange(WIDTH) < sum(tokens for tokens, _ in DOCUMENTS)
    assert np.array_equal(before[real & ~own], after[real & ~own])
    assert (before[own] != after[own]).any(axis=1).all()


def packed_logits(model, batches) -> np.ndarray:
    """[T, V]."""
    batch = packed_batch(batches, WIDTH)
    batch.pop("labels")
    return model(**tensors(batch)).numpy()[0]


def test_two_answers_share_a_prompt():
    """Prompt, chosen and rejected answer in one row: as the prompt with either answer."""
    model, (prompt, chosen, rejected) = family_model("glm4-0414"), (5, 4, 6)
    whole, column = prompt + chosen + rejected, np.arange(15)
    ids = np.random.default_rng(2).integers(1, 300, whole)
    end = np.where((column >= prompt) & (column < prompt + chosen), prompt + chosen, whole)
    positions = np.where(column < prompt + chosen, column, column - chosen)
    rows = np.stack([column, end])[None]
    shared = model(ids, position_ids=positions, visible_rows=rows).numpy()[0]
    first = model(ids[: prompt + chosen]).numpy()[0]
    second = model(np.delete(ids, np.s_[prompt : prompt + chosen])).numpy()[0]
    np.testing.assert_allclose(shared[: prompt + chosen], first, atol=2e-5)
    np.testing.assert_allclose(shared[prompt + chosen :], second[prompt:], atol=2e-5)


def test_rows_of_another_shape_are_refused():
    with pytest.raises(UsageError, match=r"visible_rows have the shape \[1, 2, 4\], and must have \[1, 2, 3\]"):
        family_model("glm4-0414")([5, 6, 7], visible_rows=np.zeros([1, 2, 4]))
