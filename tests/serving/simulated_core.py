"""An engine core without a model: the prompt says what is written, so a test sees the whole way from HTTP and back.

What stands behind "say:" in a prompt is written, token by token, and then the end; "endless" never ends; "nan" fails;
"die" ends the engine. Everything else is answered with `REPLY`.
"""

import time
from dataclasses import dataclass, field
from threading import Event as Flag

from glm.engine import EngineStats, Event, Result, StopTokens, TokenLogprobs
from glm.serving.jobs import EngineInfo, OpenedEngine
from glm.tokenizers import GLMTokenizer

CONTEXT = 128  # tokens of a prompt and its text
OPENED: list["SimulatedCore"] = []  # those of this process, the newest last
REPLY = "你好，世界。😀 Hello."


@dataclass
class Text:
    request: object
    script: list[int]
    endless: bool
    unscored: list[int]  # tokens of the prompt whose scores are to be told
    tokens: list[int] = field(default_factory=list)


class SimulatedCore:
    """`rows` texts get a token each step, which takes `seconds`; the others wait. A step without tokens yet can be
    interrupted.
    """

    def __init__(self, tokenizer, rows: int, seconds: float):
        self.tokenizer, self.rows, self.seconds = tokenizer, rows, seconds
        self.texts: dict[int, Text] = {}
        self.stop = StopTokens(tuple(tokenizer.stop_token_ids), tokenizer.pad_token_id)
        self.count, self.read, self.steps = 0, 0, 0
        self._interrupted = Flag()
        self.constraints: list[str | None] = []  # of every request, the newest last

    @property
    def idle(self) -> bool:
        return not self.texts

    def submit(self, request) -> int:
        said = self.tokenizer.text_of(self._asked(request.ids)).rpartition("say:")
        reply = (said[2].removesuffix("/nothink") if said[1] else REPLY).strip()
        endless = reply.startswith("endless")
        end = [] if endless else [self.tokenizer.stop_token_ids[0]]
        self.count += 1
        self.constraints.append(request.constraint)
        unscored = [] if request.prompt_logprobs is None else [*request.ids]
        self.texts[self.count] = Text(request, [*self.tokenizer.text_ids(reply), *end], endless, unscored)
        self.read += len(request.ids)
        return self.count

    def _asked(self, ids):
        """The prompt without what stands behind the last question: thoughts that it opens, or shuts."""
        assistant = self.tokenizer.added_tokens.get("<|assistant|>")
        return ids[: len(ids) - ids[::-1].index(assistant) - 1] if assistant in ids else ids

    def cancel(self, identity: int) -> None:
        self.texts.pop(identity, None)

    def interrupt(self, identity: int) -> None:
        if identity in self.texts and not self.texts[identity].tokens:
            self._interrupted.set()

    def step(self) -> list[Event]:
        self.steps += 1
        time.sleep(0)  # lets the other threads run
        if self.seconds and self._interrupted.wait(self.seconds):
            self._interrupted.clear()
            return []
        running = list(self.texts.items())[: self.rows]
        return [self._advance(identity, text) for identity, text in running]

    def stats(self) -> EngineStats:
        running = min(len(self.texts), self.rows)
        waiting = len(self.texts) - running
        cache, counts = (self.rows, CONTEXT, 1 << 20, running), (self.steps, self.read, 0, 0, 0, 0, 0, {}, 0)
        return EngineStats(waiting, 0, running, *cache, *counts)

    def _advance(self, identity: int, text: Text) -> Event:
        if (word := self.tokenizer.text_of(text.script)) == "die":
            raise RuntimeError("a step of the engine failed")
        if word == "nan":
            del self.texts[identity]
            return Event(identity, error="the model's logits became nan")
        if text.unscored:
            return self._scored(identity, text)
        token = text.script[len(text.tokens) % len(text.script)]
        text.tokens.append(token)
        reason = self._reason(text, token)
        if reason is not None:
            del self.texts[identity]
        result = Result(text.tokens, 0.0, 0, *reason) if reason else None
        return Event(identity, token, self._score(token, text.request.logprobs), result)

    def _scored(self, identity: int, text: Text) -> Event:
        """Two tokens more of a prompt, the first of which nothing stands before."""
        request, some = text.request, text.unscored[:2]
        first = len(text.unscored) == len(request.ids)
        del text.unscored[:2]
        count = request.prompt_logprobs
        scores = [TokenLogprobs(-1.0, (token, 5)[:count], (-1.0, -2.0)[:count]) for token in some]
        ended = not (text.unscored or request.writes)
        if ended:
            del self.texts[identity]
        result = Result([], 0.0, 0, "length") if ended else None
        return Event(identity, prompt_logprobs=(None, *scores[1:]) if first else tuple(scores), result=result)

    @staticmethod
    def _score(token: int, count: int | None) -> TokenLogprobs | None:
        return None if count is None else TokenLogprobs(-0.5, (token, token + 1)[:count], (-0.5, -1.5)[:count])

    def _reason(self, text: Text, token: int) -> tuple[str, str | int | None] | None:
        watch = text.request.stop_strings
        if watch is not None and watch.put(token):
            return "stop", watch.found
        if token in text.request.stop.eos_token_ids:
            return "stop", token
        return ("length", None) if len(text.tokens) >= text.request.config.max_length else None


@dataclass(frozen=True)
class SimulatedEngine:
    """What opens one; it can be sent to a process."""

    vocabulary: str
    rows: int = 8
    seconds: float = 0.0
    columns: int = CONTEXT
    error: str = ""
    opening: float = 0.0  # seconds that it takes

    def __call__(self) -> OpenedEngine:
        time.sleep(self.opening)
        if self.error:
            raise RuntimeError(self.error)
        tokenizer = GLMTokenizer.from_pretrained(self.vocabulary)
        core = SimulatedCore(tokenizer, self.rows, self.seconds)
        OPENED.append(core)
        info = EngineInfo("simulated", self.rows, self.columns, 1 << 20)
        return OpenedEngine(core, tokenizer, info, str)
