"""Tiny random models of every family, and of shapes that the graph has to arrange its weights for."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from family_models import FAMILY
from tiny_glm import NO_DROPOUT, scatter, tiny_model

from glm import GLMConfig, GLMForCausalLM
from glm.model.parameters import as_numpy

# Heads of 12 are filled up to 16; 4 heads of 12 are wider than the hidden size of 32. In heads of 32 the attention
# operator turns 16 dimensions itself, with scaled positions too; the prompts of the tests are longer than 8.
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
_WIDE_HEADS = FAMILY["glm4-0414"][1] | {"family": "glm4", "head_dim": 32, "partial_rotary_factor": 0.5}
MODELS = {
    "glm": {"family": "glm"},
    "glm, heads of 12": {"family": "glm", "head_dim": 12},
    "chatglm": FAMILY["chatglm"][1] | {"family": "chatglm"},
    "chatglm, heads of 12": FAMILY["chatglm"][1] | {"family": "chatglm", "head_dim": 12},
    "glm4-remote, heads of 12": FAMILY["glm4-remote"][1] | {"family": "glm4-remote"},
    "glm4, tied": FAMILY["glm4-0414"][1] | {"family": "glm4", "attention_bias": True, "tie_word_embeddings": True},
    "glm4-0414": FAMILY["glm4-0414"][1] | {"family": "glm4-0414"},
    "glm4-0414, yarn": FAMILY["glm4-0414"][1] | {"family": "glm4-0414", "rope_scaling": YARN},
    "glm4, heads of 32": _WIDE_HEADS,
    "glm4, heads of 32, yarn": _WIDE_HEADS | {"rope_scaling": YARN},
}
PRESETS = ("glm-tiny-chinese", "chatglm-6b-tiny", "glm-4-9b-chat-tiny", "glm-4-9b-0414-tiny", "glm-4-32b-0414-tiny")


@cache
def model_of(name: str) -> GLMForCausalLM:
    if name in MODELS:
        return tiny_model(seed=1, spread=0.2, **MODELS[name])
    model = GLMForCausalLM(GLMConfig.preset(name, **NO_DROPOUT))
    scatter(model, seed=1, spread=0.08)
    model.eval()
    return model


def weights(model) -> Iterator[tuple[str, np.ndarray]]:
    for name, parameter in model.named_parameters():
        yield name, as_numpy(parameter)
