"""A rank of tests/model/test_head_loss.py: its part of a head in chunks, against the whole head on one device.

Prints how far losses and gradients are off, a list for each kind of head.
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
from types import SimpleNamespace

import numpy as np
import paddle

from glm import GLMConfig, GLMForCausalLM
from glm.distributed import tensor_parallel
from glm.distributed.processes import process_count
from glm.model.head_loss import Head, chunked_losses
from glm.model.init import seeded
from glm.model.loss import Target, smoothed_cross_entropy

M, H, V, CHUNK = 23, 12, 37, 5
Target.chunk = CHUNK
paddle.set_device("npu")
tensor_parallel.start(process_count())
ranks = tensor_parallel.Ranks(SimpleNamespace(sequence_parallel=False, **tensor_parallel.tensor_parallel()))
width = -(-V // ranks.degree)
part = slice(ranks.rank * width, (ranks.rank + 1) * width)
draw = np.random.default_rng(5)
states, full = (draw.standard_normal(size).astype("float32") for size in ([M, H], [H, V]))
padded = np.pad(full, [(0, 0), (0, width * ranks.degree - V)])
labels = paddle.to_tensor(np.arange(M) * 5 % V)


def run(losses_of, array: np.ndarray, frozen: bool) -> list[np.ndarray]:
    hidden, weight = paddle.to_tensor(states, stop_gradient=False), paddle.to_tensor(array, stop_gradient=frozen)
    losses = losses_of(hidden, weight)
    (losses * paddle.arange(1, M + 1, dtype="float32").cos()).sum().backward()
    return [losses.numpy(), hidden.grad.numpy(), *([] if frozen else [weight.grad.numpy()])]


def compare(tied: bool, frozen: bool) -> list[float]:
    target = Target(0.1, V, ranks, width)
    alone = Target(0.1, V, SimpleNamespace(degree=1, rank=0), V)
    mine = padded[:, part].T if tied else padded[:, part]
    found = run(
        lambda h, w: chunked_losses(ranks.copy(h), Head(w, None, tied, "float32"), labels, target), mine, frozen
    )
    wanted = run(lambda h, w: smoothed_cross_entropy(paddle.matmul(h, w), labels, alone), full, frozen)
    if not frozen:
        whole = np.pad(wanted[2], [(0, 0), (0, width * ranks.degree - V)])[:, part]
        wanted[2] = whole.T if tied else whole
    return [float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True)]


def of_a_model(tied: bool) -> list[float]:
    """Losses and gradients of a model in chunks against those of all its logits at once."""
    shape = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = GLMConfig("glm4", **shape, tie_word_embeddings=tied, **tensor_parallel.tensor_parallel())
    with seeded(3):
        model = GLMForCausalLM(config)
    model.train()
    ids, results = paddle.to_tensor(np.arange(M)[None] % V), []
    for chunk in (CHUNK, M):
        Target.chunk = chunk
        rest = paddle.ones_like(ids), paddle.arange(M).reshape([1, 1, M]), paddle.zeros([1], "int64")
        losses = model(ids, *rest, labels.unsqueeze(0), 0.1, reduction="none")
        losses.sum().backward()
        results.append([losses.numpy(), *(p.grad.numpy() for p in model.parameters())])
        model.clear_gradients()
    Target.chunk = CHUNK
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(*results, strict=True)]


of_heads = [compare(tied, frozen) for tied in (False, True) for frozen in (False, True)]
print("off", json.dumps([*of_heads, of_a_model(False), of_a_model(True)]), flush=True)
