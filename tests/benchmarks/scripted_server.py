"""A server with OpenAI's interface that answers by a timetable, in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Script:
    """What it does.

    Attributes:
        first, gap: seconds until the first chunk, and between two.
        a_chunk: tokens of a chunk; `usage` counts tokens.
        one_by_one: whether a request waits for those before it.
        status: of every answer. usage, done: whether the stream has them. line: sent instead of every chunk.
        bodies: what was asked.
    """

    first: float = 0.04
    gap: float = 0.02
    a_chunk: int = 2
    one_by_one: bool = False
    status: int = 200
    usage: bool = True
    done: bool = True
    line: bytes | None = None
    bodies: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """Serves until the end of the block; gives the URL."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    found: dict = {}

    async def start() -> None:
        app = web.Application()
        turns = asyncio.Lock()
        app.router.add_get("/v1/models", lambda request: web.json_response({"data": [{"id": "scripted"}]}))

        async def answer(request: web.Request) -> web.StreamResponse:
            script.bodies.append(await request.json())
            script.keys.append(request.headers.get("Authorization"))
            if script.status != 200:
                return web.json_response({"error": {"message": "no room"}}, status=script.status)
            if not script.one_by_one:
                return await _stream(script, request, script.bodies[-1])
            async with turns:
                return await _stream(script, request, script.bodies[-1])

        app.router.add_post("/v1/completions", answer)
        app.router.add_post("/v1/chat/completions", answer)
        found["runner"] = web.AppRunner(app)
        await found["runner"].setup()
        site = web.TCPSite(found["runner"], "127.0.0.1", 0)
        await site.start()
        found["port"] = site._server.sockets[0].getsockname()[1]
        started.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(start()), loop.run_forever()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{found['port']}"
    finally:
        asyncio.run_coroutine_threadsafe(found["runner"].cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _stream(script: Script, request: web.Request, body: dict) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    chat = "messages" in body

    async def event(value: dict) -> None:
        await response.write(script.line or b"data: " + json.dumps(value).encode() + b"\n\n")

    def choice(text: str, reason: str | None = None) -> dict:
        said = {"delta": {"content": text}} if chat else {"text": text}
        return {"choices": [{"index": 0, "finish_reason": reason} | said], "usage": None}

    if chat:
        await event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    for number in range(body["max_tokens"] // script.a_chunk):
        await asyncio.sleep(script.gap if number else script.first)
        await event(choice("a b"))
    await event(choice("", "length"))
    if script.usage:
        usage = {"prompt_tokens": 7, "completion_tokens": body["max_tokens"]}
        await event({"choices": [], "usage": usage})
    if script.done:
        await response.write(b"data: [DONE]\n\n")
    return response
