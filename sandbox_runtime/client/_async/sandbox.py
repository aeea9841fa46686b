"""Sandboxes, as a client holds them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, NoReturn, Self

import anyio

from sandbox_runtime.client._async.blocking import run_blocking
from sandbox_runtime.client._async.commands import execute
from sandbox_runtime.client._async.contexts import AsyncContext
from sandbox_runtime.client._async.files import AsyncFiles
from sandbox_runtime.client._async.ports import wait_for_port
from sandbox_runtime.client._async.processes import AsyncProcess, start
from sandbox_runtime.client._async.sessions import AsyncSession
from sandbox_runtime.client._async.transport import AsyncTransport
from sandbox_runtime.client.arguments import limits_of, milliseconds_of, texts, variables
from sandbox_runtime.client.local import LocalServer
from sandbox_runtime.client.models import Clone, ExposedPort
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.wire import code as code_wire
from sandbox_runtime.wire import git as git_wire
from sandbox_runtime.wire import ports as ports_wire
from sandbox_runtime.wire import processes as processes_wire
from sandbox_runtime.wire import sandboxes as wire
from sandbox_runtime.wire import sessions as sessions_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from sandbox_runtime.client.models import CommandResult, Execution, Result
    from sandbox_runtime.settings import Limits

_FIRST_SESSION = "default"
_LEAVE_S = 20.0


class AsyncSandbox:
    """One sandbox of a control process, for the length of a block.

    Attributes:
        id: Its id on the server.
        files: Its files.
        protections: Which protections it has; empty where the sandbox was there before.
    """

    id: str
    files: AsyncFiles
    protections: Sequence[wire.ProtectionInfo]

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        sandbox_id: str | None = None,
        name: str | None = None,
        limits: Limits | wire.LimitsRequest | None = None,
        network: wire.Network | None = None,
        read_only: Sequence[str] = (),
        idle_s: float | None = None,
    ) -> None:
        """Says which; entering the block makes it, and leaving the block ends it.

        Args:
            address: `http://HOST:PORT` or `unix:PATH` of a control process; by default one is
                started for this block.
            token: What the control process at the address was told to ask for.
            sandbox_id: One that is there already, `default` for the server's own. It stays.
            name: For people.
            limits: What it may use; what is as in `Limits()` is left to the server's default.
            network: `loopback` or `host`; the server's default if it is not given.
            read_only: Directories of the host that it shows; the operator allows them.
            idle_s: Ended when nothing was asked of it for so long.

        Raises:
            InvalidArgumentError: An argument cannot mean anything; it names it.
        """
        if token is not None and address is None:
            what = "there is no address to give it to, and a server of one's own asks for none"
            raise InvalidArgumentError("token", f"{what}; give the address too, or leave it out")
        self._address = address
        self._token = token
        self._existing = sandbox_id
        self._wanted = wire.CreateSandbox(
            name=name,
            limits=limits_of(limits),
            network=network,
            mounts=tuple(wire.Mount(path=path) for path in texts("read_only", read_only)),
            idle_ms=milliseconds_of("idle_s", idle_s),
        )
        self._server: LocalServer | None = None
        self._transport: AsyncTransport
        self._prefix = ""
        self._context: AsyncContext | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """What is there only inside the block."""
            if name in {"_transport", "files", "id", "protections"}:
                block = f"`async with {type(self).__name__}(...) as sandbox:`"
                raise RuntimeError(f"the sandbox is not open; {block} opens it, and ends it")
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    async def __aenter__(self) -> Self:
        address = self._address
        if address is None:
            self._server = await run_blocking(LocalServer)
            address = f"unix:{self._server.path}"
        self._transport = AsyncTransport(address, token=self._token)
        try:
            await self._enter()
        except BaseException:
            with anyio.move_on_after(_LEAVE_S, shield=True):
                await self._leave()
            raise
        return self

    async def _enter(self) -> None:
        self.protections = ()
        if self._existing is None:
            made = await self._transport.call(
                "POST", "/sandboxes", wire.SandboxReply, body=self._wanted
            )
            self.id, self.protections = made.sandbox.id, made.protections
        else:
            self.id = self._existing
        self._prefix = "" if self.id == _FIRST_SESSION else f"/sandboxes/{self.id}"
        self.files = AsyncFiles(self._transport, self._prefix)

    async def _leave(self) -> None:
        await self._transport.aclose()
        if self._server is not None:
            await run_blocking(self._server.close)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._existing is None and self._server is None:
                with anyio.move_on_after(_LEAVE_S, shield=True):
                    path = f"/sandboxes/{self.id}"
                    await self._transport.call("DELETE", path, wire.SandboxDeleted)
        finally:
            with anyio.move_on_after(_LEAVE_S, shield=True):
                await self._leave()

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
        """Runs a command in the sandbox's first session and waits for its end.

        Args:
            command: Shell text; what it sets stays.
            cwd: Where this command runs.
            env: Variables for this command only.
            deadline_s: Seconds until its whole process tree is ended; the server's default if
                it is not given.
            on_stdout: Called with each piece as it comes.
            on_stderr: Likewise.
            check: Raise unless the exit code is 0.

        Returns:
            How it ended, whatever its exit code.

        Raises:
            CommandFailedError: With `check`; its `result` is what would have been returned.
            DeadlineError: The deadline passed; its `context` has the output so far.
            ApiError: It did not end by itself for another reason, as that its shell was lost.
            InvalidArgumentError: `deadline_s` cannot mean anything.
            UnreachableError: The server cannot be reached.
        """
        return await execute(
            self._transport,
            self._prefix,
            _FIRST_SESSION,
            command,
            cwd=cwd,
            env=env,
            deadline_s=deadline_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            check=check,
        )

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncSession:
        """A further shell, or the one that has this id already."""
        body = sessions_wire.CreateSession(
            id=session_id or f"session-{uuid.uuid4()}", cwd=cwd, env=variables(env)
        )
        path = f"{self._prefix}/api/session/create"
        made = await self._transport.call("POST", path, sessions_wire.SessionCreated, body=body)
        return AsyncSession(self._transport, self._prefix, made.session_id)

    async def start_process(
        self,
        command: str,
        *,
        process_id: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
    ) -> AsyncProcess:
        """Starts shell text in the background, in a shell of its own."""
        return await start(
            self._transport,
            self._prefix,
            command,
            session_id=None,
            process_id=process_id,
            cwd=cwd,
            env=env,
            deadline_s=deadline_s,
        )

    async def processes(self) -> list[AsyncProcess]:
        """Every process that is known, in the order they were started."""
        path = f"{self._prefix}/api/process/list"
        found = await self._transport.call("GET", path, processes_wire.ProcessList)
        return [AsyncProcess(self._transport, self._prefix, one) for one in found.processes]

    async def kill_processes(self) -> int:
        """Ends all processes; returns how many ran."""
        path = f"{self._prefix}/api/process/kill-all"
        ended = await self._transport.call("DELETE", path, processes_wire.AllProcessesKilled)
        return ended.killed_count

    async def create_code_context(
        self,
        language: str = "python",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        ready_branches: int = 0,
    ) -> AsyncContext:
        """A fresh interpreter, warmed and in a jail of its own.

        Args:
            language: What it speaks.
            cwd: Where it starts; `/workspace` by default.
            env: Variables besides the usual ones.
            ready_branches: How many branches to make ahead, 0 to 64, whenever a run has ended, so
                that `AsyncContext.fork` need not make them; each counts as a context.

        Raises:
            BusyError: There are as many contexts as there may be.
            InvalidRequestError: An argument cannot mean anything.
        """
        body = code_wire.CreateContext(
            language=language,
            cwd=cwd,
            env_vars=variables(env),
            ready_branches=ready_branches,
        )
        path = f"{self._prefix}/api/contexts"
        made = await self._transport.call("POST", path, code_wire.ContextCreated, body=body)
        return AsyncContext(self._transport, self._prefix, made.id, made.language)

    async def code_contexts(self) -> list[AsyncContext]:
        """Every context, in the order they were made."""
        path = f"{self._prefix}/api/contexts"
        found = await self._transport.call("GET", path, code_wire.ContextList)
        return [
            AsyncContext(self._transport, self._prefix, one.id, one.language)
            for one in found.contexts
        ]

    async def run_code(
        self,
        code: str,
        *,
        deadline_s: float | None = None,
        on_stdout: Callable[[str], None] | None = None,
        on_stderr: Callable[[str], None] | None = None,
        on_result: Callable[[Result], None] | None = None,
    ) -> Execution:
        """Runs Python in the sandbox's first context; see `AsyncContext.run`.

        If a run loses the context, the next one gets a fresh one.
        """
        if self._context is None:
            self._context = await self.create_code_context()
        execution = await self._context.run(
            code,
            deadline_s=deadline_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            on_result=on_result,
        )
        if not execution.state_survived:
            self._context = None
        return execution

    async def clone(
        self,
        url: str,
        *,
        directory: str | None = None,
        branch: str | None = None,
        depth: int | None = None,
        deadline_s: float | None = None,
    ) -> Clone:
        """Checks out a git repository."""
        body = git_wire.Checkout(
            repo_url=url,
            branch=branch,
            target_dir=directory,
            depth=depth,
            timeout_ms=milliseconds_of("deadline_s", deadline_s),
        )
        path = f"{self._prefix}/api/git/checkout"
        done = await self._transport.call("POST", path, git_wire.CheckedOut, body=body)
        return Clone(directory=done.target_dir, branch=done.branch, commit=done.commit or None)

    async def wait_for_port(self, port: int, *, deadline_s: float | None = None) -> None:
        """Waits until a program listens on a port of the sandbox; as long as it takes by default.

        Raises:
            DeadlineError: Nothing did in time.
            InvalidRequestError: It is no port, or the control server's own.
        """
        await wait_for_port(self._transport, self._prefix, port, deadline_s=deadline_s)

    async def expose_port(self, port: int, *, name: str | None = None) -> ExposedPort:
        """Lets a port be reached through the server."""
        body = ports_wire.ExposePort(port=port, name=name)
        path = f"{self._prefix}/api/expose-port"
        made = await self._transport.call("POST", path, ports_wire.PortExposed, body=body)
        return ExposedPort(port=made.port, name=made.name or None, url=made.url or "")

    async def unexpose_port(self, port: int) -> None:
        """Lets it be reached no more."""
        body = ports_wire.UnexposePort(port=port)
        path = f"{self._prefix}/api/unexpose-port"
        await self._transport.call("DELETE", path, ports_wire.PortUnexposed, body=body)

    async def exposed_ports(self) -> list[ExposedPort]:
        """Every exposed port."""
        path = f"{self._prefix}/api/exposed-ports"
        found = await self._transport.call("GET", path, ports_wire.PortList)
        return [
            ExposedPort(port=one.port, name=one.name or None, url=one.url or "")
            for one in found.ports
        ]
