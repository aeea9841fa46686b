"""Commands in sessions: the answer at the end, or events as they happen."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from sandbox_runtime.server.faults import (
    CommandKilledError,
    CommandTimeoutError,
    FieldError,
    RequestError,
    SessionEndedError,
)
from sandbox_runtime.server.replies import told_error
from sandbox_runtime.server.routes.sessions import given_env
from sandbox_runtime.server.routing import Route
from sandbox_runtime.server.session_table import DEFAULT_SESSION
from sandbox_runtime.server.streams import TextPieces, stream_events
from sandbox_runtime.wire import commands as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.receipts import CommandResult
    from sandbox_runtime.server.http import Response
    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.server.session_table import SessionRecord
    from sandbox_runtime.server.streams import EventStream

_LOG = logging.getLogger("sandbox_runtime.server")
_REQUIRED = "Session ID and command are required"
_OLD_TIMEOUT_S = 30.0
_KEPT_BESIDE_ERRORS_BYTES = 64 * 1024


def log_command(call: Call, session_id: str, command: str) -> None:
    """Writes a command to the log, if the operator asked for that."""
    if call.log_commands:
        _LOG.info("session %s runs %s", session_id, command)


async def _session(call: Call, body: wire.Execute) -> SessionRecord:
    """Whose command it is. Only clients of 0.12 have sessions made by naming them."""
    sessions = call.sandbox.sessions
    if body.id is not UNSET:
        return (
            await sessions.get_or_make(str(body.id)) if call.modern else sessions.get(str(body.id))
        )
    if body.session_id is not UNSET:
        return await sessions.get_or_make(body.session_id)
    if call.modern:
        return await sessions.get_or_make(DEFAULT_SESSION)
    raise FieldError("id", _REQUIRED)


def time_limit_s(call: Call, own_ms: float | None, record: SessionRecord | None) -> float | None:
    """The time limit of a command: its own, the session's, the server's, the client's habit."""
    if own_ms is not None:
        return own_ms / 1000
    if record is not None and record.timeout_s is not None:
        return record.timeout_s
    if call.host.settings.command_timeout_s is not None:
        return call.host.settings.command_timeout_s
    return None if call.modern else _OLD_TIMEOUT_S


def _exit_code(result: CommandResult) -> int | None:
    if result.exit_code is not None:
        return result.exit_code
    return None if result.signal is None else 128 + result.signal


def _failure(
    result: CommandResult, record: SessionRecord, command: str, limit_s: float | None
) -> RequestError | None:
    """Why a command did not end by itself, or None if it did."""
    if result.ended == "exit":
        return None
    code = _exit_code(result)
    context: dict[str, Any] = {
        "sessionId": record.id,
        "exitCode": code,
        "stdout": result.stdout[-_KEPT_BESIDE_ERRORS_BYTES:].decode(errors="replace"),
        "stderr": result.stderr[-_KEPT_BESIDE_ERRORS_BYTES:].decode(errors="replace"),
    }
    match result.ended:
        case "deadline":
            return CommandTimeoutError(
                f"Command timeout: {command}",
                remedy=f"It was ended after {limit_s:g} s; give it more with timeoutMs",
                **context,
            )
        case "killed":
            return CommandKilledError(f"Session '{record.id}' was deleted", **context)
    how = f"code {code}" if code is not None else "no code"
    if result.out_of_memory:
        how += ", for the sandbox had no memory left"
    return SessionEndedError(
        f"Control process exited with {how}",
        remedy=f"Session '{record.id}' starts afresh with its next command",
        **context,
    )


async def execute(call: Call, body: wire.Execute) -> wire.Executed:
    record = await _session(call, body)
    log_command(call, record.id, body.command)
    limit_s = time_limit_s(call, body.timeout_ms, record)
    started_s = time.monotonic()
    result = await record.session.exec(
        body.command,
        cwd=body.cwd,
        env=given_env(body.env),
        deadline_s=limit_s,
        limit_bytes=call.host.settings.output_limit_bytes,
        memory=call.request.memory,
    )
    failure = _failure(result, record, body.command, limit_s)
    if failure is not None:
        raise failure
    receipt = result.receipt
    cpu_known = receipt.user_s is not None and receipt.system_s is not None
    return wire.Executed(
        stdout=result.stdout.decode(errors="replace"),
        stderr=result.stderr.decode(errors="replace"),
        exit_code=result.exit_code or 0,
        success=result.ok,
        command=body.command,
        duration=round((time.monotonic() - started_s) * 1000, 3),
        timestamp=iso_moment(),
        session_id=record.id,
        truncated=result.truncated,
        stdout_bytes=result.stdout_bytes,
        stderr_bytes=result.stderr_bytes,
        peak_memory_bytes=receipt.peak_memory_bytes,
        cpu_ms=round(((receipt.user_s or 0) + (receipt.system_s or 0)) * 1000, 3)
        if cpu_known
        else None,
        command_number=result.number,
        out_of_memory=result.out_of_memory or UNSET,
    )


