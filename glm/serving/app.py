"""The ASGI application."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from glm.serving.errors import RequestError
from glm.serving.middleware import Guard, RequestLog, error_response
from glm.serving.routes import no_route, routes
from glm.serving.service import Service


def application(service: Service, on_start: Callable[[], None] = lambda: None) -> Starlette:
    """An application around a service; it starts the engine and ends it.

    Args:
        on_start: called in the event loop, once the engine has been started.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        on_start()
        yield
        service.engine.close()

    # A page of another origin must be told of errors as well, so CORS stands before the keys.
    cors = Middleware(CORSMiddleware, allow_origins=service.settings.origins, allow_methods=["*"], allow_headers=["*"])
    stack = [Middleware(RequestLog, service=service)]
    stack += [cors] if service.settings.origins else []
    stack += [Middleware(Guard, service=service)]
    handlers = {HTTPException: no_route, RequestError: lambda _, error: error_response(error)}
    found = Starlette(routes=routes(), middleware=stack, exception_handlers=handlers, lifespan=lifespan)
    found.state.service = service
    return found
