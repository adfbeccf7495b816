"""Layers and collectives of tensor parallelism, and plain ones where no degree is set.

The model is written for one device: it asks here for its linear layers and its embedding, and gets those that hold a
rank's part of the plan (glm/distributed/plan.py) where `config.tensor_parallel_degree` is above 1. Paddle's fleet
carries them out; with `config.sequence_parallel` glm/distributed/sequence_parallel.py does.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.distributed import fleet
from paddle.distributed.fleet.layers.mpu import mp_ops
from paddle.distributed.fleet.meta_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    get_rng_state_tracker,
)

from glm.distributed.plan import COLUMN, KEYS_AND_VALUES, PADDED, PLAN, padded
from glm.distributed.processes import process_count
from glm.distributed.sequence_parallel import (
    GatheringLinear,
    GathersTokens,
    ScatteringEmbedding,
    ScatteringLinear,
    gather_tokens,
    gather_whole,
    gathered_columns,
    own_share,
    scatter_sum,
)
from glm.errors import UsageError
from glm.kernels import applied
from glm.kernels.activations import biased, gated, silu
from glm.kernels.dropout import Dropout
from glm.kernels.linear import gated_products, multiplies, products

LOCAL_SEED = "local_seed"  # PaddleNLP's name for the random numbers that differ between the ranks


class Linear(nn.Linear):
    """x·W + b, with W [in, out], and a bias gradient that runs at the speed of a matmul."""

    def forward(self, x: Tensor) -> Tensor:
        if multiplies(x, self.weight):
            return products(x, [(self.weight, self.bias)])[0]
        y = paddle.matmul(x, self.weight)
        if self.bias is None:
            return y
        if self.training:
            return applied(AddBias, y, self.bias)
        return y + self.bias if paddle.is_grad_enabled() else biased(y, self.bias)


class AddBias(PyLayer):
    """y [..., out] + b [out]; Paddle's own gradient of a broadcast addition takes longer on a CPU than the matmul."""

    @staticmethod
    def forward(ctx, y: Tensor, bias: Tensor) -> Tensor:
        ctx.passes_on, ctx.learns = not y.stop_gradient, not bias.stop_gradient
        return biased(y, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return grad if ctx.passes_on else None, sum_of_rows(grad) if ctx.learns else None


def sum_of_rows(x: Tensor) -> Tensor:
    """[..., n] → [n], as a matmul: Paddle's own sum over rows takes 20 times as long on a CPU."""
    rows = x.flatten(0, -2)
    return paddle.matmul(paddle.ones([1, rows.shape[0]], x.dtype), rows).flatten()


def linear(config, name: str, in_features: int, out_features: int, bias: bool = True) -> nn.Layer:
    """The linear layer `name`, with the part of its weight [in, out] that belongs to this rank by the plan.

    Cut by columns, [..., in] → [..., out / degree]; cut by rows, [..., in / degree] → [..., out]. Each rank has one of
    the key/value heads where they are fewer than the ranks: [..., in] → [..., head_dim]. Not in the plan: whole.
    """
    if config.tensor_parallel_degree <= 1 or name not in PLAN:
        return Linear(in_features, out_features, bias_attr=None if bias else False)
    divided = has_own_tokens(config, name)
    if PLAN[name] == COLUMN:
        out_features *= config.kv_replicas if name in KEYS_AND_VALUES else 1
        out_features = padded(out_features, config.tensor_parallel_degree) if name in PADDED else out_features
        layer = GatheringLinear if divided else ColumnParallelLinear
        return layer(in_features, out_features, has_bias=bias, gather_output=False)
    layer = ScatteringLinear if divided else RowParallelLinear
    return layer(in_features, out_features, has_bias=bias, input_is_parallel=True)


def has_own_tokens(config, name: str) -> bool:
    """Whether the linear layer `name` gets this rank's tokens, or gives them: all but the head, which gets all."""
    return config.sequence_parallel and name not in PADDED


def columns(x: Tensor, *layers: nn.Layer) -> Iterator[Tensor]:
    """What each of several layers that are cut by columns makes of one input: [B, T, in] → [B, T, out / degree]; under
    sequence parallelism x is [B, T / degree, in] in training.
    """
    if isinstance(layers[0], GathersTokens) and layers[0].training:
        return gathered_columns(x, *layers)
    parts = _few_rows(x, *layers)
    return iter(products(x, parts)) if parts else (layer(x) for layer in layers)


def gated_mlp(
    x: Tensor, activation: Callable[[Tensor], Tensor], gate: nn.Layer, up: nn.Layer, down: nn.Layer
) -> Tensor:
    """down(activation(gate(x)) · up(x)) [..., H]; the first two are cut by columns, the last one by rows."""
    parts = _few_rows(x, gate, up, down) if activation is silu else None
    # One after the other: `gated` lets go of the first one before it asks for the second.
    return gated_products(x, *parts) if parts else down(gated(activation, columns(x, gate, up)))


def _few_rows(x: Tensor, *layers: nn.Layer) -> list[tuple[Tensor, Tensor | None]] | None:
    """Weights and biases of whole, plain layers, if the kernel for few rows takes them."""
    if not (_is_bare(layers[0]) and multiplies(x, layers[0].weight) and all(map(_is_bare, layers))):
        return None
    return [(layer.weight, layer.bias) for layer in layers]


def _is_bare(layer: nn.Layer) -> bool:
    """Whether a call of it is x·W + b and nothing else: no adapter, no ranks, no hook, no other `forward`."""
    changed = "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_post_hooks
    return type(layer) is Linear and not changed


def is_plain(layer: nn.Layer) -> bool:
    """Whether it is what `linear` makes, and no layer with an adapter in its place."""
    return type(layer) in (Linear, ColumnParallelLinear, RowParallelLinear)


def embedding(config, rows: int, width: int) -> nn.Layer:
    """The word embedding [rows, width], [...] ids → [..., width], with this rank's rows of the padded vocabulary."""
    degree = config.tensor_parallel_degree
    if degree <= 1:
        return nn.Embedding(rows, width)
    return (ScatteringEmbedding if config.sequence_parallel else VocabParallelEmbedding)(padded(rows, degree), width)


def dropout(config, rate: float) -> nn.Dropout:
    """Dropout between the tensor-parallel parts: alike on all ranks, or of each rank's own tokens."""
    return OwnDropout(rate, Ranks(config)) if config.sequence_parallel else Dropout(rate)


class OwnDropout(Dropout):
    """Dropout of what each rank has for itself, with random numbers of its own."""

    def __init__(self, rate: float, ranks: "Ranks"):
        super().__init__(rate)
        self.ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.p):
            return x
        with self.ranks.own_random_numbers():
            return super().forward(x)


