"""One exchange of HTTP with a program inside a sandbox, passed on as it is.

The request's head is written anew from its raw fields, its body and the answer's are passed on in
pieces as they come, in both directions at once. Nothing is decoded, followed or kept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httptools
import trio

from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.ports import exchange
from sandbox_runtime.server.http import RequestError, Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.server.http import Request, Write

    Fields = Sequence[tuple[bytes, bytes]]

_PIECE_BYTES = 64 * 1024
_HEAD_LIMIT_BYTES = 256 * 1024
_MOST_FIELDS = 256
_LAST_STATUS = 599
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"expect")
)  # fmt: skip


class UpstreamError(Exception):
    """What answers on the port does not speak HTTP, or ended in the middle."""


@dataclass(slots=True)
class _Answer:
    """What the program has said so far."""

    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    has_head: bool = False
    is_over: bool = False
    pieces: deque[bytes] = field(default_factory=deque)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # what follows are trailers, or another message that nobody asked for
            self.fields.append((name, value))

    def on_body(self, piece: bytes) -> None:
        if not self.is_over:
            self.pieces.append(piece)

    def on_message_begin(self) -> None:
        if not self.has_head:
            self.fields.clear()

    def on_message_complete(self) -> None:
        self.is_over = self.has_head


class Upstream:
    """A connection to a program, for one request.

    Args:
        stream: The connection; this owns it.
        method: Of the request.
    """

    def __init__(self, stream: trio.SocketStream, method: str) -> None:
        self._stream = stream
        self._method = method
        self._answer = _Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0
        self._unsent = b""
        self._upload_over = False
        self._rest = b""
        self._fault: RequestError | None = None

    # What httptools calls.
    def on_message_begin(self) -> None:
        self._answer.on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.on_header(name, value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if (status == 101 or status >= 200) and not self._answer.has_head:
            self._answer.status, self._answer.has_head = status, True

    def on_body(self, body: bytes) -> None:
        self._answer.on_body(body)

    def on_message_complete(self) -> None:
        self._answer.on_message_complete()

    async def ask(self, head: bytes, request: Request, *, is_chunked: bool) -> Response:
        """Sends a request and returns the answer once its head is there.

        The connection is closed when the answer has been passed on, or need not be.

        Args:
            head: The request's line and fields, with the empty line.
            request: Gives the body.
            is_chunked: Whether the body is sent in chunks.

        Raises:
            UpstreamError: There is no answer, or it is none of HTTP.
        """
        self._unsent = head
        try:
            async with open_serving_nursery() as nursery:
                nursery.start_soon(self._upload, request, is_chunked)
                await self._receive_head()
            return await self._respond(request, is_chunked)
        except BaseException:
            await trio.aclose_forcefully(self._stream)
            raise

    async def _upload(self, request: Request, is_chunked: bool) -> None:  # noqa: FBT001
        """Sends what is left of the request; can be cancelled and taken up again."""
        sock = self._stream.socket
        try:
            while True:
                while self._unsent:
                    sent = await sock.send(self._unsent)
                    self._unsent = self._unsent[sent:]
                if self._upload_over:
                    return
                piece = await request.receive_some()
                self._upload_over = not piece
                self._unsent = _chunk(piece) if is_chunked else piece
        except OSError:
            self._upload_over, self._unsent = True, b""  # its answer says why it reads no more
        except RequestError as error:
            self._fault = error
            await trio.aclose_forcefully(self._stream)

    async def _receive_head(self) -> None:
        while not self._answer.has_head:
            data = await self._receive()
            if not data:
                raise UpstreamError("it ended the connection without an answer")
            self._received += len(data)
            if self._received > _HEAD_LIMIT_BYTES:
                raise UpstreamError("the head of its answer does not end")
            self._feed(data)
            if len(self._answer.fields) > _MOST_FIELDS:
                raise UpstreamError("its answer has too many fields")
        if self._answer.status > _LAST_STATUS:
            raise UpstreamError(f"{self._answer.status} is no status")

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_PIECE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self._fault is not None:
                raise self._fault from error
            raise UpstreamError("it broke the connection") from error

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            # What follows the whole answer is not for anybody, nor is what follows one to HEAD.
            if not self._answer.is_over and not (self._answer.has_head and self._method == "HEAD"):
                raise UpstreamError(f"its answer is no HTTP: {error}") from error

    async def _respond(self, request: Request, is_chunked: bool) -> Response:  # noqa: FBT001
        answer = self._answer
        left_out = frozenset() if answer.status == 101 else _hop_by_hop(answer.fields)
        fields = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in answer.fields
            if name.lower() not in left_out
        )
        if answer.status == 101:
            if not _was_asked_for(request, answer.fields):
                # The client would go on in HTTP, and the program would read its next request.
                raise UpstreamError("it switches to a protocol that nobody asked for")
            return Response(
                status=101,
                headers=tuple(pair for pair in fields if pair[0].lower() != "connection"),
                upgrade=self._speak,
            )
        if self._method == "HEAD" or answer.status in {204, 304}:
            await trio.aclose_forcefully(self._stream)
            return Response(status=answer.status, headers=fields)

        if answer.is_over:
            # All of it came with the head: it goes on in one piece, too.
            await trio.aclose_forcefully(self._stream)
            rest = tuple(pair for pair in fields if pair[0].lower() != "content-length")
            return Response(status=answer.status, headers=rest, body=b"".join(answer.pieces))

        async def stream(write: Write) -> None:
            try:
                async with open_serving_nursery() as nursery:
                    nursery.start_soon(self._upload, request, is_chunked)
                    await self._pass_on(write)
            finally:
                await trio.aclose_forcefully(self._stream)

        return Response(status=answer.status, headers=fields, stream=stream)

    async def _pass_on(self, write: Write) -> None:
        answer = self._answer
        while True:
            while answer.pieces:
                await write(answer.pieces.popleft())
            if answer.is_over:
                return
            data = await self._receive()
            if not data:
                if _has_length(answer.fields):
                    raise UpstreamError("it ended in the middle of its answer")
                return
            self._feed(data)

    async def _speak(self, client: trio.abc.Stream) -> None:
        assert isinstance(client, trio.abc.HalfCloseableStream)
        async with self._stream:
            if self._rest:
                await client.send_all(self._rest)
            await exchange(client, self._stream)


def _was_asked_for(request: Request, fields: Fields) -> bool:
    """Whether the protocol of a 101 is one that the client offered (RFC 9110, 7.8)."""
    offered = {one.strip().lower() for one in (request.headers.get("upgrade") or "").split(",")}
    chosen = [value.decode("latin-1") for name, value in fields if name.lower() == b"upgrade"]
    return len(chosen) == 1 and chosen[0].strip().lower() in offered - {""}


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _has_length(fields: Fields) -> bool:
    return any(
        name.lower() == b"content-length"
        or (name.lower() == b"transfer-encoding" and b"chunked" in value.lower())
        for name, value in fields
    )


def _hop_by_hop(fields: Fields) -> frozenset[bytes]:
    """The fields that are about one connection only, by name and by `Connection`."""
    named = {
        token.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    return _HOP_BY_HOP | named


def write_head(
    request: Request, target: bytes, *, replaced: Fields, dropped: frozenset[bytes] = frozenset()
) -> tuple[bytes, bool]:
    """The head of the request to the program: the client's fields in their order and letters.

    Args:
        request: The client's.
        target: What the program is asked for.
        replaced: Fields that take the place of the client's of the same names.
        dropped: Lower-case names of fields that are left out.

    Returns:
        The head, and whether the body is to be sent in chunks.
    """
    items = request.headers.items
    upgrade = request.headers.get("upgrade")
    left_out = _hop_by_hop(items) | dropped | {name.lower() for name, _ in replaced}
    is_chunked = "transfer-encoding" in request.headers
    fields = [(name, value) for name, value in items if name.lower() not in left_out]
    fields += replaced
    if is_chunked:
        fields = [pair for pair in fields if pair[0].lower() != b"content-length"]
        fields.append((b"Transfer-Encoding", b"chunked"))
    if upgrade is not None:
        fields += [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade.encode("latin-1"))]
    else:
        fields.append((b"Connection", b"close"))
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("latin-1"), target)]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n", is_chunked
