"""Random weights, which depend on a seed and on their name alone: not on the device, nor on the number of ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import paddle
from paddle import nn

from glm.model.parameters import full_shape, own_part, set_parameter

_skipped = False
_given_seed: int | None = None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Models that are built within have the weights of this seed; the global random state is left untouched."""
    global _given_seed
    _given_seed = seed
    try:
        yield
    finally:
        _given_seed = None


def draw_seed() -> int:
    """The next number of the generator that paddle.seed sets, or the one that `seeded` gives."""
    return _given_seed if _given_seed is not None else paddle.framework.core.default_cpu_generator().random() % 2**63


@contextmanager
def undrawn() -> Iterator[None]:
    """Layers that are built within start as zeros: cheap, and no draw of theirs comes between two seeds."""
    nn.initializer.set_global_initializer(nn.initializer.Constant(0.0), nn.initializer.Constant(0.0))
    try:
        yield
    finally:
        nn.initializer.set_global_initializer(None)


def randomise(model: nn.Layer, seed: int) -> None:
    """Normal(0, initializer_range) for the matrices of a `GLMForCausalLM`; norms start as the identity, biases as 0."""
    if _skipped:
        return
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            draw = np.random.default_rng([seed, crc32(name.encode())])
            shape = full_shape(name, parameter, model.config)
            array = draw.standard_normal(shape, dtype="float32") * model.config.initializer_range
            _set_part(parameter, name, array, model.config)
        else:
            set_parameter(parameter, np.full(parameter.shape, float(name.endswith(".weight")), "float32"))


def randomise_adapter(model: nn.Layer, seed: int) -> None:
    """Uniform(±1/√in) for the first matrices of LoRA adapters, as PaddleNLP draws them; the second ones start as 0."""
    for name, parameter in model.named_parameters():
        if name.endswith(".lora_A"):
            draw = np.random.default_rng([seed, crc32(name.encode())])
            shape = full_shape(name, parameter, model.config)
            bound = shape[-2] ** -0.5
            _set_part(parameter, name, draw.uniform(-bound, bound, shape).astype("float32"), model.config)


def _set_part(parameter: paddle.Tensor, name: str, array: np.ndarray, config) -> None:
    set_parameter(parameter, own_part(name, array, config))


@contextmanager
def without_initialisation() -> Iterator[None]:
    """Models that are built within keep zeros, because a checkpoint replaces them."""
    global _skipped
    _skipped = True
    try:
        yield
    finally:
        _skipped = False
