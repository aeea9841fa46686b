"""The proxy passes on what a program says, byte by byte, and previews lead where they shall."""

from __future__ import annotations

import gzip
import textwrap
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime import InvalidArgumentError, Sandbox
from sandbox_runtime.server.http import HttpLimits, Request, Response, open_tcp_listeners, serve
from sandbox_runtime.server.previews import (
    PreviewSettings,
    check_preview_id,
    find_preview,
    parse_host,
    preview_url,
)
from sandbox_runtime.server.proxy import parse_path, proxy, route_preview

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PORT = 8080
SETTINGS = PreviewSettings(domain="localhost")
UPSTREAM = """
import gzip, http.server, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def answer(self, status, body, *fields):
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/gzip":
            self.answer(200, gzip.compress(b"squeezed", mtime=0), ("Content-Encoding", "gzip"))
        elif path == "/cookies":
            self.answer(200, b"", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
        elif path == "/redirect":
            self.answer(302, b"", ("Location", "/elsewhere"))
        elif path == "/range":
            self.answer(206, b"bcd", ("Content-Range", "bytes 1-3/5"))
        elif path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"data: first\\n\\n")
            self.rfile.read(1)
        elif path == "/fields":
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\n" + b"a: b\\r\\n" * 40_000 + b"\\r\\n")
        elif path == "/broken":
            self.wfile.write(b"this is no HTTP\\r\\n\\r\\n")
            self.close_connection = True
        elif path == "/upgrade":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: echo\\r\\n"
                             b"Connection: Upgrade\\r\\n\\r\\nhello ")
            while data := self.rfile.readline():
                self.wfile.write(data)
            self.close_connection = True
        else:
            head = "".join(f"{name}: {value}\\n" for name, value in self.headers.items())
            self.answer(200, f"{self.command} {self.path}\\n{head}".encode())
    do_HEAD = do_OPTIONS = do_DELETE = do_GET
    def do_POST(self):
        total = 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                total += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers["Content-Length"])
            while left:
                piece = self.rfile.read(min(left, 65536))
                total, left = total + len(piece), left - len(piece)
        self.answer(200, str(total).encode())

http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""


class Reply:
    """An answer, as it came."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.fields = [tuple(line.split(": ", 1)) for line in lines[1:]]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]


class Front:
    """A server with the proxy and the previews, and nothing else."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def send(self, request: bytes) -> Reply:
        """The answer to one request that ends the connection."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(request)
            return Reply(b"".join([piece async for piece in stream]))

    async def get(self, target: str, *, method: str = "GET", fields: str = "") -> Reply:
        request = f"{method} {target} HTTP/1.1\r\nHost: front\r\n{fields}Connection: close\r\n\r\n"
        return await self.send(request.encode())


