"""The door to Rust: the only importer of `_core`. Sandboxes and jails from this process's side."""

from __future__ import annotations

import contextlib
import errno as errno_names
import os
import select
import signal as signals
import socket
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime import _core
from sandbox_runtime.channel import Channel, close_all, packet_pair
from sandbox_runtime.choices import PYTHON_MEMORY_BYTES, PYTHON_MEMORY_REMEDY
from sandbox_runtime.errors import (
    IsolationError,
    NotStartedError,
    SandboxClosedError,
    SandboxLostError,
    named,
)
from sandbox_runtime.messages import (
    Adopt,
    Adopted,
    CreateJail,
    EnterPlan,
    Execute,
    Exited,
    Failed,
    Failure,
    InitReady,
    InitReply,
    KeeperReply,
    OpenSockets,
    ProgramStarted,
    ServeFiles,
    Signal,
    SocketsRefused,
    SocketsReply,
    StartProgram,
    Sweep,
    Swept,
)
from sandbox_runtime.report import step_remedy
from sandbox_runtime.settings import FEW_PROCESSES, MIB, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from io import FileIO

    from sandbox_runtime.report import Protection

EVERY_PROCESS = -1
"""Instead of a pid: everything in the jail but its init."""

_TABLE_PIECE_BYTES = 256 * 1024

quote_word = _core.quote_word
shell_builtin = _core.shell_builtin
node_addon = _core.node_addon
read_children = _core.read_children
start_supervisor = _core.start_supervisor
Command = _core.Command
core_path: str = _core.__file__
VERSION = _core.version


def send_command(
    sock: socket.socket, epoll: select.epoll, packet: bytes, stdin: int, body: int | None
) -> Command:
    """Sends a session's shell a request with its descriptors, which stay the caller's.

    Raises:
        BlockingIOError: There is no room for it.
        HostLimitError: Something of this user's is used up; nothing was sent.
        SandboxLostError: The shell has died.
    """
    try:
        return Command(sock.fileno(), epoll.fileno(), packet, stdin, body)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise SandboxLostError("the sandbox has died") from error
    except OSError as error:
        raise named(error) from None


async def wait_process_end(pidfd: int) -> None:
    """Waits until the process behind a pidfd has ended, with all that its end ends."""
    if _has_ended(pidfd):
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    except OSError as error:
        if error.errno != errno_names.ENOSPC:
            raise
        # This user has as many epoll watches as it may (epoll(7)); what ends may well free them.
        await _wait_in_thread(pidfd)


async def _wait_in_thread(pidfd: int) -> None:
    """Waits with poll(2), which has no limit for each user; cancelled as any other wait."""
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb", buffering=0) as waker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wake_when_cancelled, waker)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_poll, (pidfd, reader), None)
            nursery.cancel_scope.cancel()


async def _wake_when_cancelled(waker: FileIO) -> None:
    try:
        await trio.sleep_forever()
    finally:
        waker.write(b"\0")


def _has_ended(pidfd: int) -> bool:
    return _poll((pidfd,), 0)


def _poll(fds: Iterable[int], most_ms: int | None) -> bool:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(most_ms))


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
        return bool(self._fds) and not self.gone and not _has_ended(self._fds[0])

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
        if channel is self._channel and not namespaces and isinstance(program, Execute):
            prepared, self._prepared = self._prepared, None
            if prepared is not None and prepared.start(program, fds):
                return prepared
        ours, theirs = packet_pair()
        jail = self._new_jail(ours, namespaces=namespaces)
        try:
            with theirs:
                request = CreateJail(program=program, namespaces=namespaces)
                await channel.send(request, [theirs.fileno(), *fds])
        except SandboxLostError as error:
            jail.abandon()
            raise self.explain_loss(error) from error
        except BaseException:
            jail.abandon()
            raise
        return jail

    def _new_jail(self, sock: socket.socket, *, namespaces: bool) -> Jail:
        channel = Channel[InitReply](sock, InitReply)
        return Jail(channel, self.count_memory_kills, self.explain_loss, namespaces=namespaces)

    def prepare_jail(self) -> None:
        """Asks for a jail that waits for the next program, if none does; one is all there is.

        Nothing has run in it but init. It ends with the sandbox, or with its only program. Where it
        cannot be asked for at once, the next program's is made when that comes.
        """
        if self._prepared is not None or self._closed or self._has_few_processes:
            return
        with contextlib.suppress(OSError, SandboxLostError, SandboxClosedError):
            ours, theirs = packet_pair()
            prepared = self._new_jail(ours, namespaces=False)
            try:
                with theirs:
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


