"""What the configuration of a LoRA adapter says: rank, scaling, which layers, and what is no LoRA. Needs no Paddle.

Three forms: PaddleNLP's lora_config.json (paddlenlp/peft/lora/lora_config.py), Hugging Face PEFT's adapter_config.json
(peft 0.21.2, tuners/lora/config.py, tuners/tuners_utils.py: check_target_module_exists) and mlx-lm's file of the same
name (mlx_lm/tuner/utils.py).
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite, sqrt
from pathlib import Path
from typing import Any

from glm.checkpoint.adapter_experts import targeted_projections
from glm.config.config_json import ADAPTER_CONFIGS
from glm.errors import GLMError
from glm.files.json_files import read_json

logger = logging.getLogger(__name__)

PADDLE_CONFIG, PEFT_CONFIG = ADAPTER_CONFIGS
PADDLE, PEFT, MLX = "paddlenlp", "peft", "mlx"
_TO_PLAIN = (
    "save it as plain LoRA where it was trained, with save_pretrained(…, path_initial_model_for_weight_conversion=…)"
)
# Settings under which the matrices stand for another function, and what one can do.
_REFUSED = {
    PEFT: {
        "alora_invocation_string": "it acts from this text on only, so it cannot be merged",
        "alora_invocation_tokens": "it acts from these tokens on only, so it cannot be merged",
        "arrow_config": "it chooses between adapters for each token",
        "kasa_config": "it is not LoRA alone",
        "layer_replication": "it repeats layers",
        "megatron_config": "its layers are Megatron's",
        "monteclora_config": "it samples its matrices",
        "target_parameters": "it adapts parameters that are no layers, and not of experts alone",
        "use_bdlora": "its matrices are block-diagonal",
        "use_qalora": "its inputs are averaged in groups",
        "velora_config": "it is not LoRA alone",
    },
    PADDLE: {
        "do_qat": "its weights are quantized",
        "enable_lora_list": "its matrices lie in merged layers of an old form",
        "loraga": "the weights that it was trained on are changed ones",
        "lora_use_mixer": "it has a third matrix",
        "pissa": "the weights that it was trained on are changed ones",
        "use_mora": "it has square matrices",
    },
    MLX: {},
}
_NEUTRAL = {
    PEFT: {
        *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
        *("eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern"),
        *("layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "r"),
        *("megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "rank_pattern"),
        *("revision", "runtime_config", "target_modules", "task_type", "trainable_token_indices", "use_dora"),
        *("use_rslora", "lora_dtype", "lorap_emb_lr", "lorap_lr_ratio"),  # the last three are ms-swift's
    },
    PADDLE: {
        *("base_model_name_or_path", "dtype", "head_dim", "lora_alpha", "lora_dropout", "lora_plus_scale", "r"),
        *("merge_weights", "rslora", "scaling", "target_modules", "tensor_parallel_degree", "trainable_bias"),
        *("trainable_modules", "use_quick_lora"),
    },
}
_TYPES = {
    **dict.fromkeys(("rank_pattern", "alpha_pattern", "lora_parameters"), (dict,)),
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern"), (str, list)),
    "modules_to_save": (list,),
    "layers_to_transform": (int, list),
    **dict.fromkeys(("use_rslora", "rslora", "use_dora", "lora_bias", "ensure_weight_tying"), (bool, int)),
}
_PLAIN_INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")
_DECOMPOSED_INITS = ("pissa", "olora")


@dataclass(frozen=True)
class Settings:
    """An adapter's settings in one form.

    Attributes:
        path: of its configuration file.
        kind: PADDLE, PEFT or MLX.
        r, alpha, dropout: of layers that no pattern names.
        rslora: the scaling is alpha / √r instead of alpha / r.
        ranks, alphas: regular expressions of module names → r, alpha.
        init: `pissa` or `olora` where PEFT takes a part of the base weights out before it adds the adapter.
        dora: magnitudes belong to it.
        lora_bias: its second matrices have biases.
        tokens: trained rows of the vocabulary: token ids, or such by the end of a module's name.
        saved: ends of the names of modules whose whole weights lie in the file.
        tied: an adapter of a tied word embedding acts on the head as well.
        targets: whether the settings name a module, which is `linear`, an `embedding` or the `head`; None where they
            do not say which ones they name.
        untrainable: the settings with which fine-tuning cannot continue here.
    """

    path: Path
    kind: str
    r: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    init: str = ""
    dora: bool = False
    lora_bias: bool = False
    tokens: Any = None
    saved: tuple[str, ...] = ()
    tied: bool = False
    targets: Callable[[str, str], bool] | None = None
    untrainable: tuple[str, ...] = ()

    def rank(self, module: str) -> int:
        return _of_pattern(self.ranks, module, self.r)

    def scaling(self, module: str) -> float:
        r = self.rank(module)
        return _of_pattern(self.alphas, module, self.alpha) / (sqrt(r) if self.rslora else r)


def _of_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that fits the end of a module's name, from a dot on, as PEFT matches them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_settings(directory: Path) -> Settings:
    """The settings of an adapter directory.

    Raises:
        GLMError: no adapter there, a file that is no JSON object or lacks a field, something else than LoRA, or a
            setting that changes results and is not supported, by its name.
    """
    for name, read in ((PADDLE_CONFIG, _paddle), (PEFT_CONFIG, _peft_or_mlx)):
        path = directory / name
        if path.is_file():
            try:
                return read(path, _read_settings(path))
            except (re.error, TypeError) as error:
                raise GLMError(f"{path} has a pattern that is no regular expression: {error}") from None
    raise GLMError(
        f"{directory} holds no LoRA adapter: neither {PADDLE_CONFIG} nor {PEFT_CONFIG} is there{_where_else(directory)}"
    )


def _where_else(directory: Path) -> str:
    """Where an adapter may be meant by a path that is none."""
    if directory.is_file():
        return f": it is a file, so give its directory, {directory.parent}"
    if not directory.is_dir():
        return ": there is no such directory"
    nested = [path.parent for name in ADAPTER_CONFIGS for path in directory.glob(f"*/{name}")]
    newest = max(nested, key=lambda path: path.stat().st_mtime, default=None)
    return f": did you mean {newest}?" if newest else ""


def adapter_dtype(directory: Path) -> str | None:
    """The dtype a PaddleNLP adapter was trained in, None where it does not say."""
    path = directory / PADDLE_CONFIG
    return _read_settings(path).get("dtype") if path.is_file() else None


def _paddle(path: Path, raw: dict) -> Settings:
    _refuse(path, raw, PADDLE)
    patterns = [re.compile(pattern) for pattern in _listed(raw.get("target_modules"))]
    return Settings(
        path,
        PADDLE,
        *_numbers(path, raw),
        rslora=bool(raw.get("rslora")),
        targets=partial(_paddle_targets, patterns) if patterns else None,
        untrainable=tuple(name for name in ("trainable_bias", "trainable_modules") if raw.get(name)),
    )


def _paddle_targets(patterns: list[re.Pattern], module: str, kind: str) -> bool:
    return kind != "embedding" and any(pattern.fullmatch(module) for pattern in patterns)


def _peft_or_mlx(path: Path, raw: dict) -> Settings:
    return (_mlx if {"fine_tune_type", "lora_parameters"} & raw.keys() else _peft)(path, raw)


def _mlx(path: Path, raw: dict) -> Settings:
    """mlx-lm's: `scale` is the factor itself; "full" has whole weights."""
    kind, parameters = raw.get("fine_tune_type") or "lora", raw.get("lora_parameters") or {}
    if kind not in ("lora", "dora", "full"):
        raise GLMError(f"{path}: fine_tune_type is '{kind}'; only lora, dora and full are supported")
    dora = kind == "dora" or bool(raw.get("use_dora"))
    if kind == "full":
        return Settings(path, MLX, 1, 1.0, tied=True, untrainable=("fine_tune_type full",))
    missing = [name for name in ("rank", "scale") if name not in parameters]
    if missing:
        raise GLMError(f"{path} lacks '{missing[0]}' in lora_parameters")
    r, alpha, dropout = _numbers(
        path, {"r": parameters["rank"], "lora_alpha": parameters["scale"], "lora_dropout": parameters.get("dropout")}
    )
    return Settings(
        path, MLX, r, alpha * r, dropout, dora=dora, tied=True, untrainable=("fine_tune_type dora",) if dora else ()
    )


