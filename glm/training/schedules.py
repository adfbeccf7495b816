"""Learning rates by step."""

from collections.abc import Callable
from math import cos, pi

from paddle.optimizer.lr import LambdaDecay


def linear_schedule(learning_rate: float, warmup: float, steps: int, decay_ratio: float) -> LambdaDecay:
    """Learning rate per step: up to `learning_rate` over `warmup` steps, then down to `decay_ratio` of it at
    `steps`.
    """
    return LambdaDecay(learning_rate, _factor(warmup, steps, decay_ratio, lambda left: left))


def cosine_schedule(learning_rate: float, warmup: float, steps: int, decay_ratio: float) -> LambdaDecay:
    """The same down half a cosine, min + (max − min)·½(1 + cos π·done): Megatron-LM, optimizer_param_scheduler.py."""
    return LambdaDecay(learning_rate, _factor(warmup, steps, decay_ratio, lambda left: 0.5 * (1.0 - cos(pi * left))))


def _factor(warmup: float, steps: int, decay_ratio: float, falls: Callable[[float], float]) -> Callable[[int], float]:
    """Of the highest rate, by the share of the fall that is left.

    The first step has step 0, so with a warm-up its rate is 0, as Megatron's and PaddleNLP's.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        left = max(0.0, (steps - step) / max(1, steps - warmup))
        return decay_ratio + (1.0 - decay_ratio) * falls(left)

    return factor
