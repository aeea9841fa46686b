"""The bytes of files on their way: out of an open file, and into a pipe."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Self

import trio

_CHUNK_BYTES = 1024 * 1024
_PIPE_BYTES = 64 * 1024
_WOULD_WAIT = {errno.EAGAIN, errno.EOPNOTSUPP}


class Content:
    """An open file. A context manager: it closes it."""

    def __init__(self, fd: int, *, in_memory: bool) -> None:
        self._fd = fd
        self._in_memory = in_memory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)

    async def read_at(self, offset: int, most_bytes: int) -> bytes:
        """What is there, once; a disk that has to be waited for is waited for in a thread."""
        if self._in_memory:
            await trio.lowlevel.checkpoint()
            return os.pread(self._fd, most_bytes, offset)
        buffer = bytearray(most_bytes)
        try:
            length = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _WOULD_WAIT:
                raise
            return await trio.to_thread.run_sync(os.pread, self._fd, most_bytes, offset)
        await trio.lowlevel.checkpoint()
        del buffer[length:]
        return bytes(buffer)


class ContentPipe:
    """A pipe whose read end goes to the file service. A context manager: it closes both."""

    def __init__(self) -> None:
        self._read_fd: int | None
        self._write_fd: int | None
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._write_fd, False)
        self._widened = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close_read_end()
        self.close()

    @property
    def read_fd(self) -> int:
        """What the file service gets."""
        assert self._read_fd is not None
        return self._read_fd

    def close_read_end(self) -> None:
        """Once the file service holds it."""
        if self._read_fd is not None:
            os.close(self._read_fd)
            self._read_fd = None

    def close(self) -> None:
        """Nothing more will come."""
        if self._write_fd is not None:
            trio.lowlevel.notify_closing(self._write_fd)
            os.close(self._write_fd)
            self._write_fd = None

    async def send_all(self, view: memoryview) -> bool:
        """Writes everything; False when nobody reads it any more."""
        if self._write_fd is None:
            return False
        if len(view) > _PIPE_BYTES and not self._widened:
            self._widened = True
            # Fewer, larger turns. More than the user's share is refused.
            with suppress(OSError):
                fcntl.fcntl(self._write_fd, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)
        try:
            while view:
                try:
                    view = view[os.write(self._write_fd, view[:_CHUNK_BYTES]) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._write_fd)
                else:
                    await trio.lowlevel.checkpoint()
        except BrokenPipeError:
            return False
        return True
