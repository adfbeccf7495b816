"""Tiny random models of every family, and of shapes that the graph has to arrange its weights for."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
from family_models import FAMILY, LATENT, SPARSE
from tiny_glm import NO_DROPOUT, scatter, tiny_model

from glm import GLMConfig, GLMForCausalLM
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
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
# Models with experts: the norms of queries and keys see heads that are filled up, and heads that the attention operator
# turns; a bias decides which experts, and their weights are taken as they are or made to add up to 1.
_SPARSE = SPARSE | {"family": "glm4-moe"}
SPARSE_MODELS = {
    "glm4-moe, heads of 12": _SPARSE,
    "glm4-moe, two groups": _SPARSE
    | {"head_dim": 32, "use_qk_norm": False, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 1.0},
    "glm4-moe, not normalised": _SPARSE
    | {"head_dim": 32, "norm_topk_prob": False, "num_experts_per_tok": 3, "n_shared_experts": 2, "n_group": 4}
    | {"topk_group": 2, "first_k_dense_replace": 0},
    "glm4-moe, none shared": _SPARSE | {"head_dim": 16, "n_shared_experts": 0, "rope_scaling": YARN},
}
MODELS |= SPARSE_MODELS
# Models over latents, whose graphs have the cache of standard ones with any operators.
_LATENT = LATENT | {"family": "glm4-moe-lite"}
LATENT_MODELS = {
    "glm4-moe-lite, all widths differ": _LATENT,
    "glm4-moe-lite, yarn and biases": _LATENT
    | {"rope_scaling": YARN, "attention_bias": True, "num_hidden_layers": 2, "first_k_dense_replace": 0},
}
PRESETS = (
    "glm-tiny-chinese",
    "chatglm-6b-tiny",
    "glm-4-9b-chat-tiny",
    "glm-4-9b-0414-tiny",
    "glm-4-32b-0414-tiny",
    "glm-4.5-tiny",
    "glm-4.5-air-tiny",
)


@cache
def model_of(name: str) -> GLMForCausalLM:
    if sizes := (MODELS | LATENT_MODELS).get(name):
        return tiny_model(seed=1, spread=0.2, **sizes)
    model = GLMForCausalLM(GLMConfig.preset(name, **NO_DROPOUT))
    scatter(model, seed=1, spread=0.08)
    model.eval()
    return model


def weights(model) -> Iterator[tuple[str, np.ndarray]]:
    for name, parameter in model.state_dict().items():
        yield name, as_numpy(parameter)


def step_graphs(folder: Path) -> Callable[..., Path]:
    """Name of a model, kind of weights, block and opset → its step graph in a folder, written once."""
    numbers = count()

    @cache
    def written(name: str, kind: str = "fp32", block: int | None = None, opset: int | None = None) -> Path:
        model, prefix = model_of(name), folder / f"model-{next(numbers)}"
        write_step_graph(model.config, weights(model), weights_of(kind, block, opset=opset), prefix)
        return prefix.with_suffix(".onnx")

    return written
