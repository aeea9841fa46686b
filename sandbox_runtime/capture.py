"""Reading what a command writes: all of it, byte for byte, and knowing when it is over.

A command has pipes of its own. Its end is told on another descriptor; when that says so, every
byte of the foreground is in the pipes already, so what `FIONREAD` counts at that moment is read
and no more: a background job that writes on and on cannot make the end wait.

All descriptors are watched through one epoll, which costs trio one wait instead of three tasks.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import inspect
import os
import select
import termios
from typing import TYPE_CHECKING, Protocol, Self

import trio

from sandbox_runtime.errors import InvalidArgumentError, SandboxClosedError, SandboxLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.jail import Jail
    from sandbox_runtime.logs import Log

    OutputHandler = Callable[[bytes], Awaitable[None] | None]

_CHUNK_BYTES = 256 * 1024
_BIG_PIPE_BYTES = 1024 * 1024
_READS_BETWEEN_CHECKPOINTS = 16


class Stream:
    """One output stream: what is kept of it, and how much there was.

    Attributes:
        read_fd: The end that this process reads, or None once it is at its end.
        write_fd: The end that the command gets, or None once it is given away.
        total_bytes: How much came.
    """

    def __init__(
        self,
        limit_bytes: int,
        on_output: OutputHandler | None,
        log: Callable[[bytes], None] | None = None,
    ) -> None:
        self.read_fd: int | None
        self.write_fd: int | None
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_fd, False)
        self._limit_bytes = limit_bytes
        self._on_output = on_output
        self._log = log
        self._kept = bytearray()
        self.total_bytes = 0

    @property
    def kept(self) -> bytes:
        """What came first, up to the limit."""
        return bytes(self._kept)

    @property
    def is_full(self) -> bool:
        """Whether what comes from here on is only counted."""
        return len(self._kept) >= self._limit_bytes

    def mute(self) -> None:
        """Whoever wanted to hear what comes hears no more; it is still kept."""
        self._on_output = None

    def start_over(self, limit_bytes: int) -> None:
        """Forgets what was kept; what comes from here on is kept up to a limit of its own."""
        self._kept = bytearray()
        self._limit_bytes = limit_bytes
        self.mute()
        self.total_bytes = 0

    def close_write_end(self) -> None:
        """Once the command holds it; else this process would keep the pipe from its end."""
        if self.write_fd is not None:
            os.close(self.write_fd)
            self.write_fd = None

    def close(self) -> None:
        """Closes both ends; whoever still writes gets SIGPIPE."""
        self.close_write_end()
        if self.read_fd is not None:
            os.close(self.read_fd)
            self.read_fd = None

    def available_bytes(self) -> int:
        """How much lies in the pipe."""
        if self.read_fd is None:
            return 0
        count = array.array("i", [0])
        fcntl.ioctl(self.read_fd, termios.FIONREAD, count)
        return count[0]

    async def read_some(self, most_bytes: int = _CHUNK_BYTES) -> int:
        """Reads once, if anything is there; closes the pipe at its end.

        Returns:
            How much was read.
        """
        if self.read_fd is None:
            return 0
        try:
            chunk = os.read(self.read_fd, most_bytes)
        except BlockingIOError:
            return 0
        if not chunk:
            self.close()
            return 0
        if self.total_bytes == 0 and len(chunk) >= 64 * 1024:
            # Somebody has much to say: fewer, larger turns. More than the user's share is refused.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.read_fd, fcntl.F_SETPIPE_SZ, _BIG_PIPE_BYTES)
        self.total_bytes += len(chunk)
        if room := self._limit_bytes - len(self._kept):
            self._kept += chunk if len(chunk) <= room else memoryview(chunk)[:room]
        if self._log is not None:
            self._log(chunk)
        if self._on_output is not None:
            handled = self._on_output(chunk)
            if inspect.isawaitable(handled):
                await handled
        return len(chunk)


class EndSignal(Protocol):
    """Tells when a command is over."""

    def fileno(self) -> int:
        """What becomes readable when there is news."""

    async def take(self) -> bool:
        """Takes the news, without waiting for more; True when the command is over."""


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
    """

    def __init__(
        self,
        limit_bytes: int,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        *,
        log: Log | None = None,
    ) -> None:
        if not isinstance(limit_bytes, int) or limit_bytes < 0:
            raise InvalidArgumentError("limit_bytes", "must be a number of bytes, 0 or more")
        kept_bytes = limit_bytes if log is None else 0
        self.stdout = Stream(kept_bytes, on_stdout, None if log is None else log.append_stdout)
        try:
            self.stderr = Stream(kept_bytes, on_stderr, None if log is None else log.append_stderr)
        except BaseException:
            self.stdout.close()
            raise

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
    def at_end(self) -> bool:
        """Whether every writer of both streams is gone."""
        return self.stdout.read_fd is None and self.stderr.read_fd is None

    def mute(self) -> None:
        """Calls nobody back from here on."""
        for stream in self.streams:
            stream.mute()

    def close_write_ends(self) -> None:
        """Once the command holds them."""
        for stream in self.streams:
            stream.close_write_end()

    def close(self) -> None:
        """Closes everything."""
        for stream in self.streams:
            stream.close()

    async def read_until(self, end: EndSignal | None, *, pause_s: float = 0) -> None:
        """Reads until `end` says that the command is over; None: until both streams have ended.

        Args:
            end: Tells it.
            pause_s: How long to wait after each reading of a stream that is full. Its writer goes
                on, no faster than that, and nobody's processor is busy with what is thrown away.

        Cancellation: nothing that was read is lost, and it can be called again.
        """
        with contextlib.closing(select.epoll()) as epoll:
            watched: dict[int, Stream] = {}
            for stream in self.streams:
                if stream.read_fd is not None:
                    epoll.register(stream.read_fd, select.EPOLLIN)
                    watched[stream.read_fd] = stream
            end_fd = -1 if end is None else end.fileno()
            if end is not None:
                epoll.register(end_fd, select.EPOLLIN)
            turns = 0
            while watched or end is not None:
                events = epoll.poll(0)
                turns += 1
                if not events:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    continue
                if turns % _READS_BETWEEN_CHECKPOINTS == 0:
                    await trio.lowlevel.checkpoint()
                over = paused = False
                for fd, _ in events:
                    if fd == end_fd:
                        assert end is not None
                        over = await end.take()
                        continue
                    stream = watched[fd]
                    await stream.read_some()
                    paused = paused or stream.is_full
                    if stream.read_fd is None:
                        del watched[fd]  # epoll forgot it when it was closed
                if over:
                    await self.drain()
                    return
                if paused and pause_s:
                    await trio.sleep(pause_s)

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

    async def drain(self) -> None:
        """Reads what is in the pipes at this moment, and sees whether they are at their end."""
        for stream in self.streams:
            left = stream.available_bytes()
            while left > 0 and (read := await stream.read_some(min(left, _CHUNK_BYTES))):
                left -= read
            if stream.read_fd is not None:
                poll = select.poll()
                poll.register(stream.read_fd, select.POLLIN)
                if any(event & select.POLLHUP for _, event in poll.poll(0)):
                    # No writer is left, so what came since belongs to the command. Once more and no
                    # further: user code that has kept a reader can open new writers on it for ever.
                    left = stream.available_bytes()
                    while left > 0 and (read := await stream.read_some(min(left, _CHUNK_BYTES))):
                        left -= read
                    await stream.read_some()  # sees the end, if it still is one
