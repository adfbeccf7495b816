"""What goes wrong with a request, in the form that OpenAI's clients read."""

from collections.abc import Mapping
from typing import Any

INVALID, AUTHENTICATION, NOT_FOUND = "invalid_request_error", "authentication_error", "not_found_error"
RATE_LIMIT, SERVER = "rate_limit_error", "server_error"
# OpenAI's client tries again after 408, 409, 429 and from 500 on, unless this header is there.
NO_RETRY = {"x-should-retry": "false"}


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: of HTTP.
        message: one line for a person.
        kind: OpenAI's `type`.
        code: OpenAI's `code`, what a program compares with.
        param: the field that is wrong.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """A field or a body that is wrong: trying it again helps nobody."""
    return RequestError(400, message, code=code, param=param)


def unsupported(param: str, reason: str) -> RequestError:
    """A field that is known, and not served here."""
    return invalid(f"'{param}' is not supported here: {reason}", param, "unsupported_parameter")


def queue_full(waiting: int, limit: int) -> RequestError:
    message = f"{waiting} texts wait already, and at most {limit} may (--max_queue): try again later"
    return RequestError(429, message, RATE_LIMIT, "queue_full", headers={"Retry-After": "1"})


def unavailable(code: str, message: str) -> RequestError:
    """The server cannot answer now: `loading`, `shutting_down` or `engine_dead`."""
    headers = {"Retry-After": "5"} if code == "loading" else NO_RETRY
    return RequestError(503, message, SERVER, code, headers=headers)


def unexpected() -> RequestError:
    """What nobody has foreseen; its own message may quote a text, and is not told."""
    return RequestError(500, "an error of this server; its log says where", SERVER, "internal_error")


def failed(message: str) -> RequestError:
    """A request that failed by itself, and would again."""
    return RequestError(500, message, SERVER, "generation_failed", headers=NO_RETRY)