def _peft(path: Path, raw: dict) -> Settings:
    kind = raw.get("peft_type") or "LORA"
    if str(kind).upper() != "LORA":
        raise GLMError(f"{path}: peft_type is {kind}, and only LORA is supported: the adapter is no LoRA")
    experts = targeted_projections(raw.get("target_parameters"))
    _refuse(path, raw if experts is None else {**raw, "target_parameters": None}, PEFT)
    if raw.get("bias", "none") not in (None, "none", "all", "lora_only"):
        raise GLMError(f"{path}: bias is {raw['bias']!r}, and must be none, all or lora_only")
    init = _initialisation(path, raw.get("init_lora_weights", True))
    _check_patterns(raw)
    if raw.get("use_dora") and raw.get("lora_bias"):
        raise GLMError(f"{path} sets lora_bias with use_dora, which is not supported: only one of them is")
    more = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")
    untrainable = [name for name in more if raw.get(name)]
    untrainable += [f"bias {raw['bias']}"] if raw.get("bias") not in (None, "none") else []
    return Settings(
        path,
        PEFT,
        *_numbers(path, raw),
        rslora=bool(raw.get("use_rslora")),
        ranks=raw.get("rank_pattern") or {},
        alphas=raw.get("alpha_pattern") or {},
        init=init,
        dora=bool(raw.get("use_dora")),
        lora_bias=bool(raw.get("lora_bias")),
        tokens=raw.get("trainable_token_indices"),
        saved=tuple(raw.get("modules_to_save") or ()),
        tied=bool(raw.get("ensure_weight_tying")),
        targets=_peft_targets(raw, experts or set()),
        untrainable=(*untrainable, *([f"init_lora_weights {init}"] if init else [])),
    )


