"""Every weight of a model by name and shape, and a rank's part of it; what a cache keeps of a token."""

from math import prod
from typing import TYPE_CHECKING

from glm.distributed.plan import is_padded, local_shard, padded, split_axis

if TYPE_CHECKING:
    from glm.config.glm_config import GLMConfig

ADAPTED = ("q_proj", "k_proj", "v_proj")  # what LoRA adapts without further flags
Shapes = dict[str, tuple[int, ...]]
CacheShapes = list[list[tuple[str, tuple[int, int]]]]
_NORM_PARTS = {"layer_norm": ("weight", "bias"), "rms_norm": ("weight",)}
_INTO_MLP = {"plain": ("up_proj",), "gated": ("gate_proj", "up_proj")}


def parameter_shapes(config: "GLMConfig") -> Shapes:
    """Every weight of a `GLMForCausalLM`, whole, by its name in memory."""
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocab_size, config.hidden_size), **_positions(config)}
    block = block_shapes(config)
    for index in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in block.items()}
    shapes |= _norm("model.norm", config)
    own = {} if config.tie_word_embeddings else {"lm_head.weight": (config.hidden_size, config.vocab_size)}
    return shapes | own


def block_shapes(config: "GLMConfig") -> Shapes:
    """The weights of one block, by their names in it."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["post_self_attn_layernorm", "post_mlp_layernorm"] if config.post_norms else []
    shapes: Shapes = {}
    for name in norms:
        shapes |= _norm(name, config)
    for name, width in {"q_proj": queries, "k_proj": keys, "v_proj": keys}.items():
        shapes |= _linear(f"self_attn.{name}", (hidden, width), config.attention_bias)
    shapes |= _linear("self_attn.o_proj", (queries, hidden), config.linear_bias)
    for name in _INTO_MLP[config.mlp_type]:
        shapes |= _linear(f"mlp.{name}", (hidden, inner), config.linear_bias)
    return shapes | _linear("mlp.down_proj", (inner, hidden), config.linear_bias)


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


def lora_shapes(config: "GLMConfig", r: int) -> Shapes:
    """The adapters of rank r on queries, keys and values, whole, by their names in memory."""
    shapes: Shapes = {}
    for name, shape in parameter_shapes(config).items():
        if any(name.endswith(f".{target}.weight") for target in ADAPTED):
            layer = name.removesuffix("weight")
            shapes |= {f"{layer}lora_A": (shape[0], r), f"{layer}lora_B": (r, shape[1])}
    return shapes


def cache_shapes(config: "GLMConfig") -> CacheShapes:
    """What a key/value cache keeps of a token: of every layer its parts in their order, each [heads, width], whole.

    Exports write them into their graphs, and a runtime reads them there: it needs no configuration.
    """
    kept = config.num_key_value_heads, config.head_dim
    return [[("key", kept), ("value", kept)] for _ in range(config.num_hidden_layers)]


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
    return sum(prod(rank_shape(name, shape, degree, copies)) for name, shape in shapes.items())
