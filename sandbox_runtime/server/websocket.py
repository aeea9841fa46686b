"""The server's side of a WebSocket (RFC 6455), on the stream of an upgraded connection.

A handler answers with `accept(request, speak)`. wsproto has the frames; here are what it leaves to
its user: who may send when, how large a message may get, and how it all ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio
from wsproto import events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, generate_accept_token

from sandbox_runtime.server.http import RequestError, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sandbox_runtime.server.http import Request

MESSAGE_LIMIT_BYTES = 32 * 1024 * 1024
"""How large a message may be unless `accept` is told otherwise."""

_KEY_LENGTH = 24
_CLOSE_GRACE_S = 2.0
_RECEIVE_BYTES = 64 * 1024


class WebSocketClosedError(Exception):
    """The other side has closed, or has gone; nothing can be sent any more.

    Attributes:
        code: Why, as RFC 6455 numbers it; 1006 if it went without a word.
        reason: What it said.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the WebSocket was closed: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class NotAWebSocketError(RequestError):
    """The request does not ask for a WebSocket, or not for one of version 13."""

    code = "not_a_websocket"
    status = 400


def asks_for_websocket(request: Request) -> bool:
    """Whether a request wants to become a WebSocket."""
    tokens = ",".join(request.headers.get_all("connection")).lower().split(",")
    return (
        "upgrade" in (token.strip() for token in tokens)
        and (request.headers.get("upgrade") or "").strip().lower() == "websocket"
    )


def accept(
    request: Request,
    speak: Callable[[WebSocket], Awaitable[None]],
    *,
    protocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    limit_bytes: int = MESSAGE_LIMIT_BYTES,
) -> Response:
    """The answer that makes a connection a WebSocket.

    Args:
        request: What asked for it.
        speak: Speaks on it; when it returns, the WebSocket is closed with code 1000, and when it
            raises, with 1011. It is cancelled when the server ends.
        protocols: Subprotocols that it speaks, the best first.
        headers: More header fields of the answer.
        limit_bytes: How large a message of the client's may be; a larger one closes with 1009.

    Raises:
        NotAWebSocketError: The request does not ask for one; 400.
    """
    if request.method != "GET" or request.http_version != "1.1" or not asks_for_websocket(request):
        raise NotAWebSocketError("this address speaks WebSocket: GET with Upgrade: websocket")
    if request.headers.get("sec-websocket-version") != "13":
        raise NotAWebSocketError("the server speaks version 13 of WebSocket")
    key = request.headers.get("sec-websocket-key") or ""
    if len(key) != _KEY_LENGTH:
        raise NotAWebSocketError("Sec-WebSocket-Key is not 16 bytes in base64")
    offered = ",".join(request.headers.get_all("sec-websocket-protocol")).split(",")
    wanted = {name.strip() for name in offered}
    protocol = next((name for name in protocols if name in wanted), None)
    answer = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Accept", generate_accept_token(key.encode()).decode()),
        *headers,
    ]
    if protocol is not None:
        answer.append(("Sec-WebSocket-Protocol", protocol))

    async def upgraded(stream: trio.abc.Stream) -> None:
        async with WebSocket(stream, protocol, limit_bytes) as websocket:
            await speak(websocket)

    return Response(status=101, headers=answer, upgrade=upgraded)


