"""Packet sockets with descriptors, and messages over them.

Waiting is trio's: a read is tried first and waited for only if it would block, which on a busy
machine saves a trip through the event loop.

A packet is a byte 0 and the message as MessagePack, or a byte 1 with the message in a memory file
behind the other descriptors.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import trio

from sandbox_runtime.errors import SandboxClosedError, SandboxLostError, named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_INLINE_BYTES = 64 * 1024
_MAX_DESCRIPTORS = 32
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)

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


def send_some(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int] = ()) -> int:
    """Sends what fits of `data`, with descriptors on its first byte, which stay the caller's.

    Returns:
        How much was sent; of a packet always all.

    Raises:
        HostLimitError: As many descriptors are on their way as may be; nothing was sent.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        return sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
    except OSError as error:
        raise named(error) from None


def send_now(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> bool:
    """Sends one packet with descriptors, which stay the caller's; False if it has to wait.

    Raises:
        SandboxLostError: The other end has died.
    """
    try:
        send_some(sock, packet, fds)
    except BlockingIOError:
        return False
    except (BrokenPipeError, ConnectionResetError) as error:
        raise SandboxLostError("the sandbox has died") from error
    return True


async def send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> None:
    """As `send_now`, and waits; one task at a time for each socket."""
    while not send_now(sock, packet, fds):
        await trio.lowlevel.wait_writable(sock)


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

    def offer(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> bool:
        """Sends one message if it is short and can go at once; False if `send` has to.

        Raises:
            SandboxLostError: The other end has died.
        """
        if self._closed:
            raise SandboxClosedError("it is closed")
        body = msgspec.msgpack.encode(message)
        if len(body) > _INLINE_BYTES or self._sending.locked():
            return False
        return send_now(self._socket, b"\0" + body, fds)

    async def _send_packet(self, packet: bytes, fds: Sequence[int]) -> None:
        # Whoever waits for room was first.
        if not self._sending.locked() and send_now(self._socket, packet, fds):
            return
        async with self._sending:
            if self._closed:
                raise SandboxClosedError("it is closed")
            try:
                await send_packet(self._socket, packet, fds)
            except trio.ClosedResourceError:
                raise SandboxClosedError("it is closed") from None

    async def receive(self) -> tuple[ReplyT, list[int]]:
        """Waits for one message; its descriptors are the caller's from then on.

        Raises:
            SandboxLostError: The other end has died.
        """
        while (received := self.receive_now()) is None:
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except trio.ClosedResourceError:
                raise SandboxClosedError("it is closed") from None
            except OSError as error:
                raise named(error) from None
        return received

    def receive_now(self) -> tuple[ReplyT, list[int]] | None:
        """As `receive`, without waiting; None if nothing has come."""
        if self._closed:
            raise SandboxClosedError("it is closed")
        try:
            packet, fds = _receive_with_descriptors(self._socket)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            packet, fds = self._receive_last()
        if not packet:
            raise SandboxLostError("the sandbox has died")
        try:
            return self._decoder.decode(memoryview(packet)[1:]), fds
        except msgspec.MsgspecError as error:
            close_all(fds)
            raise SandboxLostError(f"the sandbox speaks nonsense: {error}") from error

    def _receive_last(self) -> tuple[bytes, list[int]]:
        """What the other end has sent before it died with something of ours unread.

        The kernel tells of that once, ahead of the packets that wait.
        """
        try:
            return _receive_with_descriptors(self._socket)
        except (BlockingIOError, ConnectionResetError):
            return b"", []

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def finish(self) -> None:
        """Tells the other side that nothing more will come; it can still be read from."""
        if not self._closed:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes this end."""
        if not self._closed:
            self._closed = True
            if trio.lowlevel.in_trio_run():  # else nobody waits for it
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
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        why = _why_truncated(sock)
        close_all(fds)
        raise SandboxLostError(why)
    if packet and packet[0] == 1 and fds:
        with open(fds.pop(), "rb") as file:
            file.seek(0)
            packet = b"\0" + file.read()
    return packet, list(fds)


def _why_truncated(sock: socket.socket) -> str:
    """The kernel drops descriptors for which this process has no number left, see unix(7)."""
    try:
        os.close(os.dup(sock.fileno()))
    except OSError as error:
        return f"a message was lost: {os.strerror(error.errno or 0)}; raise `ulimit -n` here"
    return "the sandbox sent more than was agreed"
