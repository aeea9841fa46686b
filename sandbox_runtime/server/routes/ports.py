"""Ports: what may be reached from outside, and when a program is ready."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from msgspec import UNSET

from sandbox_runtime.errors import InvalidArgumentError, ListenError, NotFoundError
from sandbox_runtime.server.faults import (
    FieldError,
    ForbiddenError,
    InvalidPortError,
    PortInUseError,
    PortNotExposedError,
)
from sandbox_runtime.server.port_watch import watch_port
from sandbox_runtime.server.previews import preview_url
from sandbox_runtime.server.routing import Route
from sandbox_runtime.server.streams import stream_events
from sandbox_runtime.wire import ports as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from sandbox_runtime.ports import ExposedPort
    from sandbox_runtime.server.http import Response
    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.server.streams import EventStream

_REQUIRED = "Port is required and must be a number"
_TEXTS = {"port": _REQUIRED}


def _check(port: int) -> int:
    if port == 0:
        raise FieldError("port", _REQUIRED)
    if not 1 <= port <= 65535:
        raise InvalidPortError(
            "Port must be between 1 and 65535", port=str(port), reason="out of range"
        )
    return port


def _url(call: Call, exposed: ExposedPort) -> str | None:
    """The address of its preview, if the server has previews and this sandbox can have one."""
    if call.previews is None:
        return None
    host = call.request.headers.get("host") or ""
    try:
        return preview_url(call.sandbox.spec.id, exposed, host, call.previews)
    except InvalidArgumentError:
        return None


def expose(call: Call, body: wire.ExposePort) -> wire.PortExposed:
    port = _check(body.port)
    if body.listen is not None and body.listen not in call.host.settings.listenable:
        raise ForbiddenError(
            f"{body.listen!r} may not be listened on",
            remedy="The operator allows addresses with --listenable",
        )
    try:
        exposed = call.sandbox.sandbox.ports.expose(port, name=body.name, listen=body.listen)
    except ListenError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"Port {port} is in use on this machine", port=port) from None
        why = os.strerror(error.errno or 0)
        raise InvalidPortError(
            f"Cannot listen on {body.listen}: {why}", port=port, reason="refused"
        ) from None
    except InvalidArgumentError as error:
        raise InvalidPortError(str(error), port=port, reason="reserved") from None
    url = _url(call, exposed)
    return wire.PortExposed(
        port=port,
        name=UNSET if body.name is None else body.name,
        exposed_at=iso_moment(exposed.exposed_s),
        url=UNSET if url is None else url,
        token=exposed.token,
        timestamp=iso_moment(),
    )


def unexpose(call: Call, body: wire.UnexposePort) -> wire.PortUnexposed:
    port = _check(body.port)
    try:
        call.sandbox.sandbox.ports.unexpose(port)
    except NotFoundError:
        raise PortNotExposedError("Port is not exposed", port=port) from None
    return wire.PortUnexposed(port=port, timestamp=iso_moment())


def _info(call: Call, exposed: ExposedPort) -> wire.PortInfo:
    url = _url(call, exposed)
    return wire.PortInfo(
        port=exposed.port,
        name=UNSET if exposed.name is None else exposed.name,
        exposed_at=iso_moment(exposed.exposed_s),
        url=UNSET if url is None else url,
    )


def list_exposed(call: Call, _body: None) -> wire.PortList:
    ports = [_info(call, exposed) for exposed in call.sandbox.sandbox.ports.list()]
    return wire.PortList(ports=ports, count=len(ports), timestamp=iso_moment())


def watch(call: Call, body: wire.WatchPort) -> Response:
    sandbox = call.sandbox.sandbox
    process = None if body.process_id is None else sandbox.processes.get(body.process_id)

    async def produce(events: EventStream) -> None:
        await watch_port(
            sandbox,
            body,
            events.send,
            process=process,
            exit_code=lambda: None if process is None else process.exit_code,
        )

    return stream_events(produce, call.pulse)


ROUTES = (
    Route(
        method="POST",
        path="/api/expose-port",
        handle=expose,
        summary="Let a port be reached from outside",
        request=wire.ExposePort,
        reply=wire.PortExposed,
        failure="Failed to expose port",
        required=_TEXTS,
        statuses=(400, 403, 409, 500),
    ),
    Route(
        method="DELETE",
        path="/api/unexpose-port",
        handle=unexpose,
        summary="Let a port be reached no more",
        request=wire.UnexposePort,
        reply=wire.PortUnexposed,
        failure="Failed to unexpose port",
        required=_TEXTS,
        statuses=(400, 404, 500),
    ),
    Route(
        method="GET",
        path="/api/exposed-ports",
        handle=list_exposed,
        summary="List the ports that can be reached",
        reply=wire.PortList,
        failure="Failed to get exposed ports",
    ),
    Route(
        method="POST",
        path="/api/port-watch",
        handle=watch,
        summary="Tell when a port answers",
        request=wire.WatchPort,
        events=wire.PortEvent,
        failure="Failed to watch port",
        statuses=(400, 404),
    ),
)
