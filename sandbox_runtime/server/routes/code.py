"""Contexts of interpreters, and the code that runs in them, with its output as it comes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from sandbox_runtime.errors import ContextNotFoundError, InvalidArgumentError
from sandbox_runtime.interpreters.chart_shapes import as_wire
from sandbox_runtime.interpreters.execution import SHORT_NAMES
from sandbox_runtime.interpreters.languages import known_language
from sandbox_runtime.server.faults import FieldError, TooManyError
from sandbox_runtime.server.replies import told_error
from sandbox_runtime.server.room import check_descriptors
from sandbox_runtime.server.routes.sessions import given_env
from sandbox_runtime.server.routing import Route
from sandbox_runtime.server.streams import TextPieces, stream_events
from sandbox_runtime.settings import WORKSPACE
from sandbox_runtime.wire import code as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sandbox_runtime.choices import RunFailed
    from sandbox_runtime.interpreters.contexts import Context
    from sandbox_runtime.interpreters.execution import Death, Execution, Result
    from sandbox_runtime.server.http import Response
    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.server.streams import EventStream, Framing

_OLD_TIMEOUT_S = 30.0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _cwd(context: Context) -> str:
    return context.wanted.cwd or WORKSPACE


@contextmanager
def _opening(call: Call, count: int) -> Iterator[None]:
    """Holds places for contexts that are being made.

    Raises:
        TooManyError: There are too few.
        BusyError: No descriptors are left for them.
    """
    most = call.host.settings.most_contexts
    contexts = call.sandbox.sandbox.contexts
    there = len(contexts.list()) + call.sandbox.contexts_opening
    ahead = contexts.branches_ahead
    if there + ahead + count > most:
        had, remedy = f"The sandbox has {there} contexts", "Delete one"
        if ahead:
            had += f" and {ahead} places for ready branches, which are filled anew"
            remedy += ", or keep fewer branches ready"
        reason = f"{had}, and may have {most} in all: there is no room for {count} more"
        context = {"contexts": there, "readyBranches": ahead, "most": most, "asked": count}
        raise TooManyError(reason, remedy=remedy, **context)
    check_descriptors()
    call.sandbox.contexts_opening += count
    try:
        yield
    finally:
        call.sandbox.contexts_opening -= count


async def create(call: Call, body: wire.CreateContext) -> wire.ContextCreated:
    contexts = call.sandbox.sandbox.contexts
    language = known_language(body.language, contexts.languages)
    most = call.host.settings.most_contexts
    if body.ready_branches >= most:
        what = f"{body.ready_branches} and the context itself are more than the {most} that may be"
        raise FieldError("readyBranches", what)
    with _opening(call, 1 + body.ready_branches):
        try:
            context = await contexts.create(
                language,
                cwd=body.cwd,
                env=given_env(body.env_vars),
                ready_branches=body.ready_branches,
            )
        except InvalidArgumentError as error:
            if error.field != "ready_branches":
                raise
            why = str(error).removeprefix("ready_branches: ")
            raise InvalidArgumentError("readyBranches", why) from None
    return wire.ContextCreated(
        id=context.id,
        context_id=context.id,
        language=context.language,
        cwd=_cwd(context),
        created_at=iso_moment(context.created_s),
        last_used=iso_moment(context.used_s),
        timestamp=iso_moment(),
    )


def _info(context: Context) -> wire.ContextInfo:
    return wire.ContextInfo(
        id=context.id,
        language=context.language,
        cwd=_cwd(context),
        created_at=iso_moment(context.created_s),
        last_used=iso_moment(context.used_s),
        ready_branches=UNSET if context.ahead is None else context.ready_branches,
    )


def list_all(call: Call, _body: None) -> wire.ContextList:
    contexts = call.sandbox.sandbox.contexts.list()
    return wire.ContextList(contexts=[_info(one) for one in contexts], timestamp=iso_moment())


async def show(call: Call, _body: None) -> wire.ContextFound:
    context = call.sandbox.sandbox.contexts.get(call.params["context_id"])
    match call.query.get("wait"):
        case None:
            pass
        case "branches":
            await context.wait_ready_branches()
        case given:
            raise FieldError("wait", f"{given[:40]!r} cannot be waited for; known: branches")
    return wire.ContextFound(context=_info(context), timestamp=iso_moment())


async def delete(call: Call, _body: None) -> wire.ContextDeleted:
    context_id = call.params["context_id"]
    await call.sandbox.sandbox.contexts.delete(context_id)
    return wire.ContextDeleted(context_id=context_id, timestamp=iso_moment())


async def restart(call: Call, _body: None) -> wire.ContextChanged:
    context = call.sandbox.sandbox.contexts.get(call.params["context_id"])
    await context.restart()
    return wire.ContextChanged(context_id=context.id, done=True, timestamp=iso_moment())


async def fork(call: Call, body: wire.ForkContext) -> wire.ContextsForked:
    context = call.sandbox.sandbox.contexts.get(call.params["context_id"])
    with _opening(call, body.count):
        branches = await context.fork(body.count)
    return wire.ContextsForked(
        contexts=[_info(branch) for branch in branches], timestamp=iso_moment()
    )


def interrupt(call: Call, _body: None) -> wire.ContextChanged:
    context = call.sandbox.sandbox.contexts.get(call.params["context_id"])
    return wire.ContextChanged(
        context_id=context.id, done=context.interrupt(), timestamp=iso_moment()
    )


def health(call: Call, _body: None) -> wire.InterpreterHealth:
    contexts = call.sandbox.sandbox.contexts
    return wire.InterpreterHealth(
        status="healthy",
        languages=list(contexts.languages),
        contexts=len(contexts.list()),
        timestamp=iso_moment(),
    )


def _time_limit_s(call: Call, own_ms: float | None) -> float | None:
    if own_ms is not None:
        return own_ms / 1000
    if call.host.settings.code_timeout_s is not None:
        return call.host.settings.code_timeout_s
    return None if call.modern else _OLD_TIMEOUT_S


def run(call: Call, body: wire.RunCode) -> Response:
    contexts = call.sandbox.sandbox.contexts
    if body.context_id is None:
        remedy = "context_id is missing: create a context (POST /api/contexts) and give its id"
        raise ContextNotFoundError("undefined", remedy=remedy)  # so says the wire
    context = contexts.get(body.context_id)
    if body.language is not None:
        wanted = known_language(body.language, contexts.languages)
        if wanted != context.language:
            raise FieldError(
                "language", f"Context {context.id} speaks {context.language}, not {wanted}"
            )
    limit_s = _time_limit_s(call, body.timeout_ms)

    async def produce(events: EventStream) -> None:
        try:
            last = await _streamed(events, context, body.code, limit_s)
        except Exception as error:  # noqa: BLE001 - the last event says it
            told = told_error(error, call.route, modern=call.modern)
            last = _code_error(
                "InternalError", told.message, _left(context), survived=not context.lost
            )
        if (unsent := events.post(last)) is not None:
            await unsent

    # Clients of 0.3 ask for a stream of events and read bare lines; those of 0.12 do not ask.
    accepts = call.request.headers.get("accept") or ""
    lines = not call.modern and "text/event-stream" in accepts
    framing: Framing = "lines" if lines else "sse"
    return stream_events(produce, call.pulse, framing=framing, ascii_only=True)


async def _streamed(
    events: EventStream, context: Context, code: str, limit_s: float | None
) -> msgspec.Struct:
    """Runs code with what it shows sent on; returns the last event."""
    if context.lost and not context.closed:
        await context.restart()  # the run that lost it has said so
    out, err = TextPieces(), TextPieces()

    def show(result: Result) -> Awaitable[None] | None:
        return events.post(_shown(result))

    execution = await context.run(
        code,
        deadline_s=limit_s,
        on_stdout=_forward(events, wire.CodeStdout, out),
        on_stderr=_forward(events, wire.CodeStderr, err),
        on_result=show,
        limit_bytes=0,  # it was sent already
    )
    if rest := out.finish():
        await events.send(wire.CodeStdout(text=rest, timestamp=_now_ms()))
    if rest := err.finish():
        await events.send(wire.CodeStderr(text=rest, timestamp=_now_ms()))
    return _last(execution, limit_s)


def _forward(
    events: EventStream,
    kind: type[wire.CodeStdout | wire.CodeStderr],
    pieces: TextPieces,
) -> Callable[[bytes], Awaitable[None]]:
    def make(text: str) -> msgspec.Struct:
        return kind(text=text, timestamp=_now_ms())

    async def forward(data: bytes) -> None:
        if text := pieces.feed(data):
            await events.send_text(text, make)

    return forward


def _shown(result: Result) -> wire.CodeResult:
    """A result with all its formats in one event."""
    formats: dict[str, Any] = {}
    for mime, value in result.data.items():
        if value is not None and (name := SHORT_NAMES.get(mime)) is not None:
            formats[name] = value if isinstance(value, str) or name == "json" else str(value)
    if len(result.data) != 1 or "text" not in formats:  # most are text alone
        if (chart := result.chart) is not None:
            formats["chart"] = as_wire(chart, result.data)
        if result.table is not None:
            formats["data"] = result.table
    return wire.CodeResult(
        **formats,
        metadata=result.metadata,
        is_main_result=result.is_main_result,
        display_id=result.display_id if result.display_id is not None else UNSET,
        is_update=True if result.is_update else UNSET,
        timestamp=_now_ms(),
    )


def _last(execution: Execution, limit_s: float | None) -> msgspec.Struct:
    survived = execution.state_survived
    if execution.ended == "deadline":
        assert limit_s is not None
        return _code_error("InternalError", "Execution timeout", "deadline", survived=survived)
    if execution.error is not None:
        error = execution.error
        ended = "error" if execution.ended == "ok" else execution.ended
        lines = error.traceback.split("\n") if error.traceback else []
        return _code_error(error.name, error.value, ended, lines, survived=survived)
    match execution.ended:
        case "ok" | "error":
            return wire.CodeComplete(execution_count=execution.execution_count, timestamp=_now_ms())
        case "interrupted" as ended:
            why = "The run was interrupted"
            return _code_error("KeyboardInterrupt", why, ended, survived=survived)
        case "killed" as ended:
            return _code_error("InternalError", "The context was deleted", ended, survived=False)
        case "context lost" as ended:
            death = execution.death
            how = "" if death is None else f" ({_ending(death)})"
            how = f"The interpreter ended{how}; the next run finds a fresh one"
            return _code_error("InternalError", how, ended, death=death, survived=False)


def _left(context: Context) -> RunFailed:
    """What became of a context whose run could not be done."""
    if context.closed:
        return "killed"
    return "context lost" if context.lost else "error"


def _ending(death: Death) -> str:
    match death.cause:
        case "exit":
            return f"it exited with {death.exit_code}"
        case "signal":
            return f"signal {death.signal}"
        case "broken protocol":
            return "it broke its protocol"
    return "out of memory: the sandbox had none left for it"


def _code_error(
    name: str,
    value: str,
    ended: RunFailed,
    traceback: list[str] | None = None,
    *,
    survived: bool,
    death: Death | None = None,
) -> wire.CodeError:
    told: wire.InterpreterDeath | UnsetType = UNSET
    if death is not None:
        told = wire.InterpreterDeath(
            cause=death.cause, exit_code=death.exit_code, signal=death.signal
        )
    return wire.CodeError(
        ename=name,
        evalue=value,
        traceback=traceback or [],
        state_survived=survived,
        ended=ended,
        death=told,
        timestamp=_now_ms(),
    )


ROUTES = (
    Route(
        method="POST",
        path="/api/contexts",
        handle=create,
        summary="Make a context",
        request=wire.CreateContext,
        reply=wire.ContextCreated,
        failure="{reason}",
        statuses=(400, 429, 500, 503),
    ),
    Route(
        method="GET",
        path="/api/contexts",
        handle=list_all,
        summary="List the contexts",
        reply=wire.ContextList,
        failure="{reason}",
    ),
    Route(
        method="GET",
        path="/api/contexts/{context_id}",
        handle=show,
        summary="Show a context",
        reply=wire.ContextFound,
        failure="{reason}",
        query={"wait": "`branches`: answer once as many wait as are to, or none is being made"},
        statuses=(400, 404),
        own=True,
    ),
    Route(
        method="DELETE",
        path="/api/contexts/{context_id}",
        handle=delete,
        summary="End a context",
        reply=wire.ContextDeleted,
        failure="{reason}",
        statuses=(404, 503),
    ),
    Route(
        method="POST",
        path="/api/contexts/{context_id}/restart",
        handle=restart,
        summary="Begin a context anew",
        reply=wire.ContextChanged,
        failure="{reason}",
        statuses=(404, 410, 503),
        own=True,
    ),
    Route(
        method="POST",
        path="/api/contexts/{context_id}/fork",
        handle=fork,
        summary="Branch a context with its live state",
        request=wire.ForkContext,
        empty_body=True,
        reply=wire.ContextsForked,
        failure="{reason}",
        statuses=(400, 404, 409, 410, 429, 503),
        own=True,
    ),
    Route(
        method="POST",
        path="/api/contexts/{context_id}/interrupt",
        handle=interrupt,
        summary="Interrupt what a context runs",
        reply=wire.ContextChanged,
        failure="{reason}",
        statuses=(404,),
        own=True,
    ),
    Route(
        method="GET",
        path="/api/interpreter/health",
        handle=health,
        summary="Say which languages contexts can be made in",
        reply=wire.InterpreterHealth,
    ),
    Route(
        method="POST",
        path="/api/execute/code",
        handle=run,
        summary="Run code in a context, with its output as it comes",
        request=wire.RunCode,
        events=wire.CodeEvent,
        failure="{reason}",
        statuses=(400, 404, 503),
    ),
)
