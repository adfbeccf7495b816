"""Layers that divide tokens among experts (GLM-4.5, arXiv:2508.06471, 2.1; DeepSeek-V3, arXiv:2412.19437, 2.1.2).

y = Σ w·expert(x) over the J experts that the router chose, and what the shared experts make of x. No token is dropped:
(token, choice) pairs are sorted by expert, and each expert that has some multiplies its own rows.

Shapes: B rows, T tokens of a row, M = B·T, H hidden, A experts, J of them a token, Z = M·J pairs, I inputs and O
outputs of a projection, U groups of experts.
"""

from collections.abc import Callable, Iterator

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from glm.distributed.expert_parallel import ExpertRanks
from glm.distributed.plan import COLUMN, PLAN
from glm.distributed.tensor_parallel import Ranks, TokenShares
from glm.errors import UsageError
from glm.kernels.activations import gated
from glm.model.attention_choice import compute_dtype
from glm.model.layers import ACTIVATIONS, MLPS
from glm.model.tracing import dim

_TINY = 1e-20  # of a sum of weights, as the reference has it


def mlp(config, layer: int) -> nn.Layer:
    """The MLP of a layer, counted from 0: [B, T, H] → [B, T, H]."""
    if config.is_sparse(layer):
        return SparseMLP(config)
    return MLPS[config.mlp_type](config, config.intermediate_size)


class SparseMLP(nn.Layer):
    """Router, experts, and the experts that every token takes.

    Under sequence parallelism the routed ones see all tokens, since each rank has a part of every expert.
    """

    def __init__(self, config):
        super().__init__()
        self.tokens = TokenShares(Ranks(config))
        self.gate, self.experts = Router(config), Experts(config)
        shared = config.n_shared_experts * config.moe_intermediate_size
        self.shared_experts = MLPS[config.mlp_type](config, shared) if shared else None

    def forward(self, x_BTH: Tensor) -> Tensor:
        all_BTH = self.tokens.gather(x_BTH)
        x_MH = all_BTH.flatten(0, 1)
        parts_MH = self.experts(x_MH, *self.gate(x_MH))
        routed_BTH = self.tokens.add_up(parts_MH.reshape([dim(all_BTH, 0), dim(all_BTH, 1), -1]))
        return routed_BTH if self.shared_experts is None else routed_BTH + self.shared_experts(x_BTH)


