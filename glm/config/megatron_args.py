"""Megatron's arguments, which its checkpoints hold, as a config.json of transformers, and the other way round.

Names: NVIDIA/Megatron-LM, megatron/training/arguments.py; `use_glm_rope`, `post_norm`, `noop_layers` and
`num_layer_list` are MindSpeed-LLM's (Ascend/MindSpeed-LLM, mindspeed_llm/training/arguments.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glm.config.rope_ratio import ROPE_BASE
from glm.errors import GLMError
from glm.pickles.megatron import is_megatron, iteration_folder, open_rank_file, rank_files

Args = Mapping[str, Any]

# Arguments of which this code implements one value only; one that is not there is taken for it.
_FIXED = {
    "normalization": "RMSNorm",
    "swiglu": True,
    "add_bias_linear": False,
    "add_dense_bias": False,
    "position_embedding_type": "rope",
    "apply_layernorm_1p": False,
    "apply_residual_connection_post_layernorm": False,
    "multi_latent_attention": False,
    "qk_layernorm": False,
    "num_experts": None,
    "mtp_num_layers": None,
    "rope_scaling_type": None,
    "use_rope_scaling": False,
    "rotary_seq_len_interpolation_factor": None,
    "sliding_window": None,
    "window_size": None,
}
# Of these, what must be there: Megatron's own default is another.
_NEEDED = ("normalization", "swiglu", "add_bias_linear")
# config.json → argument.
_SIZES = {
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "max_position_embeddings",
}


def read_args(directory: Path) -> tuple[Args, Path]:
    """The arguments of a checkpoint of Megatron's, and the file that they are from."""
    files = rank_files(iteration_folder(directory))
    file = open_rank_file(files[min(files)])
    return file.args, file.path


def megatron_config(directory: Path) -> tuple[dict[str, Any], Path] | None:
    """What the config.json of a Megatron checkpoint would hold, and the file that says so; None for other directories.

    Raises:
        GLMError: damaged, or arguments of another model than a GLM-4.
    """
    if not is_megatron(directory):
        return None
    args, path = read_args(directory)
    try:
        return config_of_args(args), path
    except GLMError as error:
        raise GLMError(f"{path}: its args say {error}") from None


def config_of_args(args: Args) -> dict[str, Any]:
    """A config.json of transformers: of Glm4ForCausalLM where there are norms behind attention and MLP.

    Raises:
        GLMError: what the arguments say of another model, or do not say.
    """
    _require_glm(args)
    post_norms = bool(args.get("post_norm"))
    kind, name = ("glm4", "Glm4ForCausalLM") if post_norms else ("glm", "GlmForCausalLM")
    heads, rope = args["num_attention_heads"], {"rope_theta": args.get("rotary_base") or ROPE_BASE}
    rope["partial_rotary_factor"] = args.get("rotary_percent", 1.0)
    dtype = {"dtype": args["params_dtype"]} if isinstance(args.get("params_dtype"), str) else {}
    return {
        "model_type": kind,
        "architectures": [name],
        "vocab_size": vocabulary(args),
        **{theirs: args[ours] for theirs, ours in _SIZES.items()},
        "num_hidden_layers": args["num_layers"] - len(noop_layers(args)),
        "num_key_value_heads": args["num_query_groups"] if args.get("group_query_attention") else heads,
        "head_dim": args.get("kv_channels") or args["hidden_size"] // heads,
        "rms_norm_eps": args.get("norm_epsilon", args.get("layernorm_epsilon", 1e-5)),
        "attention_bias": bool(args.get("add_qkv_bias")),
        "attention_dropout": args.get("attention_dropout", 0.1),
        "tie_word_embeddings": not args.get("untie_embeddings_and_output_weights"),
        "hidden_act": "silu",
        **rope,
        **dtype,
    }


def vocabulary(args: Args) -> int:
    """Rows of the vocabulary: without Megatron's padding, where the arguments say how many those are."""
    padded, stated = args["padded_vocab_size"], args.get("vocab_size")
    return stated if type(stated) is int and 0 < stated <= padded else padded


