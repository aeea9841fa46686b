"""HTTP as a client sees it, byte for byte, on real sockets."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sandbox_runtime.budget import Budget, Claim
from sandbox_runtime.server.http import (
    HttpLimits,
    MalformedBodyError,
    PayloadTooLargeError,
    Peer,
    Request,
    RequestError,
    RequestTimeoutError,
    Response,
    open_tcp_listeners,
    serve,
)
from sandbox_runtime.server.http.body import Body
from sandbox_runtime.server.http.chunked import ChunkedBody
from sandbox_runtime.server.http.connection import Connection
from sandbox_runtime.server.http.departures import Departures
from sandbox_runtime.server.http.parsing import parse_head
from sandbox_runtime.server.http.sockets import EagerStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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

    def put_back(self, data: bytes) -> None:
        self._unread = data + self._unread

    def take_unread(self) -> bytes:
        unread, self._unread = self._unread, b""
        return unread

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
    handler: Handler,
    limits: HttpLimits | None = None,
    grace_s: float = 5,
    refuse: Callable[[socket.socket], str | None] | None = None,
) -> AsyncIterator[Server]:
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve,
                handler,
                [listener],
                limits=limits or HttpLimits(),
                grace_s=grace_s,
                refuse=refuse,
            )
        )
        server = Server(port, nursery.cancel_scope)
        try:
            yield server
        finally:
            for client in server.clients:
                client.stream.socket.close()
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


async def test_a_client_that_resets_in_mid_body_is_no_failure_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = trio.Event()

    async def handler(request: Request) -> Response:
        try:
            return Response(body=await request.read())
        except MalformedBodyError:
            return Response(status=400)
        finally:
            ended.set()

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf")
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await client.stream.aclose()
        await ended.wait()
    assert not caplog.records


async def test_refused_connections_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echo, refuse=lambda _: "nobody may") as server:
        for _ in range(20):
            assert await (await server.connect()).read_rest() == b""
    assert [record.getMessage() for record in caplog.records] == [
        "a connection was refused: nobody may"
    ]


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


async def test_a_connection_that_was_upgraded_and_closed_leaves_others_watched() -> None:
    running, cancelled = trio.Event(), trio.Event()
    closed, go_on = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/up":

            async def speak(stream: trio.abc.Stream) -> None:
                await stream.aclose()
                closed.set()
                await go_on.wait()

            return Response(status=101, headers=(("Upgrade", "x"),), upgrade=speak)
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(handler) as server:
        upgraded = await server.connect()
        await upgraded.send(b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n")
        await closed.wait()
        client = await server.connect()  # accepted on the descriptor that was closed
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await running.wait()
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await cancelled.wait()


# -- what is refused, and how


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: x", *fields, b"", b""])


REFUSED: list[tuple[str, int, bytes]] = [
    ("no request line", 400, b"hello\r\n\r\n"),
    ("a TLS handshake", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("HTTP/0.9", 400, b"GET /\r\n\r\n"),
    ("HTTP/2", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/1.2", 505, request(line=b"GET / HTTP/1.2")),
    ("HTTP/0.9 in words", 505, request(line=b"GET / HTTP/0.9")),
    ("another protocol", 400, request(line=b"GET / ICE/1.0")),
    ("two spaces", 400, request(line=b"GET  / HTTP/1.1")),
    ("a tab for a space", 400, request(line=b"GET\t/ HTTP/1.1")),
    ("a space in the target", 400, request(line=b"GET /a b HTTP/1.1")),
    ("a control character in the target", 400, request(line=b"GET /a\x01 HTTP/1.1")),
    ("raw UTF-8 in the target", 400, request(line="GET /é HTTP/1.1".encode())),
    ("an unknown method", 501, request(line=b"BREW / HTTP/1.1")),
    ("a method in small letters", 501, request(line=b"get / HTTP/1.1")),
    ("CONNECT", 501, request(line=b"CONNECT x:1 HTTP/1.1")),
    ("a space before the colon", 400, request(b"A : b")),
    ("a space before the name", 400, request(b" A: b")),
    ("a folded line", 400, request(b"A: b", b" c")),
    ("a name that is none", 400, request(b"A(: b")),
    ("no name", 400, request(b": b")),
    ("no colon", 400, request(b"A")),
    ("a bare LF after the request line", 400, b"GET / HTTP/1.1\nHost: x\n\n"),
    ("a bare LF after a field", 400, b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n"),
    ("a bare LF as the empty line", 400, b"GET / HTTP/1.1\r\nHost: x\r\n\nGET /x HTTP/1.1\r\n\r\n"),
    ("a bare CR in a value", 400, request(b"A: b\rc")),
    ("a NUL in a value", 400, request(b"A: b\0c")),
    ("a vertical tab in a value", 400, request(b"A: b\x0bc")),
    ("no Host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", 400, request(b"Host: y")),
    ("both lengths", 400, request(b"Content-Length: 1", b"Transfer-Encoding: chunked")),
    (
        "both lengths, turned round",
        400,
        request(b"Transfer-Encoding: chunked", b"Content-Length: 1"),
    ),
    ("two lengths", 400, request(b"Content-Length: 1", b"Content-Length: 2")),
    ("the same length twice", 400, request(b"Content-Length: 1", b"Content-Length: 1")),
    ("a list of lengths", 400, request(b"Content-Length: 1, 1")),
    ("a length with a sign", 400, request(b"Content-Length: +1")),
    ("a negative length", 400, request(b"Content-Length: -1")),
    ("a hexadecimal length", 400, request(b"Content-Length: 0x1")),
    ("an empty length", 400, request(b"Content-Length: ")),
    ("a length beyond 64 bits", 400, request(b"Content-Length: 99999999999999999999")),
    ("a coding without chunked", 400, request(b"Transfer-Encoding: gzip")),
    ("two codings", 501, request(b"Transfer-Encoding: gzip, chunked")),
    ("chunked twice", 400, request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")),
    ("a coding that only ends like chunked", 400, request(b"Transfer-Encoding: xchunked")),
    ("a coding after chunked", 400, request(b"Transfer-Encoding: chunked, identity")),
    ("a coding behind a vertical tab", 400, request(b"Transfer-Encoding: \x0bchunked")),
    (
        "a coding in HTTP/1.0",
        400,
        request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"),
    ),
    ("another expectation", 417, request(b"Expect: miracles")),
    ("a head that is too large", 431, request(b"A: " + b"b" * 70_000)),
    ("a request line that is too long", 431, request(line=b"GET /" + b"a" * 70_000 + b" HTTP/1.1")),
    ("too many fields", 431, request(*[b"A: b"] * 128)),
]


@pytest.mark.parametrize(
    ("status", "data"),
    [pytest.param(status, data, id=name) for name, status, data in REFUSED],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(
    status: int, data: bytes
) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return Response(body=await request.read())

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(data)
        answer = await client.read_answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert json.loads(answer.body)["error"]
        assert await client.read_rest() == b""
    assert seen == []


BROKEN_BODIES: list[tuple[str, bytes]] = [
    ("a size that is no number", b"x\r\n"),
    ("a size with a prefix", b"0x3\r\nabc\r\n"),
    ("a size with a sign", b"+3\r\nabc\r\n"),
    ("a size with a space", b"3 \r\nabc\r\n"),
    ("an empty size", b"\r\n"),
    ("a size beyond 64 bits", b"fffffffffffffffff\r\n"),
    ("a bare LF behind the size", b"3\nabc\r\n"),
    ("a bare CR in an extension", b"3;a\rb\r\nabc\r\n"),
    ("a chunk that is longer than its size", b"3\r\nabcd\r\n"),
    ("a chunk without its CRLF", b"3\r\nabc0\r\n\r\n"),
    ("a bare LF behind a chunk", b"3\r\nabc\n0\r\n\r\n"),
    ("a trailer that is no field", b"0\r\nno field\r\n\r\n"),
    ("a folded trailer", b"0\r\nA: b\r\n c\r\n\r\n"),
    ("an extension that never ends", b"3;" + b"a" * 20_000),
    ("extensions that are too much together", b"1;%b\r\nx\r\n" % (b"a" * 9_000) * 3),
    ("trailers that are too much together", b"0\r\n" + b"A: %b\r\n" % (b"b" * 9_000) * 3),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BROKEN_BODIES])
async def test_a_chunked_body_that_breaks_the_rules_is_refused(data: bytes) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1") + data)
        assert (await client.read_answer()).status == 400


async def test_a_body_above_the_limit_is_413_whatever_its_framing() -> None:
    async with serving(echo, HttpLimits(body_bytes=1000)) as server:
        for field, body in (
            (b"Content-Length: 1001", b""),
            (b"Content-Length: 99999999999", b"x" * 5000),
            (b"Transfer-Encoding: chunked", b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"),
        ):
            client = await server.connect()
            await client.send(request(field, line=b"POST / HTTP/1.1") + body)
            answer = await client.read_answer()
            assert answer.status == 413
            assert "1000" in json.loads(answer.body)["error"]
        client = await server.connect()
        fits = request(b"Content-Length: 1000", line=b"POST / HTTP/1.1") + bytes(1000)
        await client.send(fits)
        assert (await client.read_answer()).body == bytes(1000)


# -- slow and half


async def test_a_head_that_comes_too_slowly_is_408() -> None:
    async with serving(echo, HttpLimits(head_s=0.1)) as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost")
        assert (await client.read_answer()).status == 408
        assert await client.read_rest() == b""


async def test_a_body_that_stands_still_is_408() -> None:
    async with serving(echo, HttpLimits(body_s=0.1)) as server:
        client = await server.connect()
        await client.send(request(b"Content-Length: 5", line=b"PUT / HTTP/1.1") + b"ab")
        assert (await client.read_answer()).status == 408


async def test_a_body_that_is_read_whole_must_come_at_some_rate(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    raw = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    limits = HttpLimits(body_s=30, body_bytes_per_s=10)

    async def read(every_s: float) -> bytes:
        async def receive() -> bytes:
            await trio.sleep(every_s)
            return b"x"

        near, far = socket.socketpair()
        with near, far:
            claim = Claim(Budget(1000))
            body = Body(parse_head(raw, 9), EagerStream(near), receive, limits, claim)
            try:
                return await body.read(None)
            finally:
                assert not body.is_worth_skipping() or body.ended

    assert await read(0.1) == b"x" * 1000
    started_s = trio.current_time()
    with pytest.raises(RequestTimeoutError, match="slower than 10 bytes a second"):
        await read(20)
    assert trio.current_time() - started_s == pytest.approx(40)  # not 1000 times 20 s


async def test_a_connection_that_is_idle_for_too_long_is_closed_without_a_word() -> None:
    async with serving(echo, HttpLimits(idle_s=0.1)) as server:
        fresh, used = await server.connect(), await server.connect()
        await used.send(request())
        await used.read_answer()
        assert await fresh.read_rest() == b""
        assert await used.read_rest() == b""


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    ended = trio.Event()

    async def handler(_request: Request) -> Response:
        await trio.lowlevel.checkpoint()

        async def stream(write: Write) -> None:
            try:
                while True:
                    await write(bytes(100_000))
            finally:
                ended.set()

        return Response(stream=stream)

    async with serving(handler, HttpLimits(write_s=0.1)) as server:
        client = await server.connect()
        await client.send(request())
        await ended.wait()


async def test_half_a_request_is_dropped_and_the_server_goes_on() -> None:
    async with serving(echo) as server:
        for half in (b"", b"G", request()[:-2], request(b"Content-Length: 5") + b"ab"):
            client = await server.connect()
            await client.send(half)
            await client.stream.send_eof()
            assert await client.read_rest() == b""
        client = await server.connect()
        await client.send(request())
        assert (await client.read_answer()).status == 200


async def test_a_client_that_closes_its_side_still_gets_a_quick_answer() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(request() + request())
        await client.stream.send_eof()
        assert (await client.read_rest()).count(b"HTTP/1.1 200 OK") == 2


async def test_more_connections_than_the_limit_are_503() -> None:
    async with serving(echo, HttpLimits(connections=1)) as server:
        first = await server.connect()
        await first.send(request())
        await first.read_answer()
        second = await server.connect()
        assert (await second.read_answer()).status == 503
        await first.stream.aclose()


# -- leaving


@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_closes_cancels_its_handler(streams: bool) -> None:
    running, cancelled = trio.Event(), trio.Event()

    async def work() -> None:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def handler(_request: Request) -> Response:
        if streams:

            async def stream(write: Write) -> None:
                await write(b"begin")
                await work()

            return Response(stream=stream)
        await work()
        return Response()

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request())
        await running.wait()
        await client.stream.aclose()
        await cancelled.wait()


async def test_the_rest_of_a_body_that_never_comes_cancels_its_reader() -> None:
    cancelled = trio.Event()

    async def handler(request: Request) -> Response:
        try:
            return Response(body=await request.read())
        except trio.Cancelled:
            cancelled.set()
            raise

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request(b"Content-Length: 5") + b"ab")
        await client.stream.aclose()
        await cancelled.wait()


async def test_an_idle_connection_ends_with_the_server_and_a_running_request_is_finished() -> None:
    running, go_on = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/slow":
            running.set()
            await go_on.wait()
        return Response(body=b"done")

    async with serving(handler) as server:
        idle, busy = await server.connect(), await server.connect()
        await idle.send(request())
        await idle.read_answer()
        await busy.send(request(line=b"GET /slow HTTP/1.1") + request())
        await running.wait()
        server.scope.cancel()
        with trio.CancelScope(shield=True):
            assert await idle.read_rest() == b""
            go_on.set()
            answer = await busy.read_answer()
            assert answer.body == b"done"
            assert await busy.read_rest() == b""  # and no further request of it


async def test_what_runs_longer_than_the_grace_is_cancelled() -> None:
    running, cancelled = trio.Event(), trio.Event()

    async def handler(_request: Request) -> Response:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(handler, grace_s=0.1) as server:
        client = await server.connect()
        await client.send(request())
        await running.wait()
        server.scope.cancel()
        with trio.CancelScope(shield=True):
            await cancelled.wait()


# -- answers


async def test_head_is_answered_without_a_body_and_with_its_length() -> None:
    async def handler(_request: Request) -> Response:
        return Response(body=b"12345")

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request(line=b"HEAD / HTTP/1.1") + request())
        answer = await client.read_answer(body=False)
        assert answer.headers["content-length"] == "5"
        assert (await client.read_answer()).body == b"12345"


async def test_connection_close_and_http_1_0_end_the_connection() -> None:
    async with serving(echo) as server:
        for data in (
            request(b"Connection: keep-alive, Close"),
            request(line=b"GET / HTTP/1.0"),
            b"GET / HTTP/1.0\r\n\r\n",
        ):
            client = await server.connect()
            await client.send(data)
            assert (await client.read_answer()).headers["connection"] == "close"
            assert await client.read_rest() == b""
        client = await server.connect()
        await client.send(request(b"Connection: keep-alive", line=b"GET / HTTP/1.0") * 2)
        assert (await client.read_answer()).headers["connection"] == "keep-alive"
        assert (await client.read_answer()).status == 200


async def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    async def handler(_request: Request) -> Response:
        async def stream(write: Write) -> None:
            await write(b"one ")
            await write(b"two")

        return Response(stream=stream)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request(line=b"GET / HTTP/1.0"))
        assert (await client.read_answer()).body == b"one two"


async def test_a_stream_of_a_known_length_is_not_chunked() -> None:
    async def handler(_request: Request) -> Response:
        async def stream(write: Write) -> None:
            await write(b"123")
            await write(b"45")

        return Response(headers=(("Content-Length", "5"),), stream=stream)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request() * 2)
        for _ in range(2):
            answer = await client.read_answer()
            assert "transfer-encoding" not in answer.headers
            assert answer.body == b"12345"


async def test_a_client_that_waits_for_100_continue_is_told_when_the_body_is_read() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(request(b"Content-Length: 2", b"Expect: 100-continue"))
        assert (await client.read_answer()).status == 100
        await client.send(b"ok")
        assert (await client.read_answer()).body == b"ok"


async def test_a_body_that_nobody_wants_is_skipped_or_ends_the_connection() -> None:
    async def handler(_request: Request) -> Response:
        return Response(status=404)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request(b"Content-Length: 1000") + bytes(1000) + request())
        assert [(await client.read_answer()).status for _ in range(2)] == [404, 404]
        for fields in (
            [b"Content-Length: 1000", b"Expect: 100-continue"],
            [b"Content-Length: 999999999"],
            [b"Transfer-Encoding: chunked"],
        ):
            client = await server.connect()
            await client.send(request(*fields))
            assert (await client.read_answer()).headers["connection"] == "close"


async def test_bodies_of_unknown_handlers_cannot_split_the_answer() -> None:
    async def handler(_request: Request) -> Response:
        return Response(headers=(("x-name", "a\r\nset-cookie: stolen"),))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request())
        answer = await client.read_answer()
        assert answer.status == 500
        assert "set-cookie" not in answer.headers


async def test_repeated_fields_stay_as_they_are_both_ways() -> None:
    async def handler(request: Request) -> Response:
        return Response(headers=[("Set-Cookie", value) for value in request.headers.get_all("a")])

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request(b"A: 1", b"b: x", b"a: \xe9"))
        answer = await client.read_answer()
        assert [value for name, value in answer.fields if name == "Set-Cookie"] == ["1", "é"]


async def test_a_handler_that_fails_is_500_and_the_server_goes_on() -> None:
    async def handler(request: Request) -> Response:
        if request.path == "/group":
            raise ExceptionGroup("of its tasks", [PayloadTooLargeError(1)])
        raise ZeroDivisionError

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request())
        assert (await client.read_answer()).status == 500
        client = await server.connect()
        await client.send(request(b"Content-Length: 2", line=b"PUT /group HTTP/1.1") + b"ab")
        assert (await client.read_answer()).status == 413


async def test_a_stream_that_fails_breaks_off_and_does_not_look_complete() -> None:
    async def handler(_request: Request) -> Response:
        async def stream(write: Write) -> None:
            await write(b"half")
            raise ZeroDivisionError

        return Response(stream=stream)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(request())
        assert not (await client.read_rest()).endswith(b"0\r\n\r\n")


async def test_a_target_as_for_a_proxy_is_understood() -> None:
    async def handler(request: Request) -> Response:
        return Response(body=f"{request.path}|{request.query}".encode())

    async with serving(handler) as server:
        client = await server.connect()
        for target, body in (
            (b"http://x/a?b=c", b"/a|b=c"),
            (b"http://x", b"/|"),
            (b"http://x?b=/c", b"/|b=/c"),
            (b"/a%2Fb%ff?%20", "/a/b\ufffd|%20".encode()),
            (b"//x/y", b"//x/y|"),
        ):
            await client.send(request(line=b"GET " + target + b" HTTP/1.1"))
            assert (await client.read_answer()).body == body


# -- much of it


async def test_256_mib_stream_through_in_bounded_memory() -> None:
    size, part = 256 * 1024 * 1024, bytes(1024 * 1024)

    async def handler(request: Request) -> Response:
        async def stream(write: Write) -> None:
            while data := await request.receive_some():
                await write(data)

        return Response(headers=(("content-length", str(size)),), stream=stream)

    def peak_bytes() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    async with serving(handler) as server:
        client = await server.connect()
        before = peak_bytes()

        async def upload() -> None:
            await client.send(request(b"Content-Length: %d" % size, line=b"PUT / HTTP/1.1"))
            for _ in range(size // len(part)):
                await client.send(part)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await client.read_until(b"\r\n\r\n")
            got = len(client.take_unread())
            while got < size:
                got += len(await client.stream.receive_some(1024 * 1024))
        assert got == size
        assert peak_bytes() - before < 16 * 1024 * 1024


async def test_a_stream_waits_for_a_client_that_does_not_read() -> None:
    written = 0

    async def handler(_request: Request) -> Response:
        async def stream(write: Write) -> None:
            nonlocal written
            while True:
                await write(bytes(64 * 1024))
                written += 64 * 1024

        return Response(stream=stream)

    async with serving(handler) as server:
        client = await server.connect()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await client.send(request())
        await client.read_until(b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert written < 16 * 1024 * 1024


def slow(client: Client) -> None:
    """Takes little, so that the server soon waits in the middle of a chunk."""
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)


async def test_a_writer_that_is_cancelled_in_mid_chunk_leaves_the_stream_whole() -> None:
    part = bytes(range(256)) * 4096
    written: list[bytes] = []
    scope = trio.CancelScope()

    async def handler(_request: Request) -> Response:
        await trio.lowlevel.checkpoint()

        async def stream(write: Write) -> None:
            with scope:
                while True:
                    written.append(part)
                    await write(part)
            written.append(b"the end")
            await write(b"the end")

        return Response(stream=stream)

    async with serving(handler) as server:
        client = await server.connect()
        slow(client)
        await client.send(request())
        head = await client.read_until(b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.1)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.1)
        client.put_back(head)
        answer = await client.read_answer()
        assert answer.body == b"".join(written)


async def test_what_waits_for_its_turn_at_the_end_goes_out_in_order_and_before_it() -> None:
    big = bytes(16 * 1024 * 1024)
    ready = trio.Event()

    async def handler(request: Request) -> Response:
        if request.path != "/stream":
            return await echo(request)

        async def stream(write: Write) -> None:
            others.start_soon(write, big)
            await trio.testing.wait_all_tasks_blocked(0.1)
            others.start_soon(write, b"waits")
            await trio.testing.wait_all_tasks_blocked(0.1)
            write.keep(b", is kept")
            others.start_soon(late, write)
            ready.set()

        return Response(stream=stream)

    async def late(write: Write) -> None:
        await trio.testing.wait_all_tasks_blocked(0.1)  # its end waits for the first part
        await write(b"too late")

    async with serving(handler) as server, trio.open_nursery() as others:
        client = await server.connect()
        slow(client)
        await client.send(request(line=b"GET /stream HTTP/1.1") + request(line=b"GET /2 HTTP/1.1"))
        await ready.wait()
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert (await client.read_answer()).body == big + b"waits, is kept"
        assert (await client.read_answer()).headers["x-path"] == "/2"


# -- the same bytes in other pieces

MESSAGES = [
    request(),
    request(b"Content-Length: 5", line=b"PUT /a HTTP/1.1") + b"hello",
    request(b"Transfer-Encoding: chunked", line=b"PUT /b HTTP/1.1")
    + b"3;x=y\r\nabc\r\n002\r\n\r\n\r\n0\r\nT: v\r\n\r\n",
    b"\r\n" + request(b"Content-Length: 0", line=b"POST /c?d HTTP/1.1"),
    request(b"A: 1", b"a: 2", line=b"OPTIONS * HTTP/1.1"),
]


@given(
    st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=6),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_pieces_of_any_size_give_the_same_requests(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert trio.run(_requests_of, pieces) == trio.run(_requests_of, [data])


async def _requests_of(pieces: list[bytes]) -> list[tuple[str, bytes, object, bytes]]:
    """What the handler sees, when each piece arrives by itself."""
    seen: list[tuple[str, bytes, object, bytes]] = []

    async def handler(request: Request) -> Response:
        seen.append((request.method, request.target, request.headers.items, await request.read()))
        return Response()

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours:
        stream, departures = EagerStream(theirs), Departures()
        connection = Connection(stream, Peer(), handler, HttpLimits(), departures, Budget(0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            for piece in pieces:
                ours.sendall(piece)
                await trio.testing.wait_all_tasks_blocked()
            ours.shutdown(socket.SHUT_WR)
        departures.close()
    return seen


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.data())
def test_a_chunked_body_is_the_same_in_any_pieces(chunks: list[bytes], data: st.DataObject) -> None:
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    whole = encoded + b"next"
    body, found, rest = ChunkedBody(), b"", whole
    while not body.ended:
        cut = data.draw(st.integers(1, max(1, len(rest))))
        content, behind = body.feed(rest[:cut])
        found += content
        rest = behind + rest[cut:]
    assert found == b"".join(chunks)
    assert rest == b"next"


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_body_or_an_error(data: bytes) -> None:
    try:
        content, rest = ChunkedBody().feed(data)
    except MalformedBodyError:
        return
    assert len(content) + len(rest) <= len(data)


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_a_head_or_an_error(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        head = parse_head(data + b"\r\n\r\n", 100)
        assert head.http_version in {"1.0", "1.1"}
