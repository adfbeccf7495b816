"""What a configuration says of layers that divide tokens among experts (GLM-4.5 and its successors), and its rules.

Sources: arXiv:2508.06471, 2.1; configuration_glm4_moe.py of transformers 5.3.0, whose values stand where a file says
nothing. attention_bias and head_dim have none here: every published file differs from the library's own.
"""

from dataclasses import replace
from typing import Any

from glm.errors import GLMError


class ExpertFields:
    """Fields of `GLMConfig`, with what a model without experts has."""

    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    n_shared_experts: int = 0
    moe_intermediate_size: int = 0
    first_k_dense_replace: int = 0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    use_qk_norm: bool = False
    num_nextn_predict_layers: int = 0


DENSE = {name: getattr(ExpertFields, name) for name in ExpertFields.__annotations__}
# What a config.json may leave out.
ABSENT = {
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "use_qk_norm": False,
    "num_nextn_predict_layers": 0,
}
# Of the one way of routing that is implemented; files of transformers leave both out.
ROUTING = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}


def with_experts(family: Any) -> Any:
    """A `Family` with experts behind the first layers, norms of queries and keys, and pairs of rotary dimensions that
    stand half of them apart.
    """
    absent = {name: value for name, value in family.absent.items() if name not in ("attention_bias", "head_dim")}
    return replace(
        family,
        parts=family.parts | {"position_type": "partial_rotary_halves", "checkpoint_table": "glm4_moe"},
        defaults=family.defaults | DENSE,
        names=family.names | {name: name for name in DENSE},
        absent=absent | ABSENT | {"rms_norm_eps": 1e-5},
        fixed=family.fixed | ROUTING,
        aliases={"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
    )


def check_experts(config: Any) -> None:
    """Raises GLMError where the numbers of experts and groups contradict each other, or ranks cannot divide them."""
    experts, groups = config.n_routed_experts, config.n_group
    _check_expert_parallel(config)
    if not experts:
        return
    for name in ("moe_intermediate_size", "num_experts_per_tok", "n_group", "topk_group"):
        if getattr(config, name) < 1:
            raise GLMError(f"{name} is {getattr(config, name)} with {experts} experts, and must be at least 1")
    if experts % groups or config.topk_group > groups:
        raise GLMError(
            f"n_group {groups} must divide n_routed_experts {experts}, and be no less than topk_group "
            f"{config.topk_group}"
        )
    if groups > 1 and experts // groups < 2:
        raise GLMError(f"n_group {groups} leaves {experts // groups} expert a group: a group needs two to be rated")
    reachable = experts // groups * config.topk_group
    if config.num_experts_per_tok > reachable:
        raise GLMError(f"num_experts_per_tok is {config.num_experts_per_tok}, and a token reaches {reachable} experts")
    if config.moe_intermediate_size % config.tensor_parallel_degree:
        raise GLMError(
            f"tensor_parallel_degree {config.tensor_parallel_degree} does not divide moe_intermediate_size "
            f"{config.moe_intermediate_size}: choose another"
        )


def _check_expert_parallel(config: Any) -> None:
    degree, experts = config.expert_parallel_degree, config.n_routed_experts
    if degree == 1:
        return
    if not experts:
        raise GLMError(f"expert_parallel_degree is {degree}, and this model has no experts: leave it out")
    if config.tensor_parallel_degree > 1:
        raise GLMError(
            f"expert_parallel_degree is {degree} and tensor_parallel_degree {config.tensor_parallel_degree}, which "
            "cuts every expert: choose one of them"
        )
    if degree < 1 or experts % degree:
        raise GLMError(f"expert_parallel_degree {degree} does not divide n_routed_experts {experts}: choose another")
