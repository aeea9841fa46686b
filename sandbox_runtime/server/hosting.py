"""Who owns what in a server: one runtime, many sandboxes, and what clients named in each.

The runtime starts with the server and is started again when its supervisor has died. Each sandbox
is held by a task of its own, which ends it when it is deleted, was idle for too long, or died.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import msgspec
import trio

from sandbox_runtime.fresh import has_room_for_shell
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.runtime import open_runtime
from sandbox_runtime.sandbox import open_sandbox
from sandbox_runtime.server.faults import (
    ForbiddenError,
    SandboxExistsError,
    SandboxGoneError,
    SandboxNotFoundError,
    TooManyError,
)
from sandbox_runtime.server.room import check_descriptors
from sandbox_runtime.server.session_table import SessionTable
from sandbox_runtime.settings import GIB, MIB, Limits
from sandbox_runtime.spill import LogSpace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from sandbox_runtime.choices import Network
    from sandbox_runtime.interpreters.pool_sizes import PoolSize
    from sandbox_runtime.launching import Launch
    from sandbox_runtime.processes import Process
    from sandbox_runtime.runtime import Runtime
    from sandbox_runtime.sandbox import Sandbox

_LOG = logging.getLogger("sandbox_runtime.server")

_REST_S = 0.2  # how long nothing is asked before the pools are filled

DEFAULT_ID = "default"
"""The sandbox of the root paths."""


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server's sandboxes are like.

    Attributes:
        limits: What each may use, unless it was created with others.
        network: What each can reach: `loopback`, `host`, or `auto`: `host` if sandboxes have user
            ids of their own, by which the server tells their connections apart, else `loopback`.
        require: Protections without which there shall be no sandbox.
        command_timeout_s: The time limit of commands that state none; None is 30 s for clients of
            0.3 and none for those of 0.12, as each of them expects.
        code_timeout_s: Likewise, of runs of code.
        output_limit_bytes: How much of each output stream an answer keeps.
        log_space_bytes: How much disk the logs of all background processes may take.
        pools: How many interpreters each sandbox keeps ready, by language; of those that are not
            named, one for Python, and one for JavaScript and TypeScript together.
        warm_up: Whether to fill the pools of the default sandbox before anybody has asked for a
            context, as soon as nothing else is asked of it.
        ready_sandboxes: How many to keep ready, from the first that a client asks for on; with 0
            no shell is started either before it is asked for.
        most_sandboxes: How many there may be.
        most_sessions: How many each may have.
        most_processes: How many background processes of each may run.
        most_contexts: How many contexts each may have.
        mountable: Directories of the host that clients may have mounted, with what is below them.
        listenable: Addresses of this machine on which clients may have exposed ports listened on.
    """

    limits: Limits = msgspec.field(default_factory=Limits)
    network: Network | Literal["auto"] = "loopback"
    require: Collection[str] = ()
    command_timeout_s: float | None = None
    code_timeout_s: float | None = None
    output_limit_bytes: int = 16 * MIB
    log_space_bytes: int = 4 * GIB
    pools: Mapping[str, PoolSize] = msgspec.field(default_factory=dict)
    warm_up: bool = False
    ready_sandboxes: int = 0
    most_sandboxes: int = 100
    most_sessions: int = 256
    most_processes: int = 128
    most_contexts: int = 64
    mountable: Sequence[str] = ()
    listenable: Sequence[str] = ()


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one sandbox shall be like."""

    id: str
    name: str | None = None
    limits: Limits
    network: Network = "loopback"
    mounts: Sequence[str] = ()
    idle_s: float = math.inf


class HostedSandbox:
    """One sandbox, and what clients named in it.

    Attributes:
        spec: What it was asked to be.
        sandbox: Itself.
        sessions: Its sessions by id.
        created_s: When it was made, in seconds since 1970.
        used_s: When something was last asked of it.
        lost: Whether it has died.
        contexts_opening: How many contexts are being made.
        processes_starting: How many background processes are being started.
        encodings: How the output of its background processes becomes text.
    """

    def __init__(self, spec: SandboxSpec, sandbox: Sandbox, settings: HostSettings) -> None:
        self.spec = spec
        self.sandbox = sandbox
        self.sessions = SessionTable(sandbox, most=settings.most_sessions)
        self.created_s = self.used_s = time.time()
        self.lost = False
        self.contexts_opening = 0
        self.processes_starting = 0
        self.encodings: WeakKeyDictionary[Process, str] = WeakKeyDictionary()
        self.closing = trio.Event()
        self.gone = trio.Event()
        self._asking = 0
        self._rested_at_s = trio.current_time()

    def __enter__(self) -> None:
        """Something is asked of it."""
        self._asking += 1
        self.used_s = time.time()

    def __exit__(self, *_exc: object) -> None:
        self._asking -= 1
        self.used_s = time.time()
        self._rested_at_s = trio.current_time()

    async def wait_idle(self, idle_s: float) -> None:
        """Waits until nothing was asked of it for so long."""
        while True:
            deadline_s = self._rested_at_s + idle_s
            await trio.sleep_until(deadline_s)
            if self._asking:
                self._rested_at_s = trio.current_time()
            elif self._rested_at_s + idle_s <= deadline_s:
                return


class Host:
    """All sandboxes of a server. `open_host` makes it.

    Attributes:
        settings: What the operator chose.
        network: What sandboxes can reach that were not made with another network.
    """

    def __init__(
        self, settings: HostSettings, nursery: trio.Nursery, launched: Launch | None = None
    ) -> None:
        self.settings = settings
        self._launched = launched
        self._nursery = nursery
        self._runtime: Runtime | None = None
        self._runtime_turn = trio.Lock()
        self._sandboxes: dict[str, HostedSandbox] = {}
        self._making: set[str] = set()
        self._reserved: set[int] = set()
        self._no_host_network = ""
        self._default_turn = trio.Lock()
        self._log_space = LogSpace(settings.log_space_bytes)
        self.network: Network = "loopback"

    async def start(self) -> None:
        """Starts the runtime and the default sandbox.

        Raises:
            IsolationError: No sandbox can be made here; it says why and what to do.
        """
        if self.settings.network == "auto":
            runtime = await self._living_runtime()
            self.network = "host" if runtime.supervisor.separate_ids else "loopback"
        else:
            self.network = self.settings.network
        hosted = await self.default()
        if self.settings.warm_up:
            self._nursery.start_soon(self._warm_up, hosted)

    async def _warm_up(self, hosted: HostedSandbox) -> None:
        await hosted.wait_idle(_REST_S)
        if not hosted.lost and not hosted.closing.is_set():
            await hosted.sandbox.contexts.warm_up()

    @property
    def sandboxes(self) -> list[HostedSandbox]:
        """All of them, in the order they were made."""
        return list(self._sandboxes.values())

    def find(self, sandbox_id: str) -> HostedSandbox:
        """The sandbox with that id, also if it has died.

        Raises:
            SandboxNotFoundError: There is none.
        """
        hosted = self._sandboxes.get(sandbox_id)
        if hosted is None:
            raise SandboxNotFoundError(sandbox_id)
        return hosted

    def get(self, sandbox_id: str) -> HostedSandbox:
        """The sandbox with that id.

        Raises:
            SandboxNotFoundError: There is none.
            SandboxGoneError: It has died.
        """
        hosted = self.find(sandbox_id)
        if hosted.lost:
            raise SandboxGoneError(sandbox_id)
        return hosted

    def living(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox with that id, if there is one and it lives."""
        hosted = self._sandboxes.get(sandbox_id)
        return None if hosted is None or hosted.lost else hosted.sandbox

    @property
    def shares_network(self) -> bool:
        """Whether any sandbox has the network of this process."""
        return any(hosted.spec.network == "host" for hosted in self._sandboxes.values())

    @property
    def separate_ids(self) -> bool:
        """Whether sandboxes have user ids that nobody else has."""
        return self._runtime is not None and self._runtime.supervisor.separate_ids

    def refuse_host_network(self, reason: str) -> None:
        """Keeps clients from making sandboxes in the network of this process."""
        self._no_host_network = reason

    def reserve(self, port: int) -> None:
        """Keeps a port of this server from being reached through a sandbox in its network."""
        self._reserved.add(port)
        for hosted in self._sandboxes.values():
            hosted.sandbox.ports.reserve(port)

    async def default(self) -> HostedSandbox:
        """The sandbox of the root paths; made if it is not there, or has died."""
        hosted = self._sandboxes.get(DEFAULT_ID)
        if hosted is not None and not hosted.lost and not hosted.closing.is_set():
            return hosted
        async with self._default_turn:
            hosted = self._sandboxes.get(DEFAULT_ID)
            if hosted is not None and (hosted.lost or hosted.closing.is_set()):
                await self.delete(DEFAULT_ID)
                hosted = None
            if hosted is None:
                spec = SandboxSpec(id=DEFAULT_ID, limits=self.settings.limits, network=self.network)
                hosted = await self.create(spec)
            return hosted

    async def create(self, spec: SandboxSpec) -> HostedSandbox:
        """Makes a sandbox.

        Raises:
            SandboxExistsError: The id is taken.
            ForbiddenError: It may not have the network of this process.
            TooManyError: There are as many as there may be.
            BusyError: No descriptors are left for it.
            IsolationError: It cannot be made.
        """
        if spec.id in self._sandboxes or spec.id in self._making:
            raise SandboxExistsError(spec.id)
        if spec.network == "host" and self._no_host_network:
            raise ForbiddenError("network 'host' is not allowed", remedy=self._no_host_network)
        living = sum(not hosted.lost for hosted in self._sandboxes.values())
        if living + len(self._making) >= self.settings.most_sandboxes:
            most = self.settings.most_sandboxes
            raise TooManyError(f"The server holds {most} sandboxes already", most=most)
        if spec.id != DEFAULT_ID:  # that one is made again for whoever comes
            check_descriptors()
        self._forget_lost()
        self._making.add(spec.id)
        try:
            hosted: HostedSandbox = await self._nursery.start(self._hold, spec)
        finally:
            self._making.discard(spec.id)
        if spec.id != DEFAULT_ID and self._runtime is not None:
            self._runtime.keep_ready(
                self.settings.ready_sandboxes, limits=self.settings.limits, network=self.network
            )
        return hosted

    def _forget_lost(self) -> None:
        """Those that died stay, so that their callers learn of it, but not more than may live."""
        lost = [one for one in self._sandboxes.values() if one.lost and one.gone.is_set()]
        for hosted in lost[: max(len(lost) - self.settings.most_sandboxes, 0)]:
            del self._sandboxes[hosted.spec.id]

    async def delete(self, sandbox_id: str) -> None:
        """Ends a sandbox; returns when it and everything in it are gone.

        Raises:
            SandboxNotFoundError: There is none with that id.
        """
        hosted = self.find(sandbox_id)
        hosted.closing.set()
        await hosted.gone.wait()
        if self._sandboxes.get(sandbox_id) is hosted:
            del self._sandboxes[sandbox_id]

    async def _hold(  # noqa: ASYNC114 - started in this class alone
        self, spec: SandboxSpec, *, task_status: trio.TaskStatus[HostedSandbox]
    ) -> None:
        """Holds one sandbox as long as it lives."""
        hosted: HostedSandbox | None = None
        try:
            async with self._open(spec) as sandbox:
                for port in self._reserved:
                    sandbox.ports.reserve(port)
                hosted = HostedSandbox(spec, sandbox, self.settings)
                self._sandboxes[spec.id] = hosted
                task_status.started(hosted)
                await self._hold_until_over(hosted)
        except Exception:
            if hosted is None:
                raise
            _LOG.exception("a sandbox ended badly; the others go on")
        finally:
            if hosted is not None:
                hosted.lost = hosted.lost or not hosted.closing.is_set()
                hosted.gone.set()
                if hosted.closing.is_set() and self._sandboxes.get(spec.id) is hosted:
                    del self._sandboxes[spec.id]

    async def _hold_until_over(self, hosted: HostedSandbox) -> None:
        why = await _first_of(
            deleted=hosted.closing.wait,
            idle=partial(hosted.wait_idle, hosted.spec.idle_s),
            lost=hosted.sandbox.wait_lost,
        )
        if why == "lost":
            _LOG.error("sandbox %s has died", hosted.spec.id)
            hosted.lost = True  # it stays in the list, so that its callers learn of it
        elif why == "idle":
            hosted.closing.set()

    @asynccontextmanager
    async def _open(self, spec: SandboxSpec) -> AsyncIterator[Sandbox]:
        settings = self.settings
        ahead = settings.ready_sandboxes > 0
        first_shell = ahead and has_room_for_shell(spec.limits)
        if spec.mounts:  # a runtime of its own, since what is mounted is the runtime's
            async with open_sandbox(
                limits=spec.limits,
                network=spec.network,
                require=settings.require,
                read_only=spec.mounts,
                pools=settings.pools,
                log_space=self._log_space,
                first_shell=first_shell,
                ready_shell=ahead,
            ) as sandbox:
                yield sandbox
            return
        async with open_sandbox(
            runtime=await self._living_runtime(),
            limits=spec.limits,
            network=spec.network,
            require=settings.require,
            pools=settings.pools,
            log_space=self._log_space,
            first_shell=first_shell,
            ready_shell=ahead,
        ) as sandbox:
            yield sandbox

    async def _living_runtime(self) -> Runtime:
        async with self._runtime_turn:
            if self._runtime is None or self._runtime.lost:
                self._runtime = await self._nursery.start(self._hold_runtime)
            return self._runtime

    async def _hold_runtime(  # noqa: ASYNC114 - started in this class alone
        self, *, task_status: trio.TaskStatus[Runtime]
    ) -> None:
        runtime: Runtime | None = None
        try:
            launched, self._launched = self._launched, None
            async with open_runtime(launched=launched) as runtime:
                task_status.started(runtime)
                await runtime.wait_lost()
                _LOG.error("the supervisor has died, and all sandboxes with it")
        except Exception:
            if runtime is None:
                raise
            _LOG.exception("a runtime ended badly; the next sandbox gets another")


async def _first_of(**waits: Callable[[], Awaitable[None]]) -> str:
    """The name of what came first."""
    first = ""
    async with trio.open_nursery() as nursery:

        async def wait(name: str, happened: Callable[[], Awaitable[None]]) -> None:
            nonlocal first
            await happened()
            first = first or name
            nursery.cancel_scope.cancel()

        for name, happened in waits.items():
            nursery.start_soon(wait, name, happened)
    return first


@asynccontextmanager
async def open_host(settings: HostSettings, launched: Launch | None = None) -> AsyncIterator[Host]:
    """Holds the sandboxes of a server, and ends them all with the block.

    Args:
        settings: What the operator chose.
        launched: What its first runtime is to be made of.

    Raises:
        IsolationError: No sandbox can be made here; it says why and what to do.
    """
    async with open_serving_nursery() as nursery:
        host = Host(settings, nursery, launched)
        await host.start()
        yield host
