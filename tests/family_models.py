"""A tiny model of each family after GLM (2021), as a directory: random weights and the bundled tokenizer."""

import shutil
from pathlib import Path

from tiny_glm import NO_DROPOUT, scatter

from glm import GLMConfig, GLMForCausalLM

DATA = Path(__file__).resolve().parents[1] / "data"
_SIZES = NO_DROPOUT | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "intermediate_size": 48}
# Family → its tokenizer, and what its models are: 2 and 4 divide one of the vocabularies only.
FAMILY = {
    "chatglm": ("chatglm-tiny", _SIZES | {"vocab_size": 801, "intermediate_size": 128}),
    "chatglm2": ("chatglm3-tiny", _GROUPED | {"vocab_size": 833, "head_dim": 12, "attention_bias": True}),
    "glm4-remote": ("glm4-tiny", _GROUPED | {"vocab_size": 769, "head_dim": 12, "attention_bias": True}),
    "glm4-0414": ("glm4-0414-tiny", _GROUPED | {"vocab_size": 768, "attention_bias": False}),
}
# A model with experts.
SPARSE = _GROUPED | {
    "vocab_size": 768,
    "head_dim": 12,
    "attention_bias": True,
    "use_qk_norm": True,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}
# A model with latents, whose widths all differ, behind two dense layers of three.
LATENT = {name: value for name, value in SPARSE.items() if name not in ("head_dim", "use_qk_norm")} | {
    "num_key_value_heads": 4,
    "attention_bias": False,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 2,
    "q_lora_rank": 20,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
}
MODELS = FAMILY | {"glm4-moe": ("glm4-0414-tiny", SPARSE), "glm4-moe-lite": ("glm4-0414-tiny", LATENT)}


def write_family_model(directory: Path, family: str, spread: float = 0.2, seed: int = 1, **changes) -> Path:
    """Every parameter is random, so that texts depend on their prompts."""
    tokenizer, sizes = MODELS[family]
    model = GLMForCausalLM(GLMConfig(family, **sizes | changes))
    scatter(model, seed=seed, spread=spread)
    model.save_pretrained(directory)
    shutil.copytree(DATA / tokenizer, directory, dirs_exist_ok=True)
    return directory
