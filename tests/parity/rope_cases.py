"""Fields of config.json that scale rotary positions, in the forms in which people have them.

Needs nothing: the generator, which has torch, and the tests, which have not, both read it.
"""

from copy import deepcopy

# The form of the GLM-4-0414 model card for long texts.
CARD = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
FOUR = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "max_position_embeddings": 32768}
# What transformers 5 has inside rope_parameters.
INSIDE = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

# name → what stands in config.json in place of the fixture's rope_parameters.
CASES = {
    "card": FOUR | {"rope_scaling": CARD},
    "card, transformers 5": {"rope_parameters": INSIDE | CARD | {"rope_type": "yarn"}},
    "both forms": FOUR | {"rope_scaling": CARD, "rope_parameters": INSIDE | {"rope_type": "default"}},
    "large base": FOUR | {"rope_theta": 5e6, "rope_scaling": YARN},
    "large base inside": {"rope_parameters": YARN | INSIDE | {"rope_theta": 5e6}},
    "other share": FOUR | {"partial_rotary_factor": 0.25, "rope_scaling": YARN},
    "other share inside": {"rope_parameters": YARN | INSIDE | {"partial_rotary_factor": 0.25}},  # passed over
    "no original length": FOUR | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "original length outside": FOUR | {"original_max_position_embeddings": 2048, "rope_scaling": YARN},
    "factor of the lengths": FOUR | {"rope_scaling": YARN | {"factor": None}},
    "whole factor": FOUR | {"rope_scaling": YARN | {"factor": 4}},
    "small factor": FOUR | {"rope_scaling": YARN | {"factor": 0.5}},
    "ramp": FOUR | {"rope_scaling": YARN | {"beta_fast": 16.0, "beta_slow": 2.0}},
    "ramp of zeros": FOUR | {"rope_scaling": YARN | {"beta_fast": 0.0, "beta_slow": 0.0}},
    "ramp not truncated": FOUR | {"rope_scaling": YARN | {"truncate": False}},
    "ramp without width": FOUR | {"rope_scaling": YARN | {"beta_fast": 2.0, "beta_slow": 2.0, "truncate": False}},
    "mscale": FOUR | {"rope_scaling": YARN | {"mscale": 1.5, "mscale_all_dim": 0.5}},
    "mscale alone": FOUR | {"rope_scaling": YARN | {"mscale": 1.5}},
    "attention factor": FOUR | {"rope_scaling": YARN | {"attention_factor": 1.25, "mscale": 2.0}},
    "linear": FOUR | {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "linear, transformers 5": {"rope_parameters": INSIDE | {"rope_type": "linear", "factor": 3.0}},
    "llama3": FOUR | {"rope_scaling": LLAMA3},
    "llama3, transformers 5": {"rope_parameters": INSIDE | LLAMA3},
}
# Cases in whose logits every kind of scaling shows.
LOGITS = ("card", "card, transformers 5", "mscale", "linear", "llama3")
MODELS = ("glm4-g2-bias-rope1", "glm-g2-bias-rope1")  # fixtures whose weights the logits are of
WIDE = {"head_dim": 128}  # of the published models, of which 64 dimensions turn


def config_of(config: dict, case: str) -> dict:
    """A fixture's config.json with the positions of a case."""
    return {name: value for name, value in config.items() if name != "rope_parameters"} | deepcopy(CASES[case])