@asynccontextmanager
async def open_front(sandbox: Sandbox) -> AsyncIterator[Front]:
    async def handle(request: Request) -> Response:
        preview = await route_preview(request, {"box": sandbox}.get, SETTINGS)
        return preview or await proxy(request, sandbox, api_token="secret")

    listeners = await open_tcp_listeners("127.0.0.1", 0)
    run = partial(serve, handle, listeners, limits=HttpLimits(), grace_s=0)
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield Front(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.fixture
async def front(sandbox: Sandbox) -> AsyncIterator[Front]:
    """With the upstream of this file, exposed."""
    await sandbox.start_process(["python3", "-c", textwrap.dedent(UPSTREAM)])
    sandbox.ports.expose(PORT, name="web")
    with trio.fail_after(20):
        assert await sandbox.ports.wait_until_open(PORT)
    async with open_front(sandbox) as front:
        yield front


async def test_what_a_program_says_arrives_as_it_said_it(front: Front) -> None:
    packed = await front.get("/proxy/8080/gzip", fields="Accept-Encoding: gzip\r\n")
    assert packed.values("content-encoding") == ["gzip"]
    assert packed.body == gzip.compress(b"squeezed", mtime=0)
    assert (await front.get("/proxy/8080/cookies")).values("set-cookie") == ["a=1", "b=2"]
    moved = await front.get("/proxy/8080/redirect")
    assert (moved.status, moved.values("location")) == (302, ["/elsewhere"])
    part = await front.get("/proxy/8080/range", fields="Range: bytes=1-3\r\n")
    assert (part.status, part.body) == (206, b"bcd")
    assert len(part.values("date")) == 1
    assert not part.values("access-control-allow-origin")


async def test_the_target_and_the_fields_arrive_as_the_client_sent_them(front: Front) -> None:
    fields = "X-Twice: 1\r\nx-TWICE: 2\r\nX-Sandbox-Name: forged\r\nTE: trailers\r\n"
    echo = (await front.get("/proxy/8080/a%2Fb//c/?q=%20&x", fields=fields)).body.decode()
    lines = echo.splitlines()
    assert lines[0] == "GET /a%2Fb//c/?q=%20&x"
    assert "Host: front" in lines
    assert [line for line in lines if "wice" in line.lower()] == ["X-Twice: 1", "x-TWICE: 2"]
    assert "X-Sandbox-Name: default" in lines
    assert "X-Original-URL: http://front/proxy/8080/a%2Fb//c/?q=%20&x" in lines
    assert "forged" not in echo
    assert "trailers" not in echo
    assert (await front.get("/proxy/8080?x")).body.startswith(b"GET /?x\n")


async def test_the_servers_own_token_never_reaches_a_program(front: Front) -> None:
    ours = await front.get("/proxy/8080/", fields="Authorization: Bearer secret\r\n")
    theirs = await front.get("/proxy/8080/", fields="Authorization: Bearer theirs\r\n")
    assert b"Authorization" not in ours.body
    spelled = await front.get("/proxy/8080/", fields="Authorization: bEaReR  secret\r\n")
    assert b"secret" not in spelled.body
    assert b"Authorization: Bearer theirs" in theirs.body


async def test_other_methods_go_to_the_program(front: Front) -> None:
    head = await front.get("/proxy/8080/range", method="HEAD")
    assert (head.status, head.values("content-length"), head.body) == (206, ["3"], b"")
    for method in ("OPTIONS", "DELETE"):
        answer = await front.get("/proxy/8080/x", method=method)
        assert answer.body.startswith(f"{method} /x".encode())


async def test_uploads_are_streamed(front: Front) -> None:
    size = 5_000_000
    head = f"POST /proxy/8080/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {size}"
    assert (await front.send(head.encode() + b"\r\n\r\n" + bytes(size))).body == b"%d" % size
    chunked = (
        b"POST /proxy/8080/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n3\r\nfgh\r\n0\r\n\r\n"
    )
    assert (await front.send(chunked)).body == b"8"


async def test_events_are_not_held_back(front: Front) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", front.port) as stream:
        await stream.send_all(b"GET /proxy/8080/events HTTP/1.1\r\nHost: h\r\n\r\n")
        received = b""
        with trio.fail_after(10):
            while b"data: first" not in received:
                received += await stream.receive_some()


async def test_an_upgraded_connection_carries_bytes_both_ways(front: Front) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", front.port) as stream:
        await stream.send_all(
            b"GET /proxy/8080/upgrade HTTP/1.1\r\nHost: h\r\n"
            b"Connection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        received = b""
        with trio.fail_after(10):
            while b"hello " not in received:
                received += await stream.receive_some()
            assert received.startswith(b"HTTP/1.1 101 ")
            await stream.send_all(b"world\n")
            received = b""
            while b"world\n" not in received:
                received += await stream.receive_some()


async def test_a_connection_that_nobody_asked_to_upgrade_stays_the_servers(front: Front) -> None:
    """Else the program would read the client's next request, with its token."""
    assert (await front.get("/proxy/8080/upgrade")).status == 502
    other = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    assert (await front.get("/proxy/8080/upgrade", fields=other)).status == 502


async def test_an_answer_of_countless_fields_is_a_502_at_once(front: Front) -> None:
    with trio.fail_after(5):
        assert (await front.get("/proxy/8080/fields")).status == 502


async def test_a_program_that_speaks_no_http_is_a_502(front: Front) -> None:
    answer = await front.get("/proxy/8080/broken")
    assert answer.status == 502
    assert b"Service on port 8080 is not responding" in answer.body


async def test_ports_that_are_not_exposed_or_not_open_are_told_apart(
    sandbox: Sandbox, front: Front
) -> None:
    hidden = await front.get("/proxy/9999/")
    assert (hidden.status, hidden.body) == (404, b'{"error":"Port 9999 is not exposed"}')
    sandbox.ports.expose(9999)
    assert (await front.get("/proxy/9999/")).status == 502
    sandbox.ports.unexpose(PORT)
    assert (await front.get("/proxy/8080/")).status == 404


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"/proxy", b"Invalid proxy path"),
        (b"/proxy/", b"Invalid port in proxy path"),
        (b"/proxy/8080abc/", b"Invalid port in proxy path"),
        (b"/proxy/0/", b"Invalid port in proxy path"),
        (b"/proxy/65536/", b"Invalid port in proxy path"),
        (b"/proxy/-1/", b"Invalid port in proxy path"),
        ("/proxy/\u0668\u0660/".encode(), b"Invalid port in proxy path"),
    ],
)
def test_a_path_without_a_port_is_refused(path: bytes, error: bytes) -> None:
    answer = parse_path(path)
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (400, b'{"error":"%b"}' % error)


