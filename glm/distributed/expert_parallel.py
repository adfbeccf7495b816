"""Expert parallelism: data-parallel ranks that divide the experts of a model among them.

Each rank has its own rows of a batch and n-th of every layer's experts. What its router sends to the experts of another
rank goes there and comes back by an all-to-all, whose gradient is the all-to-all the other way round (GShard,
arXiv:2006.16668, 3.2). Everything else is whole on every rank, as in data parallelism.

Shapes: n ranks, A experts, a = A / n of a rank, Z pairs of this rank sorted by expert, Y pairs of its experts, H
hidden.
"""

from functools import cache
from itertools import accumulate, pairwise

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer

from glm.distributed.tensor_parallel import RankGroup


class ExpertRanks(RankGroup):
    """The ranks that share the experts of a model, seen from one of them. With one rank, nothing moves.

    Args:
        config: a `GLMConfig`; its expert_parallel_degree is the number of ranks.
    """

    def __init__(self, config):
        self.degree, self.rank = config.expert_parallel_degree, config.expert_parallel_rank

    @property
    def group(self):
        return groups(self.degree)[0]

    def travel(self, counts: list[int]) -> "Travel":
        """The way of pairs to the ranks of their experts, and back. All ranks must call it.

        Args:
            counts: [A], pairs of each expert that this rank has.
        """
        return Travel(counts, self)


@cache
def groups(degree: int) -> tuple:
    """Of this process: the ranks that share one set of experts with it, neighbours; and those that have the same
    experts as it, None where it is the only one. All processes must call it, once they are joined.
    """
    count, rank = dist.get_world_size(), dist.get_rank()
    if count == degree:
        return dist.get_group(), None
    sharing = [list(range(first, first + degree)) for first in range(0, count, degree)]
    same = [list(range(first, count, degree)) for first in range(degree)]
    found = []
    for ranks in sharing + same:
        group = dist.new_group(ranks)
        dist.barrier()  # Gloo refuses connections where ranks that a group leaves out run ahead to the next one
        if rank in ranks:
            found.append(group)
    return tuple(found)


class Travel:
    """Pairs [Z, H] sorted by expert → those [Y, H] of this rank's experts, of all ranks, sorted alike; and back.

    A row of zeros goes along to every rank, counted to its last expert: it changes no sum and no gradient, and no
    message is empty, nor any rank without rows.

    Args:
        counts: as of `ExpertRanks.travel`.

    Attributes:
        counts: [a], rows of each expert of this rank.
    """

    def __init__(self, counts: list[int], ranks: ExpertRanks):
        self.ranks, self.counts = ranks, counts
        if ranks.degree == 1:
            return
        everywhere_nA = np.stack([part.numpy() for part in ranks.parts(paddle.to_tensor(counts, dtype="int64"))])
        everywhere_nna = everywhere_nA.reshape([ranks.degree, ranks.degree, -1])  # from, to, expert
        everywhere_nna[:, :, -1] += 1
        arriving_na = everywhere_nna[:, ranks.rank]
        self.sizes_nn, self.counts = everywhere_nna.sum(axis=2), arriving_na.sum(axis=0).tolist()
        expert_Y = np.repeat(np.tile(np.arange(len(self.counts)), ranks.degree), arriving_na.flatten())
        order_Y = np.argsort(expert_Y, kind="stable")
        self.order_Y, self.place_Y = paddle.to_tensor(order_Y), paddle.to_tensor(np.argsort(order_Y))

    def there(self, x_ZH: Tensor) -> Tensor:
        """[Z, H] → [Y, H]."""
        return x_ZH if self.ranks.degree == 1 else _There.apply(x_ZH, self)

    def back(self, y_YH: Tensor) -> Tensor:
        """[Y, H] → [Z, H]."""
        return y_YH if self.ranks.degree == 1 else _Back.apply(y_YH, self)

    def carry(self, x_ZH: Tensor) -> Tensor:
        """`there`, without gradient."""
        zeros_1H, parts = paddle.zeros([1, x_ZH.shape[1]], x_ZH.dtype), []
        for start, end in pairwise(accumulate((rows - 1 for rows in self._leaving), initial=0)):
            parts += [x_ZH[start:end], zeros_1H] if start < end else [zeros_1H]
        found = _exchanged(paddle.concat(parts), self.sizes_nn, self.ranks.group)
        return paddle.index_select(found, self.order_Y)

    def carry_back(self, y_YH: Tensor) -> Tensor:
        """`back`, without gradient."""
        found = _exchanged(paddle.index_select(y_YH, self.place_Y), self.sizes_nn.T, self.ranks.group)
        bounds = pairwise(accumulate(self._leaving, initial=0))
        return paddle.concat([found[start : end - 1] for start, end in bounds if start < end - 1])

    @property
    def _leaving(self) -> list[int]:
        return self.sizes_nn[self.ranks.rank].tolist()


class _There(PyLayer):
    @staticmethod
    def forward(ctx, x_ZH: Tensor, travel: Travel) -> Tensor:
        ctx.travel = travel
        return travel.carry(x_ZH)

    @staticmethod
    def backward(ctx, grad_YH: Tensor) -> Tensor:
        return ctx.travel.carry_back(grad_YH)


class _Back(PyLayer):
    @staticmethod
    def forward(ctx, y_YH: Tensor, travel: Travel) -> Tensor:
        ctx.travel = travel
        return travel.carry_back(y_YH)

    @staticmethod
    def backward(ctx, grad_ZH: Tensor) -> Tensor:
        return ctx.travel.carry(grad_ZH)


def _exchanged(x: Tensor, sizes_nn: np.ndarray, group) -> Tensor:
    """What the ranks of a group send to this one.

    Args:
        x: rows for the first rank, for the second one, …
        sizes_nn: how many rows go from each rank to each.
    """
    if group.backend == "GLOO":
        return _of_all(x, sizes_nn, group)
    leaving, arriving = sizes_nn[group.rank].tolist(), sizes_nn[:, group.rank].tolist()
    found = paddle.empty([sum(arriving), x.shape[1]], x.dtype)
    dist.alltoall_single(found, x, leaving, arriving, group=group)
    return found


def _of_all(x: Tensor, sizes_nn: np.ndarray, group) -> Tensor:
    """The same for Gloo, which has no all-to-all: each rank sends all to all. (Messages between two of four ranks time
    out in Paddle 3.3.1.)
    """
    ends_nn, parts = sizes_nn.cumsum(axis=1), []
    for source, (sizes_n, ends_n) in enumerate(zip(sizes_nn, ends_nn, strict=True)):
        rows = x if source == group.rank else paddle.empty([ends_n[-1], x.shape[1]], x.dtype)
        dist.broadcast(rows, group.ranks[source], group)
        end = ends_n[group.rank]
        parts.append(rows[end - sizes_n[group.rank] : end])
    return paddle.concat(parts)
