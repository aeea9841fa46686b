"""Reading what a command writes: all of it, byte for byte, and knowing when it is over.

A command has pipes of its own. Its end is told on another descriptor; when that says so, every
byte of the foreground is in the pipes already, so what `FIONREAD` counts at that moment is read
and no more: a background job that writes on and on cannot make the end wait.

All descriptors are watched through one epoll, which costs trio one wait instead of three tasks.

Most commands are over at the first look, with all that they wrote: `first_look` is that look, and
the core's (`command.rs`). Whatever is not over then is read on by `read_until`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import trio

from sandbox_runtime.arguments import check_callbacks
from sandbox_runtime.errors import (
    InvalidArgumentError,
    SandboxClosedError,
    SandboxLostError,
    named,
)
from sandbox_runtime.output_stream import Stream

if TYPE_CHECKING:
    from sandbox_runtime.budget import Claim
    from sandbox_runtime.core import Command
    from sandbox_runtime.jail import Jail
    from sandbox_runtime.logs import Log
    from sandbox_runtime.output_stream import OutputHandler

_ANSWER_BYTES = 64  # of a shell, which has 56; one that fills them is none
_READS_BETWEEN_CHECKPOINTS = 16
_LOOKS_BETWEEN_WAITS = 16

_looks = itertools.count()


class Found(NamedTuple):
    """What the first look at a command found, once there was an answer.

    Attributes:
        answer: What its end was told with, or the beginning of that; empty if nothing can come.
        stdout: What was in the pipe.
        stderr: Likewise.
    """

    answer: bytes
    stdout: bytes
    stderr: bytes


class EndSignal(Protocol):
    """Tells when a command is over."""

    def fileno(self) -> int:
        """What becomes readable when there is news."""

    async def take(self) -> bool:
        """Takes the news, without waiting for more; True when the command is over."""


class Shell(EndSignal, Protocol):
    """Tells it in packets, of many commands one after another.

    Attributes:
        epoll: Waits for its socket.
    """

    epoll: select.epoll

    def accept(self, answer: bytes) -> bool:
        """Takes a packet; True when the command is over, or the shell is."""


class _Latch:
    """An end that is told by a task of this process."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        os.eventfd_write(self._fd, 1)

    async def take(self) -> bool:
        return True

    def close(self) -> None:
        os.close(self._fd)


