"""A step under expert parallelism (glm/distributed/expert_parallel.py), in place of Paddle's data parallelism.

The loss is the mean over the data-parallel ranks. A weight that all of them have gets the mean of their gradients. An
expert's gradient holds the rows of all ranks that share the experts already, each rank's unscaled, so it is divided by
the number of ranks, and added up over the ranks that have the same experts. Then every weight's gradient is that of
plain data parallelism.
"""

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group
from paddle.nn.clip import _squared_l2_norm
from paddlenlp.trainer import TrainerCallback

from glm.config.shapes import is_expert_stack
from glm.distributed.expert_parallel import groups


class ExpertGradients(TrainerCallback):
    """Makes the gradients of a step those of all ranks, before they are clipped.

    Args:
        model: a `GLMNetwork`, whose experts ranks share.
    """

    def __init__(self, model: nn.Layer):
        self.degree = model.config.expert_parallel_degree
        trained = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
        self.experts = [p for name, p in trained if is_expert_stack(name)]
        self.shared = [p for name, p in trained if not is_expert_stack(name)]

    @paddle.no_grad()
    def on_optimizer_begin(self, args, state, control, **kwargs) -> None:
        fused_allreduce_gradients_with_group(self.shared, None)
        same = groups(self.degree)[1]
        if same is None:
            for parameter in self.experts:
                parameter.grad.scale_(1 / self.degree)
        else:
            fused_allreduce_gradients_with_group(self.experts, same, scale=1 / dist.get_world_size())

    def clip(self, optimizer) -> None:
        """Makes an optimizer that cuts gradients by their norm do so by that of all ranks'."""
        if optimizer._grad_clip is not None:
            own = {parameter.name for parameter in self.experts}
            optimizer._grad_clip = ClipWithExperts(optimizer._grad_clip.clip_norm, own, groups(self.degree)[0])


class ClipWithExperts(nn.ClipGradByGlobalNorm):
    """Cuts gradients by the norm of all weights', each expert's once, on whatever rank.

    Args:
        experts: names of the parameters that hold this rank's experts.
        group: the ranks that share the experts.
    """

    def __init__(self, clip_norm: float, experts: set[str], group):
        super().__init__(clip_norm)
        self.experts, self.group = experts, group

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        there = [(parameter, grad) for parameter, grad in params_grads if grad is not None]
        own = _squares(grad for parameter, grad in there if parameter.name in self.experts)
        dist.all_reduce(own, group=self.group)
        norm = (own + _squares(grad for parameter, grad in there if parameter.name not in self.experts)).sqrt()
        factor = self.clip_norm / norm.clip(min=self.clip_norm)
        for _, grad in there:
            grad.multiply_(factor.astype(grad.dtype))  # in place, as Paddle's: a second set would double them
        return there


def _squares(grads) -> Tensor:
    """The sum of all squares, 0-D float32."""
    total = paddle.zeros([])
    for grad in grads:
        total = total + _squared_l2_norm(grad).astype("float32").sum()
    return total
