"""Options of `model.generate` under the names that PaddleNLP and Hugging Face have. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np

from glm.errors import UsageError
from glm.generation.config_json import GenerationFile
from glm.generation.options import NARROWEST, GenerationConfig

NEW_TOKENS, TOP_K = 20, 50  # PaddleNLP's, where nobody says
STRATEGIES = {"greedy_search": (False, 1), "sampling": (True, 1), "beam_search": (None, None)}
_OWN = {field.name: field.type for field in fields(GenerationConfig) if field.name != "gnmt_length"}
_LENGTHS = {"max_new_tokens": "max_length", "min_new_tokens": "min_length", "min_new_token": "min_length"}
# Beside those of `GenerationConfig`: what they are, and what they are where nobody says.
_MORE = {"num_return_sequences": (int, 1), "trunc_input": (bool, True), "use_cache": (bool, True)}
_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id")
# Options of the libraries that are not implemented, and what they must be: the value at which they do nothing.
NEUTRAL: Mapping[str, Any] = {
    "bad_words_ids": None,
    "diversity_penalty": 0.0,
    "diversity_rate": 0.0,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "fast_ptq_sampling": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "num_beam_groups": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "renormalize_logits": False,
    "return_dict_in_generate": False,
    "synced_gpus": False,
    "typical_p": 1.0,
    "use_fast": False,
    "use_fp16_decoding": False,
}
_KINDS = {int: (Integral, "a whole number"), float: (Real, "a number"), bool: ((bool, np.bool_), "True or False")}


@dataclass(frozen=True)
class CallOptions:
    """What a call of `generate` asks for.

    Attributes:
        config: decoding options.
        eos_token_ids, pad_token_id: None where the call does not say.
        returned: sequences per prompt.
        trunc_input: leave the prompt out of what comes back.
    """

    config: GenerationConfig
    eos_token_ids: tuple[int, ...] | None
    pad_token_id: int | None
    returned: int
    trunc_input: bool


def read_options(
    options: Mapping[str, Any], file: GenerationFile, gnmt_length: bool, base: GenerationConfig | None = None
) -> CallOptions:
    """The options of a call over generation_config.json's over PaddleNLP's defaults.

    Args:
        options: max_new_tokens, or PaddleNLP's max_length, which counts new tokens too; min_new_tokens, min_length;
            decode_strategy; num_return_sequences; eos_token_id (an id or several), pad_token_id; fields of
            `GenerationConfig`. None is not given, but for top_k: there it is off.
        file: of the model's directory.
        gnmt_length: of `GenerationConfig`.
        base: a whole set of options to start from, instead of the file's.

    Raises:
        UsageError: an unknown option, a value of another type, or one that is not implemented.
        GLMError: generation_config.json asks for what is not supported, and would make other texts.
    """
    given = {name: value for name, value in options.items() if value is not None}
    check_names(given)
    given |= {"top_k": 0} if options.get("top_k", 0) is None else {}
    chosen = _defaults(file, gnmt_length) if base is None else asdict(base)
    own = {_LENGTHS.get(name, name): value for name, value in given.items() if name in _OWN or name in _LENGTHS}
    own |= {_LENGTHS[name]: given[name] for name in ("max_new_tokens", "min_new_tokens") if name in given}
    chosen |= own | ({"top_p": NARROWEST} if own.get("top_p") == 0 else {})
    chosen |= _strategy(given.get("decode_strategy"), chosen)
    if "top_k" not in own and "top_k" not in file.options and base is None and chosen.get("do_sample"):
        chosen["top_k"] = TOP_K
    if "min_length" not in own:
        chosen["min_length"] = min(chosen.get("min_length", 0), chosen["max_length"])
    config = GenerationConfig(**chosen)
    file.refuse_unsupported(config)
    eos, pad = given.get("eos_token_id"), given.get("pad_token_id")
    return CallOptions(
        config,
        None if eos is None else _ids(eos, "eos_token_id"),
        None if pad is None else int(_ids(pad, "pad_token_id", 1)[0]),
        _returned(given.get("num_return_sequences", 1), config),
        bool(given.get("trunc_input", True)),
    )


def _defaults(file: GenerationFile, gnmt_length: bool) -> dict[str, Any]:
    longest = file.max_new_tokens or NEW_TOKENS
    return {"max_length": longest, "gnmt_length": gnmt_length} | file.options


def check_names(options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that there is not, that does nothing here, or whose value has another type."""
    types = _OWN | dict.fromkeys(_LENGTHS, int) | {name: kind for name, (kind, _) in _MORE.items()}
    known = sorted({*types, *NEUTRAL, *_TOKENS, "decode_strategy"})
    for name, value in options.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise UsageError(
                f"unknown option '{name}'{f': did you mean {near[0]}?' if near else ''}; see docs/python.md"
            )
        if name in NEUTRAL and value != NEUTRAL[name]:
            raise UsageError(f"{name} {value!r} is not implemented; leave it out, or give {NEUTRAL[name]!r}")
        kind, words = _KINDS.get(types.get(name), (object, ""))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object and types[name] is not bool):
            raise UsageError(f"{name} is {value!r:.80}, and must be {words}")


def _strategy(name: str | None, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """do_sample and num_beams that a `decode_strategy` means; {} where there is none."""
    if name is None:
        return {}
    if name not in STRATEGIES:
        raise UsageError(f"decode_strategy is {name!r:.80}, and must be one of {', '.join(STRATEGIES)}")
    beams = chosen.get("num_beams", 1)
    if name == "beam_search" and beams < 2:
        raise UsageError(f"decode_strategy beam_search needs num_beams of at least 2, and it is {beams}")
    sampled, count = STRATEGIES[name]
    return {"do_sample": bool(sampled), "num_beams": beams if count is None else count}


def _returned(count: int, config: GenerationConfig) -> int:
    if count < 1:
        raise UsageError(f"num_return_sequences is {count}, and must be at least 1")
    if config.num_beams > 1 and count > config.num_beams:
        raise UsageError(f"num_return_sequences {count} is above num_beams {config.num_beams}")
    if count > 1 and config.num_beams == 1 and not config.do_sample:
        raise UsageError(f"num_return_sequences {count} of greedy search would be {count} times the same: use sampling")
    return int(count)


def _ids(value: int | Sequence[int], name: str, most: int | None = None) -> tuple[int, ...]:
    """Ids of one, a list, an array or a tensor."""
    value = value.tolist() if hasattr(value, "tolist") else value
    ids = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(index, Integral) for index in ids) or (most and len(ids) != most):
        raise UsageError(f"{name} is {value!r:.80}, and must be a token id{'' if most else ' or several'}")
    return tuple(map(int, ids))