class Router(nn.Layer):
    """Which experts a token takes, and how much each of them weighs. Float32 in every precision.

    s = sigmoid(x·W). The correction bias takes part in the choice and not in the weights; it is no parameter: a
    balanced load moves it, not a gradient (arXiv:2408.15664).
    """

    def __init__(self, config):
        super().__init__()
        experts = config.n_routed_experts
        self.weight = self.create_parameter([config.hidden_size, experts], dtype="float32")
        self.register_buffer("e_score_correction_bias", paddle.zeros([experts], dtype="float32"))
        self.top_k, self.groups, self.top_groups = config.num_experts_per_tok, config.n_group, config.topk_group
        self.normalises, self.scale = config.norm_topk_prob, config.routed_scaling_factor
        self.tokens = TokenShares(Ranks(config))
        self.watch: Callable[[Tensor, Tensor], Tensor] | None = None  # of glm/model/balance.py
        self.balance_loss: Tensor | None = None  # of the last call, in training

    def forward(self, x_MH: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen experts [M, J] int64, and their weights [M, J] float32."""
        with paddle.amp.auto_cast(enable=False):
            scores_MA = paddle.nn.functional.sigmoid(paddle.matmul(x_MH.astype("float32"), self.weight))
            chosen_MJ = self.choose(scores_MA)
            if self.watch and self.training:
                self.balance_loss = self.tokens.once(self.watch(scores_MA, chosen_MJ))
            weights_MJ = paddle.take_along_axis(scores_MA, chosen_MJ, axis=1)
            if self.normalises:
                weights_MJ = weights_MJ / (weights_MJ.sum(axis=1, keepdim=True) + _TINY)
            return chosen_MJ, weights_MJ * self.scale

    @paddle.no_grad()
    def choose(self, scores_MA: Tensor) -> Tensor:
        """[M, J]: the best by score and bias, of the groups whose two best have the largest sums."""
        choice_MA = scores_MA + self.e_score_correction_bias
        if self.groups > 1:
            choice_MUa = choice_MA.reshape([0, self.groups, -1])
            rated_MU = choice_MUa.topk(2, axis=-1)[0].sum(axis=-1)
            kept = rated_MU.topk(self.top_groups, axis=-1)[1]
            mask_MU = paddle.zeros_like(rated_MU).put_along_axis(kept, 1.0, axis=1)
            # The reference counts what it passes over as 0, not as the least.
            choice_MA = (choice_MUa * mask_MU.unsqueeze(-1)).flatten(1)
        return choice_MA.topk(self.top_k, axis=-1)[1]

    def _apply(self, func, device, dtype, blocking, include_sublayers=True) -> None:
        """Whatever dtype the model is moved to."""
        super()._apply(func, device, None if dtype is None else "float32", blocking, include_sublayers)


class Experts(nn.Layer):
    """Gated MLPs side by side: one weight [A, I, O] for each projection of all of them.

    Under tensor parallelism every rank has a part of each expert, as of a dense MLP: what it gives is a part of a sum.
    Under expert parallelism it has some experts whole, and pairs travel to the ranks of theirs, and back.
    """

    def __init__(self, config):
        super().__init__()
        width, inner = config.hidden_size, config.moe_intermediate_size
        self.gate_proj = StackedLinear(config, "gate_proj", width, inner)
        self.up_proj = StackedLinear(config, "up_proj", width, inner)
        self.down_proj = StackedLinear(config, "down_proj", inner, width)
        self.activation, self.tokens = ACTIVATIONS[config.hidden_act], TokenShares(Ranks(config))
        self.count, self.owners = config.n_routed_experts, ExpertRanks(config)

    def forward(self, x_MH: Tensor, chosen_MJ: Tensor, weights_MJ: Tensor) -> Tensor:
        """This rank's part of the sum [M, H], in the dtype of x.

        Args:
            chosen_MJ: int64. weights_MJ: float32, the same on every tensor-parallel rank.

        Raises:
            UsageError: ranks share the experts, and this is no training, in which they come here together.
        """
        if not paddle.in_dynamic_mode():
            return self._all_on_every_token(x_MH, chosen_MJ, weights_MJ)
        if self.owners.degree > 1 and not self.training:
            raise UsageError(
                f"{self.owners.degree} ranks share the experts of this model (expert_parallel_degree), which trains "
                "and does nothing else: save it, and load it whole"
            )
        x_MH, weights_MJ = self.tokens.copy(x_MH), self.tokens.copy(weights_MJ)
        pairs = Pairs(chosen_MJ, self.count)
        travel = self.owners.travel(pairs.counts)
        x_YH = travel.there(SortPairs.apply(x_MH, pairs))
        inner = gated(self.activation, (proj(x_YH, travel.counts) for proj in (self.gate_proj, self.up_proj)))
        y_MJH = UnsortPairs.apply(travel.back(self.down_proj(inner, travel.counts)), pairs)
        with paddle.amp.auto_cast(enable=False):
            y_MH = paddle.matmul(weights_MJ.unsqueeze(1), y_MJH.astype("float32")).squeeze(1)
        return y_MH.astype(x_MH.dtype)

    def _all_on_every_token(self, x_MH: Tensor, chosen_MJ: Tensor, weights_MJ: Tensor) -> Tensor:
        """As `forward`, for graphs, whose shapes depend on no numbers: A / J times the products, most of them by 0."""
        weights_MA = (F.one_hot(chosen_MJ, self.count) * weights_MJ.unsqueeze(-1)).sum(axis=1)
        gate_AMI, up_AMI = (paddle.matmul(x_MH.unsqueeze(0), part.weight) for part in (self.gate_proj, self.up_proj))
        inner_MAI = (self.activation(gate_AMI) * up_AMI).transpose([1, 0, 2])
        inner_MAI = inner_MAI * weights_MA.unsqueeze(-1).astype(inner_MAI.dtype)
        return paddle.matmul(inner_MAI.flatten(1), self.down_proj.weight.flatten(0, 1))


class StackedLinear(nn.Layer):
    """The projection of every expert of this rank, rows sorted by expert: [Z, I] → [Z, O], without bias.

    Args:
        name: of the plan, which cuts the weight [A, I, O] as it cuts the dense one.
    """

    def __init__(self, config, name: str, in_features: int, out_features: int):
        super().__init__()
        degree = config.tensor_parallel_degree
        if PLAN[name] == COLUMN:
            out_features //= degree
        else:
            in_features //= degree
        self.weight = self.create_parameter([len(config.own_experts), in_features, out_features])
        self.weight.is_distributed = degree > 1  # Paddle's norms of gradients ask so
        self.adapter: Callable[[Tensor, Tensor, list[int]], Tensor] | None = None  # glm/model/expert_lora.py

    def forward(self, x_ZI: Tensor, counts: list[int]) -> Tensor:
        """Args: counts: how many rows belong to each expert."""
        dtype = compute_dtype(self.weight)
        with paddle.amp.auto_cast(enable=False):
            y_ZO = GroupedMatmul.apply(x_ZI.astype(dtype), self.weight.astype(dtype), counts)
        return y_ZO if self.adapter is None else self.adapter(x_ZI, y_ZO, counts)


class Pairs:
    """(token, choice) pairs sorted by expert.

    Args:
        chosen_MJ: experts of every token.
        experts: A.

    Attributes:
        token_Z: the token of each pair. rank_Z: where each pair, counted token by token, stands among the sorted ones.
        counts: pairs of each expert.
    """

    def __init__(self, chosen_MJ: Tensor, experts: int):
        self.top_k = chosen_MJ.shape[1]
        expert_Z = chosen_MJ.flatten()
        order_Z = paddle.argsort(expert_Z, stable=True)
        self.order_Z, self.token_Z = order_Z, order_Z // self.top_k
        self.rank_Z = paddle.argsort(order_Z)
        self.counts = paddle.bincount(expert_Z, minlength=experts).tolist()


class SortPairs(PyLayer):
    """[M, H] → [Z, H]: the token of every pair. Its gradient is gathered and added up, not scattered."""

    @staticmethod
    def forward(ctx, x_MH: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        return paddle.index_select(x_MH, pairs.token_Z)

    @staticmethod
    def backward(ctx, grad_ZH: Tensor) -> Tensor:
        pairs = ctx.pairs
        return paddle.index_select(grad_ZH, pairs.rank_Z).reshape([-1, pairs.top_k, grad_ZH.shape[1]]).sum(axis=1)


class UnsortPairs(PyLayer):
    """[Z, H] → [M, J, H]."""

    @staticmethod
    def forward(ctx, y_ZH: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        return paddle.index_select(y_ZH, pairs.rank_Z).reshape([-1, pairs.top_k, y_ZH.shape[1]])

    @staticmethod
    def backward(ctx, grad_MJH: Tensor) -> Tensor:
        return paddle.index_select(grad_MJH.flatten(0, 1), ctx.pairs.order_Z)


class GroupedMatmul(PyLayer):
    """Consecutive rows [Z, I], each times the matrix of its expert [A, I, O]: [Z, O].

    Experts without rows have a gradient of zeros, not none: ranks that wait for each other's must not wait for ever.
    """

    @staticmethod
    def forward(ctx, x_ZI: Tensor, weight_AIO: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        ctx.save_for_backward(x_ZI, weight_AIO)
        parts = [paddle.matmul(x_ZI[rows], weight_AIO[expert]) for expert, rows in _segments(counts)]
        return paddle.concat(parts) if parts else paddle.zeros([0, weight_AIO.shape[2]], x_ZI.dtype)

    @staticmethod
    def backward(ctx, grad_ZO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_ZI, weight_AIO = ctx.saved_tensor()
        with paddle.amp.auto_cast(enable=False):
            grad_x = None if x_ZI.stop_gradient else _to_inputs(grad_ZO, weight_AIO, ctx.counts)
            grad_weight = None if weight_AIO.stop_gradient else _to_weights(x_ZI, grad_ZO, ctx.counts)
        return grad_x, grad_weight


def _segments(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """The experts that have rows, and which."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield expert, slice(start, start + count)
        start += count


def _to_inputs(grad_ZO: Tensor, weight_AIO: Tensor, counts: list[int]) -> Tensor:
    parts = [paddle.matmul(grad_ZO[rows], weight_AIO[e], transpose_y=True) for e, rows in _segments(counts)]
    return paddle.concat(parts)


def _to_weights(x_ZI: Tensor, grad_ZO: Tensor, counts: list[int]) -> Tensor:
    none = paddle.zeros([x_ZI.shape[1], grad_ZO.shape[1]], grad_ZO.dtype)
    parts = [none] * len(counts)
    for expert, rows in _segments(counts):
        parts[expert] = paddle.matmul(x_ZI[rows], grad_ZO[rows], transpose_x=True)
    return paddle.stack(parts)
