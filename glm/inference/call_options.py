"""Options of generation in Python calls, under the names that Hugging Face's `generate` has. Imports no framework."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from glm.encoding.processor import Processor
from glm.errors import UsageError
from glm.generation.options import NARROWEST, GenerationConfig

_LENGTHS = {"max_new_tokens", "max_length", "min_new_tokens"}
_SAME = {field.name for field in fields(GenerationConfig)} - {"max_length", "min_length", "gnmt_length"}
_TYPES = {field.name: field.type for field in fields(GenerationConfig)} | dict.fromkeys(_LENGTHS, int)
# What a value may be, and what an error calls it; numpy's numbers are among them.
_KINDS = {int: (Integral, "a whole number"), float: (Real, "a number"), bool: ((bool, np.bool_), "True or False")}
_IDS = (Sequence, "a list of token ids")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that there is not, or a value of another type."""
    known = sorted(_LENGTHS | _SAME)
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(f"unknown option '{unknown[0]}'; known: {', '.join(known)}")
    for name, value in options.items():
        kind, words = _KINDS.get(_TYPES[name], _IDS)
        fits = isinstance(value, kind) and (kind is not Sequence or all(isinstance(each, Integral) for each in value))
        if value is not None and not fits:
            raise UsageError(f"{name} is {value!r:.80}, and must be {words}")


def call_config(processor: Processor, options: Mapping[str, Any], prompt_length: int) -> GenerationConfig:
    """Decoding options of a call.

    Args:
        options: max_new_tokens; max_length, which counts the prompt and gives way to max_new_tokens; min_new_tokens; or
            any of num_beams, length_penalty, no_repeat_ngram_size, do_sample, temperature, top_k, top_p, min_p, seed,
            repetition_penalty, presence_penalty, frequency_penalty, suppress_tokens, begin_suppress_tokens. None is not
            given, but for top_k: there it is off, as 0 and -1 are; top_p 0 is the likeliest token, as in the libraries.
        prompt_length: tokens of the prompt.

    Raises:
        UsageError: an unknown option or a value of another type, a max_length that leaves no room, or an answer longer
            than the model can count.
    """
    check_options(options)
    config = processor.generation_config(**_fields(options, prompt_length))
    needed = processor.positions.longest(prompt_length, config.max_length)
    if needed > processor.max_position:
        raise UsageError(
            f"a prompt of {prompt_length} tokens and {config.max_length} new ones need position {needed}, and the "
            f"model ends at {processor.max_position}: ask for a shorter answer (--tgt_length, max_new_tokens)"
        )
    return config


def _fields(options: Mapping[str, Any], prompt_length: int) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None or name == "top_k"}
    chosen = {name: value for name, value in given.items() if name in _SAME}
    if chosen.get("top_p") == 0:
        chosen["top_p"] = NARROWEST
    if "min_new_tokens" in given:
        chosen["min_length"] = given["min_new_tokens"]
    if "max_new_tokens" in given:
        chosen["max_length"] = given["max_new_tokens"]
    elif "max_length" in given:
        chosen["max_length"] = _room(given["max_length"], prompt_length)
    return chosen


def _room(total: int, prompt_length: int) -> int:
    if total <= prompt_length:
        raise UsageError(f"max_length {total} has no room for an answer to a prompt of {prompt_length} tokens")
    return total - prompt_length