class RankGroup:
    """Ranks that share something, `degree` of them in `group`."""

    def barrier(self) -> None:
        """Returns when all ranks have come here."""
        if self.degree > 1:
            dist.barrier(self.group)

    def parts(self, x: Tensor) -> list[Tensor]:
        """The tensors [...] of all ranks, in their order, on every rank; equal shapes."""
        parts: list[Tensor] = []
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return parts


class Ranks(RankGroup):
    """The ranks that share one model, seen from one of them. With one rank, every collective does nothing.

    Args:
        config: a `GLMConfig`; its tensor_parallel_degree is the number of ranks.

    Attributes:
        sequence_parallel: whether they divide the tokens of a row among them where they do not divide weights.
    """

    def __init__(self, config):
        self.degree = max(config.tensor_parallel_degree, 1)
        self.rank = max(config.tensor_parallel_rank, 0) if self.degree > 1 else 0
        self.sequence_parallel = config.sequence_parallel

    @property
    def group(self):
        return fleet.get_hybrid_communicate_group().get_model_parallel_group()

    def copy(self, x: Tensor) -> Tensor:
        """x as it is; its gradients of all ranks are added up."""
        return mp_ops._c_identity(x, group=self.group) if self.degree > 1 else x

    def add_up(self, x: Tensor) -> Tensor:
        """The sum over the ranks; its gradient is each rank's as it is."""
        if self.degree <= 1:
            return x
        return mp_ops._mp_allreduce(x, group=self.group, use_calc_stream=True, use_model_parallel=True)

    def gather_columns(self, x: Tensor, width: int) -> Tensor:
        """The columns [..., W] of all ranks beside each other, without the padding: [..., width]."""
        return mp_ops._c_concat(x, group=self.group)[..., :width] if self.degree > 1 else x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the ranks, without gradient."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def max(self, x: Tensor) -> Tensor:
        """The maximum over the ranks, without gradient."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def _reduced(self, x: Tensor, operation) -> Tensor:
        if self.degree > 1:
            x = x.clone()
            dist.all_reduce(x, operation, group=self.group)
        return x

    def own_random_numbers(self):
        """Within it, ranks draw different numbers: dropout on what each has for itself. Elsewhere all draw the same."""
        return get_rng_state_tracker().rng_state(LOCAL_SEED) if self.degree > 1 else nullcontext()


class TokenShares(nn.Layer):
    """Where rows of tokens are divided among the ranks, and put together; nothing changes without sequence parallelism.

    Args:
        ranks: of the model.
    """

    def __init__(self, ranks: Ranks):
        super().__init__()
        self.ranks = ranks

    @property
    def divides(self) -> bool:
        return self.training and self.ranks.sequence_parallel

    def even(self, x: Tensor, padding: int = 0) -> Tensor:
        """[…, T] with as much padding on the right as equal shares need."""
        missing = -x.shape[-1] % self.ranks.degree if self.divides else 0
        return paddle.concat([x, paddle.full([*x.shape[:-1], missing], padding, x.dtype)], -1) if missing else x

    def real(self, x: Tensor, tokens: int) -> Tensor:
        """[B, tokens, …], without that padding."""
        return x[:, :tokens] if self.divides else x

    def own(self, x: Tensor) -> Tensor:
        """This rank's columns [..., T/n] of what all ranks have, [..., T]."""
        return own_share(x, -1, self.ranks.group) if self.divides else x

    def whole(self, hidden: Tensor) -> Tensor:
        """All hidden states [B, T, H], of the shares [B, T/n, H]."""
        return gather_whole(hidden, self.ranks.group) if self.divides else hidden

    # In front of a layer that needs all tokens and knows no collectives, and behind it:

    def gather(self, x: Tensor) -> Tensor:
        """All tokens [B, T, …], of the shares [B, T/n, …]; each rank has a part of their gradient."""
        return gather_tokens(x, self.ranks.group) if self.divides else x

    def copy(self, x: Tensor) -> Tensor:
        """`Ranks.copy`, where neither a `gather` in front nor `add_up_gradients` sums what each rank has."""
        return x if self.divides else self.ranks.copy(x)

    def add_up(self, x: Tensor) -> Tensor:
        """The sum over the ranks, or the share [B, T/n, …] of it."""
        return scatter_sum(x, self.ranks.group) if self.divides else self.ranks.add_up(x)

    def once(self, x: Tensor) -> Tensor:
        """What every rank has whole behind a `gather`, whose gradient must not count once for each of them."""
        return x / self.ranks.degree + (x * (1 - 1 / self.ranks.degree)).detach() if self.divides else x


