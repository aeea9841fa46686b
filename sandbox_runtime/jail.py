"""The door to Rust: the only importer of `_core`, and the other end of its sockets.

Descriptors that come through are wrapped at once, what goes wrong there becomes an error of
`errors.py`. Waiting is trio's: a read is tried first and waited for only if it would block, which
on a busy machine saves a trip through the event loop.

The messages are those of `rust_core/src/spec.rs`; a packet is a byte 0 and the message as
MessagePack, or a byte 1 with the message in a memory file behind the other descriptors.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal as signals
import socket
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import trio

from sandbox_runtime import _core
from sandbox_runtime.errors import (
    IsolationError,
    NotStartedError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.report import Protection, step_remedy
from sandbox_runtime.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

EVERY_PROCESS = -1
"""Instead of a pid: everything in the jail but its init."""

_INLINE_BYTES = 64 * 1024
_MAX_DESCRIPTORS = 32
_TABLE_PIECE_BYTES = 256 * 1024
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)

quote_word = _core.quote_word
shell_builtin = _core.shell_builtin
node_addon = _core.node_addon
read_children = _core.read_children
Command = _core.Command
core_path: str = _core.__file__


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failed step, see `rust_core/src/error.rs`."""

    step: str
    errno: int
    subject: str

    def as_isolation_error(self) -> IsolationError:
        """For steps of making a sandbox or a jail."""
        why = os.strerror(self.errno) if self.errno else "refused"
        about = f" ({self.subject})" if self.subject else ""
        message = f"cannot make a sandbox: {self.step}{about}: {why}"
        return IsolationError(self.step, self.errno, message, remedy=step_remedy(self.step))


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all messages: a map with its type in `type`."""


class Start(_Message, frozen=True, kw_only=True, tag="start"):
    """To the supervisor, once."""

    read_only_paths: tuple[str, ...]


class LoopbackNetwork(_Message, frozen=True, kw_only=True, tag="loopback"):
    """A network of the sandbox's own, with a loopback device and nothing else."""


class HostNetwork(_Message, frozen=True, kw_only=True, tag="host"):
    """The network of this process, with what it knows of names."""

    resolv_conf: bytes
    hosts: bytes


LOOPBACK = LoopbackNetwork()


class CreateSandbox(_Message, frozen=True, kw_only=True, tag="create_sandbox"):
    """To the supervisor, with the sockets of the sandbox's keepers."""

    id: int
    host_name: str
    limits: Limits
    network: LoopbackNetwork | HostNetwork


class StartZygote(_Message, frozen=True, kw_only=True, tag="start_zygote"):
    """To the supervisor, with the zygote's socket."""

    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    host_network: bool = False


class Started(_Message, frozen=True, kw_only=True, tag="started"):
    """From the supervisor."""

    separate_ids: bool
    private_ids: tuple[int, int] | None


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """From anybody: it could not be made, and is gone."""

    failure: Failure


class SandboxEnded(_Message, frozen=True, kw_only=True, tag="sandbox_ended"):
    """From the supervisor: nothing of that sandbox is left."""

    id: int


class EnterPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a zygote's child enters a jail; opaque here."""

    cgroup_files: int
    network: bool
    landlock: bool
    separate_ids: bool
    limits: Limits


class KeeperReady(_Message, frozen=True, kw_only=True, tag="ready"):
    """From a keeper: the sandbox is there."""

    tables: int
    protections: tuple[Protection, ...]
    enter: EnterPlan


class Execute(_Message, frozen=True, kw_only=True, tag="execute"):
    """A program of the sandbox."""

    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    cwd: bytes
    watch_children: bool = False


class FileService(_Message, frozen=True, kw_only=True, tag="files"):
    """The file service."""


class CreateJail(_Message, frozen=True, kw_only=True, tag="create_jail"):
    """To a keeper, with the init's socket and the program's descriptors."""

    program: Execute | FileService | None
    namespaces: bool = False


class OpenSockets(_Message, frozen=True, kw_only=True, tag="open_sockets"):
    """To a keeper, with the socket for its answer."""


class SocketsOpened(_Message, frozen=True, kw_only=True, tag="opened"):
    """From a keeper, with the sockets."""

    families: tuple[int, ...]


class SocketsRefused(_Message, frozen=True, kw_only=True, tag="refused"):
    """From a keeper: there are none."""

    failure: Failure


class Signal(_Message, frozen=True, kw_only=True, tag="signal"):
    """To an init."""

    pid: int
    signal: int
    group: bool


class Sweep(_Message, frozen=True, kw_only=True, tag="sweep"):
    """To an init: end what a command started."""

    spare: tuple[int, ...]
    keep: tuple[int, ...]
    since_ticks: int
    break_shell: bool
    trees: tuple[int, ...] = ()


