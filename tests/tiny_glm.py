"""Tiny random models and batches, and GLM's layout as the reference writes it, for the tests to compare with."""

import numpy as np
import paddle
from paddlenlp.utils.log import logger

import glm  # noqa: F401
from glm import GLMConfig, GLMForCausalLM
from glm.generation.search import Prompt, StopTokens
from glm.model.attention import empty_tails

NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
logger.set_level("ERROR")
PIECES = 374  # ids of the bundled vocabulary below its special tokens


def tiny_model(seed: int = 0, spread: float = 0.3, **changes) -> GLMForCausalLM:
    """Two layers, hidden 32, every parameter random: biases and norms too, which start as zeros and ones."""
    shape = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = GLMForCausalLM(GLMConfig(**shape | {"max_position_embeddings": 64} | NO_DROPOUT | changes))
    scatter(model, seed, spread)
    model.eval()
    return model


def scatter(model, seed: int, spread: float) -> None:
    draw = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.set_value((centre + spread * draw.standard_normal(parameter.shape)).astype("float32"))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # of GLM-4.5, where they are as close to each other
            buffer.set_value((7 + 0.1 * draw.standard_normal(buffer.shape)).astype("float32"))


def make_likely(embedding, final_norm, token: int, amount: float) -> None:
    """Raises the token's logit by `amount` wherever it is predicted, so that random models end their texts."""
    bias, rows = final_norm.bias.numpy(), embedding.weight.numpy()
    rows[token] += amount * bias / (bias**2).sum()
    embedding.weight.set_value(rows)


def random_pairs(tokenizer, sizes: list[tuple[int, int]], seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Encoded (source, target) pairs with so many tokens of text, as `GLMProcessor.source` and `.target` frame them."""
    draw = np.random.default_rng(seed)
    pairs = []
    for source, target in sizes:
        text, answer = (draw.integers(5, PIECES, size).tolist() for size in (source, target))
        framed = [tokenizer.cls_token_id, *text, tokenizer.gmask_token_id, tokenizer.eos_token_id]
        pairs.append((framed, [*answer, tokenizer.eop_token_id]))
    return pairs


def reference_layout(tokenizer, pairs, src_length: int, tgt_length: int) -> dict[str, np.ndarray]:
    """The layout of PaddleNLP's example suite, every row padded to S + T: its mask and its loss mask written out.

    Returns:
        input_ids, labels, loss_mask [B, S+T]; position_ids [B, 2, S+T]; attention_mask [B, 1, S+T, S+T], 1 = visible.
    """
    rows = [_reference_row(tokenizer, *pair, src_length, tgt_length) for pair in pairs]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _reference_row(tokenizer, source, target, src_length, tgt_length) -> dict[str, np.ndarray]:
    pad, width = tokenizer.pad_token_id, src_length + tgt_length
    padded_source = source + [pad] * (src_length - len(source))
    started = [tokenizer.sop_token_id, *target[:-1]]
    mask_position = source.index(tokenizer.gmask_token_id)
    visible = np.zeros((width, width))
    visible[:, : len(source)] = 1
    visible[src_length:, src_length:] = np.tril(np.ones((tgt_length, tgt_length)))
    rest = tgt_length - len(target)
    return {
        "input_ids": np.array(padded_source + started + [pad] * rest),
        "labels": np.array([0] * src_length + target + [pad] * rest),
        "loss_mask": np.array([0.0] * src_length + [1.0] * len(target) + [0.0] * rest, dtype="float32"),
        "position_ids": np.array(
            [[*range(src_length), *[mask_position] * tgt_length], [0] * src_length + [*range(1, tgt_length + 1)]]
        ),
        "attention_mask": visible[None].astype("float32"),
    }


def tensors(batch: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(array) for name, array in batch.items()}


def prompt_of(processor, pairs) -> Prompt:
    start = processor.tokenizer.sop_token_id
    return Prompt(**tensors(processor.prompt_batch([[*source, start] for source, _ in pairs])))


def pair_batch(processor, pairs) -> dict[str, paddle.Tensor]:
    """Encoded (source, target) pairs as a training batch."""
    return tensors(processor.training_batch([processor.row(*pair) for pair in pairs]))


def stop_of(tokenizer) -> StopTokens:
    return StopTokens((tokenizer.eop_token_id,), tokenizer.pad_token_id)


def small_prompt(vocab_size: int, rows: int, width: int = 6, seed: int = 0) -> Prompt:
    """Random prompts without padding, for vocabularies of a few tokens; texts start from token 0."""
    ids = np.random.default_rng(seed).integers(1, vocab_size, (rows, width + 1))
    ids[:, -1] = 0
    positions = np.array([[*range(width), width - 2], [*[0] * width, 1]])
    return Prompt(
        *map(paddle.to_tensor, (ids, np.ones_like(ids), np.stack([positions] * rows), np.full(rows, width), [0, 1]))
    )


def uncached_logits(model, prompt: Prompt, tokens: np.ndarray) -> np.ndarray:
    """Logits [B, V] behind the prompt and the tokens [B, n] that follow it: the whole text through `forward`."""
    count = tokens.shape[1]
    steps = prompt.position_ids[:, :, -1:] + (prompt.position_step.unsqueeze(1) * paddle.arange(1, count + 1))
    logits = model(
        paddle.concat([prompt.input_ids, paddle.to_tensor(tokens, dtype="int64")], axis=1),
        paddle.concat([prompt.attention_mask, paddle.ones(tokens.shape, dtype="int64")], axis=1),
        paddle.concat([prompt.position_ids, steps], axis=2),
        prompt.prefix_length,
    )
    return logits[:, -1].numpy()


@paddle.no_grad()
def assert_begins_alike(model, input_ids, attention_mask, position_ids, prefix_length) -> None:
    """`begin` is `prefill` and a first `decode`: what real columns have in the prefix, logits and tails."""
    inputs = input_ids, attention_mask, position_ids
    prefix, logits, tails = model.begin(*inputs, prefix_length)
    wanted_prefix = model.prefill(*(x[..., :-1] for x in inputs), prefix_length)
    wanted = model.decode(input_ids[:, -1:], position_ids[:, :, -1:], wanted_prefix, empty_tails(wanted_prefix, 1))
    real_BS1 = attention_mask[:, :-1].unsqueeze(-1).astype("float32")
    kept = zip([*prefix.keys, *prefix.values], [*wanted_prefix.keys, *wanted_prefix.values], strict=True)
    pairs = [(ours * real_BS1, theirs * real_BS1) for ours, theirs in kept]
    pairs += [(logits, wanted[0]), (prefix.bias, wanted_prefix.bias), *zip(tails, wanted[1], strict=True)]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


def relative_error(found, wanted) -> float:
    """The largest difference, as a share of the largest magnitude of `wanted`."""
    found, wanted = (np.asarray(x, dtype="float64") for x in (found, wanted))
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
