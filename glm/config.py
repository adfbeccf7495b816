"""Model configuration: what a GLM is made of, the presets, and the config.json files that are read and written.

A generation is data: one entry of `GENERATIONS` says which parts its models share, and how its config.json names
things. A preset is only what differs from its generation.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlenlp.transformers import PretrainedConfig

from glm.checkpoint.atomic import atomic_write
from glm.errors import GLMError

CONFIG_NAME = "config.json"
DTYPES = ("float32", "bfloat16", "float16")
_DROPOUTS = ("embedding_dropout", "attention_dropout", "hidden_dropout")


@dataclass(frozen=True)
class Generation:
    """What the models of one GLM generation share.

    Attributes:
        parts: fields of `GLMConfig` with the same value in every model of the generation.
        names: name of a field in config.json → its name in `GLMConfig`.
        fixed: config.json fields of which this code implements one value only.
        recognise: whether a config.json describes this generation.
        derive: `GLMConfig` fields that follow from several of config.json's.
        write: the inverse of `derive`: config.json fields of a `GLMConfig`.
        architecture, model_type: what config.json calls the model.
    """

    parts: dict[str, Any]
    names: dict[str, str]
    fixed: dict[str, Any]
    recognise: Callable[[dict[str, Any]], bool]
    derive: Callable[[dict[str, Any]], dict[str, Any]] = lambda raw: {}
    write: Callable[[Any], dict[str, Any]] = lambda config: {}
    architecture: str = "GLMForConditionalGeneration"
    model_type: str = "glm"


def _remote_rope(raw: dict[str, Any]) -> dict[str, Any]:
    return {"rope_theta": 10000.0 * raw.get("rope_ratio", 1)}


def _write_remote_rope(config: "GLMConfig") -> dict[str, Any]:
    ratio = config.rope_theta / 10000.0
    return {"rope_ratio": int(ratio) if ratio == int(ratio) else ratio, "num_hidden_layers": config.num_hidden_layers}


def _write_hf_rope(config: "GLMConfig") -> dict[str, Any]:
    """As transformers 5 reads it, and as 4 does."""
    rope = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.partial_rotary_factor}
    return rope | {"rope_parameters": rope | {"rope_type": "default"}, "torch_dtype": config.dtype}


def _hf_rope(raw: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes rope_parameters, transformers 4 its fields on their own."""
    rope = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5} | raw | raw.get("rope_parameters", {})
    if rope.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
        raise GLMError(f"config.json: rope_type '{rope.get('rope_type')}' is not supported, only 'default'")
    return {name: rope[name] for name in ("rope_theta", "partial_rotary_factor")}


_GLM4 = {
    "position_type": "partial_rotary",
    "norm_type": "rms_norm",
    "hidden_act": "silu",
    "mlp_type": "gated",
    "linear_bias": False,
    "residual": "input",
    "tie_word_embeddings": False,
    "embedding_dropout": 0.0,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
}
_HF_NAMES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "attention_bias",
    "attention_dropout",
    "initializer_range",
    "tie_word_embeddings",
)


def _transformers(model_type: str, architecture: str, post_norms: bool) -> Generation:
    return Generation(
        parts=_GLM4 | {"post_norms": post_norms, "checkpoint_table": "glm4"},
        names={name: name for name in _HF_NAMES} | {"rms_norm_eps": "norm_eps"},
        fixed={"hidden_act": "silu"},
        recognise=lambda raw: raw.get("model_type") == model_type and "num_hidden_layers" in raw,
        derive=_hf_rope,
        write=_write_hf_rope,
        architecture=architecture,
        model_type=model_type,
    )


