"""GLM models on PaddlePaddle: fine-tune, evaluate, convert, export and serve.

Importing `glm` sets the environment variables that Paddle's CPU code reads once, so import it before Paddle; with
GLM_TUNE=0 in the environment it changes nothing of the process (docs/devices.md). The names below load on first use, so
that a program which only serves an exported graph never imports PaddleNLP.
"""

import os
from importlib import import_module

from glm.device.tuning import keep_freed_memory, tune_cpu, use_huge_pages

__version__ = "0.1.0"
CPU_SETTINGS = tune_cpu(os.environ)

_HOMES = {
    "AutoConfig": "glm.api.auto",
    "AutoModel": "glm.api.auto",
    "AutoModelForCausalLM": "glm.api.auto",
    "AutoTokenizer": "glm.api.auto",
    "BatchEncoding": "glm.tokenizers",
    "ChatGLM2Tokenizer": "glm.tokenizers",
    "ChatGLM3Tokenizer": "glm.tokenizers",
    "ChatGLMTokenizer": "glm.tokenizers",
    "GLM4JsonTokenizer": "glm.tokenizers",
    "GLM4Tokenizer": "glm.tokenizers",
    "GLMChatModel": "glm.api.mindformers",
    "GLMChineseTokenizer": "glm.tokenizers",
    "GLMConfig": "glm.config.glm_config",
    "GLMForCausalLM": "glm.api.causal_lm",
    "GLMTokenizer": "glm.tokenizers",
    "GRAPH_MODE": "glm.api.mindformers",
    "GenerationConfig": "glm.generation.options",
    "PYNATIVE_MODE": "glm.api.mindformers",
    "TextGenerationPipeline": "glm.api.mindformers_pipelines",
    "TextStreamer": "glm.api.streamers",
    "load_checkpoint": "glm.api.mindformers",
    "pipeline": "glm.api.mindformers_pipelines",
    "process_response": "glm.encoding.chat_formats",
    "set_context": "glm.api.mindformers",
    "transform_checkpoints": "glm.api.mindformers",
}
__all__ = ["CPU_SETTINGS", "__version__", "tune", "tune_for_generation", *_HOMES]


def tune() -> None:
    """Tunes the whole process, as the scripts do: memory that is freed is kept for the next tensor.

    For a program that ends when its work is done. Its memory shrinks no more, so a server of many things may want
    rather not to.
    """
    if all(setting.name != "mallopt" for setting in CPU_SETTINGS):
        CPU_SETTINGS.append(keep_freed_memory(os.environ))


def tune_for_generation() -> None:
    """Has a model that is opened now lie in huge pages, if the process is tuned as a whole; who opens it calls this."""
    settings = {setting.name: setting.value for setting in CPU_SETTINGS}
    if settings.get("mallopt") and "madvise" not in settings:
        CPU_SETTINGS.append(use_huge_pages())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'glm' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
