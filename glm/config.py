"""Model configuration: what a GLM is made of.

glm/generations.py says what the models of a generation share, glm/presets.py what each model adds, glm/config_file.py
how config.json is read and written.
"""

from math import gcd
from pathlib import Path
from typing import Any

from paddlenlp.transformers import PretrainedConfig

from glm.config_file import config_json, read_config_file, write_config_file
from glm.errors import GLMError, UsageError
from glm.generations import GENERATIONS, Generation
from glm.plan import held
from glm.presets import PRESETS, UNTRAINED_PRESETS, preset_name

__all__ = ["DTYPES", "PRESETS", "UNTRAINED_PRESETS", "GLMConfig", "preset_name"]
DTYPES = ("float32", "bfloat16", "float16")


class GLMConfig(PretrainedConfig):
    """Configuration of `glm.GLMForCausalLM`; the sizes of GLM-Large-Chinese unless given.

    Args:
        generation: key of `GENERATIONS`; its `parts` fill position_type, norm_type, hidden_act, checkpoint_table.
        vocab_size: rows of the word embedding.
        hidden_size: H, width of the residual stream.
        num_hidden_layers, num_attention_heads: depth, and heads a layer.
        num_key_value_heads: heads of keys and values, which query heads share; as many as those unless given.
        head_dim: width of a head; H / heads unless given.
        intermediate_size: width inside the MLP, 4·H unless given.
        max_position_embeddings: the largest position id that is allowed.
        initializer_range: standard deviation of random weights.
        rope_theta, partial_rotary_factor: base, and share of a head that turns, of rotary positions.
        norm_eps, embedding_dropout, attention_dropout, hidden_dropout, attention_bias: epsilon of the norms, dropout
            probabilities in training, whether queries, keys and values have a bias; the generation's unless given.
        kwargs: of PaddleNLP's PretrainedConfig: dtype, tie_word_embeddings, eos_token_id and its like,
            tensor_parallel_degree, tensor_parallel_rank and others.

    Raises:
        GLMError: an unknown generation or dtype, heads that do not divide the hidden size, or a tensor-parallel degree
            that does not divide heads and MLP, or that neither divides the key/value heads nor is a multiple of them.
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
        initializer_range: float = 0.02,
        rope_theta: float = 10000.0,
        partial_rotary_factor: float = 0.5,
        **kwargs,
    ):
        if generation not in GENERATIONS:
            raise GLMError(f"unknown generation '{generation}'; known: {', '.join(GENERATIONS)}")
        shared = GENERATIONS[generation]
        super().__init__(**{**shared.parts, **shared.defaults, **kwargs})
        self.generation = generation
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rope_theta, self.partial_rotary_factor = rope_theta, partial_rotary_factor
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
        for name in ("num_attention_heads", "intermediate_size"):
            if getattr(self, name) % degree:
                raise GLMError(
                    f"tensor_parallel_degree {degree} does not divide {name} {getattr(self, name)}: choose another"
                )
        if self.num_key_value_heads % degree and degree % self.num_key_value_heads:
            raise GLMError(
                f"tensor_parallel_degree {degree} neither divides num_key_value_heads {self.num_key_value_heads} "
                "nor is a multiple of it: choose another"
            )
        if self.dtype not in DTYPES:
            raise GLMError(f"dtype '{self.dtype}' is not one of {', '.join(DTYPES)}")

    @property
    def _shared(self) -> Generation:
        return GENERATIONS[self.generation]

    @property
    def heads_a_group(self) -> int:
        """Query heads that share a key/value head, of those that a rank holds."""
        return self.num_attention_heads // (self.num_key_value_heads * self.kv_copies)

    @property
    def kv_copies(self) -> int:
        """Neighbouring tensor-parallel ranks that hold the same key/value head, because there are fewer than ranks."""
        return max(1, self.tensor_parallel_degree // self.num_key_value_heads)

    def held(self, name: str) -> tuple[int, int]:
        """Which part of a weight this process has in memory, and of how many."""
        return held(name, self.tensor_parallel_rank, self.tensor_parallel_degree, self.kv_copies)

    def require_trainable(self) -> None:
        """Raises UsageError where ranks hold copies of a key/value head: each would get another gradient."""
        if self.kv_copies > 1:
            raise UsageError(
                f"tensor_parallel_degree {self.tensor_parallel_degree} predicts but does not train with "
                f"{self.num_key_value_heads} key/value heads, of which several ranks would hold copies: train with "
                f"{gcd(self.num_key_value_heads, self.intermediate_size)} at most"
            )

    @property
    def half(self) -> str:
        """The 16-bit dtype that the generation is made for."""
        return self._shared.half

    def dtype_warning(self, dtype: str | None = None) -> str | None:
        """One line where arithmetic in this dtype (of the weights unless given) is known to overflow, else None."""
        if (dtype or self.dtype) != "float16" or self.half == "float16":
            return None
        return (
            "float16 overflows in some of this model's layers (endless '!' or nan): prefer bfloat16, which it was "
            "trained in, or float32"
        )

    @classmethod
    def preset(cls, name: str, **overrides) -> "GLMConfig":
        """The configuration of a preset: `glm-4-9b-chat`, or with its owner and in any case, `THUDM/GLM-4-9B-Chat`.

        Raises:
            GLMError: no preset of this name, or as the constructor.
        """
        if preset_name(name) not in PRESETS:
            raise GLMError(f"'{name}' is not a preset; presets: {', '.join(PRESETS)}")
        return cls(**{**PRESETS[preset_name(name)].fields, **overrides})

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
        return config_json(self, shards)

    def save_pretrained(self, save_directory: str | Path, *, shards: int = 1, **kwargs) -> None:
        """Writes config.json into a directory, whole or not at all."""
        write_config_file(self, Path(save_directory), shards)
