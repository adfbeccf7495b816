"""A model or an export as lm-evaluation-harness's `LM`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from glm.distributed.processes import process_rank
from glm.errors import GLMError, UsageError
from glm.evaluation.harness.encoding import Asked, RequestEncoder, sharing
from glm.evaluation.likelihood import Likelihood, TokenRow
from glm.generation.options import GenerationConfig
from glm.tokenizers.fingerprint import fingerprint
from glm.tokenizers.stop_strings import StopStrings, stream_text

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise GLMError(
        f"lm-evaluation-harness is not installed ({error}): pip install -r requirements-harness.txt"
    ) from None

MOST_NEW_TOKENS = 256  # lm_eval's own default
# Options of lm_eval's generation_kwargs → of `GenerationConfig`; those of the first line are read by themselves.
READ = {"until", "max_gen_toks", "max_new_tokens", "max_tokens", "do_sample"}
SAME = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams", "length_penalty", "seed")
NEUTRAL = {"use_cache", "pad_token_id"}  # of transformers, and change no text


class HarnessLM(LM):
    """What `lm_eval.simple_evaluate(model=…)` takes.

    Contexts begin with the model's own tokens ([gMASK]<sop>) exactly once, whether a chat template wrote them or not.
    The number of processes is 1 for lm_eval: ranks of tensor parallelism ask for the same things in the same order.

    Args:
        generator: a `TextGenerator` (`glm.api.predictor.Predictor.load`, or `glm.inference.exported.open_export` with
            `scores`), whose texts and log-likelihoods are asked for.
        batch_size: rows and prompts that are read together.
        max_length: most tokens of a text that are read at once; longer ones lose their beginning. The model's
            positions if not given.
        show_progress: whether bars are drawn; by rank 0 only if not given.

    Example:
        >>> lm = HarnessLM(Predictor.load("checkpoints/glm-4-9b"))
        >>> results = lm_eval.simple_evaluate(lm, tasks=["mmlu"], num_fewshot=5)
    """

    def __init__(
        self, generator, batch_size: int = 8, max_length: int | None = None, show_progress: bool | None = None
    ):
        super().__init__()
        self.generator, self.processor, self.batch_size = generator, generator.processor, batch_size
        self.tokenizer = self.processor.tokenizer
        self.scorer = generator.scorer(batch_size)
        self.requests = RequestEncoder(self.scorer.encode, max_length)
        self._quiet = process_rank() > 0 if show_progress is None else not show_progress

    @property
    def max_length(self) -> int:
        """Most tokens that are read at once."""
        return self.requests.room

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy search would write it) of each (context, continuation).

        The continuations of one context are scored together, and what contexts share is read once.
        """
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        asked = self.requests.rows([request.args for request in requests])
        with self._bar("loglikelihood", sum(len(each.places) for each in asked), disable_tqdm) as bar:
            for each, likelihoods in self._scored(asked):
                for place, one in zip(each.places, likelihoods, strict=True):
                    found[place] = one.log_likelihood, one.greedy
                    self.cache_hook.add_partial("loglikelihood", requests[place].args, found[place])
                bar.update(len(each.places))
        return found

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text from its first token on, behind the model's own tokens."""
        totals = []
        for request in self._progress(requests, "loglikelihood_rolling", disable_tqdm):
            rows = self.requests.windows(request.args[0])
            totals.append(sum(self._scores([row])[0][0].log_likelihood for row in rows))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of its `until`; greedy unless its options say do_sample."""
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(place)
        found = [""] * len(requests)
        with self._bar("generate_until", len(requests), disable_tqdm) as bar:
            for places in groups.values():
                options = generation_options(requests[places[0]].args[1])
                for place, text in self._texts([requests[place].args[0] for place in places], *options):
                    found[places[place]] = text
                    self.cache_hook.add_partial("generate_until", requests[places[place]].args, text)
                    bar.update()
        return found

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text of a prompt, or to be continued in its last message.

        Special tokens that a message spells stay text (they are marked by characters that no text has).
        """
        tokenizer = self.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError("this model has no chat template: leave out --apply_chat_template")
        opening = self.scorer.encode.opening
        if add_generation_prompt and opening:
            text = tokenizer.marked_chat(tokenizer.template_for(), chat_history, add_generation_prompt=True)
        else:
            way = {"add_generation_prompt" if add_generation_prompt else "continue_final_message": True}
            text = tokenizer.apply_chat_template(chat_history, tokenize=False, **way)
        return text if text.startswith(opening) else opening + text

    @property
    def tokenizer_name(self) -> str:
        """For lm_eval's cache of requests."""
        return f"{self.tokenizer.kind}-{fingerprint(self.tokenizer)}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for lm_eval's record; None without one."""
        if chat_template is False or chat_template is None:
            return None
        if isinstance(chat_template, str):
            raise UsageError(f"chat template {chat_template!r}: the model's own is applied, give no name")
        return getattr(self.tokenizer, "chat_template", None)

    def get_model_info(self) -> dict[str, Any]:
        """For lm_eval's record."""
        return {"tokenizer": self.tokenizer_name, "max_length": self.max_length}

    def _scored(self, asked: Sequence[Asked]):
        for group in sharing(asked):
            for start in range(0, len(group), self.scorer.window):
                some = group[start : start + self.scorer.window]
                yield from zip(some, self._scores([each.row for each in some]), strict=True)

    def _scores(self, rows: Sequence[TokenRow]) -> list[tuple[Likelihood, ...]]:
        return self.scorer.score([self.scorer.encode.fitting(row, "a text of the task") for row in rows])

    def _texts(self, contexts: Sequence[str], until: Sequence[str], options: Mapping[str, Any]):
        """(place, text) of each context."""
        config = self.processor.generation_config(**options)
        generator = self.generator.with_stop_strings(until)
        prompts = [self._prompt(context, config) for context in contexts]
        for place, ids in generator.results(prompts, config, self.batch_size):
            watch = StopStrings(self.tokenizer, generator.stop_strings)
            yield place, "".join(stream_text(watch, ids, str, len))

    def _prompt(self, context: str, config: GenerationConfig) -> list[int]:
        """Ids that leave room for the answer."""
        longest, most = self.processor.positions.longest, self.requests.encode.max_position
        room = self.requests.room - max(0, longest(self.requests.room, config.max_length) - most)
        if room <= len(self.requests.framed([])) or longest(room, config.max_length) > most:
            raise UsageError(f"max_gen_toks is {config.max_length}, and the model's positions end at {most}")
        return self.requests.context_ids(context, room)

    def _bar(self, what: str, total: int, disable: bool):
        return tqdm(total=total, desc=what, disable=disable or self._quiet)

    def _progress(self, requests, what: str, disable: bool):
        return tqdm(requests, desc=what, disable=disable or self._quiet)


def generation_options(asked: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Stop strings, and options of `Processor.generation_config`, of a request's generation_kwargs.

    Raises:
        UsageError: an option that is not known, and that may change texts.
    """
    if unknown := sorted(set(asked) - READ - set(SAME) - NEUTRAL):
        raise UsageError(f"generation_kwargs has {unknown[0]!r}, which is not known here; known: {', '.join(SAME)}")
    until = asked.get("until") or []
    until = [until] if isinstance(until, str) else list(until)
    lengths = (asked.get(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    longest = int(next((length for length in lengths if length is not None), MOST_NEW_TOKENS))
    options = {name: asked[name] for name in SAME if asked.get(name) is not None}
    samples = bool(asked.get("do_sample", False)) and options.get("temperature") != 0
    if not samples:
        options = {name: value for name, value in options.items() if name not in ("temperature", "top_k", "top_p")}
    return [string for string in until if string], {"do_sample": samples, "max_length": longest, **options}
