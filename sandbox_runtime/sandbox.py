"""Sandboxes: what users open, and what owns everything in it.

Whoever opens a single sandbox gets a runtime of its own with it. Both end with their blocks.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.arguments import check_flags, check_kind, check_owner
from sandbox_runtime.background import Processes
from sandbox_runtime.blocks import block
from sandbox_runtime.budget import Budget
from sandbox_runtime.errors import AlreadyExistsError, InvalidArgumentError, SandboxClosedError
from sandbox_runtime.files import Files
from sandbox_runtime.foreground import run_process
from sandbox_runtime.fresh import Shells, blueprint_of
from sandbox_runtime.interpreters.languages import known_language
from sandbox_runtime.interpreters.pool_sizes import pool_sizes
from sandbox_runtime.networks import check_host_name, check_network
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.ports import Ports
from sandbox_runtime.programs import check_id
from sandbox_runtime.report import build_report, check_required, enforce
from sandbox_runtime.runtime import Runtime, open_runtime
from sandbox_runtime.sessions import Session
from sandbox_runtime.settings import (
    BACKGROUND_TOTAL_BYTES,
    HOST_NAME,
    LOG_LIMIT_BYTES,
    OUTPUT_LIMIT_BYTES,
    ContextNetwork,
    Limits,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from sandbox_runtime.choices import Network
    from sandbox_runtime.fresh import FreshSandbox
    from sandbox_runtime.interpreters.contexts import Context
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.interpreters.pool_sizes import PoolSize
    from sandbox_runtime.interpreters.registry import Contexts
    from sandbox_runtime.interpreters.runs import ResultHandler
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.output_stream import OutputHandler
    from sandbox_runtime.processes import Process
    from sandbox_runtime.receipts import CommandResult
    from sandbox_runtime.report import SandboxReport


class Sandbox:
    """One isolation unit with its sessions, processes, contexts and files.

    `open_sandbox` makes it; everything in it ends with the block.

    Attributes:
        report: Which protections it has.
        files: Its files.
        ports: Its ports.
        processes: Its background processes, by id.
    """

    def __init__(
        self,
        runtime: Runtime,
        fresh: FreshSandbox,
        nursery: trio.Nursery,
        report: SandboxReport,
        pools: Mapping[str, PoolSize],
        log_space: Budget | None = None,
        *,
        ready_shell: bool = False,
    ) -> None:
        self._runtime = runtime
        self._keeper = keeper = fresh.keeper
        self._nursery = nursery
        self._shells = Shells(keeper, nursery, runtime.work, keep=ready_shell)
        self._shells.adopt(fresh)
        self._session: Session | None = None
        self._defaults: dict[str, Context] = {}
        self._first_session = trio.Lock()
        self._first_context = trio.Lock()
        self._sessions: dict[str, Session] = {}
        self._background_memory = Budget(BACKGROUND_TOTAL_BYTES)
        self._closed = False
        self.report = report
        self.ports = Ports(keeper, nursery)
        self.files = Files(keeper, nursery)
        self.processes = Processes(keeper, nursery, log_space)
        self._pools = pools
        self._contexts: Contexts | None = None

    @property
    def lost(self) -> bool:
        """Whether it has died with everything in it; a new one is needed then."""
        return self._keeper.gone

    async def wait_lost(self) -> None:
        """Waits until it has died."""
        await self._keeper.wait_gone()

    @property
    def contexts(self) -> Contexts:
        """Its code contexts, by id."""
        if self._contexts is None:
            from sandbox_runtime.interpreters.registry import Contexts

            self._contexts = Contexts(
                self._keeper,
                self._runtime.languages,
                self._pools,
                self._nursery,
                self._runtime.alarms,
                closed=self._closed,
                work=self._runtime.work,
            )
        return self._contexts

    @property
    def keeper(self) -> Keeper:
        """The native process below."""
        return self._keeper

    @property
    def sessions(self) -> dict[str, Session]:
        """Its sessions by their ids, in the order in which they were made."""
        return dict(self._sessions)

    def find_session(self, session_id: str) -> Session | None:
        """The session with that id, if there is one."""
        return self._sessions.get(check_id("session_id", session_id))

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxClosedError("the sandbox is closed")

    async def exec(
        self,
        command: str | bytes | Sequence[str | bytes],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        deadline_s: float | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
        check: bool = False,
    ) -> CommandResult:
        """Runs a command in the sandbox's first session; see `Session.exec`."""
        self._check_open()
        async with self._first_session:
            if self._session is None or self._session.closed:
                self._session = await self.create_session()
        return await self._session.exec(
            command,
            cwd=cwd,
            env=env,
            stdin=stdin,
            deadline_s=deadline_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            limit_bytes=limit_bytes,
            check=check,
        )

    async def create_session(
        self,
        *,
        session_id: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Session:
        """A further shell, in a jail of its own.

        Args:
            session_id: Its id; one is made if none is given.
            cwd: Where it starts; `/workspace` by default.
            env: Variables besides the usual ones (`settings.DEFAULT_ENV`).

        Raises:
            AlreadyExistsError: There is a session with that id.
            NotStartedError: There is no such directory, or no bash in the sandbox.
        """
        self._check_open()
        session = Session(
            self._keeper,
            self._nursery,
            self._shells.start,
            self._runtime.work,
            self._runtime.alarms,
            session_id=session_id,
            cwd=cwd,
            env=env,
            memory=self._background_memory,
            on_closed=self._forget_session,
        )
        if session.id in self._sessions:
            raise AlreadyExistsError("session", session.id)
        self._sessions[session.id] = session
        try:
            await session.start()
        except BaseException:
            await session.aclose()
            raise
        return session

    def _forget_session(self, closed: Session) -> None:
        if self._sessions.get(closed.id) is closed:
            del self._sessions[closed.id]

    async def start_process(
        self,
        command: str | bytes | Sequence[str | bytes],
        *,
        process_id: str | None = None,
        session: Session | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        deadline_s: float | None = None,
        auto_cleanup: bool = False,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        limit_bytes: int = LOG_LIMIT_BYTES,
    ) -> Process:
        """Starts a program in the background, in a jail of its own; see `Processes.start`."""
        self._check_open()
        return await self.processes.start(
            command,
            process_id=process_id,
            session=session,
            cwd=cwd,
            env=env,
            stdin=stdin,
            deadline_s=deadline_s,
            auto_cleanup=auto_cleanup,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            limit_bytes=limit_bytes,
        )

    async def run_process(
        self,
        command: str | bytes | Sequence[str | bytes],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        deadline_s: float | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> CommandResult:
        """Runs a program in a fresh jail and waits for its end; see `foreground.run_process`."""
        self._check_open()
        with self._runtime.work:
            return await run_process(
                self._keeper,
                self._nursery,
                command,
                cwd=cwd,
                env=env,
                stdin=stdin,
                deadline_s=deadline_s,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
                limit_bytes=limit_bytes,
            )

    async def create_code_context(
        self,
        language: str = "python",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        preload: str | None = None,
        name: str | None = None,
        network: ContextNetwork = "loopback",
        ready_branches: int = 0,
    ) -> Context:
        """A fresh interpreter, warmed and in a jail of its own; see `Contexts.create`."""
        self._check_open()
        return await self.contexts.create(
            language,
            cwd=cwd,
            env=env,
            limits=limits,
            preload=preload,
            name=name,
            network=network,
            ready_branches=ready_branches,
        )

    @property
    def ready_shells(self) -> int:
        """How many shells wait for a session."""
        return self._shells.ready

    async def wait_ready_shell(self) -> None:
        """Waits until a shell is ready, if one is to be kept; one is from the second session on."""
        await self._shells.wait_ready()

    async def fill_pool(self, language: str = "python") -> None:
        """Waits until the pool of a language's interpreters is full."""
        self._check_open()
        await self.contexts.pool(language).wait_full()

    async def run_code(
        self,
        code: str,
        *,
        language: str = "python",
        context: Context | None = None,
        deadline_s: float | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        on_result: ResultHandler | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> Execution:
        """Runs code in a context, by default in the language's first; see `Context.run`.

        If the first context is lost, the next call gets a fresh one: `state_survived` said so.
        """
        if context is None:
            context = await self._default_context(language)
        else:
            check_context(context)
            check_owner("context", context.keeper, self._keeper)
        return await context.run(
            code,
            deadline_s=deadline_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            on_result=on_result,
            limit_bytes=limit_bytes,
        )

    async def _default_context(self, language: str) -> Context:
        name = known_language(language, self.contexts.languages)
        context = self._defaults.get(name)
        if context is not None and not context.lost:
            return context  # its runs wait for their turn themselves
        async with self._first_context:
            context = self._defaults.get(name)
            if context is None or context.closed:
                context = self._defaults[name] = await self.create_code_context(name)
            elif context.lost:
                await context.restart()
            return context

    async def connect(self, port: int) -> trio.SocketStream:
        """A TCP connection to a port of the sandbox's loopback: 127.0.0.1, then ::1.

        It is made inside the sandbox's network, whether the port is exposed or not; in the
        network of this process, the control server's own port is refused.

        Raises:
            PortUnreachableError: Nothing answers there (yet).
            InvalidArgumentError: It is no port, or the control server's own.
        """
        self._check_open()
        return await self.ports.connect(port)

    async def aclose(self) -> None:
        """Ends everything in it; returns when that is gone."""
        self._closed = True
        with trio.CancelScope(shield=True):
            self.ports.close()
            await self._keeper.aclose()
            if self._contexts is not None:
                await self._contexts.aclose()
            await self._shells.aclose()
            for session in tuple(self._sessions.values()):
                await session.aclose()
            await self.files.aclose()


def check_context(context: object) -> None:
    """Refuses what is no context."""
    from sandbox_runtime.interpreters.contexts import Context

    what = "a Context, as `create_code_context` gives one"
    check_kind("context", context, Context, what)


@block
@asynccontextmanager
async def open_sandbox(
    *,
    runtime: Runtime | None = None,
    limits: Limits | None = None,
    require: Collection[str] = (),
    host_name: str = HOST_NAME,
    read_only: Sequence[str] = (),
    python_pool: int = 1,
    node_pool: int = 1,
    network: Network = "loopback",
    pools: Mapping[str, PoolSize] | None = None,
    log_space: Budget | None = None,
    first_shell: bool = False,
    ready_shell: bool = False,
) -> AsyncIterator[Sandbox]:
    """Makes a sandbox, and ends it and everything in it with the block.

    Args:
        runtime: What it shares with others; one of its own by default.
        limits: What it may use.
        require: Protections without which there shall be no sandbox, besides those that are
            always required (`report.PROTECTIONS`).
        host_name: What `hostname` says inside.
        read_only: See `open_runtime`; only without `runtime`.
        python_pool: How many Python contexts to keep ready once the first was made.
        node_pool: Likewise, of JavaScript and TypeScript together.
        network: What its sessions and processes may reach: `loopback`, a network of their own
            with nothing else in it; or `host`, the network of this process with its loopback
            and name service, for installing packages and cloning. Contexts have a loopback
            of their own in both, see `create_code_context`.
        pools: The same with limits, by language; what it says of one counts more.
        log_space: What logs of background processes may take on disk together with those of
            other sandboxes, besides `LOGS_LIMIT_BYTES` of its own.
        first_shell: Whether to start the first session's shell along with it, for who has a command
            to run at once.
        ready_shell: Whether to keep a shell ready for the next session, from the second on.

    Raises:
        IsolationError: A protection cannot be had; it names it and says how to get it.
        InvalidArgumentError: An argument cannot mean anything.
    """
    if runtime is not None:
        check_kind("runtime", runtime, Runtime, "a Runtime, as `open_runtime` gives one")
    if log_space is not None:
        check_kind("log_space", log_space, Budget, "a Budget")
    check_flags(first_shell=first_shell, ready_shell=ready_shell)
    check_required(require)
    check_host_name(host_name)
    if limits is not None:
        check_kind("limits", limits, Limits, "Limits, e.g. Limits(processes=64)")
        limits.check()
    if "cgroup_cpu" in require and (limits is None or limits.cpu_percent is None):
        raise InvalidArgumentError("require", "'cgroup_cpu' needs a limit: give limits.cpu_percent")
    check_network(network, require)
    sizes = pool_sizes(python_pool, node_pool, {} if pools is None else pools)
    if runtime is not None and read_only:
        raise InvalidArgumentError("read_only", "is the runtime's; give it to open_runtime")
    async with AsyncExitStack() as own:
        if runtime is None:
            runtime = await own.enter_async_context(open_runtime(read_only=read_only))
        fresh = await runtime.take_sandbox(
            blueprint_of(host_name, limits or Limits(), network), shell=first_shell
        )
        own.push_async_callback(_end, fresh)
        report = build_report(
            fresh.keeper.protections,
            separate_ids=runtime.supervisor.separate_ids,
            given_up=("net_namespace",) if network == "host" else (),
            not_asked=() if limits is not None and limits.cpu_percent else ("cgroup_cpu",),
        )
        enforce(report, require)
        nursery = await own.enter_async_context(open_serving_nursery())
        sandbox = Sandbox(
            runtime, fresh, nursery, report, sizes, log_space, ready_shell=ready_shell
        )
        try:
            yield sandbox
        finally:
            await sandbox.aclose()


async def _end(fresh: FreshSandbox) -> None:
    with trio.CancelScope(shield=True):
        await fresh.aclose()
