"""Ports: waiting until somebody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.client.arguments import milliseconds_of
from sandbox_runtime.client.errors import ApiError, stream_error_of
from sandbox_runtime.errors import ProcessEndedError
from sandbox_runtime.wire import ports as wire

if TYPE_CHECKING:
    from sandbox_runtime.client._sync.transport import Transport


def wait_for_port(
    transport: Transport,
    prefix: str,
    port: int,
    *,
    process_id: str | None = None,
    deadline_s: float | None = None,
) -> None:
    """Waits until a program listens; see `Sandbox.wait_for_port`."""
    body = wire.WatchPort(
        port=port, process_id=process_id, timeout_ms=milliseconds_of("deadline_s", deadline_s)
    )
    path = f"{prefix}/api/port-watch"
    with transport.stream("POST", path, wire.PortEvent, body=body) as events:
        for event in events:
            match event:
                case wire.PortReady():
                    return
                case wire.PortProcessExited(exit_code=exit_code):
                    waited_for = f"port {port} was open"
                    raise ProcessEndedError(process_id or "", exit_code, waited_for)
                case wire.PortError(error=why, reason=reason):
                    context = {"port": port} | ({"reason": reason} if reason else {})
                    raise stream_error_of("", why, context)
    raise ApiError("the stream ended early", status=200, error_code="", context={})
