"""The routes: what each path answers."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route

import glm
from glm.errors import GLMError
from glm.serving.errors import NOT_FOUND, RequestError, invalid
from glm.serving.event_stream import ClientGoneError, EventStream, until_gone
from glm.serving.exchange import Exchange
from glm.serving.fields import flag, listed, read_fields, text, whole
from glm.serving.metrics import CONTENT_TYPE
from glm.serving.middleware import RECORD, json_response
from glm.serving.protocol import MOST_IDS, MOST_TOKENS, read_chat, read_completion
from glm.serving.served_model import ServedModel
from glm.serving.service import Service
from glm.serving.web_page import FILES, PageFiles, page, page_info

_logger = logging.getLogger("glm.serving")
_told: set[str] = set()  # unknown fields that were logged


def routes() -> list[Route | Mount]:
    """All of them; the application's state has the `service`."""
    posts = {
        "/v1/chat/completions": chat_completions,
        "/v1/completions": completions,
        "/tokenize": tokenize,
        "/detokenize": detokenize,
    }
    gets = {
        "/v1/models": models,
        "/v1/models/{name:path}": model,
        "/tokenizer_info": tokenizer_info,
        "/health": health,
        "/ready": ready,
        "/metrics": metrics,
        "/version": version,
        "/": page,
        "/page.json": page_info,
    }
    found = [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
    found += [Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()]
    return [*found, Mount("/static", PageFiles(directory=FILES))]


async def chat_completions(request: Request) -> Response:
    return await _generated(request, read_chat, service_of(request).chat)


async def completions(request: Request) -> Response:
    return await _generated(request, read_completion, service_of(request).completion)


async def _generated(request: Request, read: Callable, begin: Callable[[Any], Exchange]) -> Response:
    service = service_of(request)
    service.require_taking()
    body = await json_body(request)

    def begun() -> Exchange:
        wanted = read(body)
        note_unknown(wanted.unknown)
        return begin(wanted)

    # Prompts of many thousand tokens take a while to check and to encode; other requests go on meanwhile.
    exchange = await asyncio.to_thread(begun)
    request.scope[RECORD] = exchange.record
    if exchange.answer.request.stream:
        return EventStream(exchange.chunks(service.settings.ping_seconds))
    return json_response(await until_gone(exchange.whole(), request.receive))


async def models(request: Request) -> Response:
    service = service_of(request)
    return json_response({"object": "list", "data": [_card(service, name) for name in service.model.names]})


async def model(request: Request) -> Response:
    service = service_of(request)
    return json_response(_card(service, service.model.require_name(request.path_params["name"])))


def _card(service: Service, name: str) -> dict[str, Any]:
    served = service.model
    card = {"id": name, "object": "model", "created": served.created, "owned_by": "glm", "root": served.names[0]}
    return card | {"parent": None, "max_model_len": served.max_length}


_TOKENIZE = {
    "model": text,
    "prompt": text,
    "messages": listed(lambda name, value: value, 4096, "messages"),
    "add_special_tokens": flag,
    "return_token_strs": flag,
}
_DETOKENIZE = {
    "model": text,
    "tokens": listed(whole(0, MOST_TOKENS), MOST_IDS, "token ids"),
    "skip_special_tokens": flag,
}


async def tokenize(request: Request) -> Response:
    """Ids of a text, or of a conversation; a special token that the text spells becomes its id."""
    served = service_of(request).model
    given = read_fields(await json_body(request), _TOKENIZE)
    served.require_name(given.get("model"))
    if ("prompt" in given) == ("messages" in given):
        raise invalid("give one of 'prompt' and 'messages'", "prompt")
    ids = await asyncio.to_thread(_tokenized, served, given)
    answer = {"tokens": ids, "count": len(ids), "max_model_len": served.max_length}
    if given.get("return_token_strs"):
        answer["token_strs"] = served.tokenizer.convert_ids_to_tokens(ids)
    return json_response(answer)


def _tokenized(served: ServedModel, given: Mapping[str, Any]) -> list[int]:
    if "prompt" in given:
        return list(served.text_ids(given["prompt"], given.get("add_special_tokens", True)))
    if not served.chats:
        raise invalid("'messages' needs a model that holds conversations, and GLM (2021) holds none", "messages")
    try:
        return list(served.processor.chat.prompt_ids(served.tokenizer, given["messages"]))
    except GLMError as error:
        raise invalid(str(error), "messages") from None


async def detokenize(request: Request) -> Response:
    served = service_of(request).model
    found = await asyncio.to_thread(_detokenized, served, await json_body(request))
    return json_response({"prompt": found})


def _detokenized(served: ServedModel, body: Mapping[str, Any]) -> str:
    given = read_fields(body, _DETOKENIZE)
    served.require_name(given.get("model"))
    if "tokens" not in given:
        raise invalid("'tokens' is missing: give a list of token ids", "tokens")
    skips = given.get("skip_special_tokens", False)
    return served.tokenizer.text_of(given["tokens"], skip_special_tokens=skips)


async def tokenizer_info(request: Request) -> Response:
    """What lm-evaluation-harness asks before it uses a server's tokenizer."""
    tokenizer = service_of(request).model.tokenizer
    info = {role: getattr(tokenizer, role) for role in ("bos_token", "eos_token", "pad_token", "unk_token")}
    info |= {"chat_template": getattr(tokenizer, "chat_template", None), "vocab_size": len(tokenizer)}
    return json_response(info)


async def health(request: Request) -> Response:
    """200 if the engine has shown life lately."""
    service_of(request).require_healthy()
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """200 if a new request would be taken."""
    service = service_of(request)
    service.require_taking()
    service.require_healthy()
    return json_response({"status": "ready"})


async def metrics(request: Request) -> Response:
    service = service_of(request)
    return Response(service.metrics.text(service.engine.stats), headers={"Content-Type": CONTENT_TYPE})


async def version(request: Request) -> Response:
    return json_response({"version": glm.__version__})


async def json_body(request: Request) -> Mapping[str, Any]:
    """The request's JSON object.

    Raises:
        RequestError: it is none, or does not arrive in time. ClientGoneError: the client left before its end.
    """
    seconds = service_of(request).settings.body_seconds
    try:
        raw = await asyncio.wait_for(request.body(), seconds)
    except ClientDisconnect:
        raise ClientGoneError from None
    except asyncio.TimeoutError:
        raise RequestError(408, f"the body did not arrive within {seconds:g} s", code="body_timeout") from None
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:120]
        raise invalid(f"the body is not valid JSON ({reason})", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object {…}", code="invalid_json")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def service_of(request: Request) -> Service:
    return request.app.state.service


def no_route(request: Request, error: Exception) -> Response:
    """404 and 405 in the form of the interface."""
    what, allowed = f"{request.method} {request.url.path[:80]}", {"Allow", "allow"}
    if error.status_code == 404:
        found = RequestError(404, f"{what}: there is no such path", NOT_FOUND, "not_found")
    else:
        found = RequestError(error.status_code, f"{what}: {error.detail}", code="method_not_allowed")
    headers = {name: value for name, value in (error.headers or {}).items() if name in allowed}
    return json_response(found.body, found.status, headers)


def note_unknown(names) -> None:
    """Says once of a field that nobody knows it; OpenAI's interface lets clients send such."""
    for name in names:
        if name not in _told and len(_told) < 100:
            _told.add(name)
            _logger.info("unknown field %.40r is ignored", name)
