"""The dashboard as a web application: what is at which address.

::

    GET  /                        the page                      GET  /metrics                Prometheus
    GET  /events                  states, as they change        GET  /api/state              the same, once; and the queues' past
    GET  /logs?path=              a log, followed               GET  /api/process?name=      a process, with what came of it
    GET  /output?name=&uuid=      an output, followed           POST /api/actions/NAME       see ``actions``
    GET, POST  /login             a token becomes a cookie      GET  /static/...             the page's own files

Every request passes :class:`Guard` first.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parkit_async import aclose
from parkit_async._core import object_ops, paths
from parkit_async._core.binding import Binding
from parkit_async._core.errors import ParkitError

from . import metrics, state, streams
from .access import Access, Refusal
from .actions import ACTIONS, Gone
from .watch import Hub, encode

__all__ = ["make_app"]

_STATIC: Final = Path(__file__).parent / "static"
_LONGEST_BODY: Final = 1 << 16

_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer a form of our own would be sent as one of nobody's,
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


def make_app(access: Access, hub: Hub) -> Starlette:
    """Return the application; the hub watches while it runs."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await hub.begin()
        try:
            yield
        finally:
            await hub.close()
            await aclose()

    application = Starlette(
        routes=[
            Route("/", _page),
            Route("/login", _login, methods=["GET", "POST"]),
            Route("/events", _events),
            Route("/logs", _logs),
            Route("/output", _output),
            Route("/metrics", _metrics),
            Route("/api/state", _state),
            Route("/api/process", _process),
            Route("/api/actions/{name}", _act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={ParkitError: _failed, ClientDisconnect: _left},
        lifespan=lifespan,
    )
    application.state.access = access
    application.state.hub = hub
    return application


class Guard:
    """Refuses what ``access`` refuses, and gives every answer the headers that keep a browser from doing harm."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-cache"))
                message = {**message, "headers": [*headers, *_HEADERS]}
            await send(message)

        refused = self._access.refusal(scope)
        if refused is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await _refuse(Request(scope), refused)(scope, receive, send_with_headers)


def _refuse(request: Request, refusal: Refusal) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_notice(refusal), refusal.status)
    headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else None
    return _json({"error": f"{refusal.title}. {refusal.text}"}, refusal.status, headers)


def _notice(refusal: Refusal) -> str:
    """Return a page that says what is the matter, with a form for the token where that helps."""
    form = (
        '<form method="post" action="/login"><label>Token '
        '<input name="token" type="password" autocomplete="current-password" required autofocus></label>'
        "<button>Open</button></form>"
        if refusal.login
        else ""
    )
    text = html.escape(refusal.text).replace("`parkit dashboard`", "<code>parkit dashboard</code>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(refusal.title)}</title><link rel="stylesheet" href="/static/style.css"></head>'
        f'<body class="notice"><main><h1>{html.escape(refusal.title)}</h1><p>{text}</p>{form}</main></body></html>'
    )


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(value), status, {"cache-control": "no-store", **(headers or {})}, "application/json")


async def _failed(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 500)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # to nobody: he has left while he was asking


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


def _hub(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


# The page, and how one comes in.


async def _page(request: Request) -> Response:
    token = request.query_params.get("token")
    if token is not None:  # it shall not stay in the address
        return _admitted(request) if _access(request).matches(token) else RedirectResponse("/", 303)
    return FileResponse(_STATIC / "index.html")


def _admitted(request: Request) -> Response:
    access = _access(request)
    response = RedirectResponse("/", 303, {"cache-control": "no-store"})
    response.set_cookie(
        access.cookie_name(request.scope),
        access.cookie,  # without an age: that it has expired is said here, while a browser would just not send it
        httponly=True,
        samesite="strict",
        secure=request.headers.get("x-forwarded-proto") == "https",
    )
    return response


async def _login(request: Request) -> Response:
    access = _access(request)
    if not access.needs_token(request.scope):
        return RedirectResponse("/", 303)
    if request.method == "GET":
        return HTMLResponse(_notice(Refusal(200, "A token is needed", "`parkit dashboard` has printed it where it was started.", True)))
    form = parse_qs((await _body(request) or b"").decode("latin-1"))
    if not access.matches(form.get("token", [""])[0].strip()):
        return HTMLResponse(_notice(Refusal(401, "That is not the token", "`parkit dashboard` has printed it where it was started.", True)), 401)
    if access.left() == 0:
        text = "Have `parkit dashboard` started again, and open the address that it prints then."
        return HTMLResponse(_notice(Refusal(401, "The token has expired", text)), 401)
    return _admitted(request)


async def _body(request: Request) -> bytes | None:
    """Return what was sent; None if it is longer than anything that makes sense."""
    body = b""
    async for portion in request.stream():
        body += portion
        if len(body) > _LONGEST_BODY:
            return None
    return body


# Events.


def _stream(request: Request, events: AsyncIterator[bytes]) -> Response:
    access = _access(request)
    seconds = access.left() if access.needs_token(request.scope) else None
    return streams.EventStream(events, _hub(request), seconds)


async def _events(request: Request) -> Response:
    return _stream(request, streams.states(_hub(request)))


async def _logs(request: Request) -> Response:
    path = request.query_params.get("path", "")
    binding = _find(path)
    if binding is None:
        return _json({"error": f"there is no log {path!r}"}, 404)
    return _stream(request, streams.entries(binding, _last(request)))


def _find(path: str) -> Binding | None:
    """Return an object by its path; one of parkit's own namespaces is allowed, too. An object that is no log has no
    entries, or its items in their place, and does no harm."""
    namespace_name, separator, name = path.rpartition("/")
    try:
        namespace = state.named_namespace(namespace_name if separator else paths.DEFAULT_NAMESPACE)
    except ValueError:
        return None
    entry = None if namespace is None else namespace.read(object_ops.find, name)
    return None if namespace is None or entry is None else Binding(namespace, path, entry, None)


async def _output(request: Request) -> Response:
    name = request.query_params.get("name", "")
    found = state.find_process(name)
    if found is None or found[1].uuid != request.query_params.get("uuid", found[1].uuid):
        return _json({"error": f"there is no process {name!r} any more"}, 404)
    namespace, entry, _ = found
    return _stream(request, streams.output(Binding(namespace, name, entry, None), _last(request)))


def _last(request: Request) -> str | None:
    """Return where a client was: its browser says it when it comes back by itself, and the page when it was not seen for a while."""
    return request.headers.get("last-event-id") or request.query_params.get("last")


# Documents.


async def _state(request: Request) -> Response:
    hub, access = _hub(request), _access(request)
    if "fresh" in request.query_params:
        await hub.settled()
    topics = {name: topic.document for name, topic in hub.topics.items()}
    return _json({"topics": topics, "history": hub.history(), "now": time.time(), "read_only": access.read_only, "actions": sorted(ACTIONS)})


async def _process(request: Request) -> Response:
    document = state.process_document(request.query_params.get("name", ""))
    if document is None:
        return _json({"error": "there is no such process any more"}, 404)
    return _json(document)


async def _metrics(request: Request) -> Response:
    hub = _hub(request)
    await hub.settled()
    documents = {name: topic.document for name, topic in hub.topics.items()}
    namespaces = [document for name, document in documents.items() if name.startswith("namespace:")]
    text = metrics.exposition(documents["store"], documents["pool"], namespaces)
    return PlainTextResponse(text, headers={"content-type": metrics.CONTENT_TYPE, "cache-control": "no-store"})


# Actions.


async def _act(request: Request) -> Response:
    action = ACTIONS.get(request.path_params["name"])
    if action is None:
        return _json({"error": "there is no such action"}, 404)
    try:
        body = await _body(request)
        if body is None:  # and not as if nothing had been said: "clean" would then forget everything
            raise ValueError(f"arguments have {_LONGEST_BODY:,} bytes at most")
        arguments = json.loads(body or b"{}")
        if not isinstance(arguments, dict):
            raise TypeError("arguments are a JSON object")
        done = await action(**arguments)
    except Gone as error:
        return _json({"error": str(error)}, 404)
    except (ParkitError, OSError) as error:
        return _json({"error": str(error)}, 409)
    except (TypeError, ValueError, RecursionError) as error:
        return _json({"error": str(error)}, 400)
    return _json({"done": done})
