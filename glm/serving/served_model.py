"""The model that is served: its names, prompts as ids, and how much fits."""

import hashlib
import secrets
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from glm.encoding.processor import ChatProcessor, Processor
from glm.engine.guided import Grammars
from glm.errors import GLMError
from glm.generation.options import NARROWEST, GenerationConfig
from glm.serving.errors import NOT_FOUND, RequestError, invalid, unsupported
from glm.serving.protocol import ChatRequest, CompletionRequest, Request, Sampling

_SEED_BITS = 63


@dataclass
class ServedModel:
    """A model as clients see it.

    Attributes:
        processor: of the export; `check_fits` was called.
        vocab_size: width of the logits.
        names: the first is what /v1/models says, the others are aliases.
        max_length: most tokens of a prompt and its text together.
        fingerprint: changes with the weights.
        created: seconds since 1970.
    """

    processor: Processor
    vocab_size: int
    names: Sequence[str]
    max_length: int
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self):
        self.processor.src_length = sys.maxsize  # what is too long is refused, not cut

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles what texts are held to. Raises UsageError where that cannot be done."""
        return Grammars(self.tokenizer, self.processor.stop_token_ids, self.vocab_size)

    @property
    def chats(self) -> bool:
        return isinstance(self.processor, ChatProcessor)

    def require_name(self, name: str | None) -> str:
        """The name to answer with. Raises RequestError for a model that is not served."""
        if name is not None and name not in self.names:
            message = f"the model '{name[:80]}' is not served here; served: {', '.join(self.names)}"
            raise RequestError(404, message, NOT_FOUND, "model_not_found", "model")
        return name or self.names[0]

    def chat_prompt(self, request: ChatRequest, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Ids after which the model answers the messages.

        Raises:
            RequestError: messages that this model has no place for, or that are too long.
        """
        longest = self._longest_prompt(request)
        tokenizer = self._with_variables(request.template_variables)
        try:
            ids = self.processor.chat.prompt_ids(tokenizer, request.messages, list(tools) or None, longest)
        except GLMError as error:
            raise invalid(str(error), "messages") from None
        return self._checked(ids, "messages")

    def _with_variables(self, variables: Mapping[str, Any]):
        """The tokenizer, whose template is given what a request says of it."""
        try:
            return self.tokenizer.with_template_variables(variables)
        except GLMError as error:
            raise unsupported("chat_template_kwargs", str(error)) from None

    def completion_prompts(self, request: CompletionRequest) -> list[tuple[tuple[int, ...], int]]:
        """Ids of each prompt, and how many of them, in front, are the model's own tokens and none of the request's.

        Raises:
            RequestError: an id outside of the vocabulary, or a prompt that is empty or too long.
        """
        longest = self._longest_prompt(request)
        return [self._completion_prompt(prompt, request.add_special_tokens, longest) for prompt in request.prompts]

    def _completion_prompt(
        self, prompt: str | Sequence[int], add_special_tokens: bool, longest: int | None
    ) -> tuple[tuple[int, ...], int]:
        if self.reads_both_ways:
            ids = self.text_ids(prompt, add_special_tokens) if isinstance(prompt, str) else prompt
            return self._checked(ids[-longest:] if longest else ids, "prompt"), 0
        ids = self.tokenizer.text_ids(prompt) if isinstance(prompt, str) else prompt
        opening = self.tokenizer.build_inputs([]) if add_special_tokens else []
        has, own = _without(opening, ids)
        if longest:
            own = own[max(0, len(own) + len(opening) - longest) :]
        return self._checked([*opening, *own], "prompt"), 0 if has else len(opening)

    def text_ids(self, text: str, add_special_tokens: bool) -> list[int]:
        """Ids of a text; special tokens that it spells are those tokens."""
        if add_special_tokens and not self.chats:
            return self.processor.text_prompt(text)
        ids = self.tokenizer.text_ids(text)
        build = self.tokenizer.build_inputs
        return build(_without(build([]), ids)[1]) if add_special_tokens else ids

    def config(self, sampling: Sampling, prompt_length: int) -> GenerationConfig:
        """Decoding options: the request's, then generation_config.json's, then OpenAI's.

        Raises:
            RequestError: what is asked for does not fit the model, or contradicts itself.
        """
        room = self.room(prompt_length)
        asked = sampling.max_tokens
        if room < max(asked or 0, 1):
            wanted = "at least one" if asked is None else f"{asked}"
            message = (
                f"the prompt has {prompt_length} tokens and the answer may have {wanted}, and the model holds "
                f"{self.max_length} together: shorten the prompt or lower max_tokens to {max(room, 0)}"
            )
            raise invalid(message, "max_tokens", "context_length_exceeded")
        length = max(room if asked is None else asked, 1)  # 0 asks for the prompt's scores alone
        if sampling.min_tokens > length:
            raise invalid(f"'min_tokens' is {sampling.min_tokens}, above the {length} that may follow", "min_tokens")
        if odd := next((index for index, _ in sampling.logit_bias if index >= self.vocab_size), None):
            raise invalid(f"'logit_bias' has token {odd}, and there are {self.vocab_size}", "logit_bias")
        try:
            return self.processor.generation_config(
                max_length=length, min_length=sampling.min_tokens, **self._drawing(sampling)
            )
        except GLMError as error:
            raise invalid(str(error)) from None

    def room(self, prompt_length: int) -> int:
        """Most tokens that may follow a prompt."""
        positions = self.processor.positions
        return self._fitting(self.max_length - prompt_length, lambda new: positions.longest(prompt_length, new))

    @property
    def reads_both_ways(self) -> bool:
        """Whether prompts are read in both directions: no token of theirs has a probability given those before."""
        return self.processor.positions.prompt_prefix([0, 0]) > 0

    def _drawing(self, sampling: Sampling) -> dict[str, Any]:
        """The options of choosing tokens that are given, or that OpenAI's interface gives."""
        own = self.processor.generation.options
        temperature = sampling.temperature
        if temperature is None:
            greedy = own.get("do_sample") is False or sampling.num_beams > 1
            temperature = 0.0 if greedy else own.get("temperature", 1.0)
        seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed & ((1 << _SEED_BITS) - 1)
        top_k = own.get("top_k", 0) if sampling.top_k is None else sampling.top_k
        chosen = {"do_sample": temperature > 0, "temperature": temperature or 1.0, "seed": seed, "top_k": top_k}
        given = ("top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
        given += ("length_penalty", "no_repeat_ngram_size")
        chosen |= {name: value for name in given if (value := getattr(sampling, name)) is not None}
        if chosen.get("top_p") == 0:
            chosen["top_p"] = NARROWEST
        return chosen | {"num_beams": sampling.num_beams}

    def _longest_prompt(self, request: Request) -> int | None:
        """Most tokens of a prompt that gives up its beginning, so that its answer has room; None where it is not to.

        Raises:
            RequestError: an answer of `max_tokens` leaves no room for any prompt.
        """
        asked, sampling = request.truncate_prompt_tokens, request.sampling
        if asked is None:
            return None
        answer = max(sampling.min_tokens if sampling.max_tokens is None else sampling.max_tokens, 1)
        longest = self._fitting(
            self.max_length - answer, lambda prompt: self.processor.positions.longest(prompt, answer)
        )
        if not longest:
            message = f"the answer may have {answer} tokens, and the model holds {self.max_length} with the prompt"
            raise invalid(f"{message}: lower max_tokens", "max_tokens", "context_length_exceeded")
        return min(asked, longest) if asked > 0 else longest

    def _fitting(self, most: int, last_position: Callable[[int], int]) -> int:
        """The largest number up to `most` with which no position is beyond the model's; 0 where there is none."""
        return bisect_right(range(1, max(most, 0) + 1), self.processor.max_position, key=last_position)

    def _checked(self, ids: Sequence[int], param: str) -> tuple[int, ...]:
        if not ids:
            raise invalid(f"'{param}' has no tokens: give at least one", param)
        if (odd := max(ids)) >= self.vocab_size:
            raise invalid(f"'{param}' has token {odd}, and there are {self.vocab_size}", param)
        masks = getattr(self.processor.positions, "mask_token_ids", None)
        if masks is not None and not set(masks) & set(ids[:-1]):
            raise invalid(f"'{param}' has no mask token, whose blank the model would fill: give a text", param)
        return tuple(ids)


def _without(opening: Sequence[int], ids: Sequence[int]) -> tuple[bool, Sequence[int]]:
    """Whether ids begin with a model's own tokens, as those of a chat template do, and what follows these."""
    has = [*ids[: len(opening)]] == [*opening]
    return has, ids[len(opening) :] if has else ids


def export_fingerprint(manifest: Path) -> str:
    """Of an export: its manifest has the checksum of every file."""
    return f"fp_{hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}"
