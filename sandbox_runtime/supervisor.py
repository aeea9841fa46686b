"""The native process that makes sandboxes, from this process's side."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.channel import Channel, packet_pair
from sandbox_runtime.core import shell_builtin, start_supervisor
from sandbox_runtime.errors import IsolationError, SandboxClosedError, SandboxLostError
from sandbox_runtime.keeper import Keeper
from sandbox_runtime.messages import (
    LOOPBACK,
    CreateSandbox,
    Failed,
    HostNetwork,
    KeeperReply,
    LoopbackNetwork,
    SandboxEnded,
    Start,
    Started,
    StartZygote,
    SupervisorReply,
    encode_env,
)
from sandbox_runtime.pidfds import wait_process_end
from sandbox_runtime.report import step_remedy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_runtime.settings import Limits

launchers: set[int] = set()
"""The children of this process that this module waits for."""


def _reap(pid: int) -> None:
    """Takes the status of a child that has ended, unless somebody else has (SIGCHLD ignored)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    launchers.discard(pid)


class Supervisor:
    """The native process that makes sandboxes, started and told what it is to be.

    Args:
        read_only_paths: What of the host its sandboxes show.

    Attributes:
        separate_ids: Whether sandboxes have user ids that nobody else has.
        private_ids: Those that are theirs.
    """

    def __init__(self, read_only_paths: Sequence[str]) -> None:
        self._launcher_pid, fd = start_supervisor()
        launchers.add(self._launcher_pid)
        sock = socket.socket(fileno=fd)
        try:
            self._launcher_pidfd = os.pidfd_open(self._launcher_pid)
        except BaseException:
            sock.close()  # which ends the launcher
            _reap(self._launcher_pid)
            raise
        self._channel: Channel[SupervisorReply] = Channel(sock, SupervisorReply)
        self._begin = Start(read_only_paths=tuple(read_only_paths))
        self._has_begun = False
        with contextlib.suppress(SandboxLostError):  # `start` says so
            self._has_begun = self._channel.offer(self._begin)
        self._ended: dict[int, trio.Event] = {}
        self._gone = trio.Event()
        self._closed = False
        self._next_id = 0
        self._shell_builtin: int | None = None
        self.separate_ids = False
        self.private_ids = range(0)

    @property
    def gone(self) -> bool:
        """Whether it has died, and every sandbox with it."""
        return self._gone.is_set()

    async def wait_gone(self) -> None:
        """Waits until it has died."""
        await self._gone.wait()

    async def start(self) -> None:
        """Waits until sandboxes can be made.

        Raises:
            IsolationError: They cannot be made here; it says why and what to do.
        """
        if not self._has_begun:
            await self._channel.send(self._begin)
        self._shell_builtin = shell_builtin()  # meanwhile
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
                raise failure.as_error()
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

    def shell_builtin(self) -> int:
        """The builtin of sessions: a sealed file, one for all shells, which share its pages.

        Raises:
            SandboxLostError: The runtime has ended.
        """
        if self._shell_builtin is None:
            raise SandboxLostError("the runtime has ended; open a new one")
        return self._shell_builtin

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
        keeper = await self.begin_sandbox(host_name, limits, network)
        try:
            await keeper.start()
        except BaseException:
            await keeper.aclose()
            raise
        return keeper

    async def begin_sandbox(
        self, host_name: str, limits: Limits, network: LoopbackNetwork | HostNetwork
    ) -> Keeper:
        """Asks for a sandbox, which is there after `Keeper.start`.

        Its jails can be asked for at once: they are made when it is there, if it ever is.

        Raises:
            SandboxClosedError: The runtime's block has ended.
            SandboxLostError: The runtime has died.
        """
        if self._closed:
            remedy = "Put `open_sandbox` inside of `async with open_runtime() as runtime:`"
            raise SandboxClosedError("the runtime's block has ended", remedy=remedy)
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
            keeper = Keeper(channels[0], ended, *channels[1:], shell_builtin=self.shell_builtin)
            request = CreateSandbox(id=number, host_name=host_name, limits=limits, network=network)
            try:
                await self._channel.send(request, fds)
            except BaseException:
                ended.set()  # it was never asked for
                self._ended.pop(number, None)
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

    def abandon(self) -> None:
        """Ends one that has made nothing yet; returns when it is gone."""
        self._channel.close()
        os.close(self._launcher_pidfd)
        _reap(self._launcher_pid)

    async def aclose(self) -> None:
        """Ends the supervisor and everything that it ever made; returns when that is gone."""
        self._closed = True
        self._channel.close()
        with trio.CancelScope(shield=True):
            await wait_process_end(self._launcher_pidfd)
        os.close(self._launcher_pidfd)
        _reap(self._launcher_pid)
        if self._shell_builtin is not None:
            os.close(self._shell_builtin)
            self._shell_builtin = None
