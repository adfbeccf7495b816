"""What stands between a socket and the routes: a line for the log, keys, and what a body may be. Pure ASGI, so that
streams pass through as they are."""

import hmac
import logging
import traceback
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glm.serving.answers import encoded
from glm.serving.errors import AUTHENTICATION, RequestError, unexpected
from glm.serving.event_stream import ClientGoneError
from glm.serving.exchange import Record
from glm.serving.service import Service

RECORD = "record"  # key of a scope: the `Record` of a request that generates
GONE = 499  # nginx's status for a client that left
_OPEN = ("/", "/page.json", "/health", "/ready", "/version")  # without a key, and /static/*
_logger = logging.getLogger("glm.serving")


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encoded(body), status, headers, "application/json")


def error_response(error: RequestError) -> Response:
    return json_response(error.body, error.status, error.headers)


class RequestLog:
    """Writes a line for each request that generates or fails, and turns what nobody expected into an error.

    No line has a text of a request or of an answer, nor the message of an unexpected error, which may quote one.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except ClientGoneError:
            status = GONE
        except Exception as error:
            trace = "".join(traceback.format_tb(error.__traceback__))
            _logger.error("unexpected %s\n%s", type(error).__name__, trace)
            if status == 0:
                await error_response(unexpected())(scope, receive, noted)
            status = 500
        finally:
            self._note(scope, status)

    def _note(self, scope: Scope, status: int) -> None:
        record: Record | None = scope.get(RECORD)
        if record is not None:
            record.gone = status == GONE
            self._service.metrics.observe(record)
            _logger.info(line_of(record, status))
        elif status >= 400 and scope["path"] not in ("/health", "/ready"):  # asked every second while a model loads
            _logger.info("%s %.80r %s", scope["method"], scope["path"], status)


def line_of(record: Record, status: int) -> str:
    """A request in one line."""
    usage, words = record.usage, [record.id, str(status), ",".join(dict.fromkeys(record.reasons)) or "failed"]
    words += [f"prompt={usage.prompt}", f"cached={usage.cached}", f"completion={usage.completion}"]
    words += [f"ttft={record.first:.3f}s"] if record.first is not None else []
    words += [f"tpot={record.per_token * 1000:.1f}ms"] if record.per_token is not None else []
    return " ".join([*words, f"total={record.seconds:.3f}s"])


class Guard:
    """Refuses requests without a key, with a body of another type, or with too large a one."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self._settings = app, service.settings
        self._keys = [key.encode() for key in self._settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = dict(scope["headers"])
            self._require_key(scope, headers)
            if scope["method"] == "POST":
                self._require_json(headers)
                self._require_size(int(length) if (length := headers.get(b"content-length", b"0")).isdigit() else 0)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _require_key(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        path = scope["path"]
        if not self._keys or scope["method"] == "OPTIONS" or path in _OPEN or path.startswith("/static/"):
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        # Every key is compared, so that the time tells nothing.
        fits = [hmac.compare_digest(key.strip(), each) for each in self._keys]
        if scheme.lower() != b"bearer" or not any(fits):
            what = "is wrong" if key.strip() else "is missing"
            message = f"the API key {what}: send it as the header 'Authorization: Bearer KEY'"
            raise RequestError(401, message, AUTHENTICATION, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _require_json(self, headers: Mapping[bytes, bytes]) -> None:
        """A web page can post anything else to this machine without asking."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            shown = kind.decode("latin-1")[:40] or "nothing"
            raise RequestError(415, f"the Content-Type is {shown}, and must be application/json")

    def _require_size(self, size: int) -> None:
        if size > self._settings.max_body:
            message = f"the body has {size} bytes or more, and may have {self._settings.max_body} (--max_body)"
            raise RequestError(413, message, code="body_too_large")

    def _counted(self, receive: Receive) -> Receive:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            self._require_size(size)
            return message

        return counted
