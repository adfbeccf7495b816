"""A model directory's generation_config.json: how its authors want it to generate. Imports no framework.

A file says what somebody's library could do, so it stops no training. What would change texts and is not there is
refused when texts are generated, unless the other options keep it from acting. Its max_length counts the prompt and
says what a model can hold (128000 in GLM-4-9B-Chat's), not how long an answer should be: it is not read.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from glm.checkpoint.file_names import GENERATION_NAME
from glm.errors import GLMError, UsageError
from glm.files.atomic import write_json
from glm.files.json_files import read_json
from glm.generation.options import NARROWEST, SUPPRESSED, GenerationConfig

NAME = GENERATION_NAME
_logger = logging.getLogger(__name__)
# Hugging Face's name, or for the last two vLLM's → the field of `GenerationConfig`.
_OPTIONS = {
    "do_sample": "do_sample",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "num_beams": "num_beams",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "min_new_tokens": "min_length",
    "repetition_penalty": "repetition_penalty",
    "suppress_tokens": "suppress_tokens",
    "begin_suppress_tokens": "begin_suppress_tokens",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_GREEDY = (("temperature", 0), ("top_p", 0))
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
# Options of Hugging Face that change texts and are not implemented, with the values at which they do nothing besides
# null: always, of those that are drawn, and of those that beams find.
_ALWAYS: Mapping[str, tuple] = {
    "min_length": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "sequence_bias": ({}, []),
    "guidance_scale": (1,),
    "exponential_decay_length_penalty": (),
    "watermarking_config": (),
    "max_time": (),
}
_DRAWN: Mapping[str, tuple] = {
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
}
_BEAMS: Mapping[str, tuple] = {
    "early_stopping": (False,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "low_memory": (False,),
}
# Where a file comes from, how its library computes, what its library returns, and lengths that count the prompt.
_IGNORED = frozenset(
    {
        "_from_model_config",
        "_commit_hash",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "bos_token_id",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "continuous_batching_config",
        "decode_strategy",
        "decoder_start_token_id",
        "disable_compile",
        "eos_token_id",
        "generation_kwargs",
        "is_assistant",
        "max_length",
        "max_matching_ngram_size",
        "max_new_tokens",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "paddlenlp_version",
        "prefill_chunk_size",
        "prompt_lookup_num_tokens",
        "remove_invalid_values",
        "renormalize_logits",
        "return_dict_in_generate",
        "return_legacy_cache",
        "stop_strings",
        "target_lookbehind",
        "token_healing",
        "trainer",
        "transformers_version",
        "use_cache",
        "use_model_defaults",
    }
)
_TYPES = {bool: "boolean", int: "whole number", float: "number"}


@dataclass(frozen=True)
class GenerationFile:
    """The content of a generation_config.json, {} where a directory has none.

    Attributes:
        raw: the file.
        place: where it lies, for messages.
    """

    raw: dict[str, Any] = field(default_factory=dict)
    place: str = NAME

    @classmethod
    def read(cls, directory: str | Path) -> "GenerationFile":
        """Raises GLMError for a damaged file, and for end tokens or a length that are none."""
        path = Path(directory) / NAME
        if not path.is_file():
            return cls()
        file = cls(read_json(path), str(path))
        file._check()
        return file

    def _check(self) -> None:
        """What training needs of it as well."""
        if not all(type(token) is int for token in self.eos_token_ids):
            wrong = self.raw["eos_token_id"]
            raise GLMError(f"{self.place} is damaged: eos_token_id is {wrong!r}, not a token id or a list of them")
        longest = self.max_new_tokens
        if longest is not None and (type(longest) is not int or longest < 1):
            raise GLMError(f"{self.place} sets max_new_tokens to {longest!r}, and it must be a whole number above 0")

    @property
    def options(self) -> dict[str, Any]:
        """Fields of `GenerationConfig`; `top_k` may be None, which is off.

        Raises:
            GLMError: a value of another type, or out of its range, that is not left over from sampling.
        """
        samples = bool(self.raw.get("do_sample"))
        found = {}
        for name, ours in _OPTIONS.items():
            if name not in self.raw or (self.raw[name] is None and name != "top_k"):
                continue
            try:
                found[ours] = _value(name, ours, self.raw[name])
                GenerationConfig(**{"max_length": 1 << 40, ours: found[ours]})
            except UsageError as error:
                if samples or name not in _SAMPLING:
                    raise GLMError(f"{self.place}: {error}; fix it, or remove the entry") from None
                found.pop(ours, None)
        if not samples:  # how such files say greedy
            found = {name: value for name, value in found.items() if (name, value) not in _GREEDY}
        elif found.get("top_p") == 0:
            found["top_p"] = NARROWEST
        least, longest = found.get("min_length", 0), self.max_new_tokens
        if longest is not None and least > longest:
            raise GLMError(f"{self.place}: min_new_tokens ({least}) is above max_new_tokens ({longest}): fix it")
        if words := _single_tokens(self.raw.get("bad_words_ids")):
            words = set(words) - set(self.eos_token_ids)  # as in transformers
            found["suppress_tokens"] = (*found.get("suppress_tokens", ()), *words)
        return found

    @property
    def max_new_tokens(self) -> int | None:
        """How long an answer may be."""
        longest = self.raw.get("max_new_tokens")
        return int(longest) if type(longest) is float and longest.is_integer() else longest

    @property
    def eos_token_ids(self) -> list[int]:
        """One id or a list of them in the file."""
        ids = self.raw.get("eos_token_id")
        return [] if ids is None else list(ids) if isinstance(ids, list) else [ids]

    @property
    def stop_strings(self) -> list[str]:
        """One text or a list of them in the file.

        Raises:
            GLMError: something else.
        """
        texts = self.raw.get("stop_strings") or []
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise GLMError(f"{self.place}: stop_strings is {texts!r:.80}, which is no text or list of texts; fix it")
        return texts

    def refuse_unsupported(self, config: GenerationConfig) -> None:
        """Raises GLMError for an option that would make other texts of the decoding that was chosen."""
        acting = [_ALWAYS, *([_DRAWN] if config.do_sample else []), *([_BEAMS] if config.num_beams > 1 else [])]
        for name in self._unsupported(*acting):
            raise GLMError(
                f"{self.place} sets {name} to {self.raw[name]!r:.80}, which is not supported: remove it from the file"
            )

    def warn_of_unknown(self) -> None:
        """Names what nobody here knows, and what is known and not obeyed, once a process."""
        known = {*_OPTIONS, *_ALWAYS, *_DRAWN, *_BEAMS, *_IGNORED, "num_return_sequences"}
        unknown = sorted(name for name, value in self.raw.items() if name not in known and value is not None)
        if self.raw.get("num_return_sequences") not in (None, 1):
            _warn(f"{self.place}: num_return_sequences: one text is written for a prompt")
        if unknown:
            _warn(f"{self.place}: not known here, and not obeyed: {', '.join(unknown)}")

    def warn_of_unsupported(self) -> None:
        """Names what generation may be refused for: who trains the model should know."""
        if lacking := self._unsupported(_ALWAYS, _DRAWN, _BEAMS):
            _warn(f"{self.place}: not supported, and refused where it would change a text: {', '.join(lacking)}")
        try:
            self.options  # noqa: B018
        except GLMError as error:
            _warn(str(error))

    def _unsupported(self, *kinds: Mapping[str, tuple]) -> list[str]:
        """Names of options that are set to something that acts."""
        neutral = {name: values for kind in kinds for name, values in kind.items()}
        set_ones = [name for name in neutral if self.raw.get(name) is not None and self.raw[name] not in neutral[name]]
        return [name for name in set_ones if name != "bad_words_ids" or _single_tokens(self.raw[name]) is None]

    def save(self, directory: str | Path) -> None:
        """Writes the file again, where there was one."""
        if self.raw:
            write_json(Path(directory) / NAME, self.raw)


NO_FILE = GenerationFile()


@cache
def _warn(message: str) -> None:
    """Once a process."""
    _logger.warning(message)


def _value(name: str, ours: str, value: Any) -> Any:
    """A JSON value as the type of its option: whole numbers may be written as floats, and the other way round.

    Raises:
        UsageError: it is of another type.
    """
    if ours in SUPPRESSED:
        if not isinstance(value, list) or not all(type(index) is int for index in value):
            raise UsageError(f"{name} is {value!r:.80}, which is no list of token ids")
        return tuple(index for index in value if index >= 0)
    wanted = _FIELDS[ours]
    if value is None or type(value) is wanted:
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is int and type(value) is float and value.is_integer():
        return int(value)
    raise UsageError(f"{name} is {value!r:.80}, which is no {_TYPES[wanted]}")


_FIELDS = {field.name: field.type for field in fields(GenerationConfig)}


def _single_tokens(words: Any) -> list[int] | None:
    """The tokens of `bad_words_ids` if each word is one; None for longer words."""
    if isinstance(words, list) and all(isinstance(w, list) and len(w) == 1 and type(w[0]) is int for w in words):
        return [word[0] for word in words]
    return None
