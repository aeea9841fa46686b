"""Sandboxes that nobody has used: made on demand, or ahead with a shell that waits in each."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.errors import NotStartedError, SandboxLostError
from sandbox_runtime.messages import HostNetwork, LoopbackNetwork
from sandbox_runtime.networks import describe
from sandbox_runtime.settings import DEFAULT_ENV, FEW_PROCESSES, MIB, WORKSPACE, Limits
from sandbox_runtime.shell import begin_shell, start_shell
from sandbox_runtime.standby import Standby

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio

    from sandbox_runtime.choices import Network
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.shell import Shell, StartingShell
    from sandbox_runtime.standby import Work
    from sandbox_runtime.supervisor import Supervisor

_LEAST_MEMORY_BYTES = 64 * MIB


class Blueprint(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox is made by; the rest is decided when it is handed over.

    Attributes:
        host_name: What `hostname` says inside.
        limits: What it may use.
        network: What it may reach, with what the host knows of names at that time.
    """

    host_name: str
    limits: Limits
    network: LoopbackNetwork | HostNetwork


def blueprint_of(host_name: str, limits: Limits, network: Network) -> Blueprint:
    """What a sandbox of this kind is made by now.

    Raises:
        IsolationError: A file of the name service cannot be shown inside.
    """
    return Blueprint(host_name=host_name, limits=limits, network=describe(network))


class FreshSandbox:
    """A sandbox in which nothing has run but our own check.

    Attributes:
        keeper: The native process that holds it.
        blueprint: What it was made by.
        starting: Its first shell, if one was asked for and is not there yet.
        shell: Its first shell, once that waits for a command.
    """

    def __init__(self, keeper: Keeper, blueprint: Blueprint) -> None:
        self.keeper = keeper
        self.blueprint = blueprint
        self.starting: StartingShell | None = None
        self.shell: Shell | None = None

    @property
    def alive(self) -> bool:
        """Whether it, and its shell if it has one, wait to be used."""
        return self.keeper.alive and (self.shell is None or self.shell.alive)

    async def finish(self) -> None:
        """Waits for its shell; where there is no bash, the sandbox goes without."""
        if self.starting is not None:
            with contextlib.suppress(NotStartedError):
                self.shell = await self.starting.finish()
            self.starting = None

    async def aclose(self) -> None:
        """Ends it and everything in it."""
        await self.keeper.aclose()
        for part in (self.starting, self.shell):
            if part is not None:
                await part.aclose()


async def make_sandbox(
    supervisor: Supervisor, blueprint: Blueprint, *, shell: bool
) -> FreshSandbox:
    """Makes a sandbox, with `shell` also its first shell, whose start is not waited for.

    The two are asked for together. No command runs before the caller has read the report.

    Raises:
        IsolationError: It cannot be made; nothing of it is left.
        SandboxLostError: The runtime has died.
    """
    async with contextlib.AsyncExitStack() as undo:
        keeper = await supervisor.begin_sandbox(
            blueprint.host_name, blueprint.limits, blueprint.network
        )
        fresh = FreshSandbox(keeper, blueprint)
        undo.push_async_callback(fresh.aclose)
        lost: SandboxLostError | None = None
        if shell:
            try:
                fresh.starting = await begin_shell(keeper, WORKSPACE, DEFAULT_ENV)
            except SandboxLostError as error:
                lost = error
        await keeper.start()  # says why, if it could not be made
        if lost is not None:
            raise lost
        undo.pop_all()
    return fresh


