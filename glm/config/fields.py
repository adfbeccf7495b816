"""What a GLM is made of, without PaddleNLP: for what reads checkpoints and writes graphs.

glm/config/families.py says what the models of a family share, glm/config/presets.py what each model adds,
glm/config/config_json.py how config.json is read and written; glm/config/glm_config.py makes PaddleNLP's configuration
of it.
"""

from collections.abc import Iterable
from copy import copy
from difflib import get_close_matches
from inspect import signature
from math import gcd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from glm.config.config_json import TOKENS, read_config_file
from glm.config.experts import ExpertFields, check_experts
from glm.config.families import FAMILIES, Family
from glm.config.field_values import CHECKED, checked
from glm.config.foreign_fields import PADDLENLP_FIELDS, TRANSFORMERS_FIELDS
from glm.config.latents import LatentFields, check_latents
from glm.config.presets import PRESETS, is_directory, preset_name
from glm.config.rope_scaling import check_base, longest_position, read_rope_scaling
from glm.distributed.plan import local_shard
from glm.errors import GLMError, UsageError

DTYPES = ("float32", "bfloat16", "float16")
# What PaddleNLP's and transformers' `from_pretrained` take to say how files are read, which here is always so.
_LOADING = frozenset(
    {"convert_from_torch", "load_state_as_np", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors"}
)


class ConfigFields(ExpertFields, LatentFields):
    """The fields of a configuration and their rules; the sizes of GLM-Large-Chinese unless given. See `GLMConfig`."""

    def __init__(
        self,
        family: str = "glm",
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
        partial_rotary_factor: float | None = None,
        rope_scaling: dict[str, Any] | None = None,
        sequence_parallel: bool = False,
        expert_parallel_degree: int = 1,
        expert_parallel_rank: int = 0,
        **kwargs,
    ):
        if family not in FAMILIES:
            raise GLMError(f"unknown family '{family}'; known: {', '.join(FAMILIES)}")
        shared = FAMILIES[family]
        self._refuse_unknown(kwargs, shared)
        super().__init__(**{**shared.parts, **shared.defaults, **kwargs})
        self.family = family
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or self.key_dim or hidden_size // num_attention_heads
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rope_theta = rope_theta
        turned = shared.defaults.get("partial_rotary_factor", 0.5)
        self.partial_rotary_factor = turned if partial_rotary_factor is None else partial_rotary_factor
        self.rope_scaling, _ = read_rope_scaling(rope_scaling, max_position_embeddings)
        self.tensor_parallel_degree = max(self.tensor_parallel_degree, 1)  # PaddleNLP's default is -1
        self.sequence_parallel = sequence_parallel
        self.expert_parallel_degree, self.expert_parallel_rank = expert_parallel_degree, expert_parallel_rank
        self.check()

    @classmethod
    def _refuse_unknown(cls, names: Iterable[str], shared: Family) -> None:
        """Raises GLMError for a name that is no field of this class, nor of any configuration of the libraries'."""
        own = [*signature(ConfigFields).parameters, *shared.parts, *shared.defaults, *TOKENS]
        own.remove("kwargs")
        for name in names:
            if name in own or name in PADDLENLP_FIELDS or name in TRANSFORMERS_FIELDS:
                continue
            elsewhere = {"rope_parameters": "rope_scaling", **shared.aliases, **shared.names}
            close = get_close_matches(name, sorted({*own, *PADDLENLP_FIELDS}), n=1)
            meant = [elsewhere[name]] if name in elsewhere else close
            hint = f"did you mean {meant[0]}?" if meant else "help(glm.GLMConfig) names those that it has"
            raise GLMError(f"{cls.__name__} has no field '{name}': {hint}")

    def check(self) -> None:
        """Raises GLMError where a field has a value that it cannot have, or fields contradict each other."""
        for name in CHECKED:
            if hasattr(self, name):
                checked(name, getattr(self, name))
        if int(self.head_dim * self.partial_rotary_factor) < 1:
            raise GLMError(
                f"partial_rotary_factor {self.partial_rotary_factor} turns no dimension of a head of {self.head_dim}"
            )
        check_base(self.rope_theta, self.rope_scaling)
        if self.rope_scaling and "rope_scaling" not in self._shared.derived:
            able = ", ".join(name for name, each in FAMILIES.items() if "rope_scaling" in each.derived)
            raise GLMError(
                f"rope_scaling is of type {self.rope_scaling['rope_type']}, and models of family "
                f"{self.family} have none, only those of {able}: leave it out, or convert to --format hf"
            )
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
        check_experts(self)
        check_latents(self, needed="kv_lora_rank" in self._shared.names)
        degree = self.tensor_parallel_degree
        if self.sequence_parallel and degree == 1:
            raise GLMError(
                f"sequence_parallel is {self.sequence_parallel} and tensor_parallel_degree {degree}, whose ranks would "
                "divide the tokens: leave it out, or choose a higher degree"
            )
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
    def _shared(self) -> Family:
        return FAMILIES[self.family]

    def is_sparse(self, layer: int) -> bool:
        """Whether the MLP of a layer, counted from 0, divides tokens among experts."""
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    @property
    def queries_per_kv(self) -> int:
        """Query heads that share a key/value head, of those that a rank holds."""
        return self.num_attention_heads // (self.num_key_value_heads * self.kv_replicas)

    @property
    def kv_replicas(self) -> int:
        """Neighbouring tensor-parallel ranks that hold the same key/value head, because there are fewer than ranks."""
        return max(1, self.tensor_parallel_degree // self.num_key_value_heads)

    def local_shard(self, name: str) -> tuple[int, int]:
        """Which part of a weight this process has in memory, and of how many."""
        return local_shard(name, self.tensor_parallel_rank, self.tensor_parallel_degree, self.kv_replicas)

    @property
    def own_experts(self) -> range:
        """Which experts of a layer this process has in memory."""
        share = self.n_routed_experts // self.expert_parallel_degree
        return range(self.expert_parallel_rank * share, (self.expert_parallel_rank + 1) * share)

    def require_trainable(self) -> None:
        """Raises UsageError where ranks hold copies of a key/value head: each would get another gradient."""
        if self.kv_replicas > 1:
            raise UsageError(
                f"tensor_parallel_degree {self.tensor_parallel_degree} predicts but does not train with "
                f"{self.num_key_value_heads} key/value heads, of which several ranks would hold copies: train with "
                f"{gcd(self.num_key_value_heads, self.intermediate_size)} at most"
            )

    @property
    def max_position(self) -> int:
        """The largest position id that a text may have."""
        return longest_position(self.rope_scaling, self.max_position_embeddings)

    @property
    def can_untie(self) -> bool:
        """Whether models of the family may have a head that is not the word embedding."""
        return "tie_word_embeddings" in self._shared.names.values()

    @property
    def half(self) -> str:
        """The 16-bit dtype that the family is made for."""
        return self._shared.half

    def dtype_warning(self, dtype: str | None = None) -> str | None:
        """One line where arithmetic in this dtype (of the weights unless given) is known to overflow, else None."""
        if (dtype or self.dtype) != "float16" or self.half == "float16":
            return None
        return (
            "float16 overflows in some of this model's layers (endless '!' or nan): prefer bfloat16, which it was "
            "trained in, or float32"
        )

    def changed(self, **fields) -> "ConfigFields":
        """A copy with other values, which fit each other; errors as of the constructor."""
        other = copy(self)
        for name, value in fields.items():
            setattr(other, name, value)
        other.check()
        return other

    @classmethod
    def preset(cls, name: str, **overrides) -> "ConfigFields":
        """The configuration of a preset: `glm-4-9b-chat`, or with its owner and in any case, `THUDM/GLM-4-9B-Chat`.

        Raises:
            GLMError: no preset of this name, or as the constructor.
        """
        if preset_name(name) not in PRESETS:
            raise GLMError(f"'{name}' is not a preset; presets: {', '.join(PRESETS)}")
        return cls(**{**PRESETS[preset_name(name)].fields, **overrides})

    @classmethod
    def from_pretrained(cls, name_or_path: str, **overrides) -> "ConfigFields":
        """Reads a preset by its name, or the config.json of a directory.

        Args:
            overrides: fields to change; what PaddleNLP's and transformers' `from_pretrained` take to say how files are
                read is passed over.

        Raises:
            GLMError: neither a preset nor a directory with a config.json that describes a known family, or no such
                field.
        """
        overrides = {name: value for name, value in overrides.items() if name not in _LOADING}
        if preset_name(name_or_path) in PRESETS and not is_directory(name_or_path):
            return cls.preset(name_or_path, **overrides)
        return cls(**read_config_file(Path(name_or_path)) | overrides)


class PlainConfig(ConfigFields, SimpleNamespace):
    """A configuration and nothing else; arguments and errors as of `GLMConfig`."""

    dtype = "float32"
    tensor_parallel_degree, tensor_parallel_rank = 1, 0
