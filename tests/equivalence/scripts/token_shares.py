"""Models of every family on each rank of a launch, with sequence parallelism and without: losses and all gradients.

    token_shares.py cases.json      a list of [family, kind, tokens, way]

Prints for each case how many tokens the norms get, and how far the two are from each other at most, and where. A way is
what the rows hold, one text or "packed" ones, and whether the side with sequence parallelism works as on long rows,
"in chunks": attention in blocks of queries, the head in chunks of tokens.
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import paddle
import paddle.distributed as dist
from family_models import FAMILY
from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker
from tiny_glm import NO_DROPOUT, scatter

from glm import GLMConfig, GLMForCausalLM
from glm.cli.script import run_script
from glm.config import chunks
from glm.distributed import tensor_parallel
from glm.distributed.processes import process_count
from glm.errors import UsageError
from glm.model import attention_choice, block_attention
from glm.model.lora import GLMLoRAModel, _wrap, add_lora
from glm.model.positions import POSITIONS

SHAPES = {name: {"family": name, **sizes} for name, (_, sizes) in FAMILY.items()}
SHAPES["glm"] = NO_DROPOUT | {
    "vocab_size": 386,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
KINDS = {
    "full": lambda model: model,
    "LoRA": lambda model: add_lora(model, 4, targets="all"),
    "recomputed LoRA": lambda model: _recomputed(add_lora(model, 4, targets="all")),
    "recomputed": lambda model: _recomputed(model),
    "LoRA of the head": lambda model: _wrap(model, 4, 8, [".*lm_head", ".*q_proj"], 0.0),
}


def _recomputed(model):
    network = model.model if isinstance(model, GLMLoRAModel) else model
    network.model.enable_recompute = True
    return model


def built(shape: dict, kind: str, sequence_parallel: bool):
    """A model whose parameters are random, biases and the matrices of adapters too."""
    config = GLMConfig(**shape, **tensor_parallel.tensor_parallel(), sequence_parallel=sequence_parallel)
    model = GLMForCausalLM(config)
    scatter(model, seed=1, spread=0.1)
    model = KINDS[kind](model)
    if "LoRA" in kind:
        scatter(model, seed=1, spread=0.1)
    model.train()
    return model


def tokens_of_norms(model) -> set[int]:
    """How many tokens the norms in front of the MLPs get, as a set that fills in the model's calls."""
    seen: set[int] = set()
    for name, layer in model.named_sublayers():
        if name.endswith("post_attention_layernorm"):
            layer.register_forward_post_hook(lambda layer, inputs, output: seen.add(output.shape[1]))
    return seen


@contextmanager
def in_chunks() -> Iterator[None]:
    """As rows of thousands of tokens are trained, of however few."""
    with (
        patch.object(chunks, "DENSE_TOKENS", 0),
        patch.object(attention_choice, "DenseAttention", None),  # a call would fail
        patch.object(block_attention, "query_block", lambda heads, tokens: 4),
        patch.object(chunks, "LOGITS", 1000),  # 2 to 5 tokens
    ):
        yield


def packed_rows(lengths: np.ndarray, tokens: int) -> np.ndarray:
    """`visible_rows` [B, 2, T] of two causal texts a row."""
    rows = np.zeros((len(lengths), 2, tokens), "int32")
    for row, length in zip(rows, lengths, strict=True):
        for start, end in ((0, length // 2), (length // 2, length)):
            row[0, start:end], row[1, start:end] = np.arange(start, end), end
    return rows


def batch(config: GLMConfig, tokens: int, packed: bool) -> dict[str, paddle.Tensor]:
    """Rows of different lengths, of which some tokens are trained."""
    draw, rows = np.random.default_rng(tokens), 3
    lengths = np.array([tokens, max(1, tokens - 1), max(1, tokens // 2)])
    mask = (np.arange(tokens) < lengths[:, None]).astype("int64")
    labels = np.where((draw.random((rows, tokens)) < 0.7) & (mask > 0), draw.integers(1, 300, (rows, tokens)), -100)
    count = POSITIONS[config.position_type].position_rows
    rows_seen = {"visible_rows": paddle.to_tensor(packed_rows(lengths, tokens))} if packed else {}
    return rows_seen | {
        "input_ids": paddle.to_tensor(draw.integers(1, 300, (rows, tokens))),
        "attention_mask": paddle.to_tensor(mask),
        "position_ids": paddle.to_tensor(draw.integers(0, 30, (rows, count, tokens))),
        "prefix_length": paddle.to_tensor(lengths // 3),
        "labels": paddle.to_tensor(labels),
    }


def outcome(model, inputs: dict[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    """The loss, the gradients of two backward passes by the names of their weights, and logits of real tokens."""
    for _ in range(2):
        loss = model(**inputs, label_smoothing=0.1)
        loss.backward()
    found = {"loss": loss.numpy()}
    found |= {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    logits = model(**{name: value for name, value in inputs.items() if name != "labels"})
    return found | {"logits": logits.numpy() * inputs["attention_mask"].numpy()[..., None]}


def distance(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> Iterator[tuple[float, str]]:
    """Of each array, as a share of the largest number of its own, or a hundredth of that of all gradients."""
    assert found.keys() == wanted.keys()
    largest = max(np.abs(array).max() for name, array in wanted.items() if name not in ("loss", "logits"))
    for name, array in wanted.items():
        yield float(np.abs(found[name] - array).max() / max(np.abs(array).max(), 0.01 * largest)), name


def refusal(model) -> str:
    """What generating says in training: what is read first of its prompt has equal shares, the last token has not."""
    ids = paddle.ones([1, 4 * process_count() + 1], "int64")
    try:
        model.generate(ids, attention_mask=ids, max_new_tokens=2, eos_token_id=0, pad_token_id=0, top_k=0)
    except UsageError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """The cases; then what dropout leaves of ones, and what generating says in training."""
    paddle.set_device("npu")
    tensor_parallel.start(process_count())
    get_rng_state_tracker().add(tensor_parallel.LOCAL_SEED, 1 + dist.get_rank())  # PaddleNLP's arguments do it
    for name, kind, tokens, way in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        shape = {"num_key_value_heads": 4} | SHAPES[name]
        shape["num_key_value_heads"] = max(process_count(), shape["num_key_value_heads"])
        models = [built(shape, kind, divides) for divides in (True, False)]
        seen = [tokens_of_norms(model) for model in models]
        inputs = batch(models[0].config, tokens, "packed" in way)
        with in_chunks() if "in chunks" in way else nullcontext():
            divided = outcome(models[0], inputs)
        outcomes = [divided, outcome(models[1], inputs)]
        found = {"tokens": [sorted(each) for each in seen], "distance": max(distance(*outcomes))}
        print("found", json.dumps(found), flush=True)
    left = tensor_parallel.dropout(models[0].config, 0.5)(paddle.ones([64]))
    print("dropped", json.dumps(left.tolist()), flush=True)
    print("refused", refusal(models[0]), flush=True)


if __name__ == "__main__":
    run_script(main)
