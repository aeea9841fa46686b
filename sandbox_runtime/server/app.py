"""From a request to its answer.

A path may begin with `/sandboxes/{id}`, which chooses a sandbox, and with `/v2`, which chooses the
behaviour of 0.12 where the two generations of clients want different answers to one request. The
header `X-Sandbox-Id`, which only clients of 0.12 send, does the same.
"""

from __future__ import annotations

import importlib
import logging
import time
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
import trio

from sandbox_runtime.core import VERSION
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.server.browsers import BrowserPolicy, check_browser
from sandbox_runtime.server.faults import (
    UnauthorizedError,
    UnknownPathError,
    WrongMethodError,
)
from sandbox_runtime.server.hosting import HostSettings, open_host
from sandbox_runtime.server.http import Response
from sandbox_runtime.server.pulse import Pulse
from sandbox_runtime.server.replies import CORS, error_reply, json_reply
from sandbox_runtime.server.routes import commands, health, sandboxes, sessions
from sandbox_runtime.server.routing import (
    Call,
    Params,
    Route,
    RouteTable,
    decode_body,
    decode_segment,
)
from sandbox_runtime.server.tokens import bears

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from sandbox_runtime.launching import Launch
    from sandbox_runtime.server.hosting import Host, HostedSandbox
    from sandbox_runtime.server.http import Request
    from sandbox_runtime.server.previews import PreviewSettings

_LOG = logging.getLogger("sandbox_runtime.server")
_SANDBOXES = "/sandboxes/"
_MODERN = "/v2"
_PROXY = "/proxy"
_REST_S = 0.1  # how long nothing is asked before what is needed later is loaded
MIB = 1024 * 1024


def _document(_call: Call, _body: None) -> Response:
    content_type = ("Content-Type", "application/json")
    return Response(headers=(content_type, *CORS), body=document())


_TABLE = RouteTable()
_TABLE.add(
    Route(
        method="GET",
        path="/openapi.json",
        handle=_document,
        summary="Describe this API",
        content_type="application/json",
        needs_sandbox=False,
        own=True,
    ),
    *health.ROUTES,
    *sandboxes.ROUTES,
    *sessions.ROUTES,
    *commands.ROUTES,
)
_LATER = ["processes", "files", "content", "git", "ports", "code"]
"""Topics that are loaded when one of their endpoints is asked for, or when nothing is: a server
that has just been started answers its first command sooner for it."""


def _load_topic() -> None:
    topic = _LATER[0]
    _TABLE.add(*importlib.import_module(f"sandbox_runtime.server.routes.{topic}").ROUTES)
    del _LATER[0]


def _load_topics() -> None:
    while _LATER:
        _load_topic()


def _find(path: str) -> tuple[Mapping[str, Route[Any]], Params]:
    """The endpoint's methods, and the variable segments of its path."""
    found = _TABLE.find(path)
    if _LATER and not found[0]:
        _load_topics()
        found = _TABLE.find(path)
    return found


@cache
def document() -> bytes:
    """The OpenAPI document of all endpoints, as JSON."""
    from sandbox_runtime.server.openapi import build_document

    _load_topics()
    built = build_document(_TABLE.routes, VERSION)
    return msgspec.json.format(msgspec.json.encode(built), indent=2) + b"\n"


class AppSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator chose.

    Attributes:
        host: What the sandboxes are like.
        token: The bearer token that requests must have; None asks for none.
        browsers: Which web pages may use it where there is no token.
        body_limit_bytes: How much body a request may have.
        memory_bytes: How much all requests together may hold of bodies, output and logs.
        log_commands: Whether commands may stand in the log, which may hold secrets then.
        previews: How ports of sandboxes are reached by host names of their own; None has none.
    """

    host: HostSettings = msgspec.field(default_factory=HostSettings)
    token: str | None = None
    browsers: BrowserPolicy = msgspec.field(default_factory=BrowserPolicy)
    body_limit_bytes: int = 128 * MIB
    memory_bytes: int = 512 * MIB
    log_commands: bool = False
    previews: PreviewSettings | None = None


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of a request asks for.

    Attributes:
        app: Who has looked at it.
        path: Its path without the prefixes.
        sandbox_id: The sandbox that a prefix chooses.
        modern: Whether the client is one of 0.12.
        is_proxied: Whether a program in a sandbox answers.
        route: Else the endpoint; None for the question which methods there are.
        params: The variable segments of the path.
        query: The query.
    """

    app: App
    path: str
    sandbox_id: str | None
    modern: bool
    is_proxied: bool
    route: Route[Any] | None
    params: Params
    query: Mapping[str, str]


