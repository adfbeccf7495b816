"""Requests to a server with OpenAI's interface: when they are sent, and when what of their answers comes."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field

import aiohttp
import numpy as np

from benchmarks.serving_times import Reply, pause_of, summarize
from glm.errors import GLMError, UsageError

Prompt = str | list[int]
Send = Callable[[Prompt, int], Awaitable[Reply]]
MOST_OPEN = 100_000  # requests at a time, where nobody limits them
LONG_TOKENS = 8  # of a long prompt's answer: it is its reading that counts


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and what they say besides prompt and length.

    Attributes:
        base_url: with or without the final /v1.
        model: as the server calls it.
        chat: /v1/chat/completions instead of /v1/completions.
        api_key: sent as Bearer.
        extra: further fields of each request.
        timeout: seconds until a request is given up.
    """

    base_url: str
    model: str
    chat: bool = False
    api_key: str | None = None
    extra: dict = field(default_factory=dict)
    timeout: float = 600.0

    @property
    def url(self) -> str:
        return f"{root_of(self.base_url)}/v1/{'chat/completions' if self.chat else 'completions'}"

    def body(self, prompt: Prompt, tokens: int) -> dict:
        """A request for `tokens` tokens, streamed."""
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        asked |= {"model": self.model, "max_tokens": tokens, "temperature": 0}
        return asked | {"stream": True, "stream_options": {"include_usage": True}} | self.extra


