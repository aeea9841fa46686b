"""The server's side of a WebSocket, against wsproto's client and what that would not send."""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from wsproto import ConnectionType, WSConnection, events

from sandbox_runtime.server.http import (
    HttpLimits,
    Request,
    RequestError,
    Response,
    open_tcp_listeners,
    serve,
)
from sandbox_runtime.server.websocket import WebSocket, WebSocketClosedError, accept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Speak = Callable[[WebSocket], Awaitable[None]]


class Client:
    """wsproto's client on a socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.frames = WSConnection(ConnectionType.CLIENT)
        self.protocol: str | None = None
        self._events: list[events.Event] = []

    async def send(self, event: events.Event) -> None:
        await self.stream.send_all(self.frames.send(event))

    async def receive(self) -> events.Event:
        while not self._events:
            data = await self.stream.receive_some()
            self.frames.receive_data(data or None)
            self._events += self.frames.events()
        return self._events.pop(0)

    async def message(self) -> str | bytes:
        parts: list[str | bytes] = []
        while True:
            event = await self.receive()
            assert isinstance(event, events.TextMessage | events.BytesMessage), event
            parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
            if event.message_finished:
                if isinstance(parts[0], str):
                    return "".join(map(str, parts))
                return b"".join(part for part in parts if isinstance(part, bytes))

    async def close_code(self) -> int:
        event = await self.receive()
        assert isinstance(event, events.CloseConnection), event
        return event.code


@asynccontextmanager
async def serving(speak: Speak, **options: object) -> AsyncIterator[int]:
    async def handler(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        try:
            return accept(request, speak, **options)  # type: ignore[arg-type]
        except RequestError as error:
            return Response(status=error.status, body=str(error).encode())

    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    port: int = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, handler, [listener], limits=HttpLimits(), grace_s=0.1))
        yield port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(
    speak: Speak, offer: list[str] | None = None, **options: object
) -> AsyncIterator[Client]:
    async with (
        serving(speak, **options) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        client = Client(stream)
        await client.send(events.Request(host="x", target="/", subprotocols=offer or []))
        answer = await client.receive()
        assert isinstance(answer, events.AcceptConnection), answer
        client.protocol = answer.subprotocol
        yield client


async def echo(websocket: WebSocket) -> None:
    while True:
        await websocket.send(await websocket.receive())


async def test_text_and_bytes_come_back_as_they_were() -> None:
    async with connected(echo) as client:
        for message in ("hällo", b"\0\xff", "", b"", "x" * 200_000, bytes(1_000_000)):
            if isinstance(message, str):
                await client.send(events.TextMessage(data=message))
            else:
                await client.send(events.BytesMessage(data=message))
            assert await client.message() == message


async def test_a_message_in_fragments_is_one_message() -> None:
    async with connected(echo) as client:
        await client.send(events.TextMessage(data="one ", message_finished=False))
        await client.send(events.Ping(payload=b"between"))
        await client.send(events.TextMessage(data="two"))
        pong = await client.receive()
        assert isinstance(pong, events.Pong)
        assert pong.payload == b"between"
        assert await client.message() == "one two"


async def test_bytes_right_behind_the_request_are_the_first_message() -> None:
    async with serving(echo) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = Client(stream)
        request = client.frames.send(events.Request(host="x", target="/"))
        frame = b"\x81\x83\0\0\0\0abc"  # text, masked with zeros
        await stream.send_all(request + frame)
        assert isinstance(await client.receive(), events.AcceptConnection)
        assert await client.message() == "abc"


async def test_the_server_pings_and_closes_with_1000_when_it_is_done() -> None:
    async def speak(websocket: WebSocket) -> None:
        await websocket.ping(b"hey")

    async with connected(speak) as client:
        ping = await client.receive()
        assert isinstance(ping, events.Ping)
        assert ping.payload == b"hey"
        assert await client.close_code() == 1000


async def test_a_client_that_closes_is_answered_and_ends_receive() -> None:
    seen: list[int] = []

    async def speak(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosedError) as closed:
            await websocket.receive()
        seen.append(closed.value.code)
        with pytest.raises(WebSocketClosedError):
            await websocket.send("too late")

    async with connected(speak) as client:
        await client.send(events.CloseConnection(code=4001, reason="bye"))
        assert await client.close_code() == 4001
        assert await client.stream.receive_some() == b""
    assert seen == [4001]


async def test_a_client_that_vanishes_ends_receive_with_1006() -> None:
    ended = trio.Event()
    seen: list[int] = []

    async def speak(websocket: WebSocket) -> None:
        try:
            await websocket.receive()
        except WebSocketClosedError as closed:
            seen.append(closed.code)
            ended.set()

    async with connected(speak) as client:
        await client.stream.aclose()
        await ended.wait()
    assert seen == [1006]


async def test_a_message_above_the_limit_closes_with_1009() -> None:
    async with connected(echo, limit_bytes=1000) as client:
        await client.send(events.BytesMessage(data=bytes(1000)))
        assert await client.message() == bytes(1000)
        await client.send(events.BytesMessage(data=bytes(600), message_finished=False))
        await client.send(events.BytesMessage(data=bytes(600)))
        assert await client.close_code() == 1009


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x03abc", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # no such opcode
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x09\x80\0\0\0\0", 1002),  # a fragmented ping
        (b"\x89\xfe\0\x7e\0\0\0\0" + bytes(126), 1002),  # a ping that is too long
        (b"\x82\xff" + struct.pack("!Q", 1 << 63) + bytes(4), 1002),  # a length with a sign
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # no UTF-8
    ],
)
async def test_a_client_that_breaks_the_rules_is_told_which(frame: bytes, code: int) -> None:
    async with connected(echo) as client:
        await client.stream.send_all(frame)
        assert await client.close_code() == code


async def test_a_failure_of_the_server_closes_with_1011() -> None:
    async def speak(websocket: WebSocket) -> None:
        await websocket.receive()
        raise ZeroDivisionError

    async with connected(speak) as client:
        await client.send(events.TextMessage(data="x"))
        assert await client.close_code() == 1011


async def test_the_end_of_the_server_closes_with_1001() -> None:
    async def speak(_websocket: WebSocket) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        codes: list[int] = []

        async def listen(client: Client) -> None:
            codes.append(await client.close_code())

        async with serving(speak) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            client = Client(stream)
            await client.send(events.Request(host="x", target="/"))
            assert isinstance(await client.receive(), events.AcceptConnection)
            nursery.start_soon(listen, client)
    await stream.aclose()
    assert codes == [1001]


async def test_a_subprotocol_is_the_servers_first_that_the_client_offers() -> None:
    async with connected(echo, ["a", "c", "b"], protocols=("x", "b", "a")) as client:
        assert client.protocol == "b"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (b"", b"Upgrade: websocket"),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Upgrade: websocket"),
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"version 13"),
        (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            b"Sec-WebSocket-Key",
        ),
    ],
)
async def test_what_asks_for_no_websocket_is_refused(fields: bytes, why: bytes) -> None:
    async with serving(echo) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert why in answer
