"""Contexts: the state of an interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import msgspec

from sandbox_runtime.arguments import check_callbacks
from sandbox_runtime.client.arguments import milliseconds_of
from sandbox_runtime.client.errors import ApiError
from sandbox_runtime.client.models import Death, Execution, ExecutionError, Result
from sandbox_runtime.wire import code as wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sandbox_runtime.client._sync.transport import Transport


class Context:
    """The state of one interpreter. `Sandbox.create_code_context` makes it.

    Attributes:
        id: Its id.
        language: What it speaks.
    """

    def __init__(self, transport: Transport, prefix: str, context_id: str, language: str) -> None:
        self._transport = transport
        self._prefix = prefix
        self.id = context_id
        self.language = language
        self._path = f"{prefix}/api/contexts/{quote(context_id, safe='')}"

    def run(
        self,
        code: str,
        *,
        deadline_s: float | None = None,
        on_stdout: Callable[[str], None] | None = None,
        on_stderr: Callable[[str], None] | None = None,
        on_result: Callable[[Result], None] | None = None,
    ) -> Execution:
        """Runs code; what it defines is there in the next run.

        Args:
            code: A cell, as in a notebook.
            deadline_s: Seconds until it is interrupted; never by default.
            on_stdout: Called with each piece as it comes.
            on_stderr: Likewise.
            on_result: Likewise, with each result.

        Returns:
            How it ended. An error of the code is data in it.

        Raises:
            NotFoundError: The context is gone.
            UnreachableError: The server cannot be reached.
        """
        check_callbacks(on_stdout=on_stdout, on_stderr=on_stderr, on_result=on_result)
        body = wire.RunCode(
            context_id=self.id,
            code=code,
            timeout_ms=milliseconds_of("deadline_s", deadline_s),
        )
        out: list[str] = []
        err: list[str] = []
        results: list[Result] = []
        end: wire.CodeError | wire.CodeComplete | None = None
        path = f"{self._prefix}/api/execute/code"
        with self._transport.stream("POST", path, wire.CodeEvent, body=body) as events:
            for event in events:  # to the end of the stream, so that its connection is kept
                match event:
                    case wire.CodeStdout(text=text):
                        out.append(text)
                        if on_stdout is not None:
                            on_stdout(text)
                    case wire.CodeStderr(text=text):
                        err.append(text)
                        if on_stderr is not None:
                            on_stderr(text)
                    case wire.CodeResult():
                        results.append(result := _result(event))
                        if on_result is not None:
                            on_result(result)
                    case wire.CodeError() | wire.CodeComplete():
                        end = event
        if end is None:
            raise ApiError("the stream ended early", status=200, error_code="", context={})
        return _execution(end, out, err, results)

    def fork(self, count: int = 1) -> list[Self]:
        """Branches: contexts that begin with a copy of this one's live state.

        Args:
            count: How many, 1 to 64.

        Returns:
            The branches; each has runs, output and an end of its own.

        Raises:
            ConflictError: It has threads, sockets or unfinished tasks, which the message names; or
                its language has no branches.
            BusyError: There are as many contexts as there may be.
            InvalidRequestError: The number cannot be.
        """
        body = wire.ForkContext(count=count)
        made = self._transport.call("POST", f"{self._path}/fork", wire.ContextsForked, body=body)
        kind = type(self)
        return [kind(self._transport, self._prefix, one.id, one.language) for one in made.contexts]

    def refresh(self) -> wire.ContextInfo:
        """What is known of it now."""
        return (self._transport.call("GET", self._path, wire.ContextFound)).context

    def ready_branches(self) -> int:
        """How many branches wait at present, so that `fork` need not make them."""
        return (self.refresh()).ready_branches or 0

    def wait_ready_branches(self) -> int:
        """Waits until as many wait as are to be made ahead, or none is being made; says how many.

        None is made while its state cannot be branched, as with a thread; `fork` says why.
        """
        found = self._transport.call(
            "GET", self._path, wire.ContextFound, query={"wait": "branches"}
        )
        return found.context.ready_branches or 0

    def interrupt(self) -> bool:
        """Ends the run of this moment; says whether anything ran."""
        path = f"{self._path}/interrupt"
        return (self._transport.call("POST", path, wire.ContextChanged)).done

    def restart(self) -> None:
        """Begins anew: the same id and settings, a fresh state."""
        self._transport.call("POST", f"{self._path}/restart", wire.ContextChanged)

    def close(self) -> None:
        """Ends the context; its processes and memory are gone when this returns."""
        self._transport.call("DELETE", self._path, wire.ContextDeleted)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _result(event: wire.CodeResult) -> Result:
    known = Result.__struct_fields__
    fields = msgspec.structs.asdict(event).items()
    return Result(**{k: v for k, v in fields if k in known and v is not msgspec.UNSET})


def _execution(
    event: wire.CodeError | wire.CodeComplete, out: list[str], err: list[str], results: list[Result]
) -> Execution:
    stdout, stderr = "".join(out), "".join(err)
    if isinstance(event, wire.CodeComplete):
        return Execution(
            results=tuple(results),
            stdout=stdout,
            stderr=stderr,
            error=None,
            ended="ok",
            state_survived=True,
            execution_count=event.execution_count,
        )
    ended, death = event.ended, event.death
    if ended is msgspec.UNSET:  # an older server does not tell
        ended = "error" if event.state_survived else "context lost"
    return Execution(
        results=tuple(results),
        stdout=stdout,
        stderr=stderr,
        error=ExecutionError(
            name=event.ename, value=event.evalue, traceback="\n".join(event.traceback)
        ),
        ended=ended,
        state_survived=event.state_survived,
        execution_count=None,
        death=None
        if death is msgspec.UNSET
        else Death(cause=death.cause, exit_code=death.exit_code, signal=death.signal),
    )
