"""The page to talk to: its files, and what it asks before the first question."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import glm
from glm.serving.middleware import json_response
from glm.serving.protocol import Sampling
from glm.serving.served_model import ServedModel
from glm.serving.service import Service

FILES = Path(__file__).with_name("page")
_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asks each time: modules of two versions do not fit together
}
_SHOWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class PageFiles(StaticFiles):
    """The page's files, with what browsers are told of them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


async def page(request: Request) -> Response:
    return FileResponse(FILES / "index.html", headers=HEADERS)


async def page_info(request: Request) -> Response:
    """What the page must know of the server; it needs no key, so that the page can ask for one."""
    service: Service = request.app.state.service
    served = service.model
    info = {"model": served.names[0], "chats": served.chats, "max_model_len": served.max_length}
    info |= {"version": glm.__version__, "needs_key": bool(service.settings.keys)}
    thinking = served.processor.thinks_unasked if served.processor.can_switch_thinking else None
    info |= {"thinking": thinking}  # None where there is no switch
    return json_response(info | {"defaults": sampling_defaults(served)}, headers=HEADERS)


def sampling_defaults(served: ServedModel) -> dict[str, float]:
    """How a text is written where a request says nothing."""
    config = served.config(Sampling(), prompt_length=1)
    found = {name: getattr(config, name) for name in _SHOWN}
    found["top_p"] = found["top_p"] or 1.0  # 0 is all as well, and nobody expects that
    return found if config.do_sample else found | {"temperature": 0.0}