class InitReady(_Message, frozen=True, kw_only=True, tag="ready"):
    """From an init: the jail is there, and its program runs, or does not."""

    pid: int | None
    failure: Failure | None


class Exited(_Message, frozen=True, kw_only=True, tag="exited"):
    """From an init: the program has ended."""

    pid: int
    exit: int | None
    signal: int | None
    user_us: int
    system_us: int
    max_rss_bytes: int


class Swept(_Message, frozen=True, kw_only=True, tag="swept"):
    """From an init: what was to end has ended."""

    killed: int


SupervisorReply = Started | Failed | SandboxEnded
KeeperReply = KeeperReady | Failed
SocketsReply = SocketsOpened | SocketsRefused
InitReply = InitReady | Failed | Exited | Swept

ReplyT = TypeVar("ReplyT")


def close_all(fds: Iterable[int]) -> None:
    """Closes descriptors that this process owns."""
    for fd in fds:
        os.close(fd)


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of packet sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def memory_file(name: str, content: bytes | memoryview) -> int:
    """A descriptor, open for reading only, of an anonymous file with this content."""
    writable = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(content).cast("B")
        while view:
            view = view[os.write(writable, view) :]
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def send_now(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> bool:
    """Sends one packet with descriptors, which stay the caller's; False if it has to wait.

    Raises:
        SandboxLostError: The other end has died.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return False
    except (BrokenPipeError, ConnectionResetError) as error:
        raise SandboxLostError("the sandbox has died") from error
    return True


async def send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> None:
    """As `send_now`, and waits; one task at a time for each socket."""
    while not send_now(sock, packet, fds):
        await trio.lowlevel.wait_writable(sock)


async def send_command(
    sock: socket.socket, epoll: select.epoll, packet: bytes, stdin: int, body: int | None
) -> Command:
    """Sends a session's shell a request with its descriptors, which stay the caller's.

    Raises:
        SandboxLostError: The shell has died.
    """
    while True:
        try:
            return Command(sock.fileno(), epoll.fileno(), packet, stdin, body)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise SandboxLostError("the sandbox has died") from error


class Channel(Generic[ReplyT]):
    """A packet socket: any message of `spec.rs` out, `ReplyT` in."""

    def __init__(self, sock: socket.socket, reply: object) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sending = trio.Lock()
        self._decoder: msgspec.msgpack.Decoder[ReplyT] = msgspec.msgpack.Decoder(reply)
        self._closed = False

    async def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Sends one message; the descriptors stay the caller's."""
        if self._closed:
            raise SandboxClosedError("it is closed")
        body = msgspec.msgpack.encode(message)
        if len(body) <= _INLINE_BYTES:
            await self._send_packet(b"\0" + body, fds)
            return
        with open(memory_file("frame", body), "rb") as file:
            await self._send_packet(b"\1", (*fds, file.fileno()))

    async def _send_packet(self, packet: bytes, fds: Sequence[int]) -> None:
        if not send_now(self._socket, packet, fds):
            async with self._sending:
                await send_packet(self._socket, packet, fds)

    async def receive(self) -> tuple[ReplyT, list[int]]:
        """Waits for one message; its descriptors are the caller's from then on.

        Raises:
            SandboxLostError: The other end has died.
        """
        while True:
            if self._closed:
                raise SandboxClosedError("it is closed")
            try:
                packet, fds = _receive_with_descriptors(self._socket)
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self._socket)
                except trio.ClosedResourceError:
                    raise SandboxClosedError("it is closed") from None
                continue
            except ConnectionResetError:
                packet, fds = b"", []
            if not packet:
                raise SandboxLostError("the sandbox has died")
            try:
                return self._decoder.decode(memoryview(packet)[1:]), fds
            except msgspec.MsgspecError as error:
                close_all(fds)
                raise SandboxLostError(f"the sandbox speaks nonsense: {error}") from error

    def finish(self) -> None:
        """Tells the other side that nothing more will come; it can still be read from."""
        if not self._closed:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes this end."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def _receive_with_descriptors(sock: socket.socket) -> tuple[bytes, list[int]]:
    packet, ancillary, flags, _ = sock.recvmsg(
        2 * _INLINE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if packet and packet[0] == 1 and fds:
        with open(fds.pop(), "rb") as file:
            file.seek(0)
            packet = b"\0" + file.read()
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise SandboxLostError("the sandbox sent more than was agreed")
    return packet, list(fds)


launchers: set[int] = set()
"""The children of this process that this module waits for."""


def _reap(pid: int) -> None:
    """Takes the status of a child that has ended, unless somebody else has (SIGCHLD ignored)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    launchers.discard(pid)


async def wait_process_end(pidfd: int) -> None:
    """Waits until the process behind a pidfd has ended, with all that its end ends."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(0):
        await trio.lowlevel.wait_readable(pidfd)


class Supervisor:
    """The native process that makes sandboxes; `open_runtime` owns it."""

    def __init__(self) -> None:
        self._launcher_pid, fd = _core.start_supervisor()
        launchers.add(self._launcher_pid)
        sock = socket.socket(fileno=fd)
        try:
            self._launcher_pidfd = os.pidfd_open(self._launcher_pid)
        except BaseException:
            sock.close()  # which ends the launcher
            _reap(self._launcher_pid)
            raise
        self._channel: Channel[SupervisorReply] = Channel(sock, SupervisorReply)
        self._ended: dict[int, trio.Event] = {}
        self._gone = trio.Event()
        self._next_id = 0
        self.separate_ids = False
        self.private_ids = range(0)

    @property
    def gone(self) -> bool:
        """Whether it has died, and every sandbox with it."""
        return self._gone.is_set()

    async def wait_gone(self) -> None:
        """Waits until it has died."""
        await self._gone.wait()

    async def start(self, read_only_paths: Sequence[str]) -> None:
        """Hands over the configuration and waits until sandboxes can be made.

        Raises:
            IsolationError: They cannot be made here; it says why and what to do.
        """
        await self._channel.send(Start(read_only_paths=tuple(read_only_paths)))
        try:
            reply, _ = await self._channel.receive()
        except SandboxLostError as error:
            message = "the supervisor died while it started"
            raise IsolationError("start", 0, message, remedy=step_remedy("start")) from error
        match reply:
            case Started(separate_ids=separate_ids, private_ids=ids):
                self.separate_ids = separate_ids
                self.private_ids = range(ids[0], sum(ids)) if ids else range(0)
            case Failed(failure=failure):
                raise failure.as_isolation_error()
            case SandboxEnded():
                raise AssertionError("no sandbox was made yet")

    async def run(self) -> None:
        """Receives what the supervisor says until it ends; the runtime's nursery owns this task."""
        try:
            while True:
                reply, _ = await self._channel.receive()
                if isinstance(reply, SandboxEnded):
                    self._ended.pop(reply.id).set()
        except (SandboxLostError, SandboxClosedError):
            pass
        finally:
            self._gone.set()
            for event in self._ended.values():
                event.set()

    async def create_sandbox(
        self,
        host_name: str,
        limits: Limits,
        network: LoopbackNetwork | HostNetwork = LOOPBACK,
    ) -> Keeper:
        """Makes a sandbox.

        Raises:
            IsolationError: It cannot be made; nothing of it is left.
        """
        if self.gone:
            raise SandboxLostError("the runtime has died; open a new one")
        with contextlib.ExitStack() as theirs:
            fds: list[int] = []
            channels: list[Channel[KeeperReply]] = []
            try:
                for _ in range(2 if isinstance(network, HostNetwork) else 1):
                    ours, other = packet_pair()
                    channels.append(Channel(ours, KeeperReply))
                    theirs.enter_context(other)
                    fds.append(other.fileno())
            except BaseException:
                for channel in channels:
                    channel.close()
                raise
            self._next_id += 1
            number = self._next_id
            ended = self._ended[number] = trio.Event()
            keeper = Keeper(channels[0], ended, *channels[1:])
            request = CreateSandbox(id=number, host_name=host_name, limits=limits, network=network)
            try:
                await self._channel.send(request, fds)
            except BaseException:
                ended.set()  # it was never asked for
                self._ended.pop(number, None)
                await keeper.aclose()
                raise
        try:
            await keeper.start()
        except BaseException:
            await keeper.aclose()
            raise
        return keeper

    async def start_zygote(
        self, argv: Sequence[str], env: Mapping[str, str], *, host_network: bool = False
    ) -> socket.socket:
        """Starts a program outside of all sandboxes, with one end of a packet pair as its 3.

        Args:
            argv: Program and arguments.
            env: The whole environment.
            host_network: Whether it has this process's network, for contexts that are to keep
                it, or none.
        """
        ours, theirs = packet_pair()
        ours.setblocking(False)
        request = StartZygote(
            argv=tuple(map(os.fsencode, argv)), env=encode_env(env), host_network=host_network
        )
        try:
            with theirs:
                await self._channel.send(request, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        return ours

    async def aclose(self) -> None:
        """Ends the supervisor and everything that it ever made; returns when that is gone."""
        self._channel.close()
        with trio.CancelScope(shield=True):
            await wait_process_end(self._launcher_pidfd)
        os.close(self._launcher_pidfd)
        _reap(self._launcher_pid)


def _read_table(fd: int) -> bytes:
    """What a table says now. The kernel makes it anew for whoever reads from its beginning."""
    table = bytearray()
    while piece := os.pread(fd, _TABLE_PIECE_BYTES, len(table)):
        table += piece
    return bytes(table)


def encode_env(env: Mapping[str, str]) -> tuple[bytes, ...]:
    """An environment as `NAME=value` bytes."""
    return tuple(os.fsencode(f"{name}={value}") for name, value in env.items())


class Keeper:
    """The native process that holds one sandbox."""

    def __init__(
        self,
        channel: Channel[KeeperReply],
        ended: trio.Event,
        inner: Channel[KeeperReply] | None = None,
    ) -> None:
        self._channel = channel
        self._inner = inner
        self._ended = ended
        self._fds: list[int] = []
        self._tables: list[int] = []
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
            raise reply.failure.as_isolation_error()
        self.protections = reply.protections
        self._enter = reply.enter
        self._tables = fds[1 : 1 + reply.tables]

    @property
    def gone(self) -> bool:
        """Whether it has died, and every jail with it."""
        return self._ended.is_set()

    async def wait_gone(self) -> None:
        """Waits until it has died."""
        await self._ended.wait()

    @property
    def limits(self) -> Limits:
        """What the sandbox may use."""
        assert self._enter is not None
        return self._enter.limits

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
        plan, sandbox_fds = self._enter, self._fds[1 + len(self._tables) :]
        if self.has_host_network and not inner_network:
            plan = msgspec.structs.replace(plan, network=False)
            del sandbox_fds[plan.cgroup_files]
        if limits is not None:
            lower = {
                name: min(getattr(limits, name), getattr(plan.limits, name))
                for name in Limits.__struct_fields__
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
        program: Execute | FileService | None = None,
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
        channel = self._inner if inner_network and self._inner else self._channel
        ours, theirs = packet_pair()
        jail = Jail(Channel(ours, InitReply), namespaces=namespaces)
        try:
            with theirs:
                request = CreateJail(program=program, namespaces=namespaces)
                await channel.send(request, [theirs.fileno(), *fds])
        except BaseException:
            jail.abandon()
            raise
        return jail

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

    async def aclose(self) -> None:
        """Ends the sandbox; returns when its processes, mounts and groups are gone."""
        self._channel.close()
        if self._inner is not None:
            self._inner.close()
        close_all(self._fds)
        self._fds = self._tables = []
        with trio.CancelScope(shield=True):
            await self._ended.wait()


class Jail:
    """One PID namespace with its init.

    Several tasks may wait for different events: each takes turns in receiving, notes what came,
    and looks whether it was what it waits for.
    """

    def __init__(self, channel: Channel[InitReply], *, namespaces: bool) -> None:
        self._channel = channel
        self._own_fds = 3 if namespaces else 1
        self._receiving = trio.Lock()
        self._fds: list[int] = []
        self._lost: SandboxLostError | None = None
        self._closed = False
        self._over = trio.Event()
        self.pid: int | None = None
        self.exited: Exited | None = None
        self.children_fds: list[int] = []
        self._program_fds: list[int] = []
        self._spawn_failure: Failure | None = None
        self._swept: list[int] = []
        self._sweeps = 0

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
                    self._lost = error
                    continue
                self._note(reply, fds)

    def _note(self, reply: InitReply, fds: list[int]) -> None:
        match reply:
            case InitReady(pid=pid, failure=failure):
                self._fds, watched = fds[: self._own_fds], fds[self._own_fds :]
                self.children_fds, self._program_fds = watched[:2], watched[2:]
                self.pid = pid
                self._spawn_failure = failure
            case Exited():
                self.exited = reply
            case Swept(killed=killed):
                self._swept.append(killed)
            case Failed(failure=failure):
                self._lost = SandboxLostError(str(failure.as_isolation_error()))

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
        if failure := self._spawn_failure:
            raise NotStartedError(failure.step, failure.errno, failure.subject)
        assert self.pid is not None
        return self.pid

    async def wait_exited(self) -> Exited:
        """Waits until its program has ended."""
        await self.wait_started()
        await self._wait_until(lambda: self.exited is not None)
        assert self.exited is not None
        return self.exited

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
    ) -> int:
        """Ends all processes but the spared and the kept with their descendants.

        Returns:
            How many were ended. None of them is alive any more.
        """
        self._sweeps += 1  # answers come in the order of the questions, also of cancelled ones
        number = self._sweeps
        await self._channel.send(
            Sweep(
                spare=tuple(spare),
                keep=tuple(keep),
                since_ticks=since_ticks,
                break_shell=break_shell,
                trees=tuple(trees),
            )
        )
        await self._wait_until(lambda: len(self._swept) >= number)
        return self._swept[number - 1]

    def abandon(self) -> None:
        """Closes a jail whose making was never asked for."""
        self._closed = True
        self._over.set()
        self._channel.close()

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
