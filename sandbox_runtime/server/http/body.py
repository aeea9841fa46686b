"""The body of a request, read as it arrives: nothing is received that nobody asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sandbox_runtime.server.http.chunked import ChunkedBody
from sandbox_runtime.server.http.failures import (
    BusyError,
    PayloadTooLargeError,
    RequestTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.budget import Claim
    from sandbox_runtime.server.http.limits import HttpLimits
    from sandbox_runtime.server.http.parsing import Head
    from sandbox_runtime.server.http.sockets import EagerStream

_FREE_BYTES = 64 * 1024  # whoever ends something is heard also when no memory is left
_SKIPPED_BYTES = 256 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Body:
    """Reads one body off a connection, and not a byte more.

    Attributes:
        ended: Whether all of it was read.
        awaited: Whether the client still waits to be told to send it.
    """

    __slots__ = (
        "_chunks",
        "_given_up",
        "_left",
        "_limits",
        "_memory",
        "_receive",
        "_stream",
        "awaited",
        "ended",
    )

    def __init__(
        self,
        head: Head,
        stream: EagerStream,
        receive: Callable[[], Awaitable[bytes]],
        limits: HttpLimits,
        memory: Claim,
    ) -> None:
        self._stream = stream
        self._receive = receive
        self._limits = limits
        self._given_up = False
        self._memory = memory
        self._chunks = ChunkedBody() if head.chunked else None
        self._left = head.content_length
        self.ended = not head.chunked and not head.content_length
        self.awaited = head.expects_continue and not self.ended

    def is_worth_skipping(self) -> bool:
        """Whether reading what is left costs less than a new connection."""
        if self.awaited or self._given_up:
            return False
        return self._chunks is None and self._left <= _SKIPPED_BYTES

    async def invite(self) -> None:
        """Tells a client that waits for it to send the body."""
        self.awaited = False
        if not self._stream.unread:
            await self._stream.send_all(_CONTINUE)

    async def receive_some(self) -> bytes:
        """The next part as soon as there is any; empty at the end."""
        while not self.ended:
            if self.awaited:
                await self.invite()
            data = await self._receive()
            if self._chunks is not None:
                content, self._stream.unread = self._chunks.feed(data)
                self.ended = self._chunks.ended
                if content:
                    return content
            else:
                if len(data) > self._left:
                    data, self._stream.unread = data[: self._left], data[self._left :]
                self._left -= len(data)
                self.ended = not self._left
                return data
        return b""

    async def read(self, limit_bytes: int | None) -> bytes:
        """All that is left of it."""
        most = self._limits.body_bytes if limit_bytes is None else limit_bytes
        if self._chunks is None and self._left > most:
            raise PayloadTooLargeError(most)
        length = self._left
        whole = bytearray()
        started_s = trio.current_time()
        while part := await self.receive_some():
            if len(whole) + len(part) > most:
                raise PayloadTooLargeError(most)
            beyond = min(len(part), len(whole) + len(part) - _FREE_BYTES)
            if beyond > 0 and self._memory.take(beyond) < beyond:
                raise BusyError
            if self._chunks is None and len(part) == length:
                return part
            whole += part
            if not self.ended:
                self._check_rate(len(whole), trio.current_time() - started_s)
        return bytes(whole)

    def _check_rate(self, received_bytes: int, took_s: float) -> None:
        """What holds memory for a body shall not be held for as long as a client likes.

        Raises:
            RequestTimeoutError: It comes too slowly.
        """
        least = self._limits.body_bytes_per_s
        if took_s > self._limits.body_s + received_bytes / least:
            self._given_up = True
            raise RequestTimeoutError(
                f"the body of the request comes slower than {least:g} bytes a second"
            )