class App:
    """Answers requests. `open_app` makes it; `handle` is what the HTTP server calls.

    Attributes:
        host: What holds the sandboxes.
    """

    def __init__(self, settings: AppSettings, host: Host, pulse: Pulse) -> None:
        self._settings = settings
        self._pulse = pulse
        self.host = host

    async def handle(self, request: Request) -> Response:
        """Answers one request; raises nothing but cancellation."""
        started_s = time.monotonic()
        asked: _Asked | None = None
        try:
            if self._settings.previews is not None:
                from sandbox_runtime.server.proxy import route_preview

                preview = await route_preview(request, self.host.living, self._settings.previews)
                if preview is not None:
                    return preview
            asked = self._look_at(request)
            if asked.is_proxied:
                return await self._proxy(request, asked.path, asked.sandbox_id)
            if asked.route is None:
                return Response(status=200, headers=CORS)  # browsers ask it without a token
            response = await self._answer(request, asked, asked.route)
        except Exception as error:  # noqa: BLE001 - this is the one place that answers them
            route = None if asked is None else asked.route
            response = error_reply(error, route, modern=_is_modern(request))
        if _LOG.isEnabledFor(logging.DEBUG):
            _LOG.debug(
                "%s %s %d in %.1f ms",
                request.method,
                "-" if asked is None or asked.route is None else asked.route.path,
                response.status,
                (time.monotonic() - started_s) * 1000,
            )
        return response

    def _look_at(self, request: Request) -> _Asked:
        """What is asked for, if the client may ask and there is such a thing.

        It is all in the head, so that what was found is kept with that.
        """
        found = request.headers.found
        if isinstance(found, _Asked) and found.app is self:
            return found
        path, sandbox_id, _ = _split(request.raw_path.decode("latin-1"))
        is_proxied = path == _PROXY or path.startswith(f"{_PROXY}/")
        if self._settings.token is None and request.peer.address is not None:
            check_browser(
                request.headers,
                self._settings.browsers,
                target=request.target,
                is_proxied=is_proxied,
            )
        route: Route[Any] | None = None
        params: Params = {}
        if request.method == "OPTIONS" and (not is_proxied or self._settings.token):
            is_proxied = False
        else:
            self._check_token(request)
            if not is_proxied:
                methods, params = _find(path)
                route = _choose(request.method, path, methods)
        asked = request.headers.found = _Asked(
            app=self,
            path=path,
            sandbox_id=sandbox_id,
            modern=_is_modern(request),
            is_proxied=is_proxied,
            route=route,
            params=params,
            query=_query(request.query),
        )
        return asked

    def _check_token(self, request: Request) -> None:
        token = self._settings.token
        if token is None:
            return
        if not bears(request.headers.get("authorization") or "", token):
            raise UnauthorizedError(
                "Unauthorized", remedy="Send the server's token: `Authorization: Bearer TOKEN`"
            )

    async def _hosted(self, sandbox_id: str | None) -> HostedSandbox:
        """The sandbox that a path chooses, or the default one."""
        if sandbox_id is None:
            return await self.host.default()
        return self.host.get(sandbox_id)

    async def _proxy(self, request: Request, path: str, sandbox_id: str | None) -> Response:
        from sandbox_runtime.server.proxy import proxy

        hosted = await self._hosted(sandbox_id)
        with hosted:
            response = await proxy(
                request,
                hosted.sandbox,
                raw_path=path.encode("latin-1"),
                sandbox_name=hosted.spec.id,
                api_token=self._settings.token,
            )
            return _holding(hosted, response)

    async def _answer(
        self,
        request: Request,
        asked: _Asked,
        route: Route[Any],
    ) -> Response:
        body: Any = None
        if route.request is not None:
            limit = route.body_limit_bytes or self._settings.body_limit_bytes
            content = await request.read(limit)
            if route.empty_body:
                content = content or b"{}"
            body = decode_body(content, route.request)
        hosted: HostedSandbox | None = None
        if asked.sandbox_id is not None or route.needs_sandbox:
            hosted = await self._hosted(asked.sandbox_id)
        call = Call(
            request=request,
            host=self.host,
            pulse=self._pulse,
            modern=asked.modern,
            params=asked.params,
            query=asked.query,
            route=route,
            hosted=hosted,
            log_commands=self._settings.log_commands,
            previews=self._settings.previews,
        )
        if hosted is None:
            return await _handle(route, call, body)
        with hosted:
            return _holding(hosted, await _handle(route, call, body))