class WebSocket:
    """Messages both ways. One task may receive while others send.

    Attributes:
        protocol: The subprotocol that was agreed on, or None.
    """

    def __init__(self, stream: trio.abc.Stream, protocol: str | None, limit_bytes: int) -> None:
        self.protocol = protocol
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._frames = Connection(ConnectionType.SERVER)
        self._sending = trio.Lock()
        self._parts: list[str | bytes] = []
        self._size_bytes = 0
        self._messages: list[str | bytes] = []
        self._closed: WebSocketClosedError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, WebSocketClosedError):
            await self.aclose()
            return
        going = isinstance(error, trio.Cancelled)
        with trio.CancelScope(shield=True):
            await self.aclose(
                CloseReason.GOING_AWAY if going else CloseReason.INTERNAL_ERROR,
                "the server ends" if going else "the server failed",
            )

    async def receive(self) -> str | bytes:
        """The next message: text as `str`, binary as `bytes`. Pings are answered meanwhile.

        Raises:
            WebSocketClosedError: There is none any more; its code says why.
        """
        while not self._messages:
            if self._closed is not None:
                raise self._closed
            await self._receive_frames()
        return self._messages.pop(0)

    async def send(self, message: str | bytes) -> None:
        """Sends one message, and waits until the client takes it.

        Raises:
            WebSocketClosedError: The client has closed, or has gone.
        """
        if isinstance(message, str):
            await self._send(events.TextMessage(data=message))
        else:
            await self._send(events.BytesMessage(data=message))

    async def ping(self, payload: bytes = b"") -> None:
        """Sends a ping; the answer to it is not told.

        Raises:
            WebSocketClosedError: The client has closed, or has gone.
        """
        await self._send(events.Ping(payload=payload))

    async def aclose(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Says that nothing follows, waits a moment for the client to agree, and closes.

        Args:
            code: Why, as RFC 6455 numbers it.
            reason: The same in at most 123 bytes; more is cut.
        """
        try:
            with trio.move_on_after(_CLOSE_GRACE_S):
                if self._closed is None:
                    text = reason.encode()[:123].decode(errors="ignore")
                    await self._send(events.CloseConnection(code=int(code), reason=text))
                    while self._frames.state is not ConnectionState.CLOSED:
                        await self._receive_frames()
                        self._messages.clear()
        except WebSocketClosedError:
            pass  # it was quicker, or has gone
        finally:
            if self._closed is None:
                self._closed = WebSocketClosedError(int(code), reason)
            await trio.aclose_forcefully(self._stream)

    async def _send(self, event: events.Event) -> None:
        if self._closed is not None:
            await trio.lowlevel.checkpoint()
            raise self._closed
        async with self._sending:
            try:
                await self._stream.send_all(self._frames.send(event))
            except LocalProtocolError:  # our side of it is closed
                raise self._end(CloseReason.ABNORMAL_CLOSURE, "") from None
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise self._end(CloseReason.ABNORMAL_CLOSURE, "the client has gone") from None

    async def _receive_frames(self) -> None:
        try:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise self._end(CloseReason.ABNORMAL_CLOSURE, "the client has gone")
        self._frames.receive_data(bytes(data))
        for event in self._frames.events():
            await self._take(event)

    async def _take(self, event: events.Event) -> None:
        match event:
            case events.TextMessage(data=part):
                await self._take_part(part, len(part.encode()), ends=event.message_finished)
            case events.BytesMessage(data=part):
                await self._take_part(bytes(part), len(part), ends=event.message_finished)
            case events.Ping():
                await self._send(event.response())
            case events.CloseConnection(code=code, reason=reason):
                if self._frames.state is ConnectionState.REMOTE_CLOSING:
                    await self._send(event.response())
                    self._end(code, reason or "")
                elif self._frames.state is not ConnectionState.CLOSED:  # wsproto's own judgement
                    await self._fail(code, reason or "")

    async def _take_part(self, part: str | bytes, size_bytes: int, *, ends: bool) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > self._limit_bytes:
            await self._fail(
                CloseReason.MESSAGE_TOO_BIG, f"a message is larger than {self._limit_bytes} bytes"
            )
        self._parts.append(part)
        if ends:
            parts, self._parts, self._size_bytes = self._parts, [], 0
            if isinstance(part, str):
                self._messages.append("".join(text for text in parts if isinstance(text, str)))
            else:
                self._messages.append(b"".join(data for data in parts if isinstance(data, bytes)))

    async def _fail(self, code: int, reason: str) -> None:
        """The client broke a rule: tells it, and takes nothing more from it."""
        if self._frames.state is ConnectionState.OPEN:
            await self._send(events.CloseConnection(code=int(code), reason=reason[:100]))
        raise self._end(code, reason)

    def _end(self, code: int, reason: str) -> WebSocketClosedError:
        if self._closed is None:
            self._closed = WebSocketClosedError(int(code), reason)
        return self._closed
