"""Processes: programs in the background."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sandbox_runtime.client._async.ports import wait_for_port
from sandbox_runtime.client.arguments import command_text, milliseconds_of, variables
from sandbox_runtime.client.errors import ApiError, DeadlineError, stream_error_of
from sandbox_runtime.errors import ProcessEndedError
from sandbox_runtime.log_lines import LineSearch
from sandbox_runtime.wire import processes as wire

if TYPE_CHECKING:
    import re
    from collections.abc import AsyncIterator, Mapping

    from sandbox_runtime.client._async.transport import AsyncEvents, AsyncTransport
    from sandbox_runtime.log_lines import LogLine


class AsyncProcess:
    """A program in the background. `AsyncSandbox.start_process` makes it.

    Attributes:
        id: Its id.
        info: What was known of it when it was last asked about.
    """

    def __init__(self, transport: AsyncTransport, prefix: str, info: wire.ProcessInfo) -> None:
        self._transport = transport
        self._prefix = prefix
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
    async def follow(self, *, deadline_s: float | None = None) -> AsyncIterator[AsyncEvents]:
        """What it wrote and writes, event by event, until it ends.

        Args:
            deadline_s: Seconds until the server breaks off; its last event is an error then. Never
                by default.
        """
        limit_ms = milliseconds_of("deadline_s", deadline_s)
        query = None if limit_ms is None else {"timeoutMs": str(limit_ms)}
        path = f"{self._path}/stream"
        async with self._transport.stream("GET", path, wire.LogEvent, query=query) as events:
            yield events

    async def wait(self) -> int | None:
        """Waits for its end; returns its exit code, or None if it was killed."""
        async with self.follow() as events:
            async for _ in events:
                pass
        return (await self.refresh()).exit_code

    async def wait_for_log(
        self, pattern: str | bytes | re.Pattern[Any], *, deadline_s: float | None = None
    ) -> LogLine:
        """Waits for a line of its output; what is kept of it already counts.

        Args:
            pattern: Text that the line holds, or a compiled regular expression, which is tried on
                finished lines only, in this process.
            deadline_s: Seconds until it is given up; the process goes on. Never by default.

        Raises:
            DeadlineError: No such line came in time.
            ProcessEndedError: It ended without such a line, as at the `deadline_s` that
                `start_process` was given.
            ApiError: Its output cannot be read on.
        """
        search = LineSearch(pattern)
        async with self.follow(deadline_s=deadline_s) as events:
            async for event in events:
                found = None
                match event:
                    case wire.LogStdout(data=data):
                        found = search.take("stdout", data.encode())
                    case wire.LogStderr(data=data):
                        found = search.take("stderr", data.encode())
                    case wire.LogError(reason="deadline"):
                        raise self._no_line_in_time(pattern, deadline_s)
                    case wire.LogError(error=why):
                        raise stream_error_of("", why, {})
                    case wire.LogExit(exit_code=exit_code) if not (found := search.end()):
                        waited_for = f"a line with {pattern!r} came"
                        raise ProcessEndedError(self.id, exit_code, waited_for)
                if found:
                    return found
        raise ApiError("the stream ended early", status=200, error_code="", context={})

    def _no_line_in_time(self, pattern: object, deadline_s: float | None) -> DeadlineError:
        return DeadlineError(
            f"process {self.id!r} wrote no line with {pattern!r} in {deadline_s:g} s",
            status=200,
            error_code="",
            context={"processId": self.id, "reason": "deadline"},
            remedy="Give it more with deadline_s; `logs()` has what it wrote",
        )

    async def wait_for_port(self, port: int, *, deadline_s: float | None = None) -> None:
        """Waits until a program listens on a port of the sandbox, or this process has ended.

        Raises:
            ProcessEndedError: It ended before.
            DeadlineError: Nothing listened in time.
            InvalidRequestError: It is no port, or the control server's own.
        """
        await wait_for_port(
            self._transport, self._prefix, port, process_id=self.id, deadline_s=deadline_s
        )

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
        env=variables(env),
        timeout_ms=milliseconds_of("deadline_s", deadline_s),
    )
    path = f"{prefix}/api/process/start"
    started = await transport.call("POST", path, wire.ProcessStarted, body=body)
    return AsyncProcess(transport, prefix, started.process)
