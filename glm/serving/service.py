"""What a server is made of, and how a request becomes texts to write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glm.encoding.json_schema import SchemaError, response_grammar
from glm.encoding.tool_choice import ToolChoice
from glm.errors import GLMError
from glm.serving.answers import ChatAnswer, CompletionAnswer
from glm.serving.choices import ChoiceText, Echo, MessageText
from glm.serving.engine_client import DEAD, LOADING, EngineClient
from glm.serving.errors import invalid, unavailable, unsupported
from glm.serving.exchange import Exchange
from glm.serving.jobs import EngineInfo, Job
from glm.serving.metrics import Metrics
from glm.serving.protocol import ChatRequest, CompletionRequest, Request, Sampling
from glm.serving.served_model import ServedModel


@dataclass(frozen=True)
class Settings:
    """Limits and manners of a server.

    Attributes:
        keys: one of which a request must have; none are needed where there are none.
        origins: web pages' origins that may call, or "*"; of others browsers show no answer.
        max_body: most bytes of a request.
        max_n: most texts of one prompt.
        ping_seconds: of silence, after which a stream says that it lives; None never.
        heartbeat_seconds: of the engine's silence, after which the server calls itself unhealthy.
        body_seconds: in which a request's body must have arrived.
    """

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body: int = 16 << 20
    max_n: int = 8
    ping_seconds: float | None = 15.0
    heartbeat_seconds: float = 30.0
    body_seconds: float = 60.0


class Service:
    """A model, the engine that writes for it, and what counts.

    Attributes:
        draining: whether the server ends, and takes nothing new.
    """

    def __init__(self, model: ServedModel, engine: EngineClient, settings: Settings | None = None):
        self.model, self.engine, self.settings = model, engine, settings or Settings()
        self.metrics = Metrics(model.names[0])
        self.draining = False
        engine.on_open = self._opened
        engine.on_progress = lambda tokens: self.metrics.iteration(tokens) if tokens else None

    def chat(self, request: ChatRequest) -> Exchange:
        """Raises RequestError: what the request asks for cannot be had."""
        name = self._admitted(request)
        if not self.model.chats:
            reason = "a GLM (2021) model holds no conversations: use /v1/completions"
            raise invalid(f"'messages' is not supported by this model: {reason}", "messages", "unsupported_parameter")
        wanted = self._tool_choice(request)
        ids = self.model.chat_prompt(request, wanted.tools)
        thinking = self.model.processor.thinking(ids)
        jobs = self._jobs(request, ids, grammar=self._grammar(request, wanted, thinking))
        texts = [self._message_text(request, job, wanted, thinking["thinks"]) for job in jobs]
        return Exchange(self.engine, ChatAnswer(self.model, request, name), jobs, texts)

    def _tool_choice(self, request: ChatRequest) -> ToolChoice:
        if request.tools and "observation" not in self.model.processor.chat.roles:
            raise unsupported("tools", "this model calls none")
        try:
            return ToolChoice.read(list(request.tools), request.tool_choice, request.parallel_tool_calls)
        except GLMError as error:
            param = "tool_choice" if str(error).startswith("tool_choice") else "tools"
            raise invalid(str(error), param, "invalid_schema" if isinstance(error, SchemaError) else None) from None

    def _grammar(self, request: Request, wanted: ToolChoice, thinking: Mapping[str, bool]) -> str | None:
        """What the text is held to; it is known to compile."""
        asked = request.response_format is not None
        param = "response_format" if asked else "tools"
        try:
            grammar = response_grammar(request.response_format, **thinking) if asked else None
            if not asked and wanted.tools:
                grammar = self.model.processor.chat.tool_grammar(wanted, **thinking)
            if grammar is not None and asked and wanted.tools:
                raise unsupported(param, "beside tools: a call of a tool is no such text")
            if grammar is not None and request.sampling.num_beams > 1:
                raise unsupported(param, f"{request.sampling.num_beams} beams are held to nothing: use num_beams 1")
            if grammar is not None:
                self.model.grammars.constraint(grammar)
        except GLMError as error:
            raise invalid(str(error), param, "invalid_schema") from None
        return grammar

    def _message_text(self, request: Request, job: Job, wanted: ToolChoice, thinks: bool) -> ChoiceText:
        """What is shown of an answer; JSON as it was written."""
        processor, held = self.model.processor, request.response_format is not None
        if "observation" not in processor.chat.roles:
            return ChoiceText(self.model, request, job.stop_strings, cleans=not held)
        clean = (str, len) if held else (processor.postprocess, processor.stable_length)
        reader = processor.chat.open_reader(wanted.tools, clean, thinks, wanted.one_call)
        return MessageText(self.model, request, job.stop_strings, reader, thinks)

    def completion(self, request: CompletionRequest) -> Exchange:
        """Raises RequestError: as `chat`."""
        name = self._admitted(request)
        if request.echo and request.sampling.logprobs is not None and self.model.reads_both_ways:
            reason = "this model reads prompts in both directions, so no token of theirs has a probability"
            raise unsupported("echo", f"{reason}: leave out logprobs or echo")
        grammar = self._grammar(request, ToolChoice(), {})
        jobs, texts = [], []
        for prompt, (ids, opening) in zip(request.prompts, self.model.completion_prompts(request), strict=True):
            some = self._jobs(request, ids, request.echo, grammar)
            echo = self._echo(prompt, ids, opening, request.sampling) if request.echo else None
            jobs += some
            texts += [ChoiceText(self.model, request, job.stop_strings, echo=echo) for job in some]
        return Exchange(self.engine, CompletionAnswer(self.model, request, name), jobs, texts)

    def require_taking(self) -> None:
        """Raises RequestError where the server takes nothing new."""
        if self.draining:
            raise unavailable("shutting_down", "the server is shutting down: ask another one, or later")

    def require_healthy(self) -> None:
        """Raises RequestError unless the engine has shown life lately; nothing is waited for."""
        engine, most = self.engine, self.settings.heartbeat_seconds
        if engine.state == LOADING:
            raise unavailable("loading", "the model is being loaded")
        if engine.state == DEAD:
            raise unavailable("engine_dead", f"the engine has ended: {engine.reason}")
        if engine.seconds_silent > most:
            silent = f"the engine has been silent for {engine.seconds_silent:.0f} s, more than {most:g}"
            raise unavailable("engine_silent", silent)

    def _opened(self, info: EngineInfo) -> None:
        """What the engine's memory has room for is what a client may ask for."""
        self.model.max_length = min(self.model.max_length, info.columns)

    def _admitted(self, request: Request) -> str:
        """The model's name, as it is to be called in the answer."""
        self.require_taking()
        name, n = self.model.require_name(request.model), request.sampling.n
        if n > self.settings.max_n:
            raise invalid(f"'n' is {n}, and this server writes {self.settings.max_n} at most (--max_n)", "n")
        return name

    def _jobs(
        self, request: Request, ids: tuple[int, ...], echo: bool = False, grammar: str | None = None
    ) -> list[Job]:
        sampling = request.sampling
        config = self.model.config(sampling, len(ids))
        strings = tuple(dict.fromkeys([*sampling.stop, *self.model.processor.generation.stop_strings]))
        return [
            Job(
                ids,
                config,
                choice,
                strings,
                sampling.stop_token_ids,
                sampling.ignore_eos,
                sampling.skip_special_tokens,
                sampling.logit_bias,
                sampling.logprobs,
                scores_prompt=echo and sampling.logprobs is not None and not choice,
                writes=sampling.max_tokens != 0,
                streamed=request.stream,
                grammar=grammar,
            )
            for choice in range(sampling.n)
        ]

    def _echo(self, prompt: str | Sequence[int], ids: Sequence[int], opening: int, sampling: Sampling) -> Echo:
        own, skips = ids[opening:], sampling.skip_special_tokens
        text = prompt if isinstance(prompt, str) else self.model.tokenizer.text_of(own, skip_special_tokens=skips)
        return Echo(text, own, opening)