GENERATIONS = {
    # GLM, arXiv:2103.10360. config.json as PaddleNLP and the Hugging Face remote code write it.
    "glm": Generation(
        parts={
            "position_type": "learned_2d",
            "norm_type": "layer_norm",
            "hidden_act": "gelu_tanh",
            "mlp_type": "plain",
            "attention_bias": True,
            "linear_bias": True,
            "post_norms": False,
            "residual": "input",
            "tie_word_embeddings": True,
            "checkpoint_table": "glm",
        },
        names={
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "max_sequence_length": "max_position_embeddings",
            "layernorm_epsilon": "norm_eps",
            "initializer_range": "initializer_range",
            "embedding_dropout_prob": "embedding_dropout",
            "attention_dropout_prob": "attention_dropout",
            "output_dropout_prob": "hidden_dropout",
        },
        fixed={"block_position_encoding": True, "relative_encoding": False},
        recognise=lambda raw: raw.get("model_type", "glm") == "glm" and "num_layers" in raw,
    ),
    # config.json of THUDM/chatglm-6b.
    "chatglm": Generation(
        parts={
            "position_type": "rotary_2d",
            "norm_type": "layer_norm",
            "hidden_act": "gelu_tanh",
            "mlp_type": "plain",
            "attention_bias": True,
            "linear_bias": True,
            "post_norms": False,
            "residual": "scaled_norm",
            "tie_word_embeddings": False,
            "checkpoint_table": "chatglm",
            "embedding_dropout": 0.0,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
        },
        names={
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "inner_hidden_size": "intermediate_size",
            "max_sequence_length": "max_position_embeddings",
            "layernorm_epsilon": "norm_eps",
        },
        fixed={"position_encoding_2d": True},
        recognise=lambda raw: raw.get("model_type") == "chatglm" and "ffn_hidden_size" not in raw,
        architecture="ChatGLMModel",
        model_type="chatglm",
    ),
    # config.json of the remote-code repositories of GLM-4-9B.
    "glm4-remote": Generation(
        parts=_GLM4 | {"post_norms": False, "checkpoint_table": "glm4_remote"},
        names={
            "padded_vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "multi_query_group_num": "num_key_value_heads",
            "kv_channels": "head_dim",
            "ffn_hidden_size": "intermediate_size",
            "seq_length": "max_position_embeddings",
            "layernorm_epsilon": "norm_eps",
            "add_qkv_bias": "attention_bias",
            "attention_dropout": "attention_dropout",
            "hidden_dropout": "hidden_dropout",
            "tie_word_embeddings": "tie_word_embeddings",
        },
        fixed={
            "original_rope": True,
            "multi_query_attention": True,
            "rmsnorm": True,
            "post_layer_norm": True,
            "apply_residual_connection_post_layernorm": False,
            "add_bias_linear": False,
        },
        recognise=lambda raw: raw.get("model_type") == "chatglm" and "ffn_hidden_size" in raw,
        derive=_remote_rope,
        write=_write_remote_rope,
        architecture="ChatGLMModel",
        model_type="chatglm",
    ),
    "glm4": _transformers("glm", "GlmForCausalLM", post_norms=False),
    "glm4-0414": _transformers("glm4", "Glm4ForCausalLM", post_norms=True),
}

PRESETS: dict[str, dict[str, Any]] = {
    # No pretrained weights exist for it: small enough to learn the bundled samples in minutes on two cores.
    "glm-tiny-chinese": {
        "generation": "glm",
        "vocab_size": 384,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "embedding_dropout": 0.0,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    },
    "glm-large-chinese": {"generation": "glm"},
    "glm-10b-chinese": {
        "generation": "glm",
        "hidden_size": 4096,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
    },
}
# Presets that start from random weights because nobody published any.
UNTRAINED_PRESETS = frozenset({"glm-tiny-chinese"})