def noop_layers(args: Args) -> frozenset[int]:
    """The numbers of layers that hold nothing, counted from 0 among all. Raises GLMError where they are no numbers."""
    stated = args.get("noop_layers")
    numbers = stated.split(",") if isinstance(stated, str) else stated
    try:
        found = frozenset(int(number) for number in numbers or ())
    except (TypeError, ValueError):
        raise GLMError(f"noop_layers {stated!r}, expected numbers of layers such as 6,7,15") from None
    if odd := [number for number in sorted(found) if not 0 <= number < args["num_layers"]]:
        raise GLMError(f"noop_layers {odd[0]} of num_layers {args['num_layers']}, counted from 0")
    return found


def layer_list(args: Args) -> list[int] | None:
    """Layers of every pipeline stage where the arguments list them; noop_layers make Megatron pass over the list."""
    stated = args.get("num_layer_list")
    if not stated or noop_layers(args):
        return None
    try:
        return [int(count) for count in (stated.split(",") if isinstance(stated, str) else stated)]
    except (TypeError, ValueError):
        raise GLMError(f"num_layer_list {stated!r}, expected numbers of layers such as 22,18") from None


def _require_glm(args: Args) -> None:
    whole = (*_SIZES.values(), "num_layers", "padded_vocab_size")
    grouped = ("num_query_groups",) if args.get("group_query_attention") else ()
    for name in (*whole, *grouped):
        if type(args.get(name)) is not int or args[name] < 1:
            raise GLMError(f"{name} {args.get(name)!r}, expected a whole number above 0")
    for name in _NEEDED:
        if name not in args:
            raise GLMError(f"nothing of {name}, which GLM-4 models have as {_FIXED[name]}")
    for name, value in _FIXED.items():
        if name in args and (args[name] or None) != (value or None):
            raise GLMError(f"{name} {args[name]!r}, and GLM-4 models have {value!r}")
    if not (args.get("use_glm_rope") or args.get("rotary_interleaved")):
        raise GLMError(
            "neither use_glm_rope nor rotary_interleaved, and without them rotary positions turn other pairs of "
            "numbers than GLM-4's"
        )


def args_of_config(config: Any) -> dict[str, Any]:
    """What Megatron's command line for a GLM-4 says of the model; ranks and files are not among it.

    Names and types are those that Megatron compares when it loads (`check_checkpoint_args`), those that
    `--use-checkpoint-args` takes from a checkpoint, and MindSpeed-LLM's.

    Raises:
        GLMError: scaled positions, for which Megatron has no GLM-4 arguments.
    """
    if config.rope_scaling:
        raise GLMError(
            f"rope_scaling is of type {config.rope_scaling['rope_type']}, which Megatron's arguments cannot say of a "
            "GLM-4: leave it out of config.json"
        )
    return {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "group_query_attention": config.num_key_value_heads != config.num_attention_heads,
        "num_query_groups": config.num_key_value_heads,
        "kv_channels": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "seq_length": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "position_embedding_type": "rope",
        "add_position_embedding": True,
        "use_rotary_position_embeddings": True,
        "use_glm_rope": True,
        "rotary_interleaved": True,
        "rotary_percent": config.partial_rotary_factor,
        "rotary_base": int(config.rope_theta) if config.rope_theta == int(config.rope_theta) else config.rope_theta,
        "normalization": "RMSNorm",
        "norm_epsilon": config.norm_eps,
        "layernorm_epsilon": config.norm_eps,
        "apply_layernorm_1p": False,
        "post_norm": config.post_norms,
        "swiglu": True,
        "squared_relu": False,
        "add_bias_linear": False,
        "add_qkv_bias": config.attention_bias,
        "untie_embeddings_and_output_weights": not config.tie_word_embeddings,
        "attention_dropout": config.attention_dropout,
        "hidden_dropout": config.hidden_dropout,
        "apply_query_key_layer_scaling": False,
        "num_experts": None,
        "noop_layers": None,
    }
