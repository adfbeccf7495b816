"""The requests of OpenAI's interface, read from JSON: every known field is obeyed, without effect by its nature, or
refused by name. The names beside OpenAI's are vLLM's.

Sources: OpenAI's openapi.yaml (createChatCompletion, createCompletion); vLLM's extra parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from glm.serving.errors import invalid, unsupported
from glm.serving.fields import (
    anything,
    biases,
    flag,
    listed,
    mapping,
    no_effect,
    number,
    one_of,
    read_fields,
    refused,
    stops,
    text,
    unknown_fields,
    whole,
    wrong,
)

MOST_STOPS, MOST_TOKENS, MOST_SEED = 16, 1 << 31, 1 << 63
MOST_IDS = 1 << 20  # of one prompt; more than any of these models reads
MOST_PROMPTS, MOST_MESSAGES, MOST_TOOLS = 256, 4096, 128
DEFAULT_COMPLETION = 16  # tokens of /v1/completions, OpenAI's


@dataclass(frozen=True)
class Sampling:
    """How a text is to be written; None is left to the model.

    Attributes:
        logprobs: how many of the likeliest tokens are told beside the chosen one; None tells nothing.
        others: as in the interface.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_beams: int = 1
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class Request:
    """What both kinds of request have.

    Attributes:
        usage: whether a stream tells usage at its end; `running_usage` tells it in every chunk.
        unknown: names of fields that nobody knows.
    """

    sampling: Sampling
    model: str | None = None
    stream: bool = False
    usage: bool = False
    running_usage: bool = False
    truncate_prompt_tokens: int | None = None
    return_token_ids: bool = False
    response_format: Mapping[str, Any] | None = None
    unknown: Sequence[str] = ()