class Capture:
    """Both output streams of one command. A context manager: it closes what is still open.

    What comes is kept up to a limit, the first of it; or, with a log, by that.

    Args:
        limit_bytes: How much of each stream is kept.
        on_stdout: Called with each piece as it comes.
        on_stderr: Likewise.
        log: Keeps both streams.
        memory: What is kept is taken from it; where it ends, no more is kept.
        make_pipes: Whether to make the pipes; without them somebody else does, see `adopt`.
    """

    def __init__(
        self,
        limit_bytes: int,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        *,
        log: Log | None = None,
        memory: Claim | None = None,
        make_pipes: bool = True,
    ) -> None:
        if not isinstance(limit_bytes, int) or limit_bytes < 0:
            raise InvalidArgumentError("limit_bytes", "must be a number of bytes, 0 or more")
        check_callbacks(on_stdout=on_stdout, on_stderr=on_stderr)
        kept_bytes = limit_bytes if log is None else 0
        out_log, err_log = (None, None) if log is None else (log.append_stdout, log.append_stderr)
        self.stdout = Stream(kept_bytes, on_stdout, out_log, memory)
        self.stderr = Stream(kept_bytes, on_stderr, err_log, memory)
        self._given_up = False
        self._waits_for: select.epoll | None = None
        if make_pipes:
            self.make_pipes()

    def make_pipes(self) -> None:
        """Makes them, if nobody has."""
        if self.stdout.read_fd is not None:
            return
        self.stdout.make_pipe()
        try:
            self.stderr.make_pipe()
        except BaseException:
            self.stdout.close()
            raise

    def adopt(self, command: Command) -> None:
        """Takes over the pipes of a command, and the writing ends that are still held."""
        (out, stdout), (err, stderr) = command.release()
        self.stdout.read_fd, self.stdout.write_fd = out, stdout
        self.stderr.read_fd, self.stderr.write_fd = err, stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def streams(self) -> tuple[Stream, Stream]:
        """Standard output and standard error."""
        return (self.stdout, self.stderr)

    @property
    def write_fds(self) -> tuple[int, int]:
        """What the command gets as 1 and 2."""
        assert self.stdout.write_fd is not None
        assert self.stderr.write_fd is not None
        return (self.stdout.write_fd, self.stderr.write_fd)

    @property
    def calls_back(self) -> bool:
        """Whether somebody is to hear each piece."""
        return self.stdout.calls_back or self.stderr.calls_back

    @property
    def at_end(self) -> bool:
        """Whether every writer of both streams is gone."""
        return self.stdout.read_fd is None and self.stderr.read_fd is None

    def give_up(self) -> None:
        """Makes `read_until` return, where it has no callback to wait for; nothing is lost.

        For one that reads thousands of short commands a cancel scope would cost as much as all the
        rest of the reading.
        """
        self._given_up = True
        if self._waits_for is not None:
            trio.lowlevel.notify_closing(self._waits_for)

    @property
    def given_up(self) -> bool:
        """Whether `give_up` was called."""
        return self._given_up

    def go_on(self) -> None:
        """Takes `give_up` back, so that it can be read from again."""
        self._given_up = False

    def mute(self) -> None:
        """Calls nobody back from here on."""
        for stream in self.streams:
            stream.mute()

    def close_write_ends(self) -> None:
        """Once the command holds them."""
        self.stdout.close_write_end()
        self.stderr.close_write_end()

    def close(self) -> None:
        """Closes everything."""
        self.stdout.close()
        self.stderr.close()

    async def first_look(
        self, command: Command, epoll: select.epoll, most_bytes: int
    ) -> Found | None:
        """Waits until there is news of a command, and looks once.

        Its pipes are this capture's afterwards, unless they are at their end.

        Args:
            command: What was sent.
            epoll: What waits for it.
            most_bytes: Of its answer.

        Returns:
            None if there is no answer: it has only written something, or `give_up` was called.

        Cancellation: nothing is lost; `read_until` can be called then.
        """
        found = None
        try:
            if not self._given_up:
                # Whoever was woken on this processor may have run in this process's place and be
                # done by now. Every so often it waits all the same, so that other tasks run.
                if next(_looks) % _LOOKS_BETWEEN_WAITS:
                    found = command.collect(most_bytes)
                if found is None:
                    await self._wait_for(epoll)
                    found = command.collect(most_bytes)
        finally:
            if found is None or not (found[2] and found[4]):
                self.adopt(command)
            else:
                command.close()
        return None if found is None else Found(found[0], found[1], found[3])

    async def take(self, found: Found) -> None:
        """Takes what the first look found; all is kept before anybody is called back."""
        if found.stdout:
            self.stdout.count(found.stdout)
        if found.stderr:
            self.stderr.count(found.stderr)
        if found.stdout:
            await self.stdout.tell(found.stdout)
        if found.stderr:
            await self.stderr.tell(found.stderr)

    async def read_command(self, command: Command, shell: Shell) -> None:
        """Reads until a session's shell says that a command is over; most need one look.

        Cancellation: nothing that was read is lost; `read_until` can be called then.
        """
        if self.calls_back:
            self.adopt(command)
        elif (found := await self.first_look(command, shell.epoll, _ANSWER_BYTES)) is not None:
            await self.take(found)
            if shell.accept(found.answer):
                if not self.at_end:
                    await self.drain()
                return
        self.close_write_ends()
        await self.read_until(shell, shell.epoll)

    async def read_until(
        self,
        end: EndSignal | None,
        epoll: select.epoll | None = None,
        *,
        pause_s: float = 0,
    ) -> None:
        """Reads until `end` says that the command is over; None: until both streams have ended.

        Args:
            end: What says so.
            epoll: One that waits for `end` already, of whoever has many commands one after
                another. It does afterwards what it did before.
            pause_s: How long to wait after each reading of a stream that is full. Its writer goes
                on, no faster than that, and nobody's processor is busy with what is thrown away.

        Cancellation: nothing that was read is lost, and it can be called again.
        """
        if epoll is not None:
            await self._read_until(end, epoll, pause_s)
            return
        with contextlib.closing(select.epoll()) as own:
            if end is not None:
                own.register(end.fileno(), select.EPOLLIN)
            await self._read_until(end, own, pause_s)

    async def _read_until(self, end: EndSignal | None, epoll: select.epoll, pause_s: float) -> None:
        watched = {s.read_fd: s for s in self.streams if s.read_fd is not None}
        end_fd = -1 if end is None else end.fileno()
        try:
            for fd in watched:
                epoll.register(fd, select.EPOLLIN)
            turns = 0
            while (watched or end is not None) and not self._given_up:
                # There is seldom news at once, and to look would cost as much as to wait.
                events = epoll.poll(0) if turns else []
                turns += 1
                if not events:
                    await self._wait_for(epoll)
                    continue
                if turns % _READS_BETWEEN_CHECKPOINTS == 0:
                    await trio.lowlevel.checkpoint()
                over = is_full = False
                for fd, _ in events:
                    if fd == end_fd:
                        assert end is not None
                        over = await end.take()
                    # What is not watched was closed, but for a copy in a child about to execute.
                    elif fd in watched:
                        is_full |= await self._read_watched(fd, watched)
                if over:
                    await self.drain()
                    return
                if is_full and pause_s:
                    await trio.sleep(pause_s)
        finally:
            for fd, stream in watched.items():
                if stream.read_fd == fd:
                    with contextlib.suppress(FileNotFoundError):  # it was never registered
                        epoll.unregister(fd)

    @staticmethod
    async def _read_watched(fd: int, watched: dict[int, Stream]) -> bool:
        """Reads once; True when the stream only counts what comes from here on."""
        stream = watched[fd]
        await stream.read_some()
        if stream.read_fd is None:
            del watched[fd]  # epoll forgot it when it was closed
        return stream.is_full

    async def _wait_for(self, epoll: select.epoll) -> None:
        self._waits_for = epoll
        try:
            await trio.lowlevel.wait_readable(epoll)
        except trio.ClosedResourceError:
            if not self._given_up:
                raise
        except OSError as error:
            raise named(error) from None
        finally:
            self._waits_for = None

    async def read_until_ended(self, jail: Jail) -> None:
        """Reads until a jail's program has ended, ends the rest of the jail, reads what is left.

        A process of another jail that was handed a pipe cannot make that wait.
        """
        error: Exception | None = None

        async def end_jail() -> None:
            with contextlib.suppress(SandboxLostError, SandboxClosedError):
                await jail.wait_exited()
            await jail.aclose()
            over.set()

        with contextlib.closing(_Latch()) as over:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_jail)
                try:
                    await self.read_until(over)
                except Exception as raised:  # noqa: BLE001 - raised again below, outside
                    error = raised
                    nursery.cancel_scope.cancel()
        if error is not None:
            raise error  # plain, as a callback raised it, not in a group

    async def catch_up(self) -> None:
        """Reads what is in the pipes at this moment."""
        for stream in self.streams:
            await stream.read_available()

    async def drain(self) -> None:
        """Reads what is in the pipes at this moment, and sees whether they are at their end."""
        for stream in self.streams:
            if not await stream.read_some():  # most are empty, and one call says so
                continue
            await stream.read_available()
            if stream.read_fd is not None:
                poll = select.poll()
                poll.register(stream.read_fd, select.POLLIN)
                if any(event & select.POLLHUP for _, event in poll.poll(0)):
                    # No writer is left, so what came since belongs to the command. Once more and no
                    # further: user code that has kept a reader can open new writers on it for ever.
                    await stream.read_available()
                    await stream.read_some()  # sees the end, if it still is one
