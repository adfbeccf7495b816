"""Loss and every gradient of a model with experts on this launch's ranks, or alone: expert_gradients.py MODEL OUTPUT.

With a third argument, "divided", the ranks share the tokens, too.

Rank 0 writes OUTPUT; gradients are put together as weights are. A whole weight must have the same gradient on every
rank, so the largest difference between ranks is written beside it.
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import sys

import numpy as np
import paddle

from glm import GLMForCausalLM
from glm.cli.script import run_script
from glm.distributed import tensor_parallel
from glm.distributed.plan import rank_part, split_axis
from glm.distributed.processes import process_count, process_rank
from glm.model.balance import Balance
from glm.model.init import seeded
from glm.model.lora import add_lora
from glm.model.parameters import full_shape, full_weight, set_parameter

KINDS = ("full", "recomputed", "balanced", "LoRA", "LoRA of experts")
ROWS, TOKENS = 3, 7


def main() -> None:
    paddle.set_device("npu")
    tensor_parallel.start(process_count())
    found = {}
    for kind in KINDS:
        found |= {f"{kind} {name}": array for name, array in measured(kind).items()}
    if process_rank() == 0:
        np.savez(sys.argv[2], **found)


def measured(kind: str) -> dict[str, np.ndarray]:
    divided = sys.argv[3:] == ["divided"]
    network = GLMForCausalLM.from_pretrained(sys.argv[1], dtype="float32", sequence_parallel=divided)
    config = network.config
    network.model.enable_recompute = kind == "recomputed"
    if kind == "balanced":
        Balance(network, loss_weight=0.5)
    model = network
    if "LoRA" in kind:
        with seeded(3):
            model = add_lora(network, 4, targets="experts" if "experts" in kind else "all")
        for name, parameter in network.named_parameters():
            if name.endswith("lora_B"):  # zeros, which would leave the first matrices without a gradient
                draw = np.random.default_rng(len(name)).standard_normal(full_shape(name, parameter, config))
                set_parameter(parameter, rank_part(name, draw.astype("float32"), *config.local_shard(name)))
    model.train()
    loss = model(**batch())
    loss.backward()
    found = {"loss": loss.numpy()}
    for name, parameter in network.named_parameters():
        if not parameter.stop_gradient:
            found[name] = full_weight(name, parameter.grad, config)
            found[f"apart {name}"] = apart(name, parameter.grad, network)
    return found


def batch() -> dict[str, paddle.Tensor]:
    draw = np.random.default_rng(2)
    ids = draw.integers(8, 760, (ROWS, TOKENS))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": draw.integers(8, 760, ids.shape)}
    arrays |= {"position_ids": np.tile(np.arange(TOKENS), (ROWS, 1, 1)), "prefix_length": np.zeros(ROWS, "int64")}
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def apart(name: str, gradient: paddle.Tensor, network) -> np.ndarray:
    if network.ranks.degree == 1 or split_axis(name) is not None:
        return np.float32(0)
    parts = [part.numpy() for part in network.ranks.parts(gradient)]
    return np.max([np.abs(part - parts[0]).max() for part in parts])


if __name__ == "__main__":
    run_script(main)