async def _handle(route: Route[Any], call: Call, body: Any) -> Response:
    answer = route.handle(call, body)
    if not isinstance(answer, msgspec.Struct):  # as a Response is too
        answer = await answer
    if isinstance(answer, Response):
        return answer
    return json_reply(answer, status=route.success)


def _holding(hosted: HostedSandbox, response: Response) -> Response:
    """A stream counts as use of its sandbox until it has ended."""

    def hold(talk: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def run(other_side: Any) -> None:
            with hosted:
                await talk(other_side)

        return run

    if response.stream is not None:
        return msgspec.structs.replace(response, stream=hold(response.stream))
    if response.upgrade is not None:
        return msgspec.structs.replace(response, upgrade=hold(response.upgrade))
    return response


def _split(path: str) -> tuple[str, str | None, bool]:
    """A path without its prefixes, the sandbox it chooses, and whether it chooses 0.12."""
    modern = False
    sandbox_id: str | None = None
    if path.startswith(f"{_MODERN}/"):
        path, modern = path[len(_MODERN) :], True
    if path.startswith(_SANDBOXES):
        segment, slash, rest = path[len(_SANDBOXES) :].partition("/")
        if slash:
            path, sandbox_id = f"/{rest}", decode_segment(segment)
            if path.startswith(f"{_MODERN}/"):
                path, modern = path[len(_MODERN) :], True
    return path, sandbox_id, modern


def _is_modern(request: Request) -> bool:
    """Whether the client is one of 0.12."""
    if request.headers.get("x-sandbox-id") is not None:
        return True
    return _split(request.raw_path.decode("latin-1"))[2]


def _choose(method: str, path: str, methods: Mapping[str, Route[Any]]) -> Route[Any]:
    """The endpoint of a path and a method.

    Raises:
        UnknownPathError: There is no endpoint at all.
        WrongMethodError: Only for other methods.
    """
    if not methods:
        raise UnknownPathError(path, *_TABLE.leads_to(path))
    route = methods.get(method) or methods.get("*")
    if route is None and method == "HEAD":
        route = methods.get("GET")
    if route is None:
        raise WrongMethodError(method, sorted(methods))
    return route


def _query(raw: str) -> dict[str, str]:
    values: dict[str, str] = {}
    if not raw:
        return values
    for name, value in parse_qsl(raw, keep_blank_values=True):
        values.setdefault(name, value)
    return values


async def _load_when_idle(host: Host) -> None:
    """Loads what the first command did not need, with a pause for requests behind each topic.

    What cannot be loaded is left to the request that asks for it.
    """
    for hosted in host.sandboxes:
        await hosted.wait_idle(_REST_S)
    while _LATER:
        try:
            _load_topic()
        except Exception:  # noqa: BLE001 - it goes into the log, and the server goes on
            _LOG.exception("the endpoints of %s cannot be loaded", _LATER[0])
            return
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_app(settings: AppSettings, launched: Launch | None = None) -> AsyncIterator[App]:
    """What answers requests, with its sandboxes; they end with the block.

    Args:
        settings: What the operator chose.
        launched: What its first runtime is to be made of.

    Raises:
        IsolationError: No sandbox can be made here; it says why and what to do.
    """
    pulse = Pulse()
    async with open_host(settings.host, launched) as host, open_serving_nursery() as nursery:
        nursery.start_soon(pulse.run)
        if settings.host.warm_up:
            nursery.start_soon(_load_when_idle, host)
        yield App(settings, host, pulse)