def tensor_parallel() -> dict[str, int]:
    """`tensor_parallel_degree` and `_rank` of this process, for a `GLMConfig`; 1 and 0 before `start`."""
    # Plain data parallelism joins the processes without fleet.
    groups = getattr(fleet.fleet, "_hcg", None)
    if groups is None:
        return {"tensor_parallel_degree": 1, "tensor_parallel_rank": 0}
    return {
        "tensor_parallel_degree": groups.get_model_parallel_world_size(),
        "tensor_parallel_rank": groups.get_model_parallel_rank(),
    }


def start(degree: int) -> None:
    """Joins the processes of a launch into tensor-parallel groups of so many, as prediction and evaluation need it;
    training leaves that to PaddleNLP's arguments. With several groups, processes beside each other share one.

    Raises:
        UsageError: the number of processes is no multiple of the degree.
    """
    if process_count() % degree:
        raise UsageError(f"tensor_parallel_degree {degree} does not divide the {process_count()} processes launched")
    if degree > 1 and not dist.is_initialized():
        strategy = fleet.DistributedStrategy()
        sizes = {"dp_degree": process_count() // degree, "mp_degree": degree, "pp_degree": 1, "sharding_degree": 1}
        strategy.hybrid_configs = sizes
        fleet.init(is_collective=True, strategy=strategy)
