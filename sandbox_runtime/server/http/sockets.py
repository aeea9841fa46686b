"""A stream over a socket that tries first and waits second.

On a busy connection the next bytes are often there already, and an answer nearly always fits into
the socket's buffer. Asking the kernel first saves the trip through trio's scheduler, which costs
more than the call. Every sixteenth call that did not wait lets other tasks run.
"""

from __future__ import annotations

import contextlib
import socket

import trio

_CALLS_BETWEEN_CHECKPOINTS = 16
_RECEIVE_BYTES = 64 * 1024


class EagerStream(trio.abc.HalfCloseableStream):
    """The stream of one connected socket, which it owns.

    Attributes:
        unread: Bytes that were received and given back; they come first.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._calls = 0
        self.unread = b""

    @property
    def fd(self) -> int:
        """The descriptor, or -1 if it is closed."""
        return self._sock.fileno()

    def receive_nowait(self, max_bytes: int = _RECEIVE_BYTES) -> bytes | None:
        """What is there; empty at the end of the stream, None if there is nothing yet."""
        if self.unread:
            data, self.unread = self.unread, b""
            if len(data) > max_bytes:
                data, self.unread = data[:max_bytes], data[max_bytes:]
            return data
        try:
            return self._sock.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._failure(error) from error

    async def wait_readable(self) -> None:
        """Waits until `receive_nowait` has something to say."""
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        await trio.lowlevel.wait_readable(self._sock)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = self.receive_nowait(max_bytes or _RECEIVE_BYTES)
        if data is not None:
            await self.take_turn()
        while data is None:
            await self.wait_readable()
            data = self.receive_nowait(max_bytes or _RECEIVE_BYTES)
        return data

    def send_nowait(self, *parts: bytes | memoryview) -> int:
        """Sends what the kernel takes now, of one part after another.

        Returns:
            How many bytes it took.
        """
        try:
            return self._sock.send(parts[0]) if len(parts) == 1 else self._sock.sendmsg(parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._failure(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with memoryview(data) as view:
            sent = self.send_nowait(view)
            if sent == len(view):
                await self.take_turn()
            while sent < len(view):
                await self.wait_send_all_might_not_block()
                sent += self.send_nowait(view[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        await trio.lowlevel.wait_writable(self._sock)

    async def send_eof(self) -> None:
        self.end_sending()
        await trio.lowlevel.checkpoint()

    def end_sending(self) -> None:
        """Tells the peer that nothing follows, if it is still there."""
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        with contextlib.suppress(OSError):  # it has gone
            self._sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Closes the socket at once; who waits for it gets `trio.ClosedResourceError`."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def take_turn(self) -> None:
        """A checkpoint that is cheap most of the time."""
        self._calls += 1
        if self._calls % _CALLS_BETWEEN_CHECKPOINTS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    def _failure(self, error: OSError) -> Exception:
        if self._sock.fileno() < 0:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"the connection broke: {error.strerror}")
