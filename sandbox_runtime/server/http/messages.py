"""What handlers see: a request, a response, and what connects them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes

import msgspec
import trio

if TYPE_CHECKING:
    from sandbox_runtime.budget import Claim
    from sandbox_runtime.server.http.body import Body
    from sandbox_runtime.server.http.parsing import Head


class Write(Protocol):
    """Sends a body in parts; any task may."""

    async def __call__(self, data: bytes) -> None:
        """Sends a part and waits until the client takes it.

        If the client has gone, the task of its request is cancelled.
        """

    def keep(self, data: bytes) -> None:
        """Sends a part together with the next one, or with the end."""


class Headers:
    """Header fields in their order, with repeats; names are compared without regard to case.

    Attributes:
        items: Names and values as they were received.
        found: What the handler has found in the head that they came with; its alone. A client that
            asks the same again sends the same head, which is read and looked at once.
    """

    __slots__ = ("_first", "found", "items")

    def __init__(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        self.items = tuple(items)
        self.found: object = None
        self._first: dict[bytes, bytes] = {}
        for name, value in self.items:
            self._first.setdefault(name.lower(), value)

    def get(self, name: str) -> str | None:
        """The first value of a field, or None."""
        value = self._first.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def get_all(self, name: str) -> list[str]:
        """All values of a field, in their order."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self.items if key.lower() == wanted]

    def __contains__(self, name: str) -> bool:
        return name.lower().encode("latin-1") in self._first

    def __repr__(self) -> str:
        return f"Headers({self.items!r})"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end of a connection.

    Attributes:
        address: Host and port of a TCP connection; None on a Unix socket.
        pid: The process that connected to a Unix socket, as this process sees it.
        uid: Its user.
        gid: Its group.
    """

    address: tuple[str, int] | None = None
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None


class Request:
    """One request. Its body may be read once, whole or in parts.

    Attributes:
        method: In the letters it was sent in.
        target: The request target as it was received.
        raw_path: Its path, still percent-encoded, before `?`.
        query: What stands behind `?`, as it was received; empty if nothing does.
        headers: The header fields.
        http_version: `1.1` or `1.0`.
        peer: Who sent it.
        memory: What is kept for it is to be taken from here; the server gives it back when the
            answer has been sent.
    """

    __slots__ = (
        "_body",
        "_path",
        "headers",
        "http_version",
        "memory",
        "method",
        "peer",
        "query",
        "raw_path",
        "target",
    )

    def __init__(self, head: Head, peer: Peer, body: Body, memory: Claim) -> None:
        self.method = head.method
        self.target = head.target
        self.headers = head.headers
        self.http_version = head.http_version
        self.raw_path = head.raw_path
        self.query = head.query
        self.peer = peer
        self.memory = memory
        self._path: str | None = None
        self._body = body

    @property
    def path(self) -> str:
        """The path, percent-decoded; bytes that are no UTF-8 show as U+FFFD."""
        if self._path is None:
            raw = unquote_to_bytes(self.raw_path) if b"%" in self.raw_path else self.raw_path
            self._path = raw.decode("utf-8", errors="replace")
        return self._path

    async def read(self, limit_bytes: int | None = None) -> bytes:
        """The whole body.

        Args:
            limit_bytes: How much is taken; `HttpLimits.body_bytes` by default.

        Raises:
            PayloadTooLargeError: There is more.
            MalformedBodyError: Its framing is broken.
            BusyError: All requests together hold as much as they may.
        """
        return await self._body.read(limit_bytes)

    async def receive_some(self) -> bytes:
        """The next part of the body, as soon as there is any; empty at its end.

        Raises:
            MalformedBodyError: Its framing is broken.
        """
        return await self._body.receive_some()

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target!r}>"


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one request, with at most one of `body`, `stream` and `upgrade`.

    Attributes:
        status: The status code.
        headers: Header fields, in their order. `Date`, `Connection`, and the framing of the body
            are added, except for a `Content-Length` that is given with a `stream`, or in the answer
            to HEAD. `Connection: close` ends the connection with this answer.
        body: The whole body.
        stream: Writes the body in parts: it is chunked, unless its length is given. It runs in the
            task of the request and is cancelled if the client goes. It is not called for HEAD.
        head_waits: Whether the head goes out with the first part of the stream, which sees to it
            that this comes soon.
        upgrade: What speaks on the connection from here on, after a status of 101 and the given
            header fields (`Upgrade` among them). The connection ends when it returns.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    stream: Callable[[Write], Awaitable[None]] | None = None
    head_waits: bool = False
    upgrade: Callable[[trio.abc.Stream], Awaitable[None]] | None = None


Handler = Callable[[Request], Awaitable[Response]]
"""Answers a request. It is cancelled if the client goes before the answer is there."""
