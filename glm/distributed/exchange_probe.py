"""Tries the exchange of expert parallelism (expert_parallel.py) before a model is loaded: what fails is one line."""

from collections.abc import Iterator
from types import SimpleNamespace

import paddle

from glm.device.paddle_reason import paddle_reason
from glm.device.probe import device_fault
from glm.distributed.expert_parallel import ExpertRanks
from glm.distributed.processes import process_rank
from glm.errors import GLMError


def probe_exchange(degree: int) -> None:
    """Tries what expert parallelism sends between so many ranks. Every process calls it, once they are joined.

    Raises:
        GLMError: it fails or gives wrong numbers; the line names the rank and Paddle's reason.
    """
    try:
        fault = next(filter(None, (device_fault(*each, "float32") for each in _exchanges(degree))), None)
    except Exception as error:  # whatever Paddle's operators raise
        fault = paddle_reason(error)
    if fault:
        device = paddle.device.get_device().split(":")[0]
        raise GLMError(
            f"the exchange of expert parallelism fails between {degree} {device}s, on rank {process_rank()}: {fault}; "
            "leave expert_parallel_degree out"
        )


def _exchanges(degree: int) -> Iterator[tuple[paddle.Tensor, list[list[float]]]]:
    """What arrives, and what comes back, beside what should: rank r sends e + 1 rows of 100 r + e to the rank of expert
    e, where a row of zeros follows.
    """
    place = process_rank() % degree
    ranks = ExpertRanks(SimpleNamespace(expert_parallel_degree=degree, expert_parallel_rank=place))
    travel = ranks.travel([expert + 1 for expert in range(degree)])
    rows = [[100.0 * place + expert] for expert in range(degree) for _ in range(expert + 1)]
    found = travel.there(paddle.to_tensor(rows))
    yield found, [row for peer in range(degree) for row in [*[[100.0 * peer + place]] * (place + 1), [0.0]]]
    yield travel.back(found), rows