@dataclass(frozen=True)
class ChatRequest(Request):
    """`template_variables`: what the chat template reads besides, `enable_thinking` for example."""

    messages: tuple[Any, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    template_variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompletionRequest(Request):
    """`prompts`: texts, or ids that are taken as they are."""

    prompts: tuple[str | tuple[int, ...], ...] = ()
    echo: bool = False
    add_special_tokens: bool = True


_GUIDED = refused("use response_format")
_TOOLS = refused("use tools and tool_choice")
_SPEECH = refused("these models write text alone")
_id = whole(0, MOST_TOKENS)
_COMMON = {
    "model": text,
    "max_tokens": whole(0, MOST_TOKENS),
    "min_tokens": whole(0, MOST_TOKENS),
    "temperature": number(0, 100),
    "top_p": number(0, 1),
    "top_k": whole(-1, MOST_TOKENS),
    "min_p": number(0, 1),
    "seed": whole(-MOST_SEED, MOST_SEED - 1),
    "n": whole(1, 128),
    "stop": stops(MOST_STOPS),
    "stop_token_ids": listed(_id, 64, "token ids"),
    "ignore_eos": flag,
    "include_stop_str_in_output": flag,
    "skip_special_tokens": flag,
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "repetition_penalty": number(1e-6, 1e6),
    "logit_bias": biases(1024),
    "num_beams": whole(1, 64),
    "length_penalty": number(-100, 100),
    "no_repeat_ngram_size": whole(0, 1024),
    "stream": flag,
    "stream_options": mapping,
    "truncate_prompt_tokens": whole(-1, MOST_TOKENS),
    "return_token_ids": flag,
    "response_format": mapping,
    # Without effect: they say who asks, or where it is to be filed.
    **dict.fromkeys(("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"), no_effect),
    # Known, and not served.
    "use_beam_search": refused("use num_beams", False),
    "best_of": whole(1, 128),
    "early_stopping": refused("use num_beams", False),
    "prompt_logprobs": refused("use echo and logprobs of /v1/completions"),
    "allowed_token_ids": refused("use response_format or logit_bias"),
    "bad_words": refused("use logit_bias", []),
    "spaces_between_special_tokens": refused("special tokens are joined as they are", True),
    "logits_processors": refused("code of a request is not run", []),
    "priority": refused("requests are served in the order of their arrival", 0),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"), _GUIDED),
}
_CHAT = {
    **_COMMON,
    "max_tokens": whole(1, MOST_TOKENS),
    "messages": listed(anything, MOST_MESSAGES, "messages"),
    "max_completion_tokens": whole(1, MOST_TOKENS),
    "logprobs": flag,
    "top_logprobs": whole(0, 20),
    "tools": listed(mapping, MOST_TOOLS, "tools"),
    "tool_choice": anything,
    "parallel_tool_calls": flag,
    "functions": _TOOLS,
    "function_call": _TOOLS,
    "modalities": refused("these models write text alone", ["text"]),
    "audio": _SPEECH,
    "prediction": refused("there is nothing that it would speed up"),
    "reasoning_effort": refused("these models think as much as they were trained to"),
    "verbosity": refused("these models write as much as they were trained to"),
    "web_search_options": refused("these models search nothing"),
    "chat_template": refused("the model's own template is used"),
    "chat_template_kwargs": mapping,
    "thinking": mapping,
    "add_generation_prompt": refused("an answer always follows", True),
    "continue_final_message": refused("an answer is always a message of its own", False),
    "add_special_tokens": refused("the template adds them", False),
    "echo": refused("it is a field of /v1/completions", False),
    "documents": refused("put them into a message", []),
}
_COMPLETION = {
    **_COMMON,
    "prompt": anything,
    "logprobs": whole(0, 20),
    "echo": flag,
    "suffix": refused("these models do not fill in the middle", ""),
    "add_special_tokens": flag,
    "tools": refused("they are a field of /v1/chat/completions", []),
    "tool_choice": refused("it is a field of /v1/chat/completions"),
}
_SAMPLING = {each.name for each in fields(Sampling)}


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Raises RequestError, which names the field that is wrong."""
    given = read_fields(body, _CHAT)
    if not given.get("messages"):
        raise invalid("'messages' is missing or empty: give at least one message", "messages")
    if "max_completion_tokens" in given:
        given["max_tokens"] = given["max_completion_tokens"]
    if "top_logprobs" in given and not given.get("logprobs"):
        raise invalid("'top_logprobs' needs logprobs: true", "top_logprobs")
    given["logprobs"] = given.get("top_logprobs", 0) if given.get("logprobs") else None
    names = ("messages", "tools", "tool_choice", "parallel_tool_calls")
    chosen = {name: given[name] for name in names if name in given}
    variables = _template_variables(given)
    return ChatRequest(**_shared(given), unknown=unknown_fields(body, _CHAT), template_variables=variables, **chosen)


def read_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Raises RequestError, which names the field that is wrong."""
    if isinstance(body.get("logprobs"), bool):  # the other endpoint's
        raise wrong("logprobs", body["logprobs"], "a whole number from 0 to 20")
    given = read_fields(body, _COMPLETION)
    given.setdefault("max_tokens", DEFAULT_COMPLETION)
    if not given["max_tokens"] and not given.get("echo"):
        raise invalid("'max_tokens' is 0, which gives no text: use at least 1, or echo: true", "max_tokens")
    chosen = {"prompts": _prompts(given.get("prompt")), "echo": given.get("echo", False)}
    chosen["add_special_tokens"] = given.get("add_special_tokens", True)
    return CompletionRequest(**_shared(given), unknown=unknown_fields(body, _COMPLETION), **chosen)


def _shared(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Request`, of what both endpoints have."""
    sampling = Sampling(**{name: value for name, value in given.items() if name in _SAMPLING})
    if given.get("best_of", sampling.n) != sampling.n:
        raise unsupported("best_of", f"it is {given['best_of']} and n is {sampling.n}, and only equal ones are served")
    if sampling.num_beams > 1 and sampling.n > 1:
        raise unsupported("n", f"{sampling.num_beams} beams give one text: use n 1")
    if sampling.num_beams > 1 and sampling.logprobs is not None:
        raise unsupported("logprobs", f"{sampling.num_beams} beams tell none: use num_beams 1")
    if sampling.num_beams > 1 and sampling.logit_bias:
        raise unsupported("logit_bias", f"{sampling.num_beams} beams take none: use num_beams 1")
    names = ("model", "stream", "truncate_prompt_tokens", "return_token_ids")
    shared = {name: given[name] for name in names if name in given}
    return {"sampling": sampling, **shared, **_stream_options(given), "response_format": _format(given)}


def _template_variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `chat_template_kwargs`, and what z.ai's own interface calls `thinking`."""
    variables = dict(given.get("chat_template_kwargs", {}))
    for name in ("enable_thinking", "clear_thinking"):
        if name in variables:
            flag(f"chat_template_kwargs.{name}", variables[name])
    if "thinking" in given:
        kinds = {"type": one_of("enabled", "disabled"), "clear_thinking": flag}
        asked = read_fields(given["thinking"], kinds)
        if "type" in asked:
            variables.setdefault("enable_thinking", asked["type"] == "enabled")
        if "clear_thinking" in asked:
            variables.setdefault("clear_thinking", asked["clear_thinking"])
    return variables


def _stream_options(given: Mapping[str, Any]) -> dict[str, bool]:
    if "stream_options" not in given:
        return {}
    if not given.get("stream"):
        raise invalid("'stream_options' needs stream: true", "stream_options")
    kinds = {"include_usage": flag, "continuous_usage_stats": flag, "include_obfuscation": no_effect}
    options = read_fields(given["stream_options"], kinds)
    running = options.get("continuous_usage_stats", False)
    return {"usage": options.get("include_usage", False), "running_usage": running}


def _format(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The response_format; None for plain text."""
    wanted = given.get("response_format")
    return None if wanted is None or wanted == {"type": "text"} else wanted


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, ids, or a list of either."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise wrong("prompt", value, "a text, a list of texts, of token ids, or of lists of token ids")
    if isinstance(value[0], int):
        return (_ids(value),)
    if len(value) > MOST_PROMPTS:
        raise invalid(f"'prompt' has {len(value)} prompts, and may have {MOST_PROMPTS}", "prompt")
    return tuple(each if isinstance(each, str) else _ids(each) for each in value)


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise wrong("prompt", value, "a list of texts, or of lists of at least one token id")
    if len(value) > MOST_IDS:
        raise invalid(f"'prompt' has {len(value)} token ids, and may have {MOST_IDS}", "prompt")
    return tuple(_id("prompt", each) for each in value)
