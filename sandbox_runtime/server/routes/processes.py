"""Background processes: start, look at, read along, kill."""

from __future__ import annotations

import codecs
import contextlib
import math
import signal as signals
from typing import TYPE_CHECKING

import trio
from msgspec import UNSET

from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.server.faults import FieldError, TooManyError
from sandbox_runtime.server.http import BusyError
from sandbox_runtime.server.room import check_descriptors
from sandbox_runtime.server.routes.commands import log_command
from sandbox_runtime.server.routes.sessions import given_env
from sandbox_runtime.server.routing import Route
from sandbox_runtime.server.session_table import DEFAULT_SESSION
from sandbox_runtime.server.streams import TextPieces, stream_events
from sandbox_runtime.settings import LOG_LIMIT_BYTES
from sandbox_runtime.wire import processes as wire
from sandbox_runtime.wire.moments import iso_moment
from sandbox_runtime.wire.shape import MOST_MS

if TYPE_CHECKING:
    from sandbox_runtime.processes import Process
    from sandbox_runtime.server.http import Response
    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.server.session_table import SessionRecord
    from sandbox_runtime.server.streams import EventStream

_REQUIRED = "Command is required and must be a string"
_KILL_GRACE_S = 0.5
_SESSION_QUERY = {"session": "Only those of this session"}


def _info(process: Process) -> wire.ProcessInfo:
    ended = process.ended_at
    return wire.ProcessInfo(
        id=process.id,
        pid=process.pid,
        command=process.command,
        status=process.status,
        start_time=iso_moment(process.started_at.timestamp()),
        end_time=None if ended is None else iso_moment(ended.timestamp()),
        exit_code=process.exit_code,
        session_id=process.session_id or DEFAULT_SESSION,
        out_of_memory=process.out_of_memory or UNSET,
    )


def _find(call: Call) -> Process:
    return call.sandbox.sandbox.processes.get(call.params["process_id"])


async def session_of(call: Call, session_id: str | None) -> SessionRecord:
    """The session that a request names; the default one, if it names none."""
    sessions = call.sandbox.sessions
    if session_id is None or session_id == DEFAULT_SESSION or call.modern:
        return await sessions.get_or_make(session_id or DEFAULT_SESSION)
    return sessions.get(session_id)


def _chosen_session(call: Call) -> str | None:
    """The session that a query asks for."""
    session_id = call.query.get("session")
    if session_id is not None and session_id != DEFAULT_SESSION:
        call.sandbox.sessions.get(session_id)
    return session_id


def _encoding(name: str | None) -> str:
    """A text encoding that Python knows.

    Raises:
        FieldError: It knows none by that name.
    """
    if name is None:
        return "utf-8"
    with contextlib.suppress(LookupError, ValueError):
        if (known := codecs.lookup(name).name) in _ENCODINGS:
            return known
    raise FieldError("encoding", f"{name!r} is no encoding of output; use 'utf-8'")


# Those that programs print, and that take a time in proportion to the text.
_ENCODINGS = frozenset(
    (
        *(
            "ascii",
            "utf-8",
            "utf-16",
            "utf-16-be",
            "utf-16-le",
            "utf-32",
            "iso8859-1",
            "iso8859-15",
        ),
        *("cp437", "cp850", "cp1251", "cp1252", "koi8-r", "shift_jis", "euc_jp", "euc_kr"),
        *("big5", "gbk", "gb18030"),
    )
)


def _check_room(call: Call) -> None:
    """Refuses one more process than may run; those that have ended take no room.

    Raises:
        TooManyError: As many run.
        BusyError: No descriptors are left for it.
    """
    check_descriptors()
    most = call.host.settings.most_processes
    if call.sandbox.sandbox.processes.running + call.sandbox.processes_starting >= most:
        raise TooManyError(
            f"The sandbox runs {most} background processes already", remedy="End one", most=most
        )


async def start(call: Call, body: wire.StartProcess) -> wire.ProcessStarted:
    options = body.options or wire.ProcessOptions()
    session_id = body.session_id
    record = await session_of(call, session_id)
    cwd = body.cwd if body.cwd is not None else options.cwd
    if cwd is not None and not cwd.startswith("/"):
        raise InvalidArgumentError("cwd", f"must be an absolute path starting with '/', got: {cwd}")
    timeout_ms = body.timeout_ms or options.timeout_ms or options.timeout
    cleanup = body.auto_cleanup if body.auto_cleanup is not None else options.auto_cleanup
    encoding = _encoding(body.encoding or options.encoding)
    log_command(call, record.id, body.command)
    _check_room(call)
    call.sandbox.processes_starting += 1
    try:
        process = await call.sandbox.sandbox.start_process(
            body.command,
            process_id=body.process_id or options.process_id,
            session=record.session,
            cwd=cwd,
            env=given_env(options.env) | given_env(body.env),
            deadline_s=None if timeout_ms is None else timeout_ms / 1000,
            auto_cleanup=bool(cleanup),
        )
    finally:
        call.sandbox.processes_starting -= 1
    call.sandbox.encodings[process] = encoding
    return wire.ProcessStarted(
        process=_info(process),
        process_id=process.id,
        pid=process.pid,
        command=process.command,
        session_id=record.id,
        timestamp=iso_moment(),
    )


