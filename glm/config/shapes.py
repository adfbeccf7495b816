"""Every weight of a model by name and shape, and a rank's part of it; what a cache keeps of a token."""

from math import prod
from typing import TYPE_CHECKING

from glm.distributed.plan import is_padded, local_shard, padded, split_axis

if TYPE_CHECKING:
    from glm.config.glm_config import GLMConfig

Shapes = dict[str, tuple[int, ...]]
CacheShapes = list[list[tuple[str, tuple[int, int]]]]
_NORM_PARTS = {"layer_norm": ("weight", "bias"), "rms_norm": ("weight",)}
# Of what makes queries, keys and values a model has what its kind of attention needs.
_INTO_ATTENTION = ("q_proj", "k_proj", "v_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
_LINEAR = (*_INTO_ATTENTION, "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_TARGETS = {"attention": _INTO_ATTENTION, "all": _LINEAR, "experts": _LINEAR}  # the last: those of experts, too
_INTO_MLP = {"plain": ("up_proj",), "gated": ("gate_proj", "up_proj")}


def parameter_shapes(config: "GLMConfig") -> Shapes:
    """Every weight of a `GLMForCausalLM`, whole, by its name in memory."""
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocab_size, config.hidden_size), **_positions(config)}
    for index in range(config.num_hidden_layers):
        block = block_shapes(config, config.is_sparse(index))
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in block.items()}
    shapes |= _norm("model.norm", config)
    own = {} if config.tie_word_embeddings else {"lm_head.weight": (config.hidden_size, config.vocab_size)}
    return shapes | own


def block_shapes(config: "GLMConfig", sparse: bool = False) -> Shapes:
    """The weights of one block, by their names in it.

    Args:
        sparse: whether it has experts.
    """
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["post_self_attn_layernorm", "post_mlp_layernorm"] if config.post_norms else []
    shapes: Shapes = {}
    for name in norms:
        shapes |= _norm(name, config)
    attention = (_latent_attention if config.kv_lora_rank else _attention)(config)
    shapes |= {f"self_attn.{name}": shape for name, shape in attention.items()}
    return shapes | (_sparse_mlp(config) if sparse else _mlp("mlp", config, config.intermediate_size))


def _attention(config: "GLMConfig") -> Shapes:
    hidden, shapes = config.hidden_size, {}
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    for name, width in {"q_proj": queries, "k_proj": keys, "v_proj": keys}.items():
        shapes |= _linear(name, (hidden, width), config.attention_bias)
    shapes |= _linear("o_proj", (queries, hidden), config.linear_bias)
    if config.use_qk_norm:
        shapes |= {f"{name}_norm.weight": (config.head_dim,) for name in "qk"}
    return shapes


def _latent_attention(config: "GLMConfig") -> Shapes:
    hidden, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
    rank, latent = config.q_lora_rank, config.kv_lora_rank
    keys_and_values = heads * (config.qk_nope_head_dim + config.v_head_dim)
    return {
        **_linear("q_a_proj", (hidden, rank), bias),
        "q_a_layernorm.weight": (rank,),
        **_linear("q_b_proj", (rank, heads * config.head_dim), False),
        **_linear("kv_a_proj_with_mqa", (hidden, config.latent_dim), bias),
        "kv_a_layernorm.weight": (latent,),
        **_linear("kv_b_proj", (latent, keys_and_values), False),
        **_linear("o_proj", (heads * config.v_head_dim, hidden), bias),
    }


def _mlp(name: str, config: "GLMConfig", inner: int) -> Shapes:
    shapes: Shapes = {}
    for layer in _INTO_MLP[config.mlp_type]:
        shapes |= _linear(f"{name}.{layer}", (config.hidden_size, inner), config.linear_bias)
    return shapes | _linear(f"{name}.down_proj", (inner, config.hidden_size), config.linear_bias)


def _sparse_mlp(config: "GLMConfig") -> Shapes:
    experts, inner = config.n_routed_experts, config.moe_intermediate_size
    shapes: Shapes = {
        "mlp.gate.weight": (config.hidden_size, experts),
        "mlp.gate.e_score_correction_bias": (experts,),
        **{name: (experts, *shape) for name, shape in _mlp("mlp.experts", config, inner).items()},
    }
    shared = config.n_shared_experts * inner
    return shapes | (_mlp("mlp.shared_experts", config, shared) if shared else {})


