"""Loss and every gradient of a model with experts on a launch's ranks, or alone: expert_gradients.py MODEL OUTPUT WAY…

A way is how ranks share the model: "weights", by tensor parallelism; "tokens", those as well; "experts", and the rows
of the batch.

Rank 0 writes OUTPUT/WAY.npz, and the model as it was read into OUTPUT/WAY. Gradients are put together as weights are.
A whole weight must have the same gradient on every rank, so the largest difference between ranks is written beside it.
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from glm import GLMForCausalLM
from glm.cli.script import run_script
from glm.config.shapes import is_expert_stack
from glm.distributed import tensor_parallel
from glm.distributed.plan import split_axis
from glm.distributed.processes import process_count, process_rank
from glm.model.balance import Balance
from glm.model.experts import Router
from glm.model.init import seeded
from glm.model.lora import add_lora
from glm.model.parameters import full_shape, full_weight, own_part, set_parameter
from glm.training.expert_gradients import ExpertGradients

KINDS = ("full", "recomputed", "balanced", "one-sided", "LoRA", "LoRA of experts")
ROWS, TOKENS = 3, 7


def main() -> None:
    paddle.set_device("npu")
    tensor_parallel.start(process_count())
    for way in sys.argv[3:]:
        output = Path(sys.argv[2]) / way
        save(output, way)
        found = {}
        for kind in KINDS:
            found |= {f"{kind} {name}": array for name, array in measured(kind, way).items()}
        if process_rank() == 0:
            np.savez(output.with_suffix(".npz"), **found)


def save(directory: Path, way: str) -> None:
    """What was read, in both formats."""
    for form in ("safetensors", "pdparams"):
        loaded(way).save_pretrained(directory / form, weight_format=form, is_main_process=process_rank() == 0)


def loaded(way: str) -> GLMForCausalLM:
    fields = {"sequence_parallel": way == "tokens"}
    if way == "experts":
        fields = {"expert_parallel_degree": process_count(), "expert_parallel_rank": process_rank()}
        fields |= {"tensor_parallel_degree": 1, "tensor_parallel_rank": 0}
    return GLMForCausalLM.from_pretrained(sys.argv[1], dtype="float32", **fields)


def measured(kind: str, way: str) -> dict[str, np.ndarray]:
    network = loaded(way)
    config = network.config
    network.model.enable_recompute = kind == "recomputed"
    if kind == "balanced":
        Balance(network, loss_weight=0.5)
    if kind == "one-sided":
        for router in (layer for layer in network.sublayers() if isinstance(layer, Router)):
            router.e_score_correction_bias[4:] = -100.0
    model = network
    if "LoRA" in kind:
        with seeded(3):
            model = add_lora(network, 4, targets="experts" if "experts" in kind else "all")
        for name, parameter in network.named_parameters():
            if name.endswith("lora_B"):  # zeros, which would leave the first matrices without a gradient
                draw = np.random.default_rng(len(name)).standard_normal(full_shape(name, parameter, config))
                set_parameter(parameter, own_part(name, draw.astype("float32"), config))
    model.train()
    found = {"loss": backward(model, network, way).numpy()}
    for name, parameter in network.named_parameters():
        if not parameter.stop_gradient:
            found[name] = full_weight(name, parameter.grad, config)
            found[f"apart {name}"] = apart(name, parameter.grad, network, way)
    return found


def backward(model, network, way: str) -> paddle.Tensor:
    """The loss; of ranks with rows of their own it is their mean, and gradients are what the Trainer makes of them."""
    if way != "experts":
        loss = model(**batch())
        loss.backward()
        return loss
    own = {name: array[process_rank() :: process_count()] for name, array in batch().items()}
    loss = model(**own, reduction="none").sum() / (ROWS * TOKENS) * process_count()
    loss.backward()
    ExpertGradients(network).on_optimizer_begin(None, None, None)
    dist.all_reduce(mean := loss / process_count())
    return mean


def batch() -> dict[str, paddle.Tensor]:
    draw = np.random.default_rng(2)
    ids = draw.integers(8, 760, (ROWS, TOKENS))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": draw.integers(8, 760, ids.shape)}
    arrays |= {"position_ids": np.tile(np.arange(TOKENS), (ROWS, 1, 1)), "prefix_length": np.zeros(ROWS, "int64")}
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def apart(name: str, gradient: paddle.Tensor, network, way: str) -> np.ndarray:
    cut = is_expert_stack(name) if way == "experts" else split_axis(name) is not None
    if network.sharers.degree == 1 or cut:
        return np.float32(0)
    parts = [part.numpy() for part in network.sharers.parts(gradient)]
    return np.max([np.abs(part - parts[0]).max() for part in parts])


if __name__ == "__main__":
    run_script(main)