class ReadySandboxes:
    """Those that a runtime keeps ready, all of one kind.

    Args:
        supervisor: Makes them.
        count: How many.
        host_name: What they are like; whoever wants another one has it made on demand.
        limits: Likewise.
        network: Likewise.
        nursery: Makes them in the background.
        work: What is not to be disturbed.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        count: int,
        host_name: str,
        limits: Limits,
        network: Network,
        nursery: trio.Nursery,
        work: Work,
    ) -> None:
        self._supervisor = supervisor
        self._kind = host_name, limits, network
        self._standby = Standby(self._make, count=count, nursery=nursery, work=work)

    @property
    def ready(self) -> int:
        """How many wait for an owner."""
        return self._standby.ready

    async def _make(self) -> FreshSandbox:
        blueprint = blueprint_of(*self._kind)
        shell = has_room_for_shell(blueprint.limits)
        fresh = await make_sandbox(self._supervisor, blueprint, shell=shell)
        try:
            await fresh.finish()
        except BaseException:
            await fresh.aclose()
            raise
        return fresh

    async def take(self, blueprint: Blueprint) -> FreshSandbox | None:
        """One that is ready and is what the blueprint says; None if there is none.

        One that knows other names than the host knows by now is ended instead.
        """
        host_name, limits, network = self._kind
        wants_host = isinstance(blueprint.network, HostNetwork)
        if (host_name, limits) != (blueprint.host_name, blueprint.limits):
            return None
        if wants_host != (network == "host"):
            return None
        while (fresh := await self._standby.take()) is not None:
            if fresh.blueprint == blueprint:
                return fresh
            await fresh.aclose()
        return None

    def refill(self) -> None:
        """Has those made that are missing, as soon as that disturbs nobody."""
        self._standby.refill()

    async def wait_full(self) -> None:
        """Waits until all are ready, or making one has failed."""
        await self._standby.wait_full()

    async def aclose(self) -> None:
        """Ends those that nobody took."""
        await self._standby.aclose()


class Shells:
    """The shells of one sandbox: started when they are asked for, and one that is kept ready.

    A sandbox that has started one session may never want another, so one is kept ready from the
    second on; the first is there only if the sandbox came with it.

    Args:
        keeper: Of the sandbox.
        nursery: Starts them in the background.
        work: What is not to be disturbed.
        keep: Whether to keep one ready at all.
    """

    def __init__(self, keeper: Keeper, nursery: trio.Nursery, work: Work, *, keep: bool) -> None:
        self._keeper = keeper
        count = int(keep and has_room_for_shell(keeper.limits))
        self._standby = Standby(self._start, count=count, nursery=nursery, work=work)
        self._asked = 0

    async def _start(self) -> Shell:
        return await start_shell(self._keeper, WORKSPACE, DEFAULT_ENV)

    def adopt(self, fresh: FreshSandbox) -> None:
        """Takes over the shell that the sandbox came with."""
        shell, fresh.shell = fresh.shell, None
        starting, fresh.starting = fresh.starting, None
        if shell is not None:
            self._standby.add(shell)
        elif starting is not None:
            self._standby.begin(starting.finish)

    @property
    def ready(self) -> int:
        """How many wait for a session."""
        return self._standby.ready

    async def start(self, cwd: str, env: Mapping[str, str]) -> Shell:
        """A shell that nobody has used, in this directory and with exactly these variables.

        Raises:
            NotStartedError: There is no such directory, or no bash that can serve a session.
            SandboxLostError: The sandbox has died.
        """
        self._asked += 1
        shell = None
        if cwd == WORKSPACE and env == DEFAULT_ENV:
            shell = await self._standby.take()
        if shell is None:
            shell = await start_shell(self._keeper, cwd, env)
        else:
            shell.handed_over_s = time.monotonic()
        if self._asked > 1:
            self._standby.refill()
        return shell

    async def wait_ready(self) -> None:
        """Waits until one is ready, if one is to be kept."""
        await self._standby.wait_full()

    async def aclose(self) -> None:
        """Ends the one that no session took."""
        await self._standby.aclose()


def has_room_for_shell(limits: Limits) -> bool:
    """Whether a shell that waits takes next to nothing of what a sandbox may use."""
    return limits.processes >= FEW_PROCESSES and limits.memory_bytes >= _LEAST_MEMORY_BYTES
