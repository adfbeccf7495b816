"""Paddle's AdamW and clipping by the global norm, with a step that reads weights, gradients and moments once."""

from math import sqrt

import paddle
from paddle import Tensor
from paddle.nn import ClipGradByGlobalNorm

from glm.kernels.library import fault, numel, run, serves


class AdamW(paddle.optimizer.AdamW):
    """The same states and formula (arXiv:1711.05101); gradients are given back after a step instead of set to 0."""

    def clear_grad(self, set_to_zero: bool = False) -> None:
        super().clear_grad(set_to_zero)

    def _append_optimize_op(self, block, param_and_grad):
        weight, grad = param_and_grad
        factor = getattr(self._grad_clip, "factor", 1.0)
        if self._takes(weight, grad):
            self._step_of(weight, grad, factor)
            return None
        return super()._append_optimize_op(block, (weight, grad if factor == 1.0 else grad * factor))

    def _takes(self, weight: Tensor, grad: Tensor) -> bool:
        plain = not self._amsgrad and self._lr_ratio is None and isinstance(self._beta1, float)
        plain &= isinstance(self._weight_decay, float)
        return plain and grad.is_dense() and serves(weight, grad) and serves(*self._moments(weight))

    def _moments(self, weight: Tensor) -> list[Tensor]:
        return [self._get_accumulator(name, weight) for name in (self._moment1_acc_str, self._moment2_acc_str)]

    def _step_of(self, weight: Tensor, grad: Tensor, factor: float) -> None:
        names = (self._beta1_pow_acc_str, self._beta2_pow_acc_str)
        powers = (self._get_accumulator(name, weight) for name in names)
        rate, decays = self.get_lr() * weight.optimize_attr["learning_rate"], self._apply_decay_param_fun
        decay = rate * self._weight_decay if decays is None or decays(weight.name) else 0.0
        numbers = (factor, rate, decay, self._beta1, self._beta2, self._epsilon)
        run("adamw", weight, grad, *self._moments(weight), *powers, numel(weight), *numbers)


class GlobalNormClip(ClipGradByGlobalNorm):
    """Leaves the gradients as they are, and tells `AdamW` the `factor` that they are to be multiplied by.

    Of one process: the norm of several ranks' gradients is more than the sum of its own.
    """

    factor = 1.0

    def _dygraph_clip(self, params_grads: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        grads = [grad for weight, grad in params_grads if getattr(weight, "need_clip", True)]
        if len(grads) < len(params_grads) or not all(grad.is_dense() and serves(grad) for grad in grads):
            self.factor = 1.0
            return super()._dygraph_clip(params_grads)
        norm = sqrt(sum(run("squares", grad, numel(grad)) for grad in grads))
        self.factor = self.clip_norm / max(norm, self.clip_norm)
        return params_grads


def take_kernels(optimizer: paddle.optimizer.Optimizer) -> None:
    """Makes Paddle's AdamW and its clipping those of this module, on a CPU that has kernels; of one process."""
    if paddle.get_device() != "cpu" or fault() is not None or type(optimizer) is not paddle.optimizer.AdamW:
        return
    # PaddleNLP chooses both classes itself, and leaves no way to give it others.
    optimizer.__class__ = AdamW
    if type(optimizer._grad_clip) is ClipGradByGlobalNorm:
        optimizer._grad_clip.__class__ = GlobalNormClip
