"""Sessions: create, list, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.server.faults import FieldError
from sandbox_runtime.server.http import BusyError
from sandbox_runtime.server.routing import Route
from sandbox_runtime.server.session_table import DEFAULT_SESSION
from sandbox_runtime.wire import sessions as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.server.session_table import SessionRecord

_NO_ID = "Session ID is required"


def given_env(env: Mapping[str, str | None] | None) -> dict[str, str]:
    """Variables without those that are null."""
    return {name: value for name, value in (env or {}).items() if value is not None}


def _info(record: SessionRecord) -> wire.SessionInfo:
    return wire.SessionInfo(
        id=record.id,
        name=record.name,
        cwd=record.cwd,
        isolation=record.isolation,
        created_at=iso_moment(record.created_s),
        last_used=iso_moment(record.used_s),
    )


async def create(call: Call, body: wire.CreateSession) -> wire.SessionCreated:
    timeout_ms = body.command_timeout_ms
    record, reused = await call.sandbox.sessions.create(
        str(body.id),
        name=body.name,
        cwd=body.cwd,
        env=given_env(body.env),
        isolation=body.isolation,
        timeout_s=None if timeout_ms is None else timeout_ms / 1000,
    )
    how = "with isolation" if record.isolation else "without isolation"
    return wire.SessionCreated(
        id=record.id,
        session_id=record.id,
        message=f"Session '{record.id}' {'reused' if reused else 'created'} {how}",
        reused=reused,
        data=_info(record),
        timestamp=iso_moment(),
    )


def list_all(call: Call, _body: None) -> wire.SessionList:
    records = call.sandbox.sessions.records
    return wire.SessionList(
        count=len(records),
        sessions=[record.id for record in records],
        data=[_info(record) for record in records],
        timestamp=iso_moment(),
    )


async def delete(call: Call, body: wire.DeleteSession) -> wire.SessionDeleted:
    session_id = body.session_id or body.id or ""
    if not session_id:
        raise FieldError("sessionId", _NO_ID)
    if session_id == DEFAULT_SESSION:
        # Requests that name no session would make it again at once, so it is never gone for good.
        raise FieldError("sessionId", "The default session cannot be deleted")
    await call.sandbox.sessions.delete(session_id)
    return wire.SessionDeleted(session_id=session_id, timestamp=iso_moment())


def background(call: Call, _body: None) -> wire.SessionBackground:
    record = call.sandbox.sessions.get(call.query.get("session", DEFAULT_SESSION))
    jobs = record.session.background
    wanted_bytes = sum(len(job.stdout) + len(job.stderr) for job in jobs)
    if call.request.memory.take(wanted_bytes) < wanted_bytes:
        raise BusyError
    return wire.SessionBackground(
        session_id=record.id,
        commands=[
            wire.BackgroundOutput(
                command_number=job.command,
                stdout=job.stdout.decode(errors="replace"),
                stderr=job.stderr.decode(errors="replace"),
                stdout_bytes=job.stdout_bytes,
                stderr_bytes=job.stderr_bytes,
                truncated=len(job.stdout) < job.stdout_bytes or len(job.stderr) < job.stderr_bytes,
                ended=job.ended,
            )
            for job in jobs
        ],
        timestamp=iso_moment(),
    )


ROUTES = (
    Route(
        method="POST",
        path="/api/session/create",
        handle=create,
        summary="Make a session, or use the one with that id",
        request=wire.CreateSession,
        reply=wire.SessionCreated,
        failure="Failed to create session",
        required={"id": _NO_ID},
        statuses=(400, 429, 500),
    ),
    Route(
        method="GET",
        path="/api/session/list",
        handle=list_all,
        summary="List the sessions",
        reply=wire.SessionList,
        failure="Failed to list sessions",
    ),
    Route(
        method="GET",
        path="/api/session/background",
        handle=background,
        summary="Read what jobs wrote after their commands had returned",
        reply=wire.SessionBackground,
        failure="Failed to read the output of jobs",
        query={"session": "Of which session; the default one if it is left out"},
        statuses=(404,),
        own=True,
    ),
    Route(
        method="POST",
        path="/api/session/delete",
        handle=delete,
        summary="End a session and everything in it",
        request=wire.DeleteSession,
        reply=wire.SessionDeleted,
        failure="Failed to delete session",
        required={"sessionId": _NO_ID},
        statuses=(400, 404, 500),
    ),
)