def list_all(call: Call, _body: None) -> wire.ProcessList:
    # Newer clients name a session, but want those of the whole sandbox.
    session_id = None if call.modern else _chosen_session(call)
    status = call.query.get("status")
    processes = [
        _info(process)
        for process in call.sandbox.sandbox.processes.list(session_id)
        if status is None or process.status == status
    ]
    return wire.ProcessList(processes=processes, count=len(processes), timestamp=iso_moment())


def show(call: Call, _body: None) -> wire.ProcessFound:
    return wire.ProcessFound(process=_info(_find(call)), timestamp=iso_moment())


def _signal(call: Call) -> int:
    """The signal that a query asks for, by name or number.

    Raises:
        FieldError: There is no such signal.
    """
    given = call.query.get("signal")
    if given is None:
        return signals.SIGTERM
    name = given.upper()
    for one in signals.Signals:
        if name in {one.name, one.name.removeprefix("SIG"), str(int(one))}:
            return int(one)
    raise FieldError("signal", f"{given!r} is no signal; use a name like SIGTERM")


async def kill(call: Call, _body: None) -> wire.ProcessKilled:
    number = _signal(call)
    process = _find(call)
    had_ended = process.ended_at is not None
    await process.end("killed", number, _KILL_GRACE_S)
    return wire.ProcessKilled(
        process_id=process.id,
        session_id=process.session_id or DEFAULT_SESSION,
        message=f"Process {process.id} {'had ended before' if had_ended else 'killed'}",
        timestamp=iso_moment(),
    )


async def kill_all(call: Call, _body: None) -> wire.AllProcessesKilled:
    number = _signal(call)
    session_id = None if call.modern else _chosen_session(call)
    count = await call.sandbox.sandbox.processes.kill_all(
        session_id, signal=number, grace_s=_KILL_GRACE_S
    )
    return wire.AllProcessesKilled(
        killed_count=count,
        cleaned_count=count,
        message=f"Killed {count} process{'' if count == 1 else 'es'}",
        timestamp=iso_moment(),
    )


def _since(call: Call) -> int:
    given = call.query.get("since", "0")
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise FieldError("since", f"{given[:40]!r} is no position; they are in earlier replies")
    return int(given)


async def read_logs(call: Call, _body: None) -> wire.ProcessLogs:
    process = _find(call)
    since = _since(call)
    wanted_bytes = min(max(process.logs.position - since, 0), LOG_LIMIT_BYTES)
    if call.request.memory.take(wanted_bytes) < wanted_bytes:
        raise BusyError
    text = await process.logs.read(since)
    encoding = call.sandbox.encodings.get(process, "utf-8")
    return wire.ProcessLogs(
        stdout=text.stdout.decode(encoding, "replace"),
        stderr=text.stderr.decode(encoding, "replace"),
        process_id=process.id,
        session_id=process.session_id or DEFAULT_SESSION,
        truncated=text.stdout_lost_bytes + text.stderr_lost_bytes > 0,
        stdout_lost_bytes=text.stdout_lost_bytes,
        stderr_lost_bytes=text.stderr_lost_bytes,
        position=text.position,
        timestamp=iso_moment(),
    )


def _limit_s(call: Call) -> float:
    """How long a query lets a stream last.

    Raises:
        FieldError: It is no time.
    """
    given = call.query.get("timeoutMs")
    if given is None:
        return math.inf
    with contextlib.suppress(ValueError):
        if 0 < (limit_ms := float(given)) <= MOST_MS:
            return limit_ms / 1000
    raise FieldError("timeoutMs", f"{given[:40]!r} is no time; give milliseconds, more than 0")


