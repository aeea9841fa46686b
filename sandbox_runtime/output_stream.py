"""One output stream of what runs: its pipe, what is kept of it, and who hears of it."""

from __future__ import annotations

import array
import contextlib
import fcntl
import inspect
import os
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.budget import Claim

    OutputHandler = Callable[[bytes], Awaitable[None] | None]

CHUNK_BYTES = 256 * 1024
_BIG_PIPE_BYTES = 1024 * 1024


class Stream:
    """One output stream: what is kept of it, and how much there was.

    Attributes:
        read_fd: The end that this process reads, or None before there is one, and once it is at
            its end.
        write_fd: The end that the command gets, or None once it is given away.
        total_bytes: How much came.
    """

    def __init__(
        self,
        limit_bytes: int,
        on_output: OutputHandler | None,
        log: Callable[[bytes], None] | None = None,
        memory: Claim | None = None,
    ) -> None:
        self.read_fd: int | None = None
        self.write_fd: int | None = None
        self._limit_bytes = limit_bytes
        self._on_output = on_output
        self._log = log
        self._memory = memory
        self._kept = bytearray()
        self.total_bytes = 0

    def make_pipe(self) -> None:
        """Makes both ends, as the core does for commands (`pipe_to_read`)."""
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_fd, False)
        os.fchmod(self.write_fd, 0o666)  # so that the sandbox's user may open /dev/stderr

    async def take(self, chunk: bytes) -> None:
        """Takes what was read."""
        self.count(chunk)
        await self.tell(chunk)

    async def tell(self, chunk: bytes) -> None:
        """Has whoever wants to hear of it hear it."""
        if self._on_output is not None:
            handled = self._on_output(chunk)
            if inspect.isawaitable(handled):
                await handled

    @property
    def kept(self) -> bytes:
        """What came first, up to the limit."""
        return bytes(self._kept)

    @property
    def is_full(self) -> bool:
        """Whether what comes from here on is only counted."""
        return len(self._kept) >= self._limit_bytes

    @property
    def calls_back(self) -> bool:
        """Whether somebody is to hear each piece."""
        return self._on_output is not None

    def mute(self) -> None:
        """Whoever wanted to hear what comes hears no more; it is still kept."""
        self._on_output = None

    def start_over(self, limit_bytes: int, memory: Claim) -> None:
        """Forgets what was kept; what comes from here on is kept up to limits of its own."""
        self._kept = bytearray()
        self._limit_bytes = limit_bytes
        self._memory = memory
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

    def count(self, chunk: bytes) -> None:
        """Takes note of what was read, without calling anybody back."""
        self.total_bytes += len(chunk)
        if room := self._limit_bytes - len(self._kept):
            if self._memory is not None:
                room = self._grant(self._memory, min(room, len(chunk)))
            self._kept += chunk if len(chunk) <= room else memoryview(chunk)[:room]
        if self._log is not None:
            self._log(chunk)

    def _grant(self, memory: Claim, wanted_bytes: int) -> int:
        """How much may be kept; if that is less, nothing is from here on, as it has no gap."""
        got = memory.take(wanted_bytes)
        if got < wanted_bytes:
            self._limit_bytes = len(self._kept) + got
        return got

    async def read_some(self, most_bytes: int = CHUNK_BYTES) -> int:
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
        await self.take(chunk)
        return len(chunk)

    async def read_available(self) -> None:
        """Reads what lies in the pipe at this moment, and nothing that comes meanwhile."""
        left = self.available_bytes()
        while left > 0 and (read := await self.read_some(min(left, CHUNK_BYTES))):
            left -= read