@dataclass(frozen=True)
class Load:
    """How much is asked, and when.

    Attributes:
        requests: how many.
        clients: closed loop: clients that ask again once they are answered. With a rate: most requests at a time.
        rate: requests a second that come by themselves; None = closed loop.
        burstiness: shape of the gamma distribution of the gaps between them; 1 = Poisson, less comes in bursts.
        tokens: of each answer.
        long_requests: prompts of another kind that come among the others, one after another, once each client has been
            answered.
        seed: of the random gaps.
    """

    requests: int
    clients: int | None = None
    rate: float | None = None
    burstiness: float = 1.0
    tokens: int = 64
    long_requests: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.clients is None and self.rate is None:
            raise UsageError("neither clients nor a rate are given: say how requests come")
        for name in ("requests", "clients", "rate", "burstiness", "tokens"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UsageError(f"{name} is {value}, and must be above 0")

    def arrivals(self) -> np.ndarray:
        """Seconds [requests] after the start at which requests come; the whole takes requests / rate."""
        draw = np.random.default_rng(self.seed)
        gaps = draw.gamma(self.burstiness, 1 / (self.rate * self.burstiness), self.requests)
        return np.cumsum(gaps) * (self.requests / self.rate / gaps.sum())


@dataclass(frozen=True)
class Outcome:
    """Answers to a load: to its own requests, and to the long ones."""

    replies: list[Reply]
    long: list[Reply]

    def summary(self, limits: dict[str, float] | None = None) -> dict:
        """`summarize` of the load's own requests, and `pause` where there were long ones."""
        pause = pause_of(self.replies, self.long) if self.long else None
        failed = [reply.error for reply in self.long if reply.error is not None]
        found = summarize(self.replies, limits) | ({"pause": asdict(pause)} if pause else {})
        return found | ({"failed": found["failed"] + len(failed), "error": failed[0]} if failed else {})


class Driver:
    """Sends a load.

    Args:
        send: sends a prompt and gives what became of it; it does not raise.
        load: see `Load`.
        prompts, long_prompts: as many as the load has requests.
        told: called after each answer.
    """

    def __init__(
        self,
        send: Send,
        load: Load,
        prompts: Sequence[Prompt],
        long_prompts: Sequence[Prompt] = (),
        told: Callable[[], None] = lambda: None,
    ):
        self._send, self._load, self._told = send, load, told
        self._prompts, self._long_prompts = prompts, long_prompts
        self._replies: list[Reply] = []

    async def run(self) -> Outcome:
        """All requests, until the last one is answered."""
        self._steady, self._over = asyncio.Event(), False
        long = asyncio.ensure_future(self._send_long())
        await (self._closed() if self._load.rate is None else self._open())
        self._over = True
        self._steady.set()
        return Outcome(self._replies, await long)

    async def _closed(self) -> None:
        left = iter(self._prompts)

        async def client() -> None:
            for prompt in left:
                await self._one(prompt)

        await asyncio.gather(*(client() for _ in range(self._load.clients)))

    async def _open(self) -> None:
        clock = asyncio.get_running_loop().time
        room, begin = asyncio.Semaphore(self._load.clients or MOST_OPEN), clock()

        async def at(moment: float, prompt: Prompt) -> None:
            await asyncio.sleep(begin + moment - clock())
            async with room:
                await self._one(prompt)

        moments = self._load.arrivals().tolist()
        await asyncio.gather(*(at(*each) for each in zip(moments, self._prompts, strict=True)))

    async def _one(self, prompt: Prompt) -> None:
        self._replies.append(await self._send(prompt, self._load.tokens))
        self._told()
        if (self._load.clients or 1) <= len(self._replies) < self._load.requests:
            self._steady.set()

    async def _send_long(self) -> list[Reply]:
        """Long prompts while others write; none once they are done."""
        await self._steady.wait()
        found = []
        for prompt in self._long_prompts:
            if not self._over:
                found.append(await self._send(prompt, min(LONG_TOKENS, self._load.tokens)))
        return found


async def drive(
    endpoint: Endpoint,
    load: Load,
    prompts: Sequence[Prompt],
    long_prompts: Sequence[Prompt] = (),
    told: Callable[[], None] = lambda: None,
) -> Outcome:
    """Sends a load to a server; see `Driver`."""
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    timeout = aiohttp.ClientTimeout(total=endpoint.timeout)
    # A connection a request, and no limit of them: llama-server closes those that it has answered.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

        async def send(prompt: Prompt, tokens: int) -> Reply:
            return await ask(session, endpoint, prompt, tokens)

        return await Driver(send, load, prompts, long_prompts, told).run()


async def ask(session: aiohttp.ClientSession, endpoint: Endpoint, prompt: Prompt, tokens: int) -> Reply:
    """One streamed answer; whatever goes wrong is its error."""
    body = endpoint.body(prompt, tokens)
    reply = Reply(asyncio.get_running_loop().time())
    try:
        async with session.post(endpoint.url, json=body) as response:
            if response.status != 200:
                reply.error = f"{response.status}: {' '.join((await response.text()).split())[:200]}"
                return reply
            await _listen(response, reply)
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        reply.error = f"{type(error).__name__}: {error}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reply.error = f"an answer that is not of OpenAI's interface ({type(error).__name__}: {error})"
    return reply


async def _listen(response: aiohttp.ClientResponse, reply: Reply) -> None:
    """Notes when chunks come."""
    clock, done = asyncio.get_running_loop().time, False
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        now, data = clock(), line[5:].strip()
        if data == b"[DONE]":
            done = True
        else:
            _note(json.loads(data), now, reply)
    if not done:
        reply.error = reply.error or "the stream ended without [DONE]"
    elif not reply.chunks:
        reply.error = reply.error or "the answer has no text"
    elif not reply.output_tokens:
        reply.error = reply.error or "the answer has no usage, and only that says how many tokens it has"


def _note(chunk: dict, now: float, reply: Reply) -> None:
    if "error" in chunk:
        reply.error = " ".join(str(chunk["error"]).split())[:200]
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or choice
        if any(delta.get(name) for name in ("text", "content", "reasoning_content", "reasoning")):
            reply.chunks.append(now)
        reply.ended = now
    if usage := chunk.get("usage"):
        reply.prompt_tokens, reply.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]


async def first_model(base_url: str, api_key: str | None = None) -> str:
    """What the server calls its model. Raises GLMError: it does not say so."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    url = f"{root_of(base_url)}/v1/models"
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
        if response.status != 200:
            raise GLMError(f"{url} answers {response.status}: give --model, and --api_key if the server wants one")
        return (await response.json())["data"][0]["id"]


def root_of(base_url: str) -> str:
    return base_url.rstrip("/").removesuffix("/v1")
