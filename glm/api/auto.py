"""`AutoModel` and its like: the right class for a directory or a name. Nothing of a directory is ever run.

All take `trust_remote_code`, `use_fast` and `low_cpu_mem_usage`, as Hugging Face's do; they change nothing.
"""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any

from glm.api.causal_lm import GLMForCausalLM
from glm.api.mindformers import GLMChatModel
from glm.config.glm_config import GLMConfig
from glm.config.presets import CHAT_ALIASES
from glm.errors import UsageError
from glm.tokenizers import GLMTokenizer

_WITHOUT_EFFECT = ("trust_remote_code", "use_fast", "low_cpu_mem_usage")
_TOKENIZER_SETTINGS = ("padding_side", "truncation_side", "model_max_length")


class AutoConfig:
    """`from_pretrained` gives a `GLMConfig`."""

    @staticmethod
    def from_pretrained(name_or_path: str | Path, **overrides) -> GLMConfig:
        """Of a directory's config.json, or of a preset; overrides are fields of `GLMConfig`."""
        return GLMConfig.from_pretrained(str(name_or_path), **_known(overrides))


class AutoModelForCausalLM:
    """`from_pretrained` gives a `GLMForCausalLM`, ready to generate."""

    @staticmethod
    def from_pretrained(name_or_path: str | Path, *, torch_dtype: Any = None, **options) -> GLMForCausalLM:
        """A model with the weights of a directory or of a preset, in evaluation mode.

        Args:
            name_or_path: MindFormers' names of chat models give a `glm.GLMChatModel`.
            torch_dtype: another name of dtype; "auto" is the checkpoint's own.
            options: of `GLMForCausalLM.from_pretrained`.

        Raises:
            GLMError: nothing there, a damaged or foreign file, weights that do not fit the config.json.
        """
        options = _known(options)
        dtype = options.pop("dtype", None) or torch_dtype
        cls = GLMChatModel if str(name_or_path).lower() in CHAT_ALIASES else GLMForCausalLM
        model = cls.from_pretrained(str(name_or_path), dtype=dtype_name(dtype), **options)
        model.eval()
        return model

    @staticmethod
    def from_config(config: GLMConfig) -> GLMForCausalLM:
        """A model with random weights."""
        return GLMForCausalLM(config)


class AutoModel(AutoModelForCausalLM):
    """The same: all models here have their language-model head."""


class AutoTokenizer:
    """`from_pretrained` gives the tokenizer of a directory or a preset."""

    @staticmethod
    def from_pretrained(name_or_path: str | Path, **settings):
        """Of a directory, or of a preset.

        Args:
            settings: padding_side, truncation_side, model_max_length.

        Raises:
            GLMError: a missing or damaged file.
            UsageError: a setting that there is not, or a value that it does not have.
        """
        settings = _known(settings)
        if unknown := sorted(set(settings) - set(_TOKENIZER_SETTINGS)):
            raise UsageError(f"unknown setting '{unknown[0]}'; known: {', '.join(_TOKENIZER_SETTINGS)}")
        tokenizer = GLMTokenizer.from_pretrained(name_or_path)
        for name, value in settings.items():
            _check_setting(name, value)
            setattr(tokenizer, name, value)
        return tokenizer


def _check_setting(name: str, value: Any) -> None:
    if name == "model_max_length" and (not isinstance(value, Integral) or value < 1):
        raise UsageError(f"model_max_length is {value!r}, and must be a whole number of at least 1")
    if name != "model_max_length" and value not in ("left", "right"):
        raise UsageError(f"{name} is {value!r}, and must be 'left' or 'right'")


def _known(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}


def dtype_name(dtype: Any) -> str | None:
    """A name for "bfloat16", paddle.bfloat16, torch.bfloat16 or numpy.float16; None for "auto"."""
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return None
    return dtype.__name__ if isinstance(dtype, type) else str(dtype).rpartition(".")[2]
