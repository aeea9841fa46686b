"""ZeroMQ sockets on trio.

Theory of operation. A ZeroMQ socket has a descriptor that becomes readable when the library has
something to look at, once for all of it; whoever uses the socket in any way takes this news away,
also for who waits for something else. So one task waits for the descriptor on behalf of all, and
each use of the socket makes all who wait try again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATIENCE_S = 10.0
_IMPATIENCE_S = 0.01
_QUEUED_MESSAGES = 256
_LARGE_BYTES = 256 * 1024
_QUEUED_LARGE_BYTES = 64 * 1024 * 1024


class Channel:
    """One socket.

    Args:
        context: Of all sockets.
        kind: `zmq.ROUTER`, `zmq.REP` or `zmq.XPUB`.
        address: Where it listens.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> None:
        self._socket = context.socket(kind)
        self._waiting = trio.lowlevel.ParkingLot()
        self._socket.setsockopt(zmq.SNDHWM, _QUEUED_MESSAGES)
        self._socket.bind(address)

    async def run(self) -> None:
        """Serves those who wait; it is cancelled to end it."""
        fd = self._socket.getsockopt(zmq.FD)
        assert isinstance(fd, int)
        while True:
            await trio.lowlevel.wait_readable(fd)
            self._socket.getsockopt(zmq.EVENTS)  # this is what makes the library look
            self._waiting.unpark_all()

    async def receive(self) -> list[bytes]:
        """The next message."""
        await trio.lowlevel.checkpoint()
        while (frames := self.receive_nowait()) is None:
            await self._waiting.park()
        return frames

    def receive_nowait(self) -> list[bytes] | None:
        """The next message, if there is one already."""
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        self._waiting.unpark_all()
        return frames

    async def send(self, frames: Sequence[bytes]) -> None:
        """Sends a message, once there is room for it."""
        await trio.lowlevel.checkpoint()
        while not self._try_send(frames):
            await self._waiting.park()

    def _try_send(self, frames: Sequence[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._waiting.unpark_all()
        return True


class Publication(Channel):
    """What all front ends hear of.

    Who is slow slows the program down that prints, so that nothing is lost and little is kept.
    A front end that takes nothing for 10 s loses messages from there on, and costs the others
    little until it has caught up: each message waits just so long that those who read have read.

    ZeroMQ counts what waits in messages. Those that are large are counted in bytes here, all
    together: while somebody has not taken 64 MiB of them, further large ones go to nobody.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        super().__init__(context, zmq.XPUB, address)
        self._patience_s = self._patience_for_large_s = _PATIENCE_S
        self._large: list[tuple[zmq.MessageTracker, int]] = []
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of each front end, not of the first

    async def send(self, frames: Sequence[bytes]) -> None:
        """Sends a message to all, and waits for who is slow."""
        size_bytes = sum(map(len, frames))
        if size_bytes >= _LARGE_BYTES and not await self._make_room(size_bytes):
            return
        with trio.move_on_after(self._patience_s):
            await super().send(frames)
            self._patience_s = _PATIENCE_S
            return
        self._patience_s = _IMPATIENCE_S
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            self._try_send(frames)
        finally:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    @property
    def queued_large_bytes(self) -> int:
        """How much of large messages somebody has not taken yet."""
        self._large = [one for one in self._large if not one[0].done]
        return sum(size_bytes for _, size_bytes in self._large)

    async def _make_room(self, size_bytes: int) -> bool:
        """Waits until a large message may be queued; False if it may not."""
        patient_until_s = trio.current_time() + self._patience_for_large_s
        while (queued_bytes := self.queued_large_bytes) + size_bytes > _QUEUED_LARGE_BYTES:
            if not queued_bytes:
                break  # it is larger than all that may wait, but nothing waits
            left_s = max(0.0, patient_until_s - trio.current_time())
            try:
                oldest = self._large[0][0]
                await trio.to_thread.run_sync(oldest.wait, left_s, abandon_on_cancel=True)
            except zmq.NotDone:
                self._patience_for_large_s = _IMPATIENCE_S
                return False
        self._patience_for_large_s = _PATIENCE_S
        return True

    def _try_send(self, frames: Sequence[bytes]) -> bool:
        size_bytes = sum(map(len, frames))
        if size_bytes < _LARGE_BYTES:
            return super()._try_send(frames)
        try:
            tracker = self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False, track=True)
        except zmq.Again:
            return False
        assert tracker is not None
        self._large.append((tracker, size_bytes))
        self._waiting.unpark_all()
        return True

    async def subscription(self) -> bytes:
        """Waits for a front end that begins to listen; returns to what."""
        while True:
            (event, *_) = await self.receive()
            if event[:1] == b"\x01":
                return event[1:]
