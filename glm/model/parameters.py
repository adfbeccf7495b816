"""Between a model's parameters and whole weights as arrays, whatever dtype and however many ranks share them."""

import ml_dtypes
import numpy as np
import paddle

from glm.config.shapes import is_expert_stack
from glm.distributed.expert_parallel import ExpertRanks
from glm.distributed.plan import is_padded, rank_part, split_axis, whole
from glm.distributed.tensor_parallel import Ranks


def set_parameter(parameter: paddle.Tensor, array: np.ndarray) -> None:
    """Copies an array of any float dtype into a parameter, in the parameter's dtype."""
    if parameter.dtype == paddle.bfloat16:
        array = array.astype(ml_dtypes.bfloat16).view(np.uint16)
    elif parameter.dtype == paddle.float16:
        array = array.astype(np.float16)
    else:
        array = array.astype(np.float32)
    parameter.set_value(np.ascontiguousarray(array))


def as_numpy(parameter: paddle.Tensor) -> np.ndarray:
    """A parameter as an array, bfloat16 included."""
    array = parameter.numpy()
    return array.view(ml_dtypes.bfloat16) if parameter.dtype == paddle.bfloat16 else array


def full_shape(name: str, parameter: paddle.Tensor, config) -> list[int]:
    """Shape of the weight of which a parameter is this rank's part, without padding."""
    shape, axis = list(parameter.shape), split_axis(name)
    if axis is not None and config.tensor_parallel_degree > 1:
        shape[axis] = config.vocab_size if is_padded(name) else shape[axis] * config.local_shard(name)[1]
    if is_expert_stack(name):
        shape[0] *= config.expert_parallel_degree
    return shape


def own_part(name: str, array: np.ndarray, config) -> np.ndarray:
    """This rank's part of a whole weight: a view, unless zeros must be added. The inverse of `full_weight`."""
    if is_expert_stack(name):
        array = array[config.own_experts.start : config.own_experts.stop]
    return rank_part(name, array, *config.local_shard(name))


def full_weight(name: str, parameter: paddle.Tensor, config) -> np.ndarray:
    """The weight of which a parameter is this rank's part, without padding. All ranks must call it."""
    owners = ExpertRanks(config)
    if owners.degree > 1 and is_expert_stack(name):
        return np.concatenate([as_numpy(part) for part in owners.parts(parameter)])
    ranks, axis = Ranks(config), split_axis(name)
    if ranks.degree == 1 or axis is None:
        return as_numpy(parameter)
    copies = ranks.degree // config.local_shard(name)[1]
    parts = [as_numpy(part) for part in ranks.parts(parameter)[::copies]]
    return whole(name, parts, full_shape(name, parameter, config)[axis])