class Jail:
    """One PID namespace with its init.

    Several tasks may wait for different events: each takes turns in receiving, notes what came,
    and looks whether it was what it waits for.
    """

    def __init__(
        self,
        channel: Channel[InitReply],
        count_memory_kills: Callable[[], int],
        explain_loss: Callable[[SandboxLostError], SandboxLostError],
        *,
        namespaces: bool,
    ) -> None:
        self._channel = channel
        self.count_memory_kills = count_memory_kills
        self.explain_loss = explain_loss
        self._own_fds = 3 if namespaces else 1
        self._receiving = trio.Lock()
        self._fds: list[int] = []
        self._lost: SandboxLostError | None = None
        self._refusal: SandboxLostError | None = None
        self._closed = False
        self._over = trio.Event()
        self.pid: int | None = None
        self.exited: Exited | None = None
        self._adopted: dict[int, Exited | Adopted | None] = {}
        self.children_fds: list[int] = []
        self._program_fds: list[int] = []
        self._spawn_failure: Failure | None = None
        self._swept: dict[int, int | None] = {}  # by the number of the question
        self._sweeps = 0

    @property
    def alive(self) -> bool:
        """Whether it is there and its program has not ended, looked at now."""
        return bool(self._fds) and self.exited is None and not _has_ended(self._fds[0])

    @property
    def namespace_fds(self) -> list[int]:
        """Its PID and its mount namespace, if they were asked for."""
        return self._fds[1:]

    async def _wait_until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            if self._lost:
                raise self._lost
            async with self._receiving:
                if happened() or self._lost:
                    continue
                try:
                    reply, fds = await self._channel.receive()
                except SandboxLostError as error:
                    self._lost = self.explain_loss(error)
                    continue
                self._note(reply, fds)

    def _note(self, reply: InitReply, fds: list[int]) -> None:
        match reply:
            case InitReady(pid=pid, failure=failure):
                self._fds, watched = fds[: self._own_fds], fds[self._own_fds :]
                self.children_fds, self._program_fds = watched[:2], watched[2:]
                self.pid = pid
                self._spawn_failure = failure
            case ProgramStarted(pid=pid, failure=failure):
                self.children_fds, self._program_fds = fds[:2], fds[2:]
                self.pid = pid
                self._spawn_failure = failure
            case Adopted(pid=pid) | Exited(pid=pid) if pid in self._adopted:
                self._adopted[pid] = reply
            case Adopted():
                pass  # whoever asked was cancelled
            case Exited():
                self.exited = reply
                self.pid = reply.pid  # nothing may have been told of its start
                if fds:
                    self._fds = fds
            case Swept(id=number, killed=killed) if number in self._swept:
                self._swept[number] = killed
            case Swept():
                pass  # whoever asked was cancelled
            case Failed(failure=failure):
                self._lost = self._refusal = SandboxLostError(str(failure.as_error()))

    def start(self, program: Execute, fds: Sequence[int]) -> bool:
        """Starts a program in a jail that was made without one.

        Returns:
            Whether init was asked to; else it is gone, and nothing was.
        """
        try:
            sent = self._channel.offer(StartProgram(program=program), fds)
        except (SandboxLostError, SandboxClosedError):
            sent = False
        if not sent:
            self.abandon()
        return sent

    def fileno(self) -> int:
        """What is readable when there is news, for `take_end`."""
        return self._channel.fileno()

    def take_end(self) -> bool:
        """Takes what news there is, without waiting.

        Returns:
            Whether its program has ended, did not start, or has died with the jail. Only for a
            caller who alone waits for this jail.
        """
        with contextlib.suppress(SandboxLostError):
            while self.exited is None and self._spawn_failure is None and self._lost is None:
                if (news := self._channel.receive_now()) is None:
                    return False
                self._note(*news)
        return True

    async def wait_ready(self) -> None:
        """Waits until the jail is there.

        Raises:
            SandboxLostError: It could not be made, or has died.
        """
        await self._wait_until(lambda: bool(self._fds))

    async def wait_started(self) -> int:
        """Waits until its program runs; returns its pid in the jail.

        Raises:
            NotStartedError: The program could not be started.
            SandboxLostError: The jail could not be made, or has died.
        """
        await self._wait_until(lambda: self.pid is not None or self._spawn_failure is not None)
        self.check_started()
        assert self.pid is not None
        return self.pid

    async def wait_exited(self) -> Exited:
        """Waits until its program has ended."""
        await self.wait_started()
        await self._wait_until(lambda: self.exited is not None)
        assert self.exited is not None
        return self.exited

    async def adopt(self, pid: int, origin: int) -> str | None:
        """Has init tell the end of a branch, which init looks at first.

        Args:
            pid: Of the branch.
            origin: The interpreter that it is a copy of.

        Returns:
            Why it was refused, and ended if it is its origin's child; None if it is adopted.
        """
        self._adopted[pid] = None
        try:
            await self._channel.send(Adopt(pid=pid, origin=origin))
            await self._wait_until(lambda: self._adopted[pid] is not None)
        except BaseException:
            del self._adopted[pid]
            raise
        answer = self._adopted[pid]
        if isinstance(answer, Adopted) and answer.refused is not None:
            del self._adopted[pid]
            return answer.refused
        return None

    async def wait_adopted(self, pid: int) -> Exited | None:
        """Waits until an adopted process has ended; None if the jail has before."""
        with contextlib.suppress(SandboxLostError, SandboxClosedError):
            await self._wait_until(lambda: not isinstance(self._adopted.get(pid), Adopted))
        ended = self._adopted.pop(pid, None)
        return ended if isinstance(ended, Exited) else None

    def disown(self, pid: int) -> None:
        """Forgets how an adopted process has ended; of one that has not, the end is still told."""
        if isinstance(self._adopted.get(pid), Exited):
            del self._adopted[pid]

    def program_cwd(self) -> str | None:
        """The present directory of its program, if that is watched and alive and the directory is.

        As the sandbox sees it: the kernel names it up to the root of the jail's own mounts.
        """
        for fd in self._program_fds:
            with contextlib.suppress(OSError):
                if os.stat("cwd", dir_fd=fd).st_nlink:
                    return os.readlink("cwd", dir_fd=fd)
        return None

    async def signal(self, pid: int, signal: int, *, group: bool = False) -> None:
        """Sends a signal to a process of the jail, or to all; whoever is gone gets none."""
        await self._channel.send(Signal(pid=pid, signal=signal, group=group))

    async def sweep(
        self,
        *,
        spare: Sequence[int],
        keep: Sequence[int],
        since_ticks: int,
        break_shell: bool = False,
        trees: Sequence[int] = (),
        ends: Sequence[int] = (),
    ) -> int:
        """Ends all processes but the spared and the kept with their descendants.

        Those of `ends` end with their descendants even where these are kept.

        Returns:
            How many were ended. None of them is alive any more.
        """
        self._sweeps += 1
        number = self._sweeps
        question = Sweep(
            id=number,
            spare=tuple(spare),
            keep=tuple(keep),
            since_ticks=since_ticks,
            break_shell=break_shell,
            trees=tuple(trees),
            ends=tuple(ends),
        )
        self._swept[number] = None
        try:
            await self._channel.send(question)
            await self._wait_until(lambda: self._swept[number] is not None)
            killed = self._swept[number]
        finally:
            del self._swept[number]
        assert killed is not None
        return killed

    def check_started(self) -> None:
        """Looks, once `take_end` has said that it is over, whether its program has been started.

        Raises:
            NotStartedError: The program could not be started.
            SandboxLostError: The jail could not be made.
        """
        if self._refusal is not None:
            raise self._refusal
        if failure := self._spawn_failure:
            raise NotStartedError(failure.step, failure.errno, failure.subject)

    @property
    def closed(self) -> bool:
        """Whether its end has begun."""
        return self._closed

    @property
    def is_empty(self) -> bool:
        """Whether its program has ended and left nothing behind but init, our own."""
        return self.exited is not None and self.exited.alone

    def leave(self) -> None:
        """Has the init of a jail that is empty end; `wait_left` has to follow."""
        self._closed = True
        self._channel.close()

    async def wait_left(self) -> None:
        """Waits until init has ended; not to be cancelled."""
        await wait_process_end(self._fds[0])
        close_all(self._fds)
        self._fds = []
        self._over.set()

    def abandon(self) -> None:
        """Closes a jail in which no program was started, which ends it."""
        self._closed = True
        self._over.set()
        self._channel.close()

    async def wait_over(self) -> None:
        """Waits until it has ended, without ending it."""
        await self._over.wait()

    async def aclose(self) -> None:
        """Ends the jail; when this returns, no process of it is alive, whoever began its end."""
        with trio.CancelScope(shield=True):
            if self._closed:
                await self._over.wait()
                return
            self._closed = True
            try:
                await self._end()
            finally:
                self._channel.close()
                close_all(self._fds + self.children_fds + self._program_fds)
                self._fds = self.children_fds = self._program_fds = []
                self._over.set()

    async def _end(self) -> None:
        self._channel.finish()
        with contextlib.suppress(SandboxLostError):
            await self.wait_ready()
        if self._fds:
            # It ends by itself when nothing more can come; this makes sure that it does,
            # whatever user code makes it do meanwhile.
            with contextlib.suppress(OSError):
                signals.pidfd_send_signal(self._fds[0], signals.SIGKILL)
            await wait_process_end(self._fds[0])


def make_undumpable() -> None:
    """Closes this process's memory and descriptors to others of its user (PR_SET_DUMPABLE)."""
    import prctl

    prctl.set_dumpable(0)
