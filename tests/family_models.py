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
    "glm4-remote": ("glm4-tiny", _GROUPED | {"vocab_size": 769, "head_dim": 12, "attention_bias": True}),
    "glm4-0414": ("glm4-0414-tiny", _GROUPED | {"vocab_size": 768, "attention_bias": False}),
}


def write_family_model(directory: Path, family: str, spread: float = 0.2, **changes) -> Path:
    """Every parameter is random, so that texts depend on their prompts."""
    tokenizer, sizes = FAMILY[family]
    model = GLMForCausalLM(GLMConfig(family, **sizes | changes))
    scatter(model, seed=1, spread=spread)
    model.save_pretrained(directory)
    shutil.copytree(DATA / tokenizer, directory, dirs_exist_ok=True)
    return directory
