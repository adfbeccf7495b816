"""Work that ends when the client leaves, and answers as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from glm.serving.answers import encoded
from glm.serving.errors import RequestError, unexpected

T = TypeVar("T")
PING, DONE = b": ping\n\n", b"data: [DONE]\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect the events
}


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def until_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What work gives; it is cancelled where the client leaves first. The request's body must have been read.

    Raises:
        ClientGoneError: the client left.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Chunks as events. An error after the head is an event too: a stream that just ends looks like a whole answer.

    Args:
        chunks: JSON values; None where there is nothing to say, which a comment says, so that proxies do not close.
    """

    def __init__(self, chunks: AsyncIterator[dict[str, Any] | None]):
        super().__init__(None, headers=HEADERS)
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises RequestError where the first chunk cannot be had: then nothing is sent."""
        await until_gone(self._send_all(send), receive)

    async def _send_all(self, send: Send) -> None:
        started, unforeseen = False, None
        async with aclosing(self._chunks) as chunks:
            try:
                async for chunk in chunks:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        started = True
                    body = PING if chunk is None else event(chunk)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            except Exception as error:
                if not started:
                    raise
                unforeseen = None if isinstance(error, RequestError) else error
                body = event((unexpected() if unforeseen else error).body)
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": DONE, "more_body": False})
        if unforeseen:
            raise unforeseen  # for the log


def event(value: Any) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"
