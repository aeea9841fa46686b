"""Processes: programs in the background."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from sandbox_runtime.client.arguments import command_text, milliseconds_of
from sandbox_runtime.wire import processes as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sandbox_runtime.client._async.transport import AsyncEvents, AsyncTransport


class AsyncProcess:
    """A program in the background. `AsyncSandbox.start_process` makes it.

    Attributes:
        id: Its id.
        info: What was known of it when it was last asked about.
    """

    def __init__(self, transport: AsyncTransport, prefix: str, info: wire.ProcessInfo) -> None:
        self._transport = transport
        self._path = f"{prefix}/api/process/{quote(info.id, safe='')}"
        self.id = info.id
        self.info = info

    async def refresh(self) -> wire.ProcessInfo:
        """What is known of it now."""
        found = await self._transport.call("GET", self._path, wire.ProcessFound)
        self.info = found.process
        return self.info

    async def logs(self) -> wire.ProcessLogs:
        """What it wrote so far."""
        return await self._transport.call("GET", f"{self._path}/logs", wire.ProcessLogs)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[AsyncEvents]:
        """What it wrote and writes, event by event, until it ends."""
        async with self._transport.stream("GET", f"{self._path}/stream", wire.LogEvent) as events:
            yield events

    async def wait(self) -> int | None:
        """Waits for its end; returns its exit code, or None if it was killed."""
        async with self.follow() as events:
            async for _ in events:
                pass
        return (await self.refresh()).exit_code

    async def kill(self) -> None:
        """Ends it and everything it started."""
        await self._transport.call("DELETE", self._path, wire.ProcessKilled)


async def start(
    transport: AsyncTransport,
    prefix: str,
    command: str,
    *,
    session_id: str | None,
    process_id: str | None,
    cwd: str | None,
    env: Mapping[str, str] | None,
    deadline_s: float | None,
) -> AsyncProcess:
    """Starts a program; see `AsyncSandbox.start_process`."""
    body = wire.StartProcess(
        command=command_text(command),
        session_id=session_id,
        process_id=process_id,
        cwd=cwd,
        env=dict(env) if env else None,
        timeout_ms=milliseconds_of("deadline_s", deadline_s),
    )
    path = f"{prefix}/api/process/start"
    started = await transport.call("POST", path, wire.ProcessStarted, body=body)
    return AsyncProcess(transport, prefix, started.process)