def stream_logs(call: Call, _body: None) -> Response:
    process = _find(call)
    since = _since(call)
    limit_s = _limit_s(call)
    encoding = call.sandbox.encodings.get(process, "utf-8")

    async def produce(events: EventStream) -> None:
        await events.send(
            wire.LogInfo(
                process_id=process.id,
                command=process.command,
                status=process.status,
                timestamp=iso_moment(),
            )
        )
        until_s = trio.current_time() + limit_s
        if not await _follow(events, process, since, encoding, until_s):
            why = f"the process has not ended in {limit_s:g} s"
            await events.send(
                wire.LogError(
                    error=why,
                    data=why,
                    reason="deadline",
                    process_id=process.id,
                    session_id=process.session_id or DEFAULT_SESSION,
                    timestamp=iso_moment(),
                )
            )
            return
        if not call.modern:
            await events.send(_complete(process))
        await events.send(
            wire.LogExit(
                exit_code=process.exit_code,
                data="",
                process_id=process.id,
                session_id=process.session_id or DEFAULT_SESSION,
                timestamp=iso_moment(),
            )
        )

    return stream_events(produce, call.pulse)


async def _follow(
    events: EventStream, process: Process, since: int, encoding: str, until_s: float
) -> bool:
    """Sends what a process writes, to its end; False if that has not come in time."""
    kinds: dict[str, type[wire.LogStdout | wire.LogStderr]] = {
        "stdout": wire.LogStdout,
        "stderr": wire.LogStderr,
    }
    pieces = {name: TextPieces(encoding) for name in kinds}

    async def tell(name: str, text: str, lost_bytes: int = 0) -> None:
        if text or lost_bytes:
            event = kinds[name](
                data=text,
                process_id=process.id,
                session_id=process.session_id or DEFAULT_SESSION,
                lost_bytes=lost_bytes or UNSET,
                timestamp=iso_moment(),
            )
            await events.send(event)

    written = process.logs.follow(since)
    while True:
        # Around the waiting alone: what is sent stays whole.
        with trio.move_on_at(until_s) as scope:
            if (chunk := await written.receive_some()) is None:
                await process.wait_ended()
        if scope.cancelled_caught:
            return False
        if chunk is None:
            break
        text = pieces[chunk.stream].feed(chunk.data)
        await tell(chunk.stream, text, chunk.lost_bytes)
    for name in kinds:
        await tell(name, pieces[name].finish())
    return True


def _complete(process: Process) -> wire.LogComplete:
    code = process.exit_code
    return wire.LogComplete(
        status=process.status,
        exit_code=UNSET if code is None or process.status == "killed" else code,
        process_id=process.id,
        session_id=process.session_id or DEFAULT_SESSION,
        timestamp=iso_moment(),
    )


ROUTES = (
    Route(
        method="POST",
        path="/api/process/start",
        handle=start,
        summary="Start a program in the background",
        request=wire.StartProcess,
        reply=wire.ProcessStarted,
        failure="Failed to start process",
        required={"command": _REQUIRED},
        statuses=(400, 404, 409, 429, 500),
    ),
    Route(
        method="GET",
        path="/api/process/list",
        handle=list_all,
        summary="List background processes",
        reply=wire.ProcessList,
        failure="Failed to list processes",
        query={**_SESSION_QUERY, "status": "Only those with this status"},
        statuses=(404,),
    ),
    Route(
        method="DELETE",
        path="/api/process/kill-all",
        handle=kill_all,
        summary="End all background processes with everything they started",
        reply=wire.AllProcessesKilled,
        failure="Failed to kill all processes",
        query={**_SESSION_QUERY, "signal": "What they get first; SIGTERM by default"},
        statuses=(400, 404),
    ),
    Route(
        method="GET",
        path="/api/process/{process_id}",
        handle=show,
        summary="Show a background process",
        reply=wire.ProcessFound,
        failure="Failed to get process",
        statuses=(404,),
    ),
    Route(
        method="DELETE",
        path="/api/process/{process_id}",
        handle=kill,
        summary="End a background process with everything it started",
        reply=wire.ProcessKilled,
        failure="Failed to kill process",
        query={"signal": "What it gets first; SIGTERM by default"},
        statuses=(400, 404),
    ),
    Route(
        method="GET",
        path="/api/process/{process_id}/logs",
        handle=read_logs,
        summary="Read what a background process wrote",
        reply=wire.ProcessLogs,
        failure="Failed to get process logs",
        query={"since": "A position; only what came after it"},
        statuses=(400, 404),
    ),
    Route(
        method="GET",
        path="/api/process/{process_id}/stream",
        handle=stream_logs,
        summary="Follow what a background process writes, to its end",
        events=wire.LogEvent,
        failure="Failed to stream process logs",
        query={
            "since": "A position; only what came after it",
            "timeoutMs": "After how many milliseconds it breaks off; never by default",
        },
        statuses=(400, 404),
    ),
)