async def test_a_preview_is_reached_by_its_name_and_token(sandbox: Sandbox, front: Front) -> None:
    exposed = sandbox.ports.get(PORT)
    assert exposed is not None
    url = preview_url("box", exposed, f"127.0.0.1:{front.port}", SETTINGS)
    host = url.removeprefix("http://").removesuffix("/")
    assert host == f"8080-box-{exposed.token}.localhost:{front.port}"

    async def ask(host: str) -> Reply:
        return await front.send(
            f"GET /p?q HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )

    seen = await ask(host.upper())
    assert seen.body.startswith(b"GET /p?q\nHost: localhost:8080\n")
    assert f"X-Forwarded-Host: {host.upper()}".encode() in seen.body
    assert b"X-Sandbox-Name: box" in seen.body
    for wrong in (
        "8080-box.localhost",
        f"8080-box-{'a' * 16}.localhost",
        f"9-box-{exposed.token}.localhost",
    ):
        assert (await ask(wrong)).status == 404
    sandbox.ports.expose(PORT)
    assert (await ask(host)).status == 404, "the token ended with its exposure"


@pytest.mark.parametrize(
    "host",
    [
        None, "", "localhost", "localhost:3000", "127.0.0.1:3000", "[::1]:3000", "8080-box",
        "8080-box.localhost.evil.example", "8080-box.evil.example", "8080-box.x.localhost",
        "localhost.", ".evil",
    ],
)  # fmt: skip
def test_a_host_that_is_not_below_the_domain_is_no_preview(host: str | None) -> None:
    assert parse_host(host, "localhost") is None


@pytest.mark.parametrize(
    "label",
    [
        "",
        "-",
        "box",
        "0-box",
        "080-box",
        "99999999-box",
        "8080-",
        "8080--box",
        "8080-box-",
        "8080-www",
        "8080-b x",
        "8080-" + "b" * 60,
    ],
)
async def test_a_label_that_names_nothing_leads_nowhere(sandbox: Sandbox, label: str) -> None:
    sandbox.ports.expose(8080)
    assert find_preview(label, lambda _: sandbox, require_token=True) is None
    assert find_preview(label, {"box": sandbox}.get, require_token=False) is None


async def test_without_tokens_an_id_may_have_hyphens(sandbox: Sandbox) -> None:
    sandbox.ports.expose(8080)
    found = find_preview("8080-my-box", {"my-box": sandbox}.get, require_token=False)
    assert found is not None
    assert found.sandbox_id == "my-box"


@pytest.mark.parametrize(
    "sandbox_id", ["", "a" * 64, "-a", "a-", "www", "API", "Box", "a.b", "a b", "a\n", "ä"]
)
def test_an_id_that_cannot_be_part_of_a_host_name_is_refused(sandbox_id: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^id: "):
        check_preview_id(sandbox_id)