class GLMConfig(PretrainedConfig):
    """Configuration of `glm.GLMForCausalLM`; the defaults are GLM-Large-Chinese.

    Args:
        generation: key of `GENERATIONS`; its `parts` fill position_type, norm_type, hidden_act, checkpoint_table.
        vocab_size: rows of the word embedding.
        hidden_size: H, width of the residual stream.
        num_hidden_layers, num_attention_heads: depth, and heads a layer.
        num_key_value_heads: heads of keys and values, which query heads share; as many as those unless given.
        head_dim: width of a head; H / heads unless given.
        intermediate_size: width inside the MLP, 4·H unless given.
        max_position_embeddings: the largest position id that is allowed.
        norm_eps: epsilon of the norms.
        embedding_dropout, attention_dropout, hidden_dropout: dropout probabilities in training.
        initializer_range: standard deviation of random weights.
        attention_bias: whether queries, keys and values have a bias.
        rope_theta, partial_rotary_factor: base, and share of a head that turns, of rotary positions.
        kwargs: of PaddleNLP's PretrainedConfig: dtype, tensor_parallel_degree, tensor_parallel_rank and others.

    Raises:
        GLMError: an unknown generation or dtype, heads that do not divide the hidden size, or a tensor-parallel degree
            that does not divide heads and MLP.
    """

    model_type = "glm"

    def __init__(
        self,
        generation: str = "glm",
        vocab_size: int = 50048,
        hidden_size: int = 1024,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 1024,
        norm_eps: float = 1e-5,
        embedding_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        hidden_dropout: float = 0.1,
        initializer_range: float = 0.02,
        attention_bias: bool = True,
        rope_theta: float = 10000.0,
        partial_rotary_factor: float = 0.5,
        **kwargs,
    ):
        if generation not in GENERATIONS:
            raise GLMError(f"unknown generation '{generation}'; known: {', '.join(GENERATIONS)}")
        parts = dict(GENERATIONS[generation].parts)
        for name in ("attention_bias", "embedding_dropout", "attention_dropout", "hidden_dropout"):
            parts.pop(name, None)  # a generation's default, which the arguments have already
        super().__init__(**parts | kwargs)
        self.generation = generation
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.attention_bias, self.rope_theta = attention_bias, rope_theta
        self.partial_rotary_factor = partial_rotary_factor
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.norm_eps = norm_eps
        self.embedding_dropout = embedding_dropout
        self.attention_dropout = attention_dropout
        self.hidden_dropout = hidden_dropout
        self.initializer_range = initializer_range
        self.tensor_parallel_degree = max(self.tensor_parallel_degree, 1)  # PaddleNLP's default is -1
        self._check()

    def _check(self) -> None:
        divided = self.hidden_size // self.num_attention_heads
        if self.head_dim == divided and divided * self.num_attention_heads != self.hidden_size:
            raise GLMError(
                f"num_attention_heads ({self.num_attention_heads}) does not divide hidden_size ({self.hidden_size})"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise GLMError(
                f"num_key_value_heads ({self.num_key_value_heads}) does not divide num_attention_heads "
                f"({self.num_attention_heads})"
            )
        degree = self.tensor_parallel_degree
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            if getattr(self, name) % degree:
                raise GLMError(
                    f"tensor_parallel_degree {degree} does not divide {name} {getattr(self, name)}: choose another"
                )
        if self.dtype not in DTYPES:
            raise GLMError(f"dtype '{self.dtype}' is not one of {', '.join(DTYPES)}")

    @property
    def heads_a_group(self) -> int:
        """Query heads that share a key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @classmethod
    def preset(cls, name: str, **overrides) -> "GLMConfig":
        """The configuration of a preset, `glm-large-chinese` or with its owner, `THUDM/glm-large-chinese`."""
        return cls(**PRESETS[preset_name(name)] | overrides)

    @classmethod
    def from_pretrained(cls, name_or_path: str, **overrides) -> "GLMConfig":
        """Reads a preset by its name, or the config.json of a directory.

        Raises:
            GLMError: neither a preset nor a directory with a config.json that describes a known generation.
        """
        if preset_name(name_or_path) in PRESETS and not Path(name_or_path).is_dir():
            return cls.preset(name_or_path, **overrides)
        return cls(**read_config_file(Path(name_or_path)) | overrides)

    def to_checkpoint_dict(self, shards: int = 1) -> dict[str, Any]:
        """The config.json, in the names that the generation's own users and PaddleNLP know.

        Args:
            shards: tensor-parallel files that the weights beside it lie in.
        """
        generation = GENERATIONS[self.generation]
        known = {theirs: getattr(self, ours) for theirs, ours in generation.names.items()}
        return {
            "model_type": generation.model_type,
            "architectures": [generation.architecture],
            "dtype": self.dtype,
            **generation.fixed,
            **known,
            **generation.write(self),
            "intermediate_size": self.intermediate_size,
            "tensor_parallel_degree": shards,
            "output_predict": True,
        }

    def save_pretrained(self, save_directory: str | Path, *, shards: int = 1, **kwargs) -> None:
        """Writes config.json into a directory, whole or not at all."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(directory / CONFIG_NAME) as file:
            file.write(json.dumps(self.to_checkpoint_dict(shards), indent=2, ensure_ascii=False).encode() + b"\n")


def preset_name(name: str) -> str:
    """`THUDM/glm-large-chinese` and `glm-large-chinese` are the same preset."""
    return name.rsplit("/", 1)[-1]


def read_config_file(directory: Path) -> dict[str, Any]:
    """The fields of `GLMConfig` that a directory's config.json gives."""
    path = directory / CONFIG_NAME
    if not directory.is_dir():
        raise GLMError(f"'{directory}' is neither a directory nor a preset; presets: {', '.join(PRESETS)}")
    if not path.is_file():
        raise GLMError(f"{directory} holds no {CONFIG_NAME}; give a directory that save_pretrained or a hub wrote")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GLMError(f"{path} is not valid JSON: {error}") from None
    for name, generation in GENERATIONS.items():
        if generation.recognise(raw):
            defaults = {n: v for n, v in generation.parts.items() if n in ("attention_bias", *_DROPOUTS)}
            return {"generation": name} | defaults | _translate(raw, generation, path)
    raise GLMError(
        f"{path}: model_type '{raw.get('model_type')}' with these fields is none of the known generations: "
        f"{', '.join(GENERATIONS)}"
    )


def _translate(raw: dict[str, Any], generation: Generation, path: Path) -> dict[str, Any]:
    for name, value in generation.fixed.items():
        if raw.get(name, value) != value:
            raise GLMError(f"{path}: {name} is {raw[name]}, and only {value} is supported")
    fields = {ours: raw[theirs] for theirs, ours in generation.names.items() if theirs in raw}
    fields |= generation.derive(raw)
    dtype = raw.get("dtype") or raw.get("torch_dtype")
    fields |= {"dtype": dtype} if dtype else {}
    return fields | {name: raw[name] for name in ("intermediate_size",) if name in raw}
