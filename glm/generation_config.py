"""How text is generated: the options every script shares. Imports no framework, so that serving can use it."""

from dataclasses import dataclass, fields
from math import isfinite

from glm.errors import UsageError

# Added to forbidden scores: below any sum of log-probabilities, and far from overflow when added twice.
NEVER = -1e9
COLDEST = 1e-6  # far less, and logits divided by it leave float32
NOT_FINITE = (
    "the model's logits became nan or infinite: its weights are damaged, or its numbers overflow; convert or export it "
    "again, or use --dtype float32"
)


@dataclass(frozen=True)
class GenerationConfig:
    """Decoding options.

    Attributes:
        max_length: most new tokens, the end token included.
        min_length: no end token before this many tokens.
        num_beams: beams a row; 1 decodes greedily or samples.
        length_penalty: beams are ranked by log-probability / ((5 + length) / 6) ** length_penalty
            (Wu et al., arXiv:1609.08144, eq. 14), the length without the end token, as in PaddleNLP.
        gnmt_length: False ranks by log-probability / length ** length_penalty, the end token counted, as in
            transformers.
        no_repeat_ngram_size: no n-gram of this size occurs twice in a generated text; 0 = off.
        do_sample: draw tokens from the distribution (with beams: draw the candidates) instead of taking the best.
        temperature: divides the logits before sampling.
        top_k: sample from the k most likely tokens; 0 = all.
        top_p: sample from the fewest tokens that together have this probability; 0 or 1 = all.
        seed: of the sampling; the same seed gives the same text on every backend.
    """

    max_length: int = 160
    min_length: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    gnmt_length: bool = True
    no_repeat_ngram_size: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:  # so that NaN is refused, too
                raise UsageError(f"{name} is {getattr(self, name)}, and must be at least {least}")
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}, and must be above 0")
        if self.temperature < COLDEST:
            raise UsageError(f"temperature is {self.temperature}, and must be at least {COLDEST}: leave out do_sample")
        for name in ("seed", "top_k", "max_length"):
            if getattr(self, name) >= 1 << 63:
                raise UsageError(f"{name} is {getattr(self, name)}, and must be below 2^63")
        for name in ("length_penalty", "temperature"):
            if not isfinite(getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}, and must be a finite number")
        if self.top_p > 1:
            raise UsageError(f"top_p is {self.top_p}, and must be between 0 and 1")
        if self.min_length > self.max_length:
            raise UsageError(f"min_length ({self.min_length}) is above max_length ({self.max_length})")


@dataclass(frozen=True)
class StopTokens:
    """Ids that end a text, and the id that fills the rest of a finished row."""

    eos_token_ids: tuple[int, ...]
    pad_token_id: int

    @classmethod
    def of(cls, encoder) -> "StopTokens":
        """Those of a `glm.datasets.encoding.Encoder`."""
        return cls(tuple(encoder.stop_token_ids), encoder.tokenizer.pad_token_id)


_LEAST = {
    "max_length": 1,
    "min_length": 0,
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "top_k": 0,
    "top_p": 0,
    "seed": 0,
}
# Order and dtype of the options as inputs of an exported graph.
CONTROL_DTYPES = {
    field.name: {int: "int64", float: "float32", bool: "bool"}[field.type] for field in fields(GenerationConfig)
}
