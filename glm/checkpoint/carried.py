"""What a conversion takes along beside the weights: tokenizers and other small files, and config.json's fields."""

import fnmatch
import json
from pathlib import Path
from typing import Any

from glm.checkpoint.file_names import CONFIG_NAME, is_weights
from glm.config import GLMConfig
from glm.config_file import unknown_fields

_CARRIED = ("*.json", "*.model", "*.tiktoken", "*.jinja", "*.txt", "*.py", "LICENSE*", "MODEL_LICENSE*", "NOTICE*")
# What a training run leaves beside a model is not the model's.
_LEFT = (
    *(CONFIG_NAME, "*.index.json", "requirements*.txt", "log*.txt"),
    *("trainer_state.json", "random_layout.json", "run_arguments.json", "*_results.json"),
)
_MODEL_CODE = ("modeling_*.py", "configuration_*.py", "quantization*.py")
# Fields of config.json that mean the same in every generation, and that GLMConfig does not know.
_SHARED_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")


def carried_files(source: Path, *, same_code: bool) -> list[Path]:
    """Files to be copied byte for byte.

    Args:
        same_code: whether remote code of the model still fits the written names; a tokenizer's always does.
    """
    left = _LEFT if same_code else (*_LEFT, *_MODEL_CODE)
    files = [path for path in sorted(source.iterdir()) if path.is_file() and not is_weights(path.name)]
    return [path for path in files if _fits(path.name, _CARRIED) and not _fits(path.name, left)]


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def converted_config(config: GLMConfig, target: GLMConfig, conversion: Any) -> dict[str, Any]:
    """The config.json of the target: the source's own, with as little changed as can be.

    Args:
        config, target: the same object where the generation stays.
        conversion: needs source, dtype, degree and form.
    """
    raw = json.loads((conversion.source / CONFIG_NAME).read_text("utf-8"))
    content = raw if target is config else _translated(raw, config, target)
    content.pop("tensor_parallel_degree", None)
    if conversion.dtype:
        named = [name for name in ("dtype", "torch_dtype") if name in content]
        content |= dict.fromkeys(named or ["dtype"], conversion.dtype)
    if conversion.form.weight_format == "pdparams":
        content["tensor_parallel_degree"] = conversion.degree
    return content


def _translated(raw: dict[str, Any], config: GLMConfig, target: GLMConfig) -> dict[str, Any]:
    """In the target's names; what nobody here knows goes along, for it changes nothing."""
    content = target.to_checkpoint_dict()
    foreign = {name: raw[name] for name in unknown_fields(raw, config.generation) if name in raw}
    content.pop("output_predict", None)  # PaddleNLP's
    content["torch_dtype"] = content["dtype"]  # transformers 4 and the remote code know this name only
    return foreign | content | {name: raw[name] for name in _SHARED_FIELDS if name in raw}
