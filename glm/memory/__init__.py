"""How much device memory one rank needs, computed: weights, gradients, optimizer, activations, generation.

tests/memory/ holds float32 against the peak that Paddle reports, on the CPU and on the simulated NPU. The sizes
of half precision come from the same count with two bytes for four; nothing could measure them here, nor sharding. A
GPU or an NPU rounds tensors up by 512 bytes at most, and its libraries take memory of their own: `HEADROOM` stands for
both.
"""

from glm.config.fields import ConfigFields
from glm.config.shapes import active_shapes, elements, lora_shapes, parameter_shapes
from glm.errors import UsageError
from glm.memory.generation import generation
from glm.memory.run import FP32, Memory, Run
from glm.memory.training import training

__all__ = ["GIB", "HEADROOM", "Memory", "Run", "estimate", "fits"]
GIB = 2**30
HEADROOM = 0.1  # of a device, left to its driver, to the kernels' workspace and to fragmentation


def estimate(config: ConfigFields, run: Run) -> Memory:
    """The memory of one rank: of the last one, which needs most where its part of the vocabulary is padded.

    Raises:
        UsageError: training at a degree at which the model only predicts, expert parallelism without training, or
            adapters of experts that there are not.
    """
    if run.train != "none":
        config.require_trainable()
    elif config.expert_parallel_degree > 1:
        raise UsageError(
            f"expert_parallel_degree is {config.expert_parallel_degree} and train none: ranks share experts in training"
        )
    if run.adapts_experts and not config.n_routed_experts:
        raise UsageError("lora_targets is experts, and this model has none: choose all")
    weights = elements(parameter_shapes(config), config)
    adapters = elements(lora_shapes(config, run.r, run.lora_targets), config) if run.train == "lora" else 0
    trained = {"none": 0, "full": weights, "lora": adapters}[run.train]
    states = 2 * FP32 + (FP32 if run.weight_size < FP32 else 0)
    activations, step_workspace = training(config, run) if trained else (0, 0)
    cache, generation_workspace = generation(config, run)
    return Memory(
        weights=(weights + adapters) * run.weight_size,
        gradients=_shared(trained * run.weight_size, run, ("stage2",)),
        optimizer=_shared(trained * states, run, ("stage1", "stage2")),
        activations=activations,
        step_workspace=step_workspace,
        cache=cache,
        generation_workspace=generation_workspace,
        active=elements(active_shapes(config), config.changed(expert_parallel_degree=1)) * run.weight_size,
    )


def fits(memory: Memory, device_memory: float) -> bool:
    """Whether a rank has enough on a device of so many GiB, of which `HEADROOM` stays free."""
    return memory.peak <= (1 - HEADROOM) * device_memory * GIB


def _shared(size: int, run: Run, stages: tuple[str, ...]) -> int:
    """Bytes of a state that sharding spreads over its ranks in these stages."""
    return -(-size // run.sharding_degree) if run.sharding in stages else size
