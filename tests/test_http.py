"""HTTP as a client sees it, byte for byte, on real sockets."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.server.http import (
    HttpLimits,
    Request,
    Response,
    open_tcp_listeners,
    serve,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime.server.http import Handler, Write


class Client:
    """A connection that sends bytes and reads bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._unread = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read_until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            more = await self.stream.receive_some()
            assert more, f"the end came before {mark!r}: {self._unread!r}"
            self._unread += more
        found, _, self._unread = self._unread.partition(mark)
        return found + mark

    async def read_exactly(self, count: int) -> bytes:
        while len(self._unread) < count:
            more = await self.stream.receive_some()
            assert more, f"the end came: {self._unread!r}"
            self._unread += more
        found, self._unread = self._unread[:count], self._unread[count:]
        return found

    async def read_answer(self, *, body: bool = True) -> Answer:
        head = await self.read_until(b"\r\n\r\n")
        answer = Answer(head)
        if not body or answer.status in {100, 101, 204, 304}:
            return answer
        if "content-length" in answer.headers:
            answer.body = await self.read_exactly(int(answer.headers["content-length"]))
        elif answer.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.read_until(b"\r\n"), 16):
                answer.body += (await self.read_exactly(size + 2))[:-2]
            await self.read_until(b"\r\n")
        else:
            answer.body = await self.read_rest()
        return answer

    async def read_rest(self) -> bytes:
        while more := await self.stream.receive_some():
            self._unread += more
        rest, self._unread = self._unread, b""
        return rest


class Answer:
    def __init__(self, head: bytes) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")[:-2]
        self.version, status, _ = line.split(" ", 2)
        self.status = int(status)
        self.fields = [tuple(field.split(": ", 1)) for field in fields]
        self.headers = {name.lower(): value for name, value in self.fields}
        self.body = b""


@asynccontextmanager
async def serving(
    handler: Handler, limits: HttpLimits | None = None, grace_s: float = 5
) -> AsyncIterator[Server]:
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve, handler, [listener], limits=limits or HttpLimits(), grace_s=grace_s)
        )
        server = Server(port, nursery.cancel_scope)
        try:
            yield server
        finally:
            for client in server.clients:
                await trio.aclose_forcefully(client.stream)
            nursery.cancel_scope.cancel()


class Server:
    def __init__(self, port: int, scope: trio.CancelScope) -> None:
        self.port = port
        self.scope = scope
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client


async def echo(request: Request) -> Response:
    return Response(headers=(("x-path", request.path),), body=await request.read())


async def test_a_request_is_answered() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(b"POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        answer = await client.read_answer()
        assert (answer.status, answer.body) == (200, b"abc")
        assert answer.headers["x-path"] == "/a b"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        one = b"PUT /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d"
        await client.send(b"".join(one % (n, n) for n in range(20)))
        assert [(await client.read_answer()).body for _ in range(20)] == [
            b"%02d" % n for n in range(20)
        ]


async def test_a_body_is_streamed_both_ways() -> None:
    async def handler(request: Request) -> Response:
        async def stream(write: Write) -> None:
            while part := await request.receive_some():
                await write(part.upper())

        return Response(stream=stream)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.read_until(b"\r\n\r\n")
        await client.send(b"3\r\nabc\r\n")
        assert await client.read_until(b"ABC\r\n") == b"3\r\nABC\r\n"
        await client.send(b"1;x=y\r\nd\r\n0\r\n\r\n")
        assert await client.read_until(b"0\r\n\r\n") == b"1\r\nD\r\n0\r\n\r\n"


async def test_a_client_that_goes_cancels_its_handler() -> None:
    running, cancelled = trio.Event(), trio.Event()

    async def handler(_request: Request) -> Response:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await running.wait()
        client.stream.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )  # it resets
        await client.stream.aclose()
        await cancelled.wait()


async def test_a_protocol_is_upgraded_and_bytes_behind_the_head_are_not_lost() -> None:
    async def handler(_request: Request) -> Response:
        async def speak(stream: trio.abc.Stream) -> None:
            await stream.send_all((await stream.receive_some()).upper())

        return Response(status=101, headers=(("Upgrade", "loud"),), upgrade=speak)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: loud\r\n\r\nhey"
        )
        answer = await client.read_answer()
        assert answer.status == 101
        assert answer.headers["connection"] == "Upgrade"
        assert await client.read_rest() == b"HEY"
