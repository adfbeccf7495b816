"""The forward pass of GLM-4-9B, GLM-4-0414 and ChatGLM-6B in plain numpy, to read and to check the fixtures with.

It shares no code with glm/ or with what made the fixtures. Weights have the published names, linear ones [out, in]; all
arithmetic is in the weights' precision, but rotary angles are float32 as in the published models: at position 100,000
their rounding shows.

Shapes: B rows, T tokens, N heads, G key/value groups, D width of a head, R rotary dimensions, H hidden, V vocabulary.
"""

import numpy as np

Weights = dict[str, np.ndarray]


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis; a masked score is -inf."""
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """x W^T + b; a bias that is not there counts as zero."""
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def layer_norm(x: np.ndarray, weights: Weights, name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """GELU's tanh approximation (arXiv:1606.08415, section 2)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def inverse_frequencies(rotary_dim: int, base: float) -> np.ndarray:
    """base^(-2i/R) float32 [R/2], the power in float64: this rounds as torch does."""
    exponents = np.arange(0, rotary_dim, 2, dtype="float32") / np.float32(rotary_dim)
    return np.float32(1) / (np.float64(base) ** exponents.astype("float64")).astype("float32")


def angles(position_ids_BT: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """[B, T, 1, R/2]: one float32 product each."""
    return (position_ids_BT.astype("float32")[..., None] * frequencies)[:, :, None]


def rotate_pairs(x_BTND: np.ndarray, angles: np.ndarray, interleaved: bool = True) -> np.ndarray:
    """Turns pairs of dimensions by the angles; dimensions beyond the rotary ones pass through.

    Args:
        interleaved: pairs are (0, 1), (2, 3) …; otherwise dimension i goes with i + R/2.
    """
    rotary_dim = 2 * angles.shape[-1]
    turned, passed = x_BTND[..., :rotary_dim], x_BTND[..., rotary_dim:]
    cos, sin = np.cos(angles).astype(x_BTND.dtype), np.sin(angles).astype(x_BTND.dtype)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        pairs = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return np.concatenate([pairs.reshape(turned.shape), passed], axis=-1)
    a, b = np.split(turned, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, passed], axis=-1)


def attention(q_BTND, k_BTGD, v_BTGD, visible_BTT, alternate_groups: bool = False) -> np.ndarray:
    """Context [B, T, N·D].

    Args:
        visible_BTT: true where the row's token sees the column's.
        alternate_groups: wrong on purpose: head n uses group n mod G; right is N/G neighbouring heads per group.
    """
    heads, groups = q_BTND.shape[2], k_BTGD.shape[2]
    group_of = np.arange(heads) % groups if alternate_groups else np.arange(heads) // (heads // groups)
    scores = np.einsum("btnd,bsnd->bnts", q_BTND, k_BTGD[:, :, group_of]) / np.sqrt(q_BTND.shape[-1])
    seen = softmax(np.where(visible_BTT[:, None], scores, -np.inf))
    context = np.einsum("bnts,bsnd->btnd", seen, v_BTGD[:, :, group_of])
    return context.reshape(*context.shape[:2], -1)


def visible_tokens(attention_mask_BT: np.ndarray, prefix_length_B: np.ndarray | int = 0) -> np.ndarray:
    """[B, T, T]: earlier real tokens, and the first `prefix_length` real ones in both directions.

    A padding token sees itself, so that its softmax is defined; nobody reads what it gives.
    """
    real = attention_mask_BT == 1
    width = real.shape[1]
    prefix = real & (real.cumsum(axis=1) <= np.reshape(prefix_length_B, (-1, 1)))
    earlier = np.tril(np.ones((width, width), dtype=bool))
    return ((earlier | prefix[:, None]) & real[:, None]) | np.eye(width, dtype=bool)


def glm4_logits(config: dict, weights: Weights, batch: dict[str, np.ndarray], **wrong) -> np.ndarray:
    """Logits [B, T, V] of GLM-4-9B (-hf) or GLM-4-0414.

    Args:
        config: config.json of transformers 5; weights that it does not mention, such as GLM-4-0414's norms behind
            attention and MLP, are used if they are there.
        batch: input_ids, attention_mask, position_ids [B, T].
        wrong: what an implementation may get wrong: `interleaved=False`, `post_norms=False`, `swap_gate=True`,
            `alternate_groups=True`, `full_rotary=True`, `rope_theta`, `exact_angles=True` (in float64),
            `rms_norm_eps`.
    """
    rope, config = config["rope_parameters"], {**config, **wrong}
    rotary_dim = int(config["head_dim"] * (1 if wrong.get("full_rotary") else rope["partial_rotary_factor"]))
    frequencies = inverse_frequencies(rotary_dim, wrong.get("rope_theta", rope["rope_theta"]))
    angle = angles(batch["position_ids"], frequencies)
    if wrong.get("exact_angles"):
        exact = rope["rope_theta"] ** -(np.arange(0, rotary_dim, 2) / rotary_dim)
        angle = batch["position_ids"][..., None, None] * exact
    visible = visible_tokens(batch["attention_mask"])
    x = weights["model.embed_tokens.weight"][batch["input_ids"]]
    for i in range(config["num_hidden_layers"]):
        x = _glm4_layer(x, config, weights, f"model.layers.{i}", angle, visible, wrong)
    return rms_norm(x, weights["model.norm.weight"], config["rms_norm_eps"]) @ weights["lm_head.weight"].T