def stays_float32(name: str) -> bool:
    """Whether a weight is float32 in every precision: the router's, whose biases lie closer than bfloat16 can tell.

    In GLM-4.5 those of a layer differ by 0.2 around 7, where bfloat16 has steps of 0.03.
    """
    return name.endswith((".mlp.gate.weight", ".mlp.gate.e_score_correction_bias"))


def is_expert_stack(name: str) -> bool:
    """Whether a weight holds the experts of a layer, [experts, in, out]; a rank that shares them has its own."""
    return ".mlp.experts." in name


def _linear(name: str, shape: tuple[int, int], bias: bool) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[1:]} if bias else {})


def _norm(name: str, config: "GLMConfig") -> Shapes:
    return {f"{name}.{part}": (config.hidden_size,) for part in _NORM_PARTS[config.norm_type]}


def _positions(config: "GLMConfig") -> Shapes:
    """The learned tables; rotary positions have no weights."""
    tables = {"learned_2d": ("position_embeddings", "block_position_embeddings")}.get(config.position_type, ())
    return {
        f"model.positions.{name}.weight": (config.max_position_embeddings + 1, config.hidden_size) for name in tables
    }


def lora_shapes(config: "GLMConfig", r: int, targets: str = "attention") -> Shapes:
    """The adapters of rank r on what `targets` names in `LORA_TARGETS`, whole, by their names in memory."""
    shapes: Shapes = {}
    for name, shape in parameter_shapes(config).items():
        adapts = targets == "experts" or not is_expert_stack(name)
        if adapts and any(name.endswith(f".{target}.weight") for target in LORA_TARGETS[targets]):
            layer, stack, (inputs, outputs) = name.removesuffix("weight"), shape[:-2], shape[-2:]
            shapes |= {f"{layer}lora_A": (*stack, inputs, r), f"{layer}lora_B": (*stack, r, outputs)}
    return shapes


def cache_shapes(config: "GLMConfig") -> CacheShapes:
    """What a key/value cache keeps of a token: of every layer its parts in their order, each [heads, width], whole.

    Exports write them into their graphs, and a runtime reads them there: it needs no configuration.
    """
    kept = config.num_key_value_heads, config.head_dim
    parts = [("latent", (1, config.latent_dim))] if config.kv_lora_rank else [("key", kept), ("value", kept)]
    return [list(parts) for _ in range(config.num_hidden_layers)]


def cache_numbers(config: "GLMConfig") -> int:
    """How many numbers a rank's cache keeps of a token: its own heads' keys and values, or the latents of all."""
    numbers = sum(prod(shape) for parts in cache_shapes(config) for _, shape in parts)
    return numbers if config.kv_lora_rank else numbers * config.kv_replicas // config.tensor_parallel_degree


def rank_shape(name: str, shape: tuple[int, ...], degree: int, kv_replicas: int = 1) -> tuple[int, ...]:
    """The shape of a rank's part of a weight, padding included (glm/distributed/plan.py)."""
    axis = split_axis(name)
    if axis is None:
        return shape
    part = list(shape)
    parts = local_shard(name, 0, degree, kv_replicas)[1]
    part[axis] = (padded(shape[axis], degree) if is_padded(name) else shape[axis]) // parts
    return tuple(part)


def elements(shapes: Shapes, config: "GLMConfig") -> int:
    """How many numbers a rank holds of these weights."""
    degree, copies = config.tensor_parallel_degree, config.kv_replicas
    held = {name: prod(rank_shape(name, shape, degree, copies)) for name, shape in shapes.items()}
    return sum(n // (config.expert_parallel_degree if is_expert_stack(name) else 1) for name, n in held.items())


def active_shapes(config: "GLMConfig") -> Shapes:
    """What a token is multiplied by: of every layer's experts as many as it takes, and of the embedding nothing unless
    it is the head, too.
    """
    active = {
        name: (config.num_experts_per_tok, *shape[1:]) if is_expert_stack(name) else shape
        for name, shape in parameter_shapes(config).items()
    }
    if not config.tie_word_embeddings:
        del active["model.embed_tokens.weight"]
    return active
