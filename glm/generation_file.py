"""A model directory's generation_config.json: how its authors want it to generate. Imports no framework.

What the file leaves out is off, top_k too, where transformers then takes 50. Its max_length counts the prompt and says
what a model can hold (128000 in GLM-4-9B-Chat's), not how long an answer should be: it is not read.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from glm.checkpoint.atomic import atomic_write
from glm.checkpoint.file_names import GENERATION_NAME
from glm.errors import GLMError, UsageError
from glm.foreign_files import require_real
from glm.generation_config import GenerationConfig

NAME = GENERATION_NAME
# Hugging Face's name → the field of `GenerationConfig`.
_OPTIONS = {
    "do_sample": "do_sample",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "num_beams": "num_beams",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "min_new_tokens": "min_length",
}
# Options of Hugging Face that change texts and are not implemented, with the value at which they do nothing.
_NEUTRAL = {
    "min_length": 0,
    "early_stopping": False,
    "num_return_sequences": 1,
    "renormalize_logits": False,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "diversity_penalty": 0.0,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "typical_p": 1.0,
    "min_p": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "guidance_scale": None,
    "exponential_decay_length_penalty": None,
    "stop_strings": None,
}

_ANY_LENGTH = 10**9
_TYPES = {bool: "truth value", int: "whole number", float: "number"}


@dataclass(frozen=True)
class GenerationFile:
    """The content of a generation_config.json, {} where a directory has none."""

    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: str | Path) -> "GenerationFile":
        """Raises GLMError for a damaged file, or an option that changes texts and that this project does not have."""
        path = Path(directory) / NAME
        if not path.is_file():
            return cls()
        require_real(path)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GLMError(f"{path} is damaged ({error}): copy it again") from None
        if not isinstance(raw, dict):
            raise GLMError(f"{path} is damaged: it holds a {type(raw).__name__}, not an object: copy it again")
        file = cls(raw)
        file._check(path)
        return file

    def _check(self, path: Path) -> None:
        if not all(type(token) is int for token in self.eos_token_ids):
            raise GLMError(
                f"{path} is damaged: eos_token_id is {self.raw['eos_token_id']!r}, not a token id or a list of them"
            )
        for name, neutral in _NEUTRAL.items():
            if self.raw.get(name, neutral) not in (neutral, None):
                raise GLMError(
                    f"{path} sets {name} to {self.raw[name]!r}, which is not supported: remove it from the file"
                )
        types = {field.name: field.type for field in fields(GenerationConfig)}
        for name, ours in (_OPTIONS | {"max_new_tokens": "max_length"}).items():
            if not _fits(self.raw.get(name), types[ours]):
                raise GLMError(f"{path} sets {name} to {self.raw[name]!r}, which is no {_TYPES[types[ours]]}: mend it")
        try:
            longest = self.max_new_tokens
            GenerationConfig(**self.options, max_length=_ANY_LENGTH if longest is None else longest)
        except UsageError as error:
            raise GLMError(f"{path}: {error}; mend it, or remove the entry") from None

    @property
    def options(self) -> dict[str, Any]:
        """Fields of `GenerationConfig`."""
        return {ours: self.raw[name] for name, ours in _OPTIONS.items() if self.raw.get(name) is not None}

    @property
    def max_new_tokens(self) -> int | None:
        """How long an answer may be."""
        return self.raw.get("max_new_tokens")

    @property
    def eos_token_ids(self) -> list[int]:
        """One id or a list of them in the file."""
        ids = self.raw.get("eos_token_id")
        return [] if ids is None else list(ids) if isinstance(ids, list) else [ids]

    def save(self, directory: str | Path) -> None:
        """Writes the file again, where there was one."""
        if self.raw:
            with atomic_write(Path(directory) / NAME, "w", "utf-8") as file:
                file.write(json.dumps(self.raw, indent=2, ensure_ascii=False) + "\n")


NO_FILE = GenerationFile()


def _fits(value: Any, wanted: type) -> bool:
    """Whether a JSON value may stand for an option of that type; None leaves it out."""
    return value is None or type(value) is wanted or (wanted is float and type(value) is int)
