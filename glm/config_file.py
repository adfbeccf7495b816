"""config.json: reading it field by field, so that none that matters is passed over, and writing it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glm.checkpoint.atomic import atomic_write
from glm.errors import GLMError
from glm.foreign_files import require_real
from glm.generations import GENERATIONS, SIZES, Generation
from glm.presets import PRESETS, is_directory

CONFIG_NAME = "config.json"
ADAPTER_CONFIGS = ("lora_config.json", "adapter_config.json")  # PaddleNLP's, PEFT's
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
# Of every format; any other value would make another model of it.
_FIXED: Mapping[str, Any] = {
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
}
# What transformers writes into every config.json besides what PaddleNLP has too: where a file comes from, how its
# library computes, and settings of classification heads and of generation.
_IGNORED = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "name_or_path",
        "num_labels",
        "tf_legacy_loss",
        "torchscript",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
    }
)
# PaddleNLP's fields of every model: how it trains and shares out, names of labels, settings of generation.
# transformers has most of them too. (PaddleNLP itself takes seconds to import.)
PADDLENLP_FIELDS = frozenset(
    [
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "context_parallel_degree",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "fuse_attention_ffn",
        "fuse_attention_qkv",
        "fuse_sequence_parallel_allreduce",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_recompute_layers",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_choices",
        "num_return_sequences",
        "offload_recompute_inputs",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "paddlenlp_version",
        "pipeline_parallel_degree",
        "pp_recompute_interval",
        "prefix",
        "problem_type",
        "pruned_heads",
        "quantization_config",
        "recompute",
        "recompute_granularity",
        "recompute_use_reentrant",
        "refined_recompute",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_parallel_degree",
        "sep_token_id",
        "sequence_parallel",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tensor_parallel_degree",
        "tensor_parallel_output",
        "tensor_parallel_rank",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "typical_p",
        "use_cache",
        "use_flash_attention",
        "use_fused_dropout_add",
        "use_fused_linear",
        "use_fused_linear_cross_entropy",
        "use_fused_rms_norm",
        "use_fused_rope",
        "virtual_pp_degree",
    ]
)


def read_config_file(directory: Path) -> dict[str, Any]:
    """The fields of `GLMConfig` that a directory's config.json gives.

    Raises:
        GLMError: no such file, an adapter's directory, no JSON, no known generation, a missing field, or one that this
            code cannot honour.
    """
    path = directory / CONFIG_NAME
    if not is_directory(directory):
        raise GLMError(f"'{directory}' is neither a directory nor a preset; presets: {', '.join(PRESETS)}")
    refuse_adapter(directory)
    if not path.is_file():
        raise GLMError(f"{directory} holds no {CONFIG_NAME}; give a directory that save_pretrained or a hub wrote")
    require_real(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GLMError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise GLMError(f"{path} holds a {type(raw).__name__}, not the fields of a model; get the file again")
    for name, generation in GENERATIONS.items():
        if generation.recognise(raw):
            try:
                return {"generation": name} | _translate(raw, generation)
            except GLMError as error:
                raise GLMError(f"{path}: {error}") from None
    raise GLMError(
        f"{path}: model_type '{raw.get('model_type')}' with these fields is none of the known generations: "
        f"{', '.join(GENERATIONS)}"
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


def _translate(raw: dict[str, Any], generation: Generation) -> dict[str, Any]:
    raw = _without_aliases(raw, generation)
    _refuse(raw, generation)
    stated = {name: value for name, value in raw.items() if value is not None}
    known = generation.absent | stated
    if missing := [name for name in generation.names if name not in known]:
        raise GLMError(f"no {', '.join(missing)}, which a {generation.architecture} needs; get the file again")
    fields = {ours: known[theirs] for theirs, ours in generation.names.items()} | generation.derive(raw)
    for name in SIZES:
        if name in fields and (type(fields[name]) is not int or fields[name] < 1):
            raise GLMError(f"{name} is {fields[name]!r}, and must be a whole number above 0")
    dtype = stated.get("dtype") or stated.get("torch_dtype")
    tokens = {name: stated[name] for name in TOKENS if name in stated}
    return fields | tokens | ({"dtype": str(dtype).removeprefix("torch.")} if dtype else {})


def _without_aliases(raw: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """One name a field."""
    raw = dict(raw)
    for other, name in generation.aliases.items():
        stated = [value for value in (raw.get(name), raw.pop(other, None)) if value is not None]
        if stated and stated[0] != stated[-1]:
            raise GLMError(f"{name} is {stated[0]} and {other} {stated[-1]}, which must be the same: correct one")
        raw |= {name: stated[0]} if stated else {}
    return raw


def _refuse(raw: dict[str, Any], generation: Generation) -> None:
    fixed = _FIXED | generation.fixed
    for name, value in raw.items():
        if name in fixed and value is not None and value != fixed[name]:
            raise GLMError(f"{name} is {_short(value)}, and only {fixed[name]} is supported")
    _refuse_quantized(raw.get("quantization_config"))
    known = {*generation.names, *generation.derived, *generation.ignored, *fixed, *TOKENS, *_IGNORED, *PADDLENLP_FIELDS}
    # null says that nothing is set.
    if unknown := sorted(name for name, value in raw.items() if name not in known and value is not None):
        raise GLMError(
            f"{unknown[0]} is {_short(raw[unknown[0]])}, and this code does not know that field: take it out if the "
            "model gives the same results without it"
        )


def _refuse_quantized(value: Any) -> None:
    """PaddleNLP's own entry of an unquantized model names no algorithm."""
    algorithms = ("quant_method", "weight_quantize_algo", "quant_type")
    if value and (not isinstance(value, dict) or not set(algorithms) & set(value) or any(map(value.get, algorithms))):
        raise GLMError(f"quantization_config is {_short(value)}: quantized weights are not read; get the original ones")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def config_json(config: Any, shards: int = 1) -> dict[str, Any]:
    """The config.json of a `GLMConfig`, in the names that the generation's own users and PaddleNLP know.

    Args:
        shards: tensor-parallel files that the weights beside it lie in.
    """
    generation = GENERATIONS[config.generation]
    tokens = {name: getattr(config, name, None) for name in TOKENS}
    return {
        "model_type": generation.model_type,
        "architectures": [generation.architecture],
        "dtype": config.dtype,
        **{name: value for name, value in generation.fixed.items() if value is not None},
        **{theirs: getattr(config, ours) for theirs, ours in generation.names.items()},
        **generation.write(config),
        **{name: value for name, value in tokens.items() if value is not None or name in generation.tokens},
        "tensor_parallel_degree": shards,
    }


def write_config_file(config: Any, directory: Path, shards: int = 1) -> None:
    """Writes config.json into a directory, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / CONFIG_NAME) as file:
        file.write(json.dumps(config_json(config, shards), indent=2, ensure_ascii=False).encode() + b"\n")
