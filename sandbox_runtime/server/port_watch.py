"""Watching a port until it answers, for clients that wait for a process to be ready."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import httptools
import trio

from sandbox_runtime.errors import PortUnreachableError, SandboxError
from sandbox_runtime.ports import until
from sandbox_runtime.wire.ports import (
    PortError,
    PortEvent,
    PortProcessExited,
    PortReady,
    PortWatching,
    WatchPort,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.ports import EndingProcess
    from sandbox_runtime.sandbox import Sandbox

    Tell = Callable[[PortEvent], Awaitable[None]]

_ATTEMPT_S = 5.0
_LEAST_PAUSE_S = 0.01  # each look costs the server a read of the socket table
_LONGEST_PAUSE_S = 0.05
_HEAD_BYTES = 64 * 1024


async def watch_port(
    sandbox: Sandbox,
    wanted: WatchPort,
    tell: Tell,
    *,
    process: EndingProcess | None = None,
    exit_code: Callable[[], int | None] = lambda: None,
) -> None:
    """Tells when a port answers, or why it will not; returns after the last event.

    Args:
        sandbox: Where.
        wanted: Which port, and what counts as an answer.
        tell: Sends one event.
        process: Whose end ends the watching.
        exit_code: What it exited with; asked for after its end.
    """
    port = wanted.port
    await tell(PortWatching(port=port))
    seen: list[int] = []

    async def look() -> bool:
        if not sandbox.ports.is_open(port):
            return False
        if wanted.mode == "tcp":
            return True
        status = await ask_status(sandbox, port, wanted.path)
        if status is None or not wanted.status_min <= status <= wanted.status_max:
            return False
        seen.append(status)
        return True

    pause_s = max(wanted.interval / 1000, _LEAST_PAUSE_S) if wanted.interval else _LONGEST_PAUSE_S
    limit_s = wanted.timeout_ms / 1000 if wanted.timeout_ms else math.inf
    try:
        with trio.move_on_after(limit_s) as scope:
            is_ready = await until(look, process, pause_s)
    except SandboxError as error:
        await tell(PortError(port=port, error=str(error)))
        return
    if scope.cancelled_caught:
        why = f"port {port} did not answer in {limit_s:g} s"
        await tell(PortError(port=port, error=why, reason="deadline"))
    elif is_ready:
        await tell(PortReady(port=port, status_code=seen[0]) if seen else PortReady(port=port))
    else:
        await tell(PortProcessExited(port=port, exit_code=exit_code()))


class _Status:
    """What httptools calls."""

    def __init__(self) -> None:
        self.is_known = False

    def on_headers_complete(self) -> None:
        self.is_known = True


async def ask_status(sandbox: Sandbox, port: int, path: str) -> int | None:
    """The status that a program answers to `GET`, or None if it does not in time."""
    target = path.encode() if path.startswith("/") else b"/" + path.encode()
    target = b"".join(b"%%%02X" % byte if byte <= 32 or byte >= 127 else bytes((byte,))
                      for byte in target)  # fmt: skip
    request = b"GET %b HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n" % (target, port)
    status = _Status()
    parser = httptools.HttpResponseParser(status)
    received = 0
    try:
        with trio.move_on_after(_ATTEMPT_S):
            async with await sandbox.connect(port) as stream:
                await stream.send_all(request)
                while not status.is_known and received < _HEAD_BYTES:
                    data = await stream.receive_some()
                    if not data:
                        return None
                    received += len(data)
                    parser.feed_data(data)
    except (PortUnreachableError, trio.BrokenResourceError, httptools.HttpParserError):
        pass
    return int(parser.get_status_code()) if status.is_known else None
