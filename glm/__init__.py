"""GLM models on PaddlePaddle: fine-tune, evaluate, convert, export and serve.

Importing `glm` tunes the CPU, so import it before Paddle. The names below load on first use, so that a program which
only serves an exported graph never imports PaddleNLP.
"""

import os
from importlib import import_module

from glm.device.tuning import keep_freed_memory, tune_cpu

__version__ = "0.1.0"
CPU_SETTINGS = [*tune_cpu(os.environ), keep_freed_memory(os.environ)]

_HOMES = {
    "GLMConfig": "glm.config",
    "GLMForCausalLM": "glm.model",
    "GLMTokenizer": "glm.tokenizers",
    "GenerationConfig": "glm.generation_config",
    "pipeline": "glm.text.pipelines",
}
__all__ = ["CPU_SETTINGS", "__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'glm' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
