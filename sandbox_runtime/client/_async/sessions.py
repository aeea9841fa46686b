"""Sessions: a shell that stays."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from sandbox_runtime.client._async.commands import execute
from sandbox_runtime.client.errors import NotFoundError
from sandbox_runtime.errors import SandboxClosedError
from sandbox_runtime.wire import sessions as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from sandbox_runtime.client._async.transport import AsyncTransport
    from sandbox_runtime.client.models import CommandResult


class AsyncSession:
    """A shell that keeps its directory, variables and functions between commands.

    `AsyncSandbox.create_session` makes it. Its block, or `aclose`, ends it.

    Attributes:
        id: Its id.
    """

    def __init__(self, transport: AsyncTransport, prefix: str, session_id: str) -> None:
        self._transport = transport
        self._prefix = prefix
        self.id = session_id
        self._is_closed = False

    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        on_stdout: Callable[[str], None] | None = None,
        on_stderr: Callable[[str], None] | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Runs a command in this session; see `AsyncSandbox.exec`.

        Raises:
            SandboxClosedError: The session is closed.
        """
        if self._is_closed:
            raise SandboxClosedError("the session is closed")
        return await execute(
            self._transport,
            self._prefix,
            self.id,
            command,
            cwd=cwd,
            env=env,
            deadline_s=deadline_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            check=check,
        )

    async def aclose(self) -> None:
        """Ends the session and its processes; nothing more where it has ended already."""
        self._is_closed = True  # also without an answer: a command would make the session anew
        body = wire.DeleteSession(session_id=self.id)
        path = f"{self._prefix}/api/session/delete"
        with suppress(NotFoundError):
            await self._transport.call("POST", path, wire.SessionDeleted, body=body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
