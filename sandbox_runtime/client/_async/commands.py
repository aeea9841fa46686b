"""Commands: in a session, at once or as they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.arguments import check_callbacks
from sandbox_runtime.client.arguments import command_text, milliseconds_of, variables
from sandbox_runtime.client.errors import ApiError, stream_error_of
from sandbox_runtime.client.models import CommandResult
from sandbox_runtime.errors import CommandFailedError
from sandbox_runtime.wire import commands as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox_runtime.client._async.transport import AsyncTransport


async def execute(
    transport: AsyncTransport,
    prefix: str,
    session_id: str,
    command: str,
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    deadline_s: float | None,
    on_stdout: Callable[[str], None] | None,
    on_stderr: Callable[[str], None] | None,
    check: bool,
) -> CommandResult:
    """Runs a command; with a callback its output is handed on as it comes."""
    check_callbacks(on_stdout=on_stdout, on_stderr=on_stderr)
    body = wire.Execute(
        session_id=session_id,
        command=command_text(command),
        cwd=cwd,
        env=variables(env),
        timeout_ms=milliseconds_of("deadline_s", deadline_s),
    )
    if on_stdout is None and on_stderr is None:
        done = await transport.call("POST", f"{prefix}/api/execute", wire.Executed, body=body)
        result = CommandResult(
            stdout=done.stdout,
            stderr=done.stderr,
            exit_code=done.exit_code,
            duration_s=done.duration / 1000,
            truncated=done.truncated,
            peak_memory_bytes=done.peak_memory_bytes,
            cpu_s=done.cpu_ms / 1000 if done.cpu_ms is not None else None,
        )
    else:
        path = f"{prefix}/api/execute/stream"
        result = await _stream(transport, path, body, on_stdout, on_stderr)
    if check and not result.ok:
        raise CommandFailedError(result, f"exit code {result.exit_code}", result.stderr)
    return result


async def _stream(
    transport: AsyncTransport,
    path: str,
    body: wire.Execute,
    on_stdout: Callable[[str], None] | None,
    on_stderr: Callable[[str], None] | None,
) -> CommandResult:
    out: list[str] = []
    err: list[str] = []
    end: wire.CommandComplete | wire.CommandError | None = None
    async with transport.stream("POST", path, wire.CommandEvent, body=body) as events:
        async for event in events:  # to the end of the stream, so that its connection is kept
            match event:
                case wire.CommandStdout(data=data):
                    out.append(data)
                    if on_stdout is not None:
                        on_stdout(data)
                case wire.CommandStderr(data=data):
                    err.append(data)
                    if on_stderr is not None:
                        on_stderr(data)
                case wire.CommandComplete() | wire.CommandError():
                    end = event
    stdout, stderr = "".join(out), "".join(err)
    context = {"stdout": stdout, "stderr": stderr}
    match end:
        case wire.CommandComplete(exit_code=exit_code, duration=duration):
            return CommandResult(
                stdout=stdout, stderr=stderr, exit_code=exit_code, duration_s=duration / 1000
            )
        case wire.CommandError(message=message, code=code):
            raise stream_error_of(code, message, context)
    raise ApiError("the stream ended early", status=200, error_code="", context=context)
