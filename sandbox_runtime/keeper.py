"""One sandbox's keeper, from this process's side: it makes jails, and knows what they share."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime import core
from sandbox_runtime.channel import Channel, close_all, packet_pair
from sandbox_runtime.choices import PYTHON_MEMORY_BYTES, PYTHON_MEMORY_REMEDY
from sandbox_runtime.errors import (
    IsolationError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.jail import Jail
from sandbox_runtime.messages import (
    CreateJail,
    EnterPlan,
    Execute,
    Failed,
    InitReply,
    KeeperReply,
    OpenSockets,
    ServeFiles,
    SocketsRefused,
    SocketsReply,
)
from sandbox_runtime.pidfds import has_ended
from sandbox_runtime.report import step_remedy
from sandbox_runtime.settings import FEW_PROCESSES, MIB, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox_runtime.report import Protection

_TABLE_PIECE_BYTES = 256 * 1024


def _read_table(fd: int) -> bytes:
    """What a table says now. The kernel makes it anew for whoever reads from its beginning."""
    table = bytearray()
    while piece := os.pread(fd, _TABLE_PIECE_BYTES, len(table)):
        table += piece
    return bytes(table)


class Keeper:
    """The native process that holds one sandbox.

    Attributes:
        shell_builtin: `Supervisor.shell_builtin` of the supervisor that made it: asked whenever a
            shell starts, since the file is made only then and closed with the supervisor.
    """

    def __init__(
        self,
        channel: Channel[KeeperReply],
        ended: trio.Event,
        inner: Channel[KeeperReply] | None = None,
        *,
        shell_builtin: Callable[[], int],
    ) -> None:
        self.shell_builtin = shell_builtin
        self._channel = channel
        self._inner = inner
        self._ended = ended
        self._closed = False
        self._prepared: Jail | None = None
        self._empty: set[Jail] = set()
        self._fds: list[int] = []
        self._tables: list[int] = []
        self._memory_events: int | None = None
        self._last_events, self._last_kills = b"", 0
        self.protections: tuple[Protection, ...] = ()
        self._enter: EnterPlan | None = None
        self._process: core.Neighbour | None = None

    async def start(self) -> None:
        """Waits until the sandbox is there."""
        try:
            reply, fds = await self._channel.receive()
        except SandboxLostError as error:
            message = "the sandbox died while it was made"
            raise IsolationError("start", 0, message, remedy=step_remedy("start")) from error
        self._fds = fds
        if isinstance(reply, Failed):
            raise reply.failure.as_error()
        self.protections = reply.protections
        self._enter = reply.enter
        self._process = core.Neighbour(fds[0])
        self._tables = fds[1 : 1 + reply.tables]
        self._memory_events = fds[1 + reply.tables] if reply.memory_events else None

    @property
    def gone(self) -> bool:
        """Whether it has died, and every jail with it."""
        return self._ended.is_set()

    async def wait_gone(self) -> None:
        """Waits until it has died."""
        await self._ended.wait()

    @property
    def alive(self) -> bool:
        """Whether it is there and has not died, looked at now."""
        return bool(self._fds) and not self.gone and not has_ended(self._fds[0])

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    @property
    def limits(self) -> Limits:
        """What the sandbox may use."""
        assert self._enter is not None
        return self._enter.limits

    @property
    def _has_few_processes(self) -> bool:
        """Whether none can be spared for a jail that waits, or for one that is about to end."""
        return self._enter is not None and self.limits.processes < FEW_PROCESSES

    @property
    def has_host_network(self) -> bool:
        """Whether its sessions and processes share this process's network."""
        return self._inner is not None

    @contextlib.contextmanager
    def enter(
        self, jail: Jail, limits: Limits | None = None, *, inner_network: bool = True
    ) -> Iterator[tuple[bytes, list[int]]]:
        """What a zygote's child needs to know and to hold, see `contain::enter`.

        The descriptors are copies, open for the block, whatever is closed meanwhile: the jail's
        namespaces, then the sandbox's.

        Args:
            jail: What it enters.
            limits: What each of its processes may use, if less than the sandbox.
            inner_network: As for `create_jail`. Without it the zygote must have the host's network.

        Raises:
            SandboxClosedError: The sandbox or the jail is closed.
        """
        if not self._fds or not jail.namespace_fds or self._enter is None:
            raise SandboxClosedError("the sandbox is closed")
        others = 1 + len(self._tables) + (self._memory_events is not None)
        plan, sandbox_fds = self._enter, self._fds[others:]
        if self.has_host_network and not inner_network:
            plan = msgspec.structs.replace(plan, network=False)
            del sandbox_fds[plan.cgroup_files]
        if limits is not None:
            lower = {
                name: min(getattr(limits, name), getattr(plan.limits, name))
                for name in Limits.__struct_fields__
                if name != "cpu_percent"  # which is the whole sandbox's
            }
            plan = msgspec.structs.replace(plan, limits=Limits(**lower))
        with contextlib.ExitStack() as copies:
            owned: list[int] = []
            for fd in jail.namespace_fds + sandbox_fds:
                owned.append(os.dup(fd))
                copies.callback(os.close, owned[-1])
            yield msgspec.msgpack.encode(plan), owned

    async def create_jail(
        self,
        program: Execute | ServeFiles | None = None,
        fds: Sequence[int] = (),
        *,
        namespaces: bool = False,
        inner_network: bool = False,
    ) -> Jail:
        """Asks for a jail; returns before it is there, see `Jail.wait_started`.

        Args:
            program: What to start in it.
            fds: The program's descriptors.
            namespaces: Whether the jail's namespaces are to be had, for a zygote's child.
            inner_network: Whether it is to have a loopback device only where the sandbox has
                the host's network; where it has not, there is no difference.
        """
        if self._has_few_processes:
            await self.settle()
        channel = self._inner if inner_network and self._inner else self._channel
        under_way, short = core.UnderWay(), False
        if channel is self._channel and not namespaces and isinstance(program, Execute):
            prepared, self._prepared = self._prepared, None
            if prepared is not None:
                if prepared.start(program, fds, under_way):
                    return prepared
                under_way = core.UnderWay()
            short = program.until_end
        ours, theirs = packet_pair()
        jail = self._new_jail(ours, under_way, namespaces=namespaces)
        try:
            with theirs:
                called = self._call_keeper(channel, alone=short and under_way.alone)
                request = CreateJail(program=program, namespaces=namespaces, called=called)
                await channel.send(request, [theirs.fileno(), *fds])
        except SandboxLostError as error:
            jail.abandon()
            raise self.explain_loss(error) from error
        except BaseException:
            jail.abandon()
            raise
        return jail

    def _call_keeper(self, channel: Channel[KeeperReply], *, alone: bool) -> bool:
        """Has the keeper run where this process does for what is asked next, or no longer."""
        if channel is not self._channel or self._process is None:
            return False
        return self._process.keep_here(alone)

    def _new_jail(self, sock: socket.socket, under_way: core.UnderWay, *, namespaces: bool) -> Jail:
        return Jail(
            Channel[InitReply](sock, InitReply),
            self.count_memory_kills,
            self.explain_loss,
            namespaces=namespaces,
            under_way=under_way,
        )

    def prepare_jail(self) -> None:
        """Asks for a jail that waits for the next program, if none does; one is all there is.

        Nothing has run in it but init. It ends with the sandbox, or with its only program. Where it
        cannot be asked for at once, the next program's is made when that comes.
        """
        if self._prepared is not None or self._closed or self._has_few_processes:
            return
        with contextlib.suppress(OSError, SandboxLostError, SandboxClosedError):
            ours, theirs = packet_pair()
            prepared = self._new_jail(ours, core.UnderWay(), namespaces=False)
            try:
                with theirs:
                    self._call_keeper(self._channel, alone=False)
                    if self._channel.offer(CreateJail(program=None), [theirs.fileno()]):
                        self._prepared = prepared
            finally:
                if self._prepared is not prepared:
                    prepared.abandon()

    async def wait_prepared(self) -> None:
        """Waits until the jail that was asked for ahead is there; nothing may be started meanwhile.

        Raises:
            SandboxLostError: It could not be made, or has died.
        """
        if self._prepared is not None:
            await self._prepared.wait_ready()

    def note_empty(self, jail: Jail) -> None:
        """Takes over a jail of which only init is left; `follow` has to come next."""
        self._empty.add(jail)

    async def follow(self, ended: Jail) -> None:
        """Ends an empty jail, and has one made for the next program: it may be as short."""
        ended.leave()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()  # whoever has the result goes first
            self.prepare_jail()
            await ended.wait_left()
        self._empty.discard(ended)

    async def settle(self) -> None:
        """Waits for the end of empty jails, and ends the one that was made ahead."""
        for jail in tuple(self._empty):
            await jail.wait_over()
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await prepared.aclose()

    async def open_sockets(self) -> list[socket.socket]:
        """TCP sockets that were opened in the sandbox's network: IPv4, then IPv6 where it is.

        A socket stays in the network it was opened in, so connecting one connects inside.

        Raises:
            SandboxLostError: The sandbox has died.
            OSError: They cannot be opened.
        """
        ours, theirs = packet_pair()
        channel = Channel[SocketsReply](ours, SocketsReply)
        try:
            with theirs:
                await self._channel.send(OpenSockets(), [theirs.fileno()])
            reply, fds = await channel.receive()
        finally:
            channel.close()
        if isinstance(reply, SocketsRefused):
            raise OSError(reply.failure.errno, os.strerror(reply.failure.errno))
        return [socket.socket(fileno=fd) for fd in fds]

    def read_socket_tables(self) -> list[bytes]:
        """The TCP sockets of its network, as proc_net(5) lists them for each version of IP.

        Raises:
            SandboxClosedError: The sandbox is closed.
        """
        if not self._tables:
            raise SandboxClosedError("the sandbox is closed")
        return [_read_table(fd) for fd in self._tables]

    def count_memory_kills(self) -> int:
        """How many processes the kernel has ended because the sandbox had no memory left.

        0 where it has no control group for its memory, and once it is closed.
        """
        if self._memory_events is None:
            return 0
        try:
            text = os.pread(self._memory_events, 1024, 0)
        except OSError:  # the group is gone
            return 0
        if text != self._last_events:  # each run looks, and hardly ever has anything changed
            kills = [line[9:] for line in text.splitlines() if line.startswith(b"oom_kill ")]
            self._last_events, self._last_kills = text, int(kills[0]) if kills else 0
        return self._last_kills

    def explain_loss(self, error: SandboxLostError) -> SandboxLostError:
        """The same, or that it may be for want of memory.

        The kernel chooses which process it ends for that; with very little memory there are few.
        The group may be gone by now that would tell.
        """
        if self._enter is not None and self.limits.memory_bytes < PYTHON_MEMORY_BYTES:
            few = f"{error}, probably for want of memory: it may use"
            size = f"{self.limits.memory_bytes / MIB:.3g} MiB"
            return SandboxLostError(f"{few} {size}", remedy=PYTHON_MEMORY_REMEDY)
        if not self.count_memory_kills():
            return error
        return SandboxLostError(
            f"{error}, as has a process of this sandbox before for want of memory: give it"
            " more (limits.memory_bytes), or smaller files, which count as well"
        )

    async def aclose(self) -> None:
        """Ends the sandbox; returns when its processes, mounts and groups are gone."""
        self._closed = True
        self._process = None
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.abandon()
        self._channel.close()
        if self._inner is not None:
            self._inner.close()
        close_all(self._fds)
        self._fds = self._tables = []
        self._memory_events = None
        with trio.CancelScope(shield=True):
            await self._ended.wait()
