"""config.json: reading it field by field, so that none that matters is passed over, and writing it."""

import logging
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from glm.config.families import FAMILIES, SIZES, Family
from glm.config.field_values import CHECKED, checked, token_ids
from glm.config.foreign_fields import is_known, refuse_change, refuse_kind
from glm.config.megatron_args import megatron_config
from glm.config.presets import PRESETS, is_directory
from glm.errors import GLMError
from glm.files.atomic import write_json
from glm.files.json_files import read_json

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
ADAPTER_CONFIGS = ("lora_config.json", "adapter_config.json")  # PaddleNLP's, PEFT's
_TORCH_NAMES = {"half": "float16", "float": "float32"}
# Fields that no weight's shape shows.
_OF_TRAINING = ("rope_theta", "partial_rotary_factor", "norm_eps", "num_attention_heads")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")


def read_config_file(directory: Path) -> dict[str, Any]:
    """The fields of `GLMConfig` that a directory's config.json gives, or the arguments in a Megatron checkpoint.

    A field that nobody here knows is named in one warning; so is one that Megatron's arguments contradict.

    Raises:
        GLMError: no such file, an adapter's directory, no JSON, no known family, a missing field, or one that is
            known to make another model of it (glm/config/foreign_fields.py, megatron_args.py).
    """
    raw, path = raw_config(directory)
    fields = _fields(raw, path)
    if unknown := unknown_fields(raw, fields["family"]):
        logger.warning("%s: taken to change nothing, for nobody here knows it: %s", path, ", ".join(unknown))
    if path.name == CONFIG_NAME:
        _compare_with_megatron(directory, path, fields)
    return fields


def raw_config(directory: Path) -> tuple[dict[str, Any], Path]:
    """A config.json as it stands, or what takes its place in a Megatron checkpoint; and the file that was read.

    Raises:
        GLMError: neither is there, or it cannot be read.
    """
    path = directory / CONFIG_NAME
    if not is_directory(directory):
        raise GLMError(f"'{directory}' is neither a directory nor a preset; presets: {', '.join(PRESETS)}")
    refuse_adapter(directory)
    if path.is_file():
        return read_json(path), path
    found = megatron_config(directory)
    if found is None:
        raise GLMError(f"{directory} holds no {CONFIG_NAME}; give a directory that save_pretrained or a hub wrote")
    return found


def _fields(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    for name, family in FAMILIES.items():
        if family.recognise(raw):
            try:
                return {"family": name} | _translate(raw, family)
            except GLMError as error:
                raise GLMError(f"{path}: {error}") from None
    refuse_kind(raw, path)
    raise GLMError(
        f"{path}: model_type '{raw.get('model_type')}' with these fields matches no supported family: "
        f"{', '.join(FAMILIES)}"
    )


def _compare_with_megatron(directory: Path, path: Path, fields: Mapping[str, Any]) -> None:
    """Training may have had another base of positions or another epsilon than the file that was put beside it."""
    try:
        found = megatron_config(directory)
    except GLMError as error:
        logger.warning("%s; taking %s", error, path)
        return
    trained = _fields(*found) if found else {}
    for name in _OF_TRAINING:
        if name in trained and trained[name] != fields.get(name, trained[name]):
            logger.warning(
                "%s: %s is %s, and the arguments of the training say %s: taking the file's, correct it if it is wrong",
                *(path, name, fields[name], trained[name]),
            )


def refuse_adapter(directory: Path) -> None:
    """Raises GLMError where a directory holds a LoRA adapter and no model."""
    found = [name for name in ADAPTER_CONFIGS if (directory / name).is_file()]
    if found and not (directory / CONFIG_NAME).is_file():
        raise GLMError(
            f"{directory} holds a LoRA adapter ({found[0]}) and no {CONFIG_NAME}: pass it as --lora_path and its base "
            "model as --model_name_or_path; predict_generation.py with --merge_tensor_parallel_path makes one model of "
            "both"
        )


def unknown_fields(raw: Mapping[str, Any], family: str) -> list[str]:
    """Names in a config.json of which nobody here knows whether they change results; null says that nothing is set."""
    shared = FAMILIES[family]
    own = {*shared.names, *shared.aliases, *shared.derived, *shared.ignored, *shared.fixed, *TOKENS}
    names = [name for name, value in raw.items() if value is not None and name not in own and not is_known(name)]
    return sorted(names) + shared.unknown(raw)


def _translate(raw: dict[str, Any], family: Family) -> dict[str, Any]:
    raw = _without_aliases(raw, family)
    own = {*family.names, *family.derived, *family.ignored, *TOKENS}
    for name in sorted(raw.keys() - own):
        refuse_change(name, raw, family.parts["hidden_act"], family.fixed)
    raw |= {name: raw.get(other) for name, other in family.null.items() if raw.get(name, ...) is None}
    stated = {name: value for name, value in raw.items() if value is not None}
    known = family.absent | stated
    if missing := [name for name in family.names if name not in known]:
        raise GLMError(f"no {', '.join(missing)}, which a {family.architecture} needs; get the file again")
    fields = {ours: known[theirs] for theirs, ours in family.names.items()}
    labels = {ours: theirs for theirs, ours in family.names.items()}
    fields |= {ours: checked(ours, fields[ours], theirs) for ours, theirs in labels.items() if ours in CHECKED}
    fields |= family.derive(raw)
    fields |= {name: _size(labels.get(name, name), fields[name]) for name in SIZES if name in fields}
    tokens = {name: token_ids(name, stated[name]) for name in TOKENS if name in stated}
    return fields | tokens | _dtype(stated)


def _size(name: str, value: Any) -> int:
    """A whole number, which other programs may have written as 32768.0."""
    if type(value) not in (int, float) or not 1 <= value < inf or value != int(value):
        raise GLMError(f"{name} is {value!r}, and must be a whole number above 0")
    return int(value)


def _dtype(stated: Mapping[str, Any]) -> dict[str, str]:
    """Under its newer name or its older one; "auto" says nothing."""
    named = [str(stated[name]).removeprefix("torch.") for name in ("dtype", "torch_dtype") if stated.get(name)]
    named = [name for name in named if name != "auto"]
    return {"dtype": _TORCH_NAMES.get(named[0], named[0])} if named else {}


def _without_aliases(raw: dict[str, Any], family: Family) -> dict[str, Any]:
    """One name a field."""
    raw = dict(raw)
    for other, name in family.aliases.items():
        stated = [value for value in (raw.get(name), raw.pop(other, None)) if value is not None]
        if stated and stated[0] != stated[-1]:
            raise GLMError(f"{name} is {stated[0]} and {other} {stated[-1]}, which must be the same: correct one")
        raw |= {name: stated[0]} if stated else {}
    return raw


def config_json(config: Any, shards: int = 1) -> dict[str, Any]:
    """The config.json of a `GLMConfig`, in the names that the family's own users and PaddleNLP know.

    Args:
        shards: tensor-parallel files that the weights beside it lie in.
    """
    family = FAMILIES[config.family]
    tokens = {name: getattr(config, name, None) for name in TOKENS}
    return {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "dtype": config.dtype,
        **{name: value for name, value in family.fixed.items() if value is not None},
        **{theirs: getattr(config, ours) for theirs, ours in family.names.items()},
        **family.write(config),
        **{name: value for name, value in tokens.items() if value is not None or name in family.tokens},
        "tensor_parallel_degree": shards,
    }


def write_config_file(config: Any, directory: Path, shards: int = 1) -> None:
    """Writes config.json into a directory, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / CONFIG_NAME, config_json(config, shards))