def _glm4_layer(x, config: dict, weights: Weights, layer: str, angle, visible, wrong: dict) -> np.ndarray:
    def norm(x: np.ndarray, name: str) -> np.ndarray:
        weight = weights.get(f"{layer}.{name}.weight")
        skipped = weight is None or (name.startswith(("post_self", "post_mlp")) and not wrong.get("post_norms", True))
        return x if skipped else rms_norm(x, weight, config["rms_norm_eps"])

    def heads(part: str) -> np.ndarray:
        projected = linear(norm(x, "input_layernorm"), weights, f"{layer}.self_attn.{part}_proj")
        return projected.reshape(*x.shape[:2], -1, config["head_dim"])

    q, k = (rotate_pairs(heads(part), angle, wrong.get("interleaved", True)) for part in "qk")
    context = attention(q, k, heads("v"), visible, wrong.get("alternate_groups", False))
    x = x + norm(linear(context, weights, f"{layer}.self_attn.o_proj"), "post_self_attn_layernorm")
    fused = linear(norm(x, "post_attention_layernorm"), weights, f"{layer}.mlp.gate_up_proj")
    gate, up = np.split(fused, 2, axis=-1)
    if wrong.get("swap_gate"):
        gate, up = up, gate
    return x + norm(linear(silu(gate) * up, weights, f"{layer}.mlp.down_proj"), "post_mlp_layernorm")


def chatglm_logits(config: dict, weights: Weights, batch: dict[str, np.ndarray], **wrong) -> np.ndarray:
    """Logits [B, T, V] of ChatGLM-6B.

    Args:
        config: its config.json.
        batch: input_ids, attention_mask [B, T], position_ids [B, 2, T], prefix_length [B].
        wrong: `rounded=False` (inverse frequencies in float32), `interleaved=True`, `packed_per_head=False` (q, k, v
            one behind the other), `prefix=False` (a causal mask), `alpha` (the residual's factor),
            `swap_positions=True`, `layernorm_epsilon`.
    """
    config = {**config, **wrong}
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    frequencies = inverse_frequencies(half, 10000.0)
    if wrong.get("rounded", True):
        frequencies = frequencies.astype("float16").astype("float32")  # as the published code stores them
    rows = (1, 0) if wrong.get("swap_positions") else (0, 1)
    angle = [angles(batch["position_ids"][:, row], frequencies) for row in rows]
    visible = visible_tokens(batch["attention_mask"], batch["prefix_length"] if wrong.get("prefix", True) else 0)
    x = weights["transformer.word_embeddings.weight"][batch["input_ids"]]
    for i in range(config["num_layers"]):
        x = _chatglm_layer(x, config, weights, f"transformer.layers.{i}", angle, visible, wrong)
    return (
        layer_norm(x, weights, "transformer.final_layernorm", config["layernorm_epsilon"]) @ weights["lm_head.weight"].T
    )


def _chatglm_layer(x, config: dict, weights: Weights, layer: str, angle, visible, wrong: dict) -> np.ndarray:
    eps, heads = config["layernorm_epsilon"], config["num_attention_heads"]
    alpha = wrong.get("alpha", np.sqrt(2 * config["num_layers"]))
    normed = layer_norm(x, weights, f"{layer}.input_layernorm", eps)
    fused = linear(normed, weights, f"{layer}.attention.query_key_value")
    if wrong.get("packed_per_head", True):
        q, k, v = np.split(fused.reshape(*x.shape[:2], heads, -1), 3, axis=-1)
    else:
        q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in np.split(fused, 3, axis=-1))
    q, k = (_rotate_halves(part, angle, wrong.get("interleaved", False)) for part in (q, k))
    context = attention(q, k, v, visible)
    x = alpha * normed + linear(context, weights, f"{layer}.attention.dense")
    normed = layer_norm(x, weights, f"{layer}.post_attention_layernorm", eps)
    inner = gelu_tanh(linear(normed, weights, f"{layer}.mlp.dense_h_to_4h"))
    return alpha * normed + linear(inner, weights, f"{layer}.mlp.dense_4h_to_h")


def _rotate_halves(x_BTND: np.ndarray, angle: list[np.ndarray], interleaved: bool) -> np.ndarray:
    """A head's first half turns by the position, its second by the block position."""
    halves = np.split(x_BTND, 2, axis=-1)
    turned = [rotate_pairs(half, part, interleaved) for half, part in zip(halves, angle, strict=True)]
    return np.concatenate(turned, axis=-1)


def mean_loss(logits_BTV: np.ndarray, labels_BT: np.ndarray) -> float:
    """Mean cross entropy over columns whose label, the token that follows, is not negative."""
    shifted = logits_BTV - logits_BTV.max(axis=-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    rows = labels_BT >= 0
    return float(-log_probs[rows, labels_BT[rows]].mean())
