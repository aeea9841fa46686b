"""Whether the server is there, and which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.core import VERSION
from sandbox_runtime.server.replies import text_reply
from sandbox_runtime.server.routing import Route
from sandbox_runtime.wire import health as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from sandbox_runtime.server.http import Response
    from sandbox_runtime.server.routing import Call

_GREETING = "Hello from Bun server! 🚀"  # what the wire says, word for word; probes compare it


def greet(_call: Call, _body: None) -> Response:
    return text_reply(200, _GREETING)


def ping(call: Call, _body: None) -> wire.Ping:
    return wire.Ping(
        system=f"sandbox-runtime {VERSION}",
        status="healthy" if call.modern else "ready",
        timestamp=iso_moment(),
    )


def tell_version(_call: Call, _body: None) -> wire.Version:
    return wire.Version(version=VERSION, timestamp=iso_moment())


ROUTES = (
    Route(
        method="*",
        path="/",
        handle=greet,
        summary="Say hello",
        content_type="text/plain",
        needs_sandbox=False,
    ),
    Route(
        method="GET",
        path="/api/ping",
        handle=ping,
        summary="Say that the server is there",
        reply=wire.Ping,
        needs_sandbox=False,
    ),
    Route(
        method="GET",
        path="/api/version",
        handle=tell_version,
        summary="Say which version it is",
        reply=wire.Version,
        needs_sandbox=False,
    ),
)
