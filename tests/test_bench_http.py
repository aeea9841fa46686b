"""The HTTP connection that the benchmark's harness measures servers by."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime.bench.wire_http import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def answering(*packets: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection's first request with these; what it was asked."""
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with closing(listener.accept()[0]) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked.append(client.recv(65536))
            for packet in packets:
                client.sendall(packet)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)  # where a test has failed nobody comes
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/base", asked
        finally:
            server.join()


def body_of(packets: Sequence[bytes]) -> bytes:
    with answering(*packets) as (url, _), closing(Connection(url, 10)) as connection:
        connection.ask("GET", "/", None)
        return connection.answer()[1]


def test_a_request_is_one_packet_below_the_path_of_the_address() -> None:
    with answering(HEAD + b"Content-Length: 2\r\n\r\n{}") as (url, asked):
        with closing(Connection(url, 10)) as connection:
            connection.ask("POST", "/api/x", b'{"a":1}')
            head, body = connection.answer()
        assert (head.status, head.kind, body) == (200, "application/json", b"{}")
    assert asked[0].startswith(b"POST /base/api/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert asked[0].endswith(b'Content-Length: 7\r\n\r\n{"a":1}')


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"content-length: 5\r\n\r\nhello", id="length"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n", id="chunks"
        ),
        pytest.param(b"connection: close\r\n\r\nhello", id="until it hangs up"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_body_is_whole_however_it_is_framed_and_cut(rest: bytes, step: int) -> None:
    whole = HEAD + rest
    assert body_of([whole[at : at + step] for at in range(0, len(whole), step)]) == b"hello"


def test_pieces_come_as_the_server_sends_them() -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    packets = (head + b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n")
    with answering(*packets) as (url, _), closing(Connection(url, 10)) as connection:
        connection.ask("GET", "/", None)
        assert list(connection.pieces(connection.head())) == [b"one", b"two"]


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="hung up"):
        body_of([HEAD + b"Content-Length: 9\r\n\r\nhalf"])


def test_a_server_that_does_not_speak_http_is_named() -> None:
    with pytest.raises(ValueError, match="SSH-2"):
        body_of([b"SSH-2.0-x\r\n\r\n"])
