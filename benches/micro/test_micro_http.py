"""What one request costs the server before anybody looks at what it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.server.http.answer import encode_head
from sandbox_runtime.server.http.chunked import ChunkedBody
from sandbox_runtime.server.http.parsing import parse_head

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

HEAD = (
    b"POST /api/execute HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: 42\r\nConnection: keep-alive\r\n\r\n"
)
ANSWER = (("content-type", "application/json"), ("content-length", "180"))


def test_parsing_a_head(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_head, HEAD, 100).target is not None


def test_writing_a_head(benchmark: BenchmarkFixture) -> None:
    assert benchmark(encode_head, 200, ANSWER, "connection: keep-alive\r\n").startswith(b"HTTP/1.1")


def test_taking_64_chunks_apart(benchmark: BenchmarkFixture) -> None:
    data = b"400\r\n" + b"x" * 1024 + b"\r\n"
    body = data * 64 + b"0\r\n\r\n"

    def feed() -> int:
        return len(ChunkedBody().feed(body)[0])

    assert benchmark(feed) == 64 * 1024
