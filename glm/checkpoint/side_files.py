"""The small files beside weights: their names, whose they are, and what a conversion takes along."""

import fnmatch
from pathlib import Path
from typing import Any

from glm.checkpoint.file_names import CONFIG_NAME, GENERATION_NAME, is_weights, weight_names
from glm.config.config_json import config_json, raw_config, unknown_fields
from glm.config.fields import ConfigFields
from glm.config.quantization import fp8_form
from glm.errors import GLMError
from glm.tokenizers.kept_files import NAMES as TOKENIZER_FILES
from glm.tokenizers.registry import FORMATS as TOKENIZERS

_CARRIED = ("*.json", "*.model", "*.tiktoken", "*.jinja", "*.txt", "*.py", "LICENSE*", "MODEL_LICENSE*", "NOTICE*")
# What a training run leaves beside a model is not the model's.
_LEFT = (
    *(CONFIG_NAME, "*.index.json", "requirements*.txt", "log*.txt"),
    *("trainer_state.json", "random_layout.json", "run_arguments.json", "*_results.json"),
)
_MODEL_CODE = ("modeling_*.py", "configuration_*.py", "quantization*.py")
# Fields of config.json that mean the same in every family, and that GLMConfig does not know.
_SHARED_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
SIDE_FILES = (CONFIG_NAME, GENERATION_NAME, *TOKENIZER_FILES, *(kind.vocabulary_file for kind in TOKENIZERS))
MANIFESTS = "*.manifest.json"  # of exports


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


def converted_config(config: ConfigFields, target: ConfigFields, conversion: Any) -> dict[str, Any]:
    """The config.json of the target: the source's own, with as little changed as can be.

    Args:
        config, target: the same object where the family stays.
        conversion: needs source, dtype, degree and form.
    """
    raw, _ = raw_config(conversion.source)
    content = raw if target is config else _translated(raw, config, target)
    content.pop("tensor_parallel_degree", None)
    if fp8_form(content.get("quantization_config")):  # what is written is not quantized any more
        del content["quantization_config"]
    if conversion.dtype:
        named = [name for name in ("dtype", "torch_dtype") if name in content]
        content |= dict.fromkeys(named or ["dtype"], conversion.dtype)
    if conversion.form.weight_format == "pdparams":
        content["tensor_parallel_degree"] = conversion.degree
    return content


def _translated(raw: dict[str, Any], config: ConfigFields, target: ConfigFields) -> dict[str, Any]:
    """In the target's names; what nobody here knows goes along, for it changes nothing."""
    content = config_json(target)
    foreign = {name: raw[name] for name in unknown_fields(raw, config.family) if name in raw}
    content.pop("output_predict", None)  # PaddleNLP's
    content["torch_dtype"] = content["dtype"]  # transformers 4 and the remote code know this name only
    return foreign | content | {name: raw[name] for name in _SHARED_FIELDS if name in raw}


def side_file_names(directory: Path) -> list[str]:
    """The side files that a directory holds."""
    return [name for name in SIDE_FILES if (directory / name).is_file()]


def require_no_export(directory: Path) -> None:
    """Raises GLMError where an export would find other files than its own."""
    if manifests := sorted(path.name for path in directory.glob(MANIFESTS)):
        raise GLMError(
            f"{directory} holds the export of {manifests[0]}, whose configuration and tokenizer a model would replace: "
            "choose another directory"
        )


def require_place_for_model(directory: Path) -> None:
    """Makes sure that a model which is saved there replaces a model, or nothing.

    Raises:
        GLMError: a file has the directory's name, or what lies in it belongs to something else.
    """
    if directory.exists() and not directory.is_dir():
        raise GLMError(f"{directory} is a file: choose a directory")
    require_no_export(directory)
    if (names := side_file_names(directory)) and not weight_names(directory):
        raise GLMError(f"{directory / names[0]} is of no model there, and would be replaced: choose another directory")


def remove_side_files(directory: Path, keep: set[str]) -> None:
    """Removes an earlier model's files, which would be read with the new one's."""
    for name in set(SIDE_FILES) - keep:
        (directory / name).unlink(missing_ok=True)