def _check_patterns(raw: dict) -> None:
    """Raises re.error for what PEFT takes as a regular expression and is none."""
    patterns = [
        *(raw.get("rank_pattern") or {}),
        *(raw.get("alpha_pattern") or {}),
        *_listed(raw.get("layers_pattern")),
        *_listed(raw.get("modules_to_save")),
    ]
    patterns += [raw[name] for name in ("target_modules", "exclude_modules") if isinstance(raw.get(name), str)]
    for pattern in patterns:
        re.compile(pattern)


def _initialisation(path: Path, value: Any) -> str:
    """`pissa` or `olora`, or "" where the base weights stay as they are."""
    name = str(value).lower()
    if name in _DECOMPOSED_INITS:
        return name
    if name in _PLAIN_INITS:
        return ""
    if name.startswith("pissa_niter_"):
        raise GLMError(f"{path}: init_lora_weights is {value}, whose decomposition is drawn at random: {_TO_PLAIN}")
    raise GLMError(
        f"{path}: init_lora_weights is {value}, an adapter of changed base weights that its files do not tell: "
        f"{_TO_PLAIN}"
    )


def _peft_targets(raw: dict, experts: set[str]) -> Callable[[str, str], bool] | None:
    """Args: experts: projections of every expert that are named besides, as parameters."""
    targets = raw.get("target_modules") or []
    if not targets and not experts:
        return None

    def named(module: str, kind: str) -> bool:
        if experts and re.fullmatch(rf".*\.experts\.\d+\.({'|'.join(sorted(experts))})", module):
            return True
        if _is_excluded(raw, module):
            return False
        if isinstance(targets, str):
            return kind == "linear" if targets.lower() == "all-linear" else bool(re.fullmatch(targets, module))
        if module in targets:
            return True
        return any(module.endswith(f".{name}") for name in targets) and _is_chosen_layer(raw, module)

    return named


def _is_excluded(raw: dict, module: str) -> bool:
    excluded = raw.get("exclude_modules") or []
    if isinstance(excluded, str):
        found = bool(re.fullmatch(excluded, module))
    else:
        found = module in excluded or any(module.endswith(f".{name}") for name in excluded)
    return found or any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in raw.get("modules_to_save") or [])


def _is_chosen_layer(raw: dict, module: str) -> bool:
    layers = raw.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = _listed(raw.get("layers_pattern")) or [r"[^.]*"]
    starts = [rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\." for pattern in patterns]
    if not raw.get("layers_pattern"):
        starts = [r".*?\.[^.]*\.(?P<index>\d+)\."]
    match = next((found for found in (re.match(start, module) for start in starts) if found), None)
    return match is not None and int(match["index"]) in (layers if isinstance(layers, list) else [layers])


def _listed(value: Any) -> list:
    return [value] if isinstance(value, str) else list(value or [])


def _refuse(path: Path, raw: dict, kind: str) -> None:
    """Raises GLMError for a setting that changes results; a text that nobody knows is named in a warning."""
    refused = _REFUSED[kind]
    for name, value in raw.items():
        if not value or name in _NEUTRAL[kind] or (isinstance(value, list) and not any(value)):
            continue
        if name in refused:
            raise GLMError(f"{path} sets {name}, which is not supported: {refused[name]}")
        if not isinstance(value, str):
            raise GLMError(f"{path} sets {name} to {value!r:.40}, which is not known here and may change results")
        logger.warning("%s sets %s to '%.40s', which is not known here and is passed over", path, name, value)


def _numbers(path: Path, raw: dict) -> tuple[int, float, float]:
    """r, alpha and dropout."""
    missing = [name for name in ("r", "lora_alpha") if name not in raw]
    if missing:
        raise GLMError(f"{path} lacks '{missing[0]}'")
    r, alpha, dropout = raw["r"], raw["lora_alpha"], raw.get("lora_dropout") or 0.0
    if type(r) not in (int, float) or not 1 <= r < inf or r != int(r):
        raise GLMError(f"{path}: r is {r!r}, and must be a whole number above 0")
    for name, value in (("lora_alpha", alpha), ("lora_dropout", dropout)):
        if type(value) not in (int, float) or not isfinite(value):
            raise GLMError(f"{path}: {name} is {value!r}, and must be a number")
    if not 0 <= dropout < 1:
        raise GLMError(f"{path}: lora_dropout is {dropout}, and must be at least 0 and below 1")
    return int(r), alpha, dropout


def _read_settings(path: Path) -> dict:
    raw = read_json(path)
    for name, types in _TYPES.items():
        if raw.get(name) is not None and not isinstance(raw[name], types):
            raise GLMError(f"{path}: {name} is {raw[name]!r:.40}, and must be {' or '.join(t.__name__ for t in types)}")
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern, value in (raw.get(name) or {}).items():
            if type(value) not in (int, float) or not 0 < value < inf:
                raise GLMError(f"{path}: {name} is {value!r} for {pattern}, and must be a number above 0")
            if name == "rank_pattern" and value != int(value):
                raise GLMError(f"{path}: {name} is {value!r} for {pattern}, and must be a whole number")
    return raw
