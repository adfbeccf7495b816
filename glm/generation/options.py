"""How text is generated: the options every script shares. Imports no framework, so that serving can use it."""

from dataclasses import dataclass, fields
from math import isfinite

import numpy as np

from glm.errors import UsageError

# Added to forbidden scores: below any sum of log-probabilities, and far from overflow when added twice.
NEVER = -1e9
COLDEST = 1e-6  # far less, and logits divided by it leave float32
# A nucleus of the likeliest token alone: what top_p 0 is in Hugging Face's files and calls, and in PaddleNLP's. Here
# 0 is off.
NARROWEST = 1e-9
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
        num_beams: beams per sequence; 1 decodes greedily or samples.
        length_penalty: beams are ranked by log-probability / ((5 + length) / 6) ** length_penalty
            (Wu et al., arXiv:1609.08144, eq. 14), the length without the end token, as in PaddleNLP.
        gnmt_length: False ranks by log-probability / length ** length_penalty, the end token counted, as in
            transformers.
        no_repeat_ngram_size: no n-gram of this size occurs twice in a generated text; 0 = off.
        do_sample: draw tokens from the distribution (with beams: draw the candidates) instead of taking the best.
        temperature: divides the logits before sampling; 0 = take the best, as without do_sample.
        top_k: sample from the k most likely tokens; 0, -1 or None = all.
        top_p: sample from the fewest of these that together have this share of their probability; 0, 1 or None = all.
        seed: of the sampling; the same seed gives the same text on every backend.
        repetition_penalty: scores of tokens that prompt or text have are divided by it where positive, else multiplied
            (Keskar et al., arXiv:1909.05858, 4.1): logits, with beams log-probabilities, as in transformers; 1 = off.
        presence_penalty: is taken off the scores of tokens that the generated text has (OpenAI's); 0 = off.
        frequency_penalty: the same, as often as it has them; 0 = off.
        min_p: sample from the tokens at least this likely, as a share of the likeliest one; 0 = all.
        suppress_tokens: ids that are never written.
        begin_suppress_tokens: ids that no text begins with.

    Values that mean "off" are kept as one: None becomes the default, -1 for top_k 0, and temperature 0 turns do_sample
    off.
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
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_p: float = 0.0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self):
        self._settle()
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:  # so that NaN is refused, too
                raise UsageError(f"{name} is {getattr(self, name)}, and must be at least {least}")
        if self.temperature < COLDEST:
            raise UsageError(f"temperature is {self.temperature}, and must be at least {COLDEST}, or 0 for the best")
        for name in ("seed", "top_k", "max_length"):
            if getattr(self, name) >= 1 << 63:
                raise UsageError(f"{name} is {getattr(self, name)}, and must be below 2^63")
        for name in ("length_penalty", "temperature"):
            if not isfinite(getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}, and must be a finite number")
        for name, (least, most) in _BETWEEN.items():
            if not least <= getattr(self, name) <= most:
                raise UsageError(f"{name} is {getattr(self, name)}, and must be between {least} and {most}")
        if not COLDEST <= self.repetition_penalty <= 1 / COLDEST:
            raise UsageError(f"repetition_penalty is {self.repetition_penalty}, and must be a number above 0, as 1.1")
        for name in SUPPRESSED:
            if wrong := [index for index in getattr(self, name) if not 0 <= index < 1 << 31]:
                raise UsageError(f"{name} holds {wrong[0]}, and token ids are at least 0")
        if self.min_length > self.max_length:
            raise UsageError(f"min_length ({self.min_length}) is above max_length ({self.max_length})")

    def _settle(self) -> None:
        """Gives each way to say "off" the one form that the rest of the code knows."""
        for option in fields(self):
            if getattr(self, option.name) is None:
                object.__setattr__(self, option.name, option.default)
        for name in SUPPRESSED:
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        if self.temperature == 0:
            object.__setattr__(self, "do_sample", False)
            object.__setattr__(self, "temperature", 1.0)


@dataclass(frozen=True)
class StopTokens:
    """Ids that end a text, and the id that fills the rest of a finished row."""

    eos_token_ids: tuple[int, ...]
    pad_token_id: int

    @classmethod
    def of(cls, processor) -> "StopTokens":
        """Those of a `glm.encoding.processor.Processor`."""
        return cls(tuple(processor.stop_token_ids), processor.tokenizer.pad_token_id)


SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_LEAST = {
    "max_length": 1,
    "min_length": 0,
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "temperature": 0,
    "top_k": 0,
    "seed": 0,
}
_BETWEEN = {"top_p": (0, 1), "min_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
# Order and dtype of the options as inputs of an exported graph: numbers 0-D, lists of ids 1-D.
CONTROL_DTYPES = {
    field.name: {int: "int64", float: "float32", bool: "bool"}.get(field.type, "int64")
    for field in fields(GenerationConfig)
}


def control_arrays(config: GenerationConfig) -> dict[str, np.ndarray]:
    """The options as the inputs of an exported graph. A list of no ids is [-1]: graphs have no empty inputs."""
    values = {name: getattr(config, name) for name in CONTROL_DTYPES} | {
        n: getattr(config, n) or [-1] for n in SUPPRESSED
    }
    return {name: np.asarray(value, CONTROL_DTYPES[name]) for name, value in values.items()}