async def execute_stream(call: Call, body: wire.Execute) -> Response:
    record = await _session(call, body)
    log_command(call, record.id, body.command)
    limit_s = time_limit_s(call, body.timeout_ms, record)

    async def produce(events: EventStream) -> None:
        start = wire.CommandStart(
            timestamp=iso_moment(), command=body.command, session_id=record.id
        )
        await events.send(start)
        try:
            await events.send(await _streamed(events, record, body, call, limit_s))
        except Exception as error:  # noqa: BLE001 - the last event says it
            told = told_error(error, call.route, modern=call.modern)
            code = told.context.get("exitCode")
            await events.send(
                wire.CommandError(
                    timestamp=told.timestamp,
                    command=body.command,
                    error=told.message,
                    code=told.code,
                    session_id=record.id,
                    message=told.message,
                    exit_code=code,
                )
            )

    return stream_events(produce, call.pulse)


def _forward(
    events: EventStream,
    kind: type[wire.CommandStdout | wire.CommandStderr],
    pieces: TextPieces,
    command: str,
) -> Callable[[bytes], Awaitable[None]]:
    async def forward(data: bytes) -> None:
        if text := pieces.feed(data):
            await events.send(kind(timestamp=iso_moment(), data=text, command=command))

    return forward


async def _streamed(
    events: EventStream,
    record: SessionRecord,
    body: wire.Execute,
    call: Call,
    limit_s: float | None,
) -> wire.CommandComplete:
    """Runs the command with its output sent on; returns the last event."""
    out, err = TextPieces(), TextPieces()
    started_s = time.monotonic()
    result = await record.session.exec(
        body.command,
        cwd=body.cwd,
        env=given_env(body.env),
        deadline_s=limit_s,
        on_stdout=_forward(events, wire.CommandStdout, out, body.command),
        on_stderr=_forward(events, wire.CommandStderr, err, body.command),
        # Clients of 0.12 do not read the repetition, so nothing is kept for them.
        limit_bytes=_KEPT_BESIDE_ERRORS_BYTES
        if call.modern
        else call.host.settings.output_limit_bytes,
        memory=call.request.memory,
    )
    if rest := out.finish():
        await events.send(
            wire.CommandStdout(timestamp=iso_moment(), data=rest, command=body.command)
        )
    if rest := err.finish():
        await events.send(
            wire.CommandStderr(timestamp=iso_moment(), data=rest, command=body.command)
        )
    failure = _failure(result, record, body.command, limit_s)
    if failure is not None:
        raise failure
    code = result.exit_code or 0
    repeated = wire.StreamedResult(
        stdout=result.stdout.decode(errors="replace"),
        stderr=result.stderr.decode(errors="replace"),
        exit_code=code,
        success=code == 0,
        truncated=result.truncated,
    )
    return wire.CommandComplete(
        timestamp=iso_moment(),
        command=body.command,
        exit_code=code,
        duration=round((time.monotonic() - started_s) * 1000, 3),
        command_number=result.number,
        out_of_memory=result.out_of_memory or UNSET,
        result=UNSET if call.modern else repeated,
    )


_TEXTS = {"id": _REQUIRED, "sessionId": _REQUIRED, "command": _REQUIRED}

ROUTES = (
    Route(
        method="POST",
        path="/api/execute",
        handle=execute,
        summary="Run a command in a session",
        request=wire.Execute,
        reply=wire.Executed,
        failure="Command execution failed",
        required=_TEXTS,
        statuses=(400, 404, 410, 500),
    ),
    Route(
        method="POST",
        path="/api/execute/stream",
        handle=execute_stream,
        summary="Run a command in a session, with its output as it comes",
        request=wire.Execute,
        events=wire.CommandEvent,
        failure="Stream execution failed",
        required=_TEXTS,
        statuses=(400, 404, 500),
    ),
)
