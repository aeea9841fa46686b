"""One jail, from this process's side: its programs, its news, its end."""

from __future__ import annotations

import contextlib
import os
import signal as signals
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.channel import Channel, close_all
from sandbox_runtime.errors import (
    NotStartedError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.messages import (
    Adopt,
    Adopted,
    Execute,
    Exited,
    Failed,
    Failure,
    InitReady,
    InitReply,
    ProgramStarted,
    Signal,
    StartProgram,
    Sweep,
    Swept,
)
from sandbox_runtime.pidfds import has_ended, wait_process_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_runtime import core

EVERY_PROCESS = -1
"""Instead of a pid: everything in the jail but its init."""
FOR_EVER = 2**64 - 1
"""Later than whatever has started: a sweep with this as `since_ticks` ends what it names alone."""


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
        under_way: core.UnderWay,
    ) -> None:
        self._channel = channel
        self.count_memory_kills = count_memory_kills
        self.explain_loss = explain_loss
        self._own_fds = 3 if namespaces else 1
        self._under_way = under_way
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
        return bool(self._fds) and self.exited is None and not has_ended(self._fds[0])

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
        self._under_way.end()
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

    def start(self, program: Execute, fds: Sequence[int], under_way: core.UnderWay) -> bool:
        """Starts a program in a jail that was made without one.

        Args:
            program: What to start.
            fds: Its descriptors.
            under_way: Until it answers.

        Returns:
            Whether init was asked to; else it is gone, and nothing was.
        """
        self._under_way.end()
        self._under_way = under_way
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

    @property
    def program_pidfd(self) -> int | None:
        """The pidfd of its program, if that is watched."""
        return self._program_fds[1] if len(self._program_fds) > 1 else None

    def program_cwd(self) -> str | None:
        """The present directory of its program, if that is watched and alive and the directory is.

        As the sandbox sees it: the kernel names it up to the root of the jail's own mounts.
        """
        for fd in self._program_fds[:1]:
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
        close_all(self._fds)
        self._fds = []

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
